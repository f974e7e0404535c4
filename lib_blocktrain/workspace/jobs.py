"""Work on the model, beside the page: one at a time, with progress and Cancel, whatever it ends in.

The work runs in a thread of its own, which takes the host's queue; the page reads what it says.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lib_blocktrain.hosts.host import Cancelled, Host

QUIET = 0.2  # seconds between two reports of progress: more would only keep the browser busy
SILENCE = 2.0  # seconds without a word after which a page is told that the work goes on
_DONE = object()


@dataclass(frozen=True)
class Waiting:
    """The host's queue is taken by other work."""


@dataclass(frozen=True)
class Still:
    """Nothing new: the work, or the wait, goes on. gradio 3 with a new httpx gives up after 5 seconds of silence."""


@dataclass(frozen=True)
class Cancelling:
    """Cancel was pressed, and the step that is being done goes on to its end."""


@dataclass(frozen=True)
class Step:
    """Progress of one part of the work; ``seconds`` since the work began."""

    what: str
    number: int
    of: int
    done: int
    steps: int
    seconds: float

    @property
    def share(self) -> float:
        """How much of the whole is done, 0 to 1."""
        return (self.number + self.done / max(self.steps, 1)) / max(self.of, 1)


class Job:
    """One piece of work: ``work(report)`` in a thread, under the host's queue. Iterate over it to hear its reports."""

    def __init__(self, work: Callable[[Job], None]):
        self.id = secrets.token_hex(8)
        self._work = work
        self._reports: queue.SimpleQueue = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._began = time.monotonic()
        self._last = 0.0
        self.future: Future[None] = Future()
        self.future.add_done_callback(lambda _: self._reports.put(_DONE))

    def cancel(self) -> None:
        """End at once if it waits for the host's queue; else before the next step."""
        if not (self.future.cancel() or self.future.done()):
            self._cancelled.set()
            self.report(Cancelling())  # an answer beside these reports could reach the page after the last of them

    def error(self) -> BaseException | None:
        """What it ended in, once ``reports`` has come to its end: None, Cancelled, or what the work raised."""
        return Cancelled("cancelled") if self.future.cancelled() else self.future.exception()

    def report(self, report: object) -> None:
        """Say something to the page."""
        self._reports.put(report)

    def progress(self, what: str, number: int, of: int) -> Callable[[int, int], None]:
        """The progress callback of part ``number`` of ``of``; it raises Cancelled once that was asked for."""

        def step(done: int, steps: int) -> None:
            self.check()
            now = time.monotonic()
            if now - self._last >= QUIET or done == steps:
                self._last = now
                self.report(Step(what, number, of, done, steps, now - self._began))

        return step

    def check(self) -> None:
        """Raise Cancelled if somebody asked for it."""
        if self._cancelled.is_set():
            raise Cancelled("cancelled")

    def run(self, host: Host) -> None:
        """Do the work; what it raises lies in ``future``, and is no error here."""
        self.report(Waiting())
        try:
            with host.queued():
                if not self.future.set_running_or_notify_cancel():
                    return
                self._work(self)
        except BaseException as error:  # noqa: BLE001 - as an executor does: whoever waits for the future hears of it
            self.future.set_exception(error)
        else:
            self.future.set_result(None)

    def reports(self) -> Iterator[object]:
        """What the work says, until it ends."""
        while True:
            try:
                report = self._reports.get(timeout=SILENCE)
            except queue.Empty:
                report = Still()
            if report is _DONE:
                return
            yield report


class Jobs:
    """The jobs of all pages, by id."""

    def __init__(self, host: Host):
        self._host = host
        self._running: dict[str, Job] = {}
        self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="blocktrain")

    def start(self, work: Callable[[Job], None]) -> Job:
        """Begin, or wait in the host's queue."""
        job = Job(work)
        self._running[job.id] = job
        job.future.add_done_callback(lambda _: self._running.pop(job.id, None))
        self._threads.submit(job.run, self._host)
        return job

    def cancel(self, job_id: str) -> None:
        """Cancel a job; nothing if it has ended already. Its own reports tell the page."""
        job = self._running.get(job_id)
        if job is not None:
            job.cancel()

    def close(self) -> None:
        """Cancel everything and wait for it."""
        for job in list(self._running.values()):
            job.cancel()
        self._threads.shutdown()
