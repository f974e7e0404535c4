"""The runner: runs of the queue one after the other, on a small random model and a fake host."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lib_blocktrain.hosts.host import Cancelled, Host, NoModel
from lib_blocktrain.runner import Runner
from lib_blocktrain.runner.queue import Queue
from lib_blocktrain.training.config import SampleConfig
from lib_blocktrain.training.runs import Run, create
from lib_blocktrain.training.trainer import Trainer
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.fakes import FakeHost
from tests.tiny_models import assert_untouched, state_of

PATIENCE = 120  # seconds, on a machine that is shared


class TrainingHost(FakeHost):
    """`at` has what happens when a step is done, in the thread that trains; a prompt may ask for an interrupt."""

    samplers = ("DDIM",)

    def __init__(self, model, folder):
        super().__init__(folder, model)
        self.at = {}

    def progress(self, what, done, of):
        assert self.lock.locked(), "a step outside the queue"
        if (what, done) in self.at:
            self.at.pop((what, done))()

    def sample(self, request, progress=None):
        self.interrupted = "interrupt" in request.prompt
        image = super().sample(replace(request, steps=1, width=8, height=8, placements=()), progress)
        if self.interrupted:
            raise Cancelled("interrupted")
        return image

    @property
    def prompts(self):
        return [request.prompt for request in self.requests]


@pytest.fixture
def host(model, tmp_path):
    """At the end nothing is on the model, whatever was done to it."""
    host = TrainingHost(model, tmp_path / "host")
    assert isinstance(host, Host)
    before = state_of(model.unet)
    yield host
    assert not host.lock.locked()
    assert_untouched(model.unet, before)


@pytest.fixture
def runner(host):
    runner = Runner(host)
    yield runner
    runner.close()


def wait(holds, patience=PATIENCE):
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def idle(runner):
    return runner.current is None


def test_no_run_is_made_where_the_host_cannot_train(runner, host, config):
    host.no_training = "fake cannot train here"
    with pytest.raises(NoModel, match="fake cannot train here"):
        runner.add(config)
    assert runner.runs() == []


def test_one_after_the_other(runner, host, config):
    prompts = SampleConfig(prompts=("a robot",), every=2)
    first = runner.add(replace(config, steps=2, samples=prompts))
    second = runner.add(replace(config, steps=1, name="second"))
    assert [run.folder for run in runner.queue()] == [first.folder, second.folder]
    wait(lambda: idle(runner))
    assert [runner.status(run).state for run in (first, second)] == ["finished", "finished"]
    assert runner.queue() == []
    assert host.prompts == ["a robot"]
    assert (host.lora_dirs[0] / "tiny.png").exists()
    assert (runner.status(first).published, host.refreshed) == ("tiny.safetensors", 2)
    assert {run.folder for run in runner.runs()} == {first.folder, second.folder}


def test_a_pause_changes_nothing(runner, host, config, tmp_path):
    """The queue and the model are free meanwhile, and the weights end as those of the unbroken run, bit for bit."""
    run = runner.add(replace(config, steps=4))
    host.at["training tiny", 2] = runner.pause
    wait(lambda: idle(runner))
    assert runner.status(run).state == "paused"
    assert (runner.status(run).step, runner.status(run).saved_step) == (2, 2)
    assert (runner.held, host.lock.locked(), host.refreshed) == (True, False, 0)
    other = Runner(host)  # the program was started again
    assert (other.held, [waiting.folder for waiting in other.queue()]) == (True, [run.folder])
    other.begin()
    wait(lambda: idle(other))
    other.close()
    from lib_blocktrain.training import runs

    unbroken = runs.create(replace(config, steps=4), tmp_path / "unbroken")
    Trainer(host.loaded, unbroken).run_loop()
    resumed, expected = load_file(run.result), load_file(unbroken.result)
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_a_pause_in_the_last_step_comes_too_late(runner, host, config):
    """The run is finished, and its LoRA is among the others; the queue is held, as it was asked to be."""
    host.at["training tiny", 2] = runner.pause
    with host.lock:
        run = runner.add(replace(config, steps=2))
    wait(lambda: idle(runner))
    assert (runner.status(run).state, runner.status(run).published) == ("finished", "tiny.safetensors")
    assert (host.lora_dirs[0] / "tiny.safetensors").exists()
    assert (runner.held, runner.queue(), host.refreshed) == (True, [], 1)


def test_the_hosts_interrupt_pauses(runner, host, config):
    asked = SampleConfig(prompts=("interrupt this",), every=1)
    run = runner.add(replace(config, steps=4, samples=asked))
    wait(lambda: idle(runner))
    status = runner.status(run)
    assert (status.state, status.step) == ("paused", 1)
    assert "Interrupt" in status.reason
    assert runner.held


@pytest.mark.parametrize("save", [True, False])
def test_stop_lets_the_next_one_begin(runner, host, config, save):
    host.at["training tiny", 1] = lambda: runner.stop(run, save=save)
    runner.pause()  # both are in the queue before the first begins
    with host.lock:
        run = runner.add(replace(config, steps=50))
        second = runner.add(replace(config, name="second", steps=1))
    wait(lambda: idle(runner) and not runner.queue())
    assert (runner.status(run).state, runner.status(run).step) == ("stopped", 1)
    assert (host.lora_dirs[0] / "tiny.safetensors").exists() == run.result.exists() == save
    assert runner.status(second).state == "finished"
    with pytest.raises(ValueError, match="nothing to stop"):
        runner.stop(second)


def test_stopped_before_the_model_was_free(runner, host, config):
    with host.lock:
        run = runner.add(config)
        assert runner.status(run).state == "preparing"
        runner.stop(run)
        assert runner.status(run).state == "stopping"
    wait(lambda: idle(runner))
    assert (runner.status(run).state, runner.queue()) == ("stopped", [])
    runner.resume(run)
    wait(lambda: idle(runner))
    assert runner.status(run).state == "finished"


def test_paused_before_the_model_was_free(runner, host, config):
    with host.lock:
        run = runner.add(config)
        runner.pause("not now")
        assert runner.status(run).state == "pausing"
    wait(lambda: idle(runner))
    assert (runner.status(run).state, runner.status(run).reason, runner.held) == ("paused", "not now", True)
    assert Runner(host).status(run).state == "paused"  # after a restart too
    runner.begin()
    wait(lambda: idle(runner))
    assert runner.status(run).state == "finished"


def test_a_host_that_cannot_train_resumes_nothing(runner, host, config):
    """It was refused only when the run began, after the page had said that it goes on."""
    host.at["training tiny", 1] = lambda: runner.stop(run)
    with host.lock:
        run = runner.add(replace(config, steps=2))
    wait(lambda: idle(runner))
    host.no_training = "fake cannot train here"
    with pytest.raises(NoModel, match="fake cannot train here"):
        runner.resume(run)
    assert not runner.queue()


def test_a_resumed_run_replaces_its_own_lora_and_no_other(runner, host, config):
    host.lora_dirs[0].mkdir(parents=True)
    other = host.lora_dirs[0] / "tiny.safetensors"
    other.write_bytes(b"someone else's")
    host.at["training tiny", 1] = lambda: runner.stop(run)
    with host.lock:
        run = runner.add(replace(config, steps=2))
    wait(lambda: idle(runner))
    stopped = (host.lora_dirs[0] / "tiny-2.safetensors").read_bytes()
    runner.resume(run)
    wait(lambda: idle(runner))
    assert sorted(path.name for path in host.lora_dirs[0].glob("*.safetensors")) == [
        "tiny-2.safetensors",
        "tiny.safetensors",
    ]
    assert other.read_bytes() == b"someone else's"
    assert (host.lora_dirs[0] / "tiny-2.safetensors").read_bytes() != stopped


def test_a_resumed_run_leaves_a_file_that_took_the_name_of_its_lora(runner, host, config):
    host.at["training tiny", 1] = lambda: runner.stop(run)
    with host.lock:
        run = runner.add(replace(config, steps=2))
    wait(lambda: idle(runner))
    published = host.lora_dirs[0] / "tiny.safetensors"
    published.unlink()
    other = runner.add(replace(config, steps=1, seed=7))
    wait(lambda: idle(runner))
    assert runner.status(other).published == published.name
    of_other = published.read_bytes()
    runner.resume(run)
    wait(lambda: idle(runner))
    assert published.read_bytes() == of_other
    assert runner.status(run).published == "tiny-2.safetensors"
    assert (host.lora_dirs[0] / "tiny-2.safetensors").read_bytes() == run.result.read_bytes()


def test_a_run_with_a_damaged_state_goes_on_from_the_earlier_one(runner, host, config):
    host.at["training tiny", 2] = lambda: runner.stop(run)
    with host.lock:
        run = runner.add(replace(config, steps=3, save_every=1))
    wait(lambda: idle(runner))
    with pytest.raises(ValueError, match="is whole"):
        runner.resume(run, earlier_state=True)
    assert runner.queue() == []
    content = run.state_path.read_bytes()
    run.state_path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    runner.resume(run)
    wait(lambda: idle(runner))
    assert runner.status(run).state == "failed"
    assert "state-before.safetensors, of step 1, is whole" in runner.status(run).reason
    runner.resume(run, earlier_state=True)
    wait(lambda: idle(runner))
    assert (runner.status(run).state, runner.status(run).step) == ("finished", 3)


def test_what_the_host_says_of_samples_is_among_the_runs_notices(runner, host, config, monkeypatch):
    def sample(request, progress=None):
        request.say("'<lora:x:1>' is read as words")
        return Image.new("RGB", (8, 8))

    seen = []
    monkeypatch.setattr(host, "sample", sample)
    host.at["training tiny", 3] = lambda: seen.extend(runner.status(run).notices)
    with host.lock:
        run = runner.add(replace(config, steps=3, samples=replace(config.samples, prompts=("a",), every=1, first=True)))
    wait(lambda: idle(runner))
    assert runner.status(run).state == "finished"
    assert [text for text in seen if "read as words" in text] == ["samples: '<lora:x:1>' is read as words"]


def test_failures_are_said_with_the_run(runner, host, config, monkeypatch):
    """Out of memory, no pictures, another model: each is told where the run is looked at, and the next one begins."""

    def full(self):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    folder = config.dataset.folders[0]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", full)
        full_run = runner.add(config)
        empty = runner.add(
            replace(config, dataset=replace(config.dataset, folders=(replace(folder, path="/nowhere"),)))
        )
        wait(lambda: idle(runner))
    assert runner.status(full_run).state == "failed"
    assert "out of memory: this run needs about" in runner.status(full_run).reason
    assert "no such folder" in runner.status(empty).reason
    assert Runner(host).status(empty).state == "failed"  # after a restart too

    host.loaded = replace(host.loaded, name="another model")
    runner.resume(full_run)
    wait(lambda: idle(runner))
    assert "was started on" in runner.status(full_run).reason
    host.loaded = replace(host.loaded, name="demo model")
    runner.resume(full_run)
    wait(lambda: idle(runner))
    assert runner.status(full_run).state == "finished"
    with pytest.raises(ValueError, match="finished: expected a run that was stopped"):
        runner.resume(full_run)


def full_disk(*_):
    raise OSError(28, "No space left on device", "/runs/queue.json")


def test_a_queue_that_cannot_be_written_blocks_nothing(runner, host, config, monkeypatch):
    """The run that has ended says so, is not trained again, and the next one begins; later it is taken out."""
    with host.lock:
        run = runner.add(replace(config, steps=1))
        second = runner.add(replace(config, name="second", steps=1))
        monkeypatch.setattr(Queue, "_write", full_disk)
    wait(lambda: idle(runner) and not runner.queue())
    assert [runner.status(each).state for each in (run, second)] == ["finished", "finished"]
    assert "still in the queue's file" in runner.status(run).notices[-1]
    assert "No space left on device" in runner.status(run).notices[-1]
    with pytest.raises(OSError, match="No space left"):
        runner.add(replace(config, name="third"))
    monkeypatch.undo()
    third = runner.add(replace(config, name="third", steps=1))
    wait(lambda: idle(runner))
    assert runner.status(third).state == "finished"
    assert all("queue" not in notice for notice in runner.status(run).notices)
    assert Runner(host).queue() == []


@pytest.mark.parametrize("written", [True, False])
def test_a_failed_run_is_not_trained_again_where_the_queue_cannot_be_written(
    runner, host, config, monkeypatch, written
):
    """Nor is it told as interrupted where its failure cannot be written either; it can be resumed."""

    def full(*_):
        raise OSError(28, "No space left on device", "/runs/tiny")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", full)
        with host.lock:
            run = runner.add(replace(config, steps=1))
            patch.setattr(Queue, "_write", full_disk)
            if not written:
                add = Run.add_metrics
                patch.setattr(Run, "add_metrics", lambda of, row: (full if "reason" in row else add)(of, row))
        wait(lambda: idle(runner))
        status = runner.status(run)
        assert (status.state, status.reason) == ("failed", "/runs/tiny: No space left on device")
        assert (status.place, runner.queue()) == (None, [])
    runner.resume(run)
    wait(lambda: idle(runner))
    assert (runner.status(run).state, runner.status(run).reason) == ("finished", "")


def test_a_gpu_that_does_not_recover_blocks_no_run(runner, host, config, monkeypatch):
    def lost():
        raise RuntimeError("CUDA error: device-side assert triggered")

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "empty_cache", lost)
        run = runner.add(replace(config, checkpoint="/models/other.safetensors"))
        wait(lambda: idle(runner))
    assert runner.status(run).state == "failed"
    second = runner.add(replace(config, steps=1))
    wait(lambda: idle(runner))
    assert runner.status(second).state == "finished"


def test_a_run_for_another_checkpoint_is_refused(runner, config):
    run = runner.add(replace(config, checkpoint="/models/other.safetensors"))
    wait(lambda: idle(runner))
    assert runner.status(run).reason.startswith("this run is for 'other.safetensors', and 'demo model' is loaded")


def test_weights_change_while_it_runs(runner, host, config):
    weights = BlockWeights("sd1", {**BlockWeights.uniform("sd1", 0.0).values, "OUT09": 1, "OUT10": 1, "OUT11": 0.25}, 0)
    host.at["training tiny", 1] = lambda: runner.set_weights(run, weights)
    with host.lock:
        run = runner.add(config)
    wait(lambda: idle(runner))
    changed = [row for row in run.metrics() if row.get("event") == "weights"]
    assert [(row["step"], row["weights"]["weights"]["OUT11"]) for row in changed] == [(1, 0.25)]
    with pytest.raises(ValueError, match="not being trained"):
        runner.set_weights(run, weights)


@pytest.mark.parametrize("name", ["..", "../runs", "nowhere", "", None, "a\0b"])
def test_names_become_no_paths(runner, name):
    with pytest.raises(ValueError, match="there is no run"):
        runner.find(name)


def test_a_run_that_cannot_be_read_is_told(runner, host, config, caplog):
    """Once for each state of its file, though the page asks again and again; other runs are not kept up."""
    runner.pause()
    with host.lock:
        run = runner.add(replace(config, steps=1))
        runner.stop(run)
    wait(lambda: idle(runner))
    path, whole = run.folder / "run.json", (run.folder / "run.json").read_text("utf-8")
    for text, said in (("{", "line 1: "), (whole.replace('"steps": 1', '"steps": "many"'), "steps = 'many'")):
        path.write_text(text, "utf-8")
        caplog.clear()
        for _ in range(3):
            assert (runner.runs(), runner.queue()) == ([], [])
            with pytest.raises(ValueError, match=said):
                runner.find(run.folder.name)
        assert said in runner.damaged()[run.folder.name]
        (record,) = caplog.records
        assert f"the run {run.folder.name} cannot be read" in record.getMessage()
        assert said in record.getMessage()
    path.write_text(whole, "utf-8")
    assert [each.folder for each in runner.runs()] == [run.folder]
    assert runner.damaged() == {}
    path.write_text("{", "utf-8")
    assert runner.runs() == []
    path.unlink()
    assert runner.damaged() == {}


def test_a_damaged_run_that_waits_is_told(host, config, caplog):
    """It waits until it can be read."""
    run = create(config, host.output_dir / "runs" / "tiny-1")
    (run.folder.parent / "queue.json").write_text('["tiny-1", "gone"]')
    (run.folder / "run.json").write_text("{")
    runner = Runner(host)
    runner.begin()
    assert idle(runner)
    assert [record.getMessage()[:32] for record in caplog.records] == ["the run tiny-1 cannot be read, a"]
    assert list(runner.damaged()) == ["tiny-1"]
    runner.close()


def test_the_queue_is_put_in_another_order(runner, host, config):
    """A run that waits may be moved, not before the one in training; another process finds the new order."""
    with host.lock:
        runs = [runner.add(replace(config, name=name, steps=1)) for name in ("first", "second", "third")]
        assert [runner.status(run).place for run in runs] == [None, 1, 2]
        runner.move(runs[2], 1)
        assert [run.config.name for run in runner.queue()] == ["first", "third", "second"]
        assert [run.config.name for run in Runner(host).queue()] == ["first", "third", "second"]
        for run, place, words in ((runs[0], 1, "expected a run that waits"), (runs[2], 3, "expected 1 to 2")):
            with pytest.raises(ValueError, match=words):
                runner.move(run, place)
    wait(lambda: idle(runner) and not runner.queue())
    ended = sorted(runs, key=lambda run: run.metrics_path.stat().st_mtime_ns)
    assert [run.config.name for run in ended] == ["first", "third", "second"]


def test_a_run_is_deleted_but_not_in_training(runner, host, config):
    with host.lock:
        run = runner.add(replace(config, steps=1))
        waiting = runner.add(replace(config, name="second", steps=1))
        with pytest.raises(ValueError, match="being trained: stop it first"):
            runner.delete(run)
        runner.delete(waiting)
        assert [other.folder for other in runner.queue()] == [run.folder]
    wait(lambda: idle(runner))
    assert not waiting.folder.exists()
    published = host.lora_dirs[0] / runner.status(run).published
    runner.delete(run)
    assert runner.runs() == []
    assert published.exists()


def test_a_run_has_a_title_and_notes(runner, host, config):
    runner.pause()
    run = runner.add(replace(config, steps=1))
    wait(lambda: idle(runner))
    assert runner.status(run).title == "tiny"
    runner.set_about(run, title="half of the blocks")
    runner.set_about(run, notes="too soft")
    status = Runner(host).status(run)
    assert (status.title, status.notes, status.name) == ("half of the blocks", "too soft", run.folder.name)
    (run.folder / "about.json").write_text("[1]")
    assert (Runner(host).status(run).title, Runner(host).status(run).notes) == ("tiny", "")
    with pytest.raises(ValueError, match="expected one line"):
        runner.set_about(run, title="two\nlines")
