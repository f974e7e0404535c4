"""What the page is told of jobs whose end it may have missed."""

from __future__ import annotations

import threading

import pytest

from lib_blocktrain.ui.lost_jobs import PLACES, LostJobs
from lib_blocktrain.workspace.jobs import Jobs


@pytest.fixture
def jobs(host):
    jobs = Jobs(host)
    yield jobs
    jobs.close()


def test_only_a_job_that_goes_on_no_more_is_ended_on_the_page(jobs):
    may_end = threading.Event()
    job = jobs.start(lambda job: may_end.wait(60), "preview")
    lost = LostJobs(jobs)
    ids = {place.job: "" for place in PLACES}
    asked = {
        **ids,
        "drawing": f"{job.id} of-a-server-that-ended",
        "analyse_job": "of a server that ended",
        "lost_ask": "cancel analyse_cancel",
    }
    changes = lost.answer(asked)
    assert changes.keys() == {"analyse_status", "analyse_cancel"}
    assert changes["analyse_cancel"] == {"interactive": False}
    assert "The connection broke off" in changes["analyse_status"]
    may_end.set()
    job.result()
    changes = lost.answer(asked)
    assert changes.keys() == {"status", "cancel", "draw", "draw_grid", "analyse_status", "analyse_cancel"}
    assert changes["draw"] == {"value": "Draw", "interactive": True}


@pytest.mark.parametrize("text", [None, "", "draw", "cancel_", "[]"])
def test_nothing_is_ended_that_was_not_named(jobs, text):
    assert LostJobs(jobs).answer({**{place.job: "" for place in PLACES}, "lost_ask": text}) == {}
