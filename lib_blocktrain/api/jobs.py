"""One job of the API at a time on the model: a few callers wait for their turn, the rest hears "busy" at once.

The host's queue cannot be waited for with a limit. So whoever has the turn waits there in a thread of its own, and the
caller need not: it gives up, and the turn ends when the queue lets that thread in and out again.
"""

from __future__ import annotations

import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lib_blocktrain.api.errors import ApiError, busy

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host

MOST_WAITING = 8  # each takes one of the server's threads
LEAST_WAIT = 0.2  # seconds: a thread begins in less

Report = Callable[[int, int], None]  # steps done, steps in all; raises Cancelled once that was asked for


@dataclass
class Turn:
    """One caller's work: of what kind, how far it is, and what comes of it."""

    what: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    done: int = 0
    steps: int = 0
    future: Future = field(default_factory=Future)
    began: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def share(self) -> float | None:
        """How much is done, 0 to 1; None before the first step."""
        return self.done / self.steps if self.steps else None


class Turns:
    """The turns on one host; ``holder`` says what holds the model for long, None while nothing does."""

    def __init__(self, host: Host, holder: Callable[[], str | None]):
        self._host, self._holder = host, holder
        self._gate = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WAITING)
        self._worker = ThreadPoolExecutor(1, "blocktrain-api")
        self.current: Turn | None = None

    def begin(self, what: str, work: Callable[[Report], Any], wait: float) -> Turn:
        """Begin once the model is free; raise Refused (busy) after ``wait`` seconds, and at once if many wait."""
        deadline = time.monotonic() + wait
        with self._place():
            self._refuse_held()
            if not self._gate.acquire(timeout=wait):
                raise self._busy()
            turn = self._started(what, work)
            if not turn.began.wait(max(LEAST_WAIT, deadline - time.monotonic())):
                turn.cancelled.set()
                raise self._busy()
            return turn

    def interrupt(self) -> str | None:
        """Ask the work that goes on to end before its next step; return what it is."""
        turn = self.current
        if turn is None:
            return None
        turn.cancelled.set()
        return turn.what

    def _started(self, what: str, work: Callable[[Report], Any]) -> Turn:
        turn = Turn(what)
        turn.future.add_done_callback(lambda _: turn.began.set())
        try:
            self._worker.submit(self._do, turn, work)
        except RuntimeError:  # the program ends
            self._gate.release()
            raise
        return turn

    def _do(self, turn: Turn, work: Callable[[Report], Any]) -> None:
        result, error = None, None
        try:
            with self._host.queued():
                self._heard(turn, 0, 0)
                self.current = turn
                turn.began.set()
                result = work(partial(self._heard, turn))
        except BaseException as raised:  # noqa: BLE001 - it is raised again where somebody waits for the result
            error = raised
            traceback.clear_frames(raised.__traceback__)  # they hold tensors, for as long as the error is kept
        self.current = None
        self._gate.release()
        if error is None:
            turn.future.set_result(result)
        else:
            turn.future.set_exception(error)

    def _heard(self, turn: Turn, done: int, steps: int) -> None:
        """Hear of a step; raise Cancelled where nobody wants the next: asked here, or with the host's own Interrupt."""
        if turn.cancelled.is_set() or self._host.interrupted:
            from lib_blocktrain.hosts.host import Cancelled

            raise Cancelled("interrupted")
        turn.done, turn.steps = done, steps
        if steps:
            self._host.progress(turn.what, done, steps)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise busy(f"{MOST_WAITING} others wait for the model already: try again later")
        try:
            yield
        finally:
            self._places.release()

    def _refuse_held(self) -> None:
        held = self._holder()
        if held is not None:
            raise busy(held)

    def _busy(self) -> ApiError:
        turn = self.current
        what = self._holder() or (f"{turn.what} goes on" if turn else "the model is at work for someone else")
        return busy(f"{what}: try again later")
