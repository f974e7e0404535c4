"""The job queue: order, who waits and who gives up, Cancel and Interrupt, what an error keeps."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest

from lib_blocktrain.hosts.host import Cancelled
from lib_blocktrain.workspace.jobs import MAX_WAITING, Busy, Cancelling, Job, Jobs, Step, Waiting
from tests.fakes import FakeHost

PATIENCE = 10  # seconds


@pytest.fixture
def host(tmp_path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def jobs(host) -> Iterator[Jobs]:
    jobs = Jobs(host)
    yield jobs
    jobs.close()


def steps(job: Job[int], count: int = 3) -> int:
    """Work of a few steps."""
    progress = job.progress("part")
    for done in range(1, count + 1):
        progress(done, count)
    return count


def test_a_job_returns_what_its_work_returns(host, jobs):
    job = jobs.start(steps, "counting")
    assert job.result() == 3
    assert job.error() is None
    reports = list(job.reports())
    assert isinstance(reports[0], Waiting)
    assert isinstance(reports[-1], Step)
    assert (reports[-1].done, reports[-1].steps, reports[-1].share) == (3, 3, 1)
    assert host.shown == ("counting", 3, 3)


def test_parts_are_one_whole_to_the_host(host, jobs):
    def work(job: Job[None]) -> None:
        job.progress("second", 1, 4)(5, 10)

    job = jobs.start(work, "preview")
    job.result()
    assert host.shown == ("preview", 15, 40)
    assert job.step.share == 15 / 40


def test_jobs_run_one_by_one_in_order(jobs):
    order = []
    started = [jobs.start(lambda job, n=number: order.append((n, jobs.current.id == job.id))) for number in range(20)]
    for job in started:
        job.result()
    assert order == [(number, True) for number in range(20)]
    assert jobs.current is None


def test_a_waiting_job_is_cancelled_at_once(host, jobs):
    ran = []
    with host.queued():
        job = jobs.start(ran.append)
        jobs.cancel(job.id)
        with pytest.raises(Cancelled):
            job.result()
        assert isinstance(job.error(), Cancelled)
        assert len(list(job.reports())) == 1
    assert jobs.start(steps).result() == 3
    assert not ran


def test_a_running_job_ends_before_its_next_step(host, jobs):
    gate = threading.Event()

    def work(job: Job[None]) -> None:
        progress = job.progress("part")
        progress(1, 3)
        assert gate.wait(PATIENCE)
        progress(2, 3)
        raise AssertionError("it went on")

    job = jobs.begin(work, "work", PATIENCE)
    jobs.cancel(job.id)
    gate.set()
    assert isinstance(job.error(), Cancelled)
    assert any(isinstance(report, Cancelling) for report in job.reports())


def test_the_hosts_interrupt_ends_a_job(host, jobs):
    def work(job: Job[int]) -> int:
        host.interrupted = True
        return steps(job)

    assert isinstance(jobs.start(work).error(), Cancelled)
    host.interrupted = False
    assert jobs.start(steps).result() == 3


def test_busy(host, jobs):
    """Who gives up leaves nothing behind; where enough wait, the next hears so at once."""
    ran = []
    with host.queued():
        with pytest.raises(Busy, match="other work on the model is in progress"):
            jobs.begin(ran.append, "given up", 0)
        waiting = [threading.Thread(target=jobs.begin, args=(steps, "work", PATIENCE)) for _ in range(MAX_WAITING)]
        for thread in waiting:
            thread.start()
        while len(jobs._jobs) < MAX_WAITING:
            threading.Event().wait(0.01)
        with pytest.raises(Busy, match=f"{MAX_WAITING} requests are waiting"):
            jobs.begin(ran.append, "one too many", PATIENCE)
    for thread in waiting:
        thread.join(PATIENCE)
    assert jobs.begin(steps, "work", PATIENCE).result() == 3
    assert not ran


def test_busy_names_the_job_that_runs(host, jobs):
    gate = threading.Event()
    job = jobs.begin(lambda _: gate.wait(PATIENCE), "preview", PATIENCE)
    with pytest.raises(Busy, match="preview is in progress"):
        jobs.begin(steps, "analysis", 0)
    gate.set()
    assert job.result()


class Tensor:
    """Stands for what a frame of failed work holds."""


def test_an_error_holds_nothing_of_its_work(jobs):
    kept = []

    def work(_: Job[None]) -> None:
        tensor = Tensor()
        kept.append(weakref.ref(tensor))
        raise RuntimeError("out of memory")

    job = jobs.start(work)
    assert str(job.error()) == "out of memory"
    assert kept[0]() is None
    with pytest.raises(RuntimeError, match="out of memory"):
        job.result()


def test_close_ends_all_and_the_queue_can_be_used_again(host, jobs):
    before = set(threading.enumerate())
    with host.queued():
        job = jobs.start(steps)
        waiting = threading.Thread(target=jobs.close)
        waiting.start()
        assert isinstance(job.error(), Cancelled)
    waiting.join(PATIENCE)
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)  # it has the model now, and nothing to do
        assert not thread.is_alive()
    assert jobs.start(steps).result() == 3


def test_close_waits_for_no_run_in_training(host, jobs):
    """It holds the model for hours, and the job that waits for that is cancelled already."""
    ran = []
    with host.queued():
        job = jobs.start(ran.append)
        closing = threading.Thread(target=jobs.close)
        closing.start()
        closing.join(PATIENCE)
        over = not closing.is_alive()
    closing.join(PATIENCE)
    assert over
    assert isinstance(job.error(), Cancelled)
    assert jobs.start(steps).result() == 3
    assert not ran
