"""The Runs tab without a page: only changed widgets are sent; the buttons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from PIL import Image

from lib_blocktrain.runner import Runner
from lib_blocktrain.training.config import load
from lib_blocktrain.training.runs import create
from lib_blocktrain.ui import form
from lib_blocktrain.ui.runs_handlers import RunsHandlers
from lib_blocktrain.ui.train_handlers import TrainHandlers
from tests.fakes import Page, write_lora
from tests.ui.test_history import ROWS

READY = Path(__file__).resolve().parent.parent.parent / "demo" / "runs"


@pytest.fixture
def handlers(host, controls):
    runner = Runner(host)
    yield RunsHandlers(host, controls, runner, TrainHandlers(host, controls, runner, READY))
    runner.close()


@pytest.fixture
def run(host):
    """A run as another session left it."""
    run = create(replace(load(READY / "2-robot-out.json"), steps=4), host.output_dir / "runs" / "robot-1")
    for row in ROWS:
        run.add_metrics(row)
    (run.folder / "samples").mkdir()
    Image.new("RGB", (64, 64), "green").save(run.folder / "samples" / "000002-00.png")
    Image.new("RGB", (64, 64), "red").save(host.output_dir.parent / "secret.png")
    return run


@pytest.fixture
def opened(handlers):
    page = Page()
    page.values |= {"runs_chosen": "", "runs_shown": {}, "runs_list": None, "runs_weights": "", "runs_message": ""}
    page.values["runs_file"] = "result"
    page.take(handlers.open(page.values))
    return page


def test_nothing_yet(opened):
    assert "There is no run yet" in opened.values["runs_head"]
    assert opened.properties["runs_again"]["interactive"] is False


def test_a_run_found_on_disk_is_shown(run, opened):
    values = opened.values
    assert values["runs_chosen"] == "robot-1"
    assert opened.properties["runs_list"]["choices"] == [("robot-1 · diverged · 2/4", "robot-1")]
    assert "step 2 of 4" in values["runs_head"]
    assert "the loss is &lt;b&gt;nan&lt;/b&gt;" in values["runs_head"]
    assert values["runs_samples"].count("<img") == 1  # a name that is no sample's opens no file
    for part in ("runs_head", "runs_samples", "runs_curves", "runs_events"):
        assert "<b>nan" not in values[part]
        assert "<script" not in values[part]
        assert "<b>" not in str(values[part]).replace("<b>robot-1</b>", "")
    assert values["runs_curves"].count("<svg") == 6
    assert 'data-block="OUT09"' in values["runs_map"]
    can = {name for name in opened.properties if opened.properties[name].get("interactive")}
    assert {"runs_resume", "runs_again"} <= can
    assert not {"runs_stop", "runs_pause", "runs_preview"} & can


def test_only_what_has_changed_is_told(run, handlers, opened):
    assert set(opened.take(handlers.poll(opened.values))) == {"runs_shown", "runs_beat"}
    run.add_metrics({"step": 3, "loss": 0.1, "smoothed": 0.3})
    answer = opened.take(handlers.poll(opened.values))
    assert {"runs_head", "runs_curves"} <= set(answer)
    assert "runs_samples" not in answer


def test_the_buttons_say_what_cannot_be_done(run, handlers, opened):
    for press, said in (
        (handlers.stop, "there is nothing to stop"),
        (handlers.set_weights, "is not being trained"),
        (handlers.to_preview, "has no LoRA yet"),
    ):
        opened.values["runs_weights"] = "OUT=1"
        opened.take(press(opened.values))
        assert said in opened.values["runs_message"]
    opened.values["runs_chosen"] = "../runs/robot-1"
    opened.take(handlers.resume(opened.values))
    assert "there is no run" in opened.values["runs_message"]


def test_run_again_fills_the_form(run, handlers, opened):
    answer = opened.take(handlers.to_training(opened.values))
    assert answer["tabs"] == {"selected": "Train"}
    assert form.config_of(opened.form, opened.values["train_rest"]) == run.config


def test_preview_it(run, handlers, opened, host, lora_index):
    opened.take(handlers.controls.open(opened.values))
    write_lora(host.lora_dirs[0] / "robot-out.safetensors")
    run.add_metrics({"step": 2, "published": "robot-out.safetensors"})
    opened.take(handlers.poll(opened.values))
    assert opened.properties["runs_preview"]["interactive"] is True
    answer = opened.take(handlers.to_preview(opened.values))
    assert answer["tabs"] == {"selected": "Preview"}
    assert "robot-out and its weights are on the sliders: press Preview" in answer["status"]
    assert opened.values["loras"] == ["robot-out"]
    assert set(opened.weights().values()) == {1.0}
    (host.lora_dirs[0] / "robot-out.safetensors").unlink()
    opened.take(handlers.to_preview(opened.values))
    assert "robot-out.safetensors is no longer in" in opened.values["runs_message"]


def test_preview_what_was_saved_on_the_way(run, handlers, opened, host):
    opened.take(handlers.controls.open(opened.values))
    for step in (1, 250):
        write_lora(run.checkpoint(step), ss_output_name=f"at {step}")
    opened.take(handlers.poll(opened.values))
    assert opened.properties["runs_file"]["choices"] == ["result", "step 250", "step 1"]
    assert opened.properties["runs_preview"]["interactive"] is True  # though the run has no result yet
    opened.values["runs_file"] = "step 250"
    for _ in range(2):  # the second time it is there already
        answer = opened.take(handlers.to_preview(opened.values))
        assert answer["tabs"] == {"selected": "Preview"}
        assert opened.values["loras"] == [run.checkpoint(250).stem]
    assert (host.lora_dirs[0] / run.checkpoint(250).name).read_bytes() == run.checkpoint(250).read_bytes()
    assert len(list(host.lora_dirs[0].glob(f"{run.config.name}*.safetensors"))) == 1
    opened.values["runs_file"] = "result"
    assert "has no LoRA yet" in handlers.to_preview(opened.values)["runs_message"]
    opened.values["runs_file"] = "step 1"
    run.checkpoint(1).unlink()
    assert "expected one of result, step 250" in handlers.to_preview(opened.values)["runs_message"]
    opened.take(handlers.choose({**opened.values, "runs_list": run.folder.name}))
    assert opened.values["runs_file"] == "result"
