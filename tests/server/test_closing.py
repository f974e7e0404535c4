"""How the standalone server ends: the run in training is paused first, and each part is closed whatever happens."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")
pytest.importorskip("diffusers")

from lib_blocktrain.runner import Runner, worker
from lib_blocktrain.server import app
from lib_blocktrain.training.config import load
from lib_blocktrain.training.control import Outcome
from lib_blocktrain.workspace.jobs import Jobs
from tests.fakes import FakeHost

CONFIG = Path(__file__).resolve().parent.parent.parent / "demo" / "runs" / "2-robot-out.json"
PATIENCE = 10  # seconds


class Endless:
    """A trainer whose run ends only when it is asked to."""

    def __init__(self, _model, run, *, control, **_):
        self.run, self.control = run, control

    def run_loop(self) -> Outcome:
        self.run.add_metrics({"step": 1, "event": "started"})
        end = time.monotonic() + PATIENCE
        while not self.control.stopping and time.monotonic() < end:
            time.sleep(0.01)
        self.run.add_metrics({"step": 1, "event": "stopped" if self.control.stopping else "finished"})
        return Outcome("stopped" if self.control.stopping else "finished", 1, None)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """All that a page has to be closed, with a run in training; `closed` has the order."""
    monkeypatch.setattr(worker, "Trainer", Endless)
    host, closed = FakeHost(tmp_path), []
    runner, jobs = Runner(host), Jobs(host)
    run = runner.add(load(CONFIG))
    while run.latest("event") is None:
        time.sleep(0.01)

    def close() -> None:
        closed.append(f"page of a queue that is {'held' if runner.held else 'going on'}")
        jobs.close()

    parts = {name: SimpleNamespace(close=lambda n=name: closed.append(n)) for name in ("lora_index", "picture_sets")}
    yield SimpleNamespace(runner=runner, run=run, jobs=jobs, close=close, closed=closed, **parts)
    runner.close()


def test_the_run_in_training_is_paused_before_the_jobs_are_waited_for(page):
    with app._closing(page):
        job = page.jobs.start(lambda _: None)
    assert page.closed == ["page of a queue that is held", "lora_index", "picture_sets"]
    assert job.future.cancelled()
    assert page.runner.status(page.run).state == "paused"
    assert page.runner.current is None


def test_each_part_is_closed_though_one_raises(page):
    """A second Ctrl+C, while the jobs are waited for."""

    def close() -> None:
        raise KeyboardInterrupt

    page.close = close
    with pytest.raises(KeyboardInterrupt), app._closing(page):
        pass
    assert page.closed == ["lora_index", "picture_sets"]
    assert page.runner.status(page.run).state == "paused"
    assert page.runner.current is None
