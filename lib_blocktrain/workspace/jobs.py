"""The job queue: one job at a time on the model, for the page and the API, with progress and Cancel.

A job runs in the queue's one thread, under the host's lock on the GPU. Acquiring that lock has no timeout, so the
thread acquires it: a caller can stop waiting, and a waiting job can be cancelled at once.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from lib_blocktrain.hosts.host import Cancelled, Host
from lib_blocktrain.model.protocol import Progress

T = TypeVar("T")

REPORT_INTERVAL = 0.2  # seconds between two reports of progress
KEEP_ALIVE = 2.0  # seconds without a report after which the reader gets a Still
MAX_WAITING = 8  # callers of `Jobs.begin`, each of which occupies one of the server's threads
MIN_WAIT = 0.2  # seconds; an idle queue starts a job sooner


class Busy(RuntimeError):
    """The model is in use, so that the job was not started; the message says what uses it."""


@dataclass(frozen=True)
class Waiting:
    """The job waits for the model."""


@dataclass(frozen=True)
class Still:
    """Nothing new; sent because gradio 3 with a new httpx drops a stream after 5 seconds without data."""


@dataclass(frozen=True)
class Cancelling:
    """The job was cancelled and ends before its next step."""


@dataclass(frozen=True)
class Step:
    """Progress of part ``number`` of ``of`` parts; ``seconds`` counts from the creation of the job."""

    what: str
    number: int
    of: int
    done: int
    steps: int
    seconds: float

    @property
    def share(self) -> float:
        """How much of the whole job is done, 0 to 1."""
        return (self.number + self.done / max(self.steps, 1)) / max(self.of, 1)


class Job(Generic[T]):
    """One piece of work, ``work(job)``; ``what`` names its kind, as in "preview"."""

    def __init__(self, what: str, work: Callable[[Job[T]], T], host: Host):
        self.id = secrets.token_hex(8)
        self.what = what
        self.step: Step | None = None  # the latest
        self.started = threading.Event()  # set when the job gets the model, or ends without it
        self.future: Future[T] = Future()
        self._work, self._host = work, host
        self._reports: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._created = time.monotonic()
        self._last_report = 0.0
        self.future.add_done_callback(self._end)
        self.report(Waiting())

    def cancel(self) -> None:
        """End the job: at once if it waits for the model, else before its next step."""
        if not (self.future.cancel() or self.future.done()):
            self._cancelled.set()
            self.report(Cancelling())  # queued, so that it cannot arrive after the job's last report

    def result(self) -> T:
        """Wait for the end of the job; return its result, or raise its error."""
        if not self.future.cancelled():
            return self.future.result()
        raise Cancelled("cancelled")

    def error(self) -> BaseException | None:
        """Wait for the end of the job; return its error (Cancelled, or what the work raised), None for success."""
        return Cancelled("cancelled") if self.future.cancelled() else self.future.exception()

    def report(self, report: object) -> None:
        """Send a report to the reader of `reports`."""
        self._reports.put(report)

    def reports(self) -> Iterator[object]:
        """Yield the job's reports until it ends."""
        while True:
            try:
                report = self._reports.get(timeout=KEEP_ALIVE)
            except queue.Empty:
                report = Still()
            if report is self:
                return
            yield report

    def progress(self, what: str, number: int = 0, of: int = 1) -> Progress:
        """The progress callback for part ``number`` of ``of``; it raises Cancelled once the job is to end."""

        def on_step(done: int, steps: int) -> None:
            self.check()
            now = time.monotonic()
            step = Step(what, number, of, done, steps, now - self._created)
            if steps:
                self.step = step
                self._host.progress(self.what, number * steps + done, of * steps)
            if now - self._last_report >= REPORT_INTERVAL or done == steps:
                self._last_report = now
                self.report(step)

        return on_step

    def check(self) -> None:
        """Raise Cancelled if the job was cancelled or the host's own Interrupt was pressed."""
        if self._cancelled.is_set() or self._host.interrupted:
            raise Cancelled("cancelled")

    def run(self) -> None:
        """Do the work under the host's lock, unless the job was cancelled; the result or error goes to ``future``."""
        if self.future.cancelled():
            return
        try:
            with self._host.queued():
                if not self.future.set_running_or_notify_cancel():
                    return
                self.started.set()
                result = self._work(self)
        except BaseException as error:  # noqa: BLE001 - as an executor does: it is raised where the result is asked for
            traceback.clear_frames(error.__traceback__)  # they would hold tensors for as long as the error is kept
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def _end(self, _: Future[T]) -> None:
        self.started.set()
        self._reports.put(self)  # the end of `reports`


class Jobs:
    """The jobs on one host, in the order in which they were started."""

    def __init__(self, host: Host):
        self._host = host
        self._jobs: dict[str, Job] = {}  # waiting or running, by id
        self._places = threading.BoundedSemaphore(MAX_WAITING)
        self._thread = _one_thread()

    @property
    def current(self) -> Job | None:
        """The job that has the model now."""
        return next((job for job in list(self._jobs.values()) if job.future.running()), None)

    def start(self, work: Callable[[Job[T]], T], what: str = "work on the model") -> Job[T]:
        """Append a job to the queue."""
        job = Job(what, work, self._host)
        self._jobs[job.id] = job
        job.future.add_done_callback(lambda _: self._jobs.pop(job.id, None))
        self._thread.submit(job.run)
        return job

    def begin(self, work: Callable[[Job[T]], T], what: str, wait: float) -> Job[T]:
        """Start a job and return once it has the model.

        Raises Busy after ``wait`` seconds without it, and at once if `MAX_WAITING` callers wait here already.
        """
        if not self._places.acquire(blocking=False):
            raise Busy(f"{MAX_WAITING} requests are waiting for the model already: try again later")
        try:
            job = self.start(work, what)
            if not job.started.wait(max(MIN_WAIT, wait)) and job.future.cancel():
                current = self.current
                raise Busy(f"{current.what if current else 'other work on the model'} is in progress: try again later")
            return job
        finally:
            self._places.release()

    def goes_on(self, job_id: str) -> bool:
        """Whether a job waits or is at work."""
        job = self._jobs.get(job_id)
        return job is not None and not job.future.done()

    def cancel(self, job_id: str) -> None:
        """Cancel a job; does nothing if it has ended."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.cancel()

    def close(self) -> None:
        """Cancel all jobs, and wait for the one that has the model; a later job starts a new thread.

        The thread itself may stand in the host's queue behind a run in training, which can take hours.
        """
        ending, self._thread = self._thread, _one_thread()
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        for job in jobs:
            job.error()  # at once for those that were cancelled before they had the model
        ending.shutdown(wait=False)


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "blocktrain")
