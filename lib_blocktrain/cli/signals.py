"""Ending a command from outside: SIGTERM and SIGHUP act as Ctrl+C does, so that all is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

# A terminal that is closed sends SIGHUP; Windows has none.
HANGUP: tuple[signal.Signals, ...] = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()


class Ended(SystemExit):
    """The command was ended by a signal; its status is what a shell expects then.

    It is no KeyboardInterrupt, which asks a server to stop the run that is watched: closing a terminal does not.
    """

    def __init__(self, number: int):
        super().__init__("stopped")
        self.status = 128 + number


@contextmanager
def handled(numbers: Sequence[int], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let `handler` answer these signals; one that is ignored, as SIGHUP is under nohup, stays so."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set them
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise Ended on SIGTERM, so that what stands in `finally` is done; SIGHUP acts as a SIGTERM."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise Ended(number)

    def terminate(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)

    with handled((signal.SIGTERM,), end), handled(HANGUP, terminate):
        yield
