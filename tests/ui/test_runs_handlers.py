"""The Runs tab without a page: only changed widgets are sent; the buttons."""

from __future__ import annotations

import hashlib
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from PIL import Image

from lib_blocktrain.runner import Runner, Status
from lib_blocktrain.training.config import load
from lib_blocktrain.training.runs import create
from lib_blocktrain.ui import form, runs_words
from lib_blocktrain.ui.runs_handlers import RunsHandlers
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.weights.preset_strings import parse
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
    page.values |= {"runs_chosen": "", "runs_shown": {}, "runs_ask": "", "runs_weights": "", "runs_message": ""}
    page.take(handlers.open(page.values))
    return page


def sent(page, part):
    """What a script reads of an element."""
    text = str(page.values[f"runs_{part}"])
    return json.loads(html.unescape(re.search('data-json="([^"]*)"', text)[1])) if text else None


def choose(page, handlers, name):
    page.values["runs_chosen"] = name
    page.take(handlers.poll(page.values))


def ask(page, **wanted):
    page.values["runs_ask"] = json.dumps(wanted)
    return page.values


def test_nothing_yet(opened):
    assert "No run yet" in opened.values["runs_state"]
    assert sent(opened, "table")["runs"] == []
    assert opened.properties["runs_again"]["interactive"] is False


def test_a_run_found_on_disk_is_shown(run, opened):
    values = opened.values
    assert values["runs_chosen"] == "robot-1"
    (row,) = sent(opened, "table")["runs"]
    assert (row["name"], row["title"], row["kind"], row["words"]) == ("robot-1", "robot-out", "bad", "failed")
    assert (row["step"], row["steps"], row["blocks"], len(row["weights"])) == (2, 4, "OUT06-OUT11", 25)
    assert "failed at step 2:</b> the loss is &lt;b&gt;nan&lt;/b&gt;. Nothing was saved" in values["runs_state"]
    assert 'data-state="diverged"' in values["runs_head"]
    curves = sent(opened, "curves")
    assert [(sample["step"], sample["file"]) for sample in curves["samples"]] == [(2, "000002-00.png")]
    assert curves["curves"]["loss"] == [[1], [0.5]]
    assert curves["curves"]["validation"] == [[2], [0.3]]
    blocks = sent(opened, "blocks")
    assert (blocks["norms"]["OUT09"], blocks["order"][0], len(blocks["order"])) == ([[1], [1.0]], "IN00", 26)
    assert blocks["frozen"] == {"OUT09": 2}
    assert sent(opened, "events")[0]["text"] == "Failed: the loss is <b>nan</b>"
    for part in ("state", "head", "curves", "blocks", "events", "table", "saved"):
        assert "<b>nan" not in values[f"runs_{part}"]
        assert "<script" not in values[f"runs_{part}"]
    shown = {name for name in opened.properties if opened.properties[name].get("visible")}
    assert shown == {"runs_resume"}


def test_only_what_has_changed_is_told(run, handlers, opened):
    assert set(opened.take(handlers.poll(opened.values))) == {"runs_shown", "runs_beat"}
    run.add_metrics({"step": 3, "loss": 0.1, "smoothed": 0.3})
    answer = opened.take(handlers.poll(opened.values))
    assert {"runs_table", "runs_curves"} <= set(answer)
    assert not {"runs_blocks", "runs_events", "runs_message", "runs_chosen"} & set(answer)


def test_the_buttons_say_what_cannot_be_done(run, handlers, opened):
    for press, said in (
        (handlers.stop, "there is nothing to stop"),
        (handlers.pause, "there is nothing to pause"),
        (handlers.to_preview, "has no LoRA yet"),
    ):
        opened.take(press(opened.values))
        assert said in opened.values["runs_message"]
    opened.values["runs_weights"] = "OUT=1"
    assert "is not being trained" in handlers.set_weights(opened.values)["runs_weigh_message"]
    opened.values["runs_chosen"] = "../runs/robot-1"
    opened.take(handlers.resume(opened.values))
    assert "there is no run" in opened.values["runs_message"]


def test_what_was_said_does_not_outlive_the_state(run, handlers, opened):
    """A message is gone when the run has another state, or another run is shown."""
    opened.take(handlers.stop(opened.values))
    assert "nothing to stop" in opened.values["runs_message"]
    opened.take(handlers.poll(opened.values))
    assert "nothing to stop" in opened.values["runs_message"]
    run.add_metrics({"step": 4, "event": "finished"})
    opened.take(handlers.poll(opened.values))
    assert opened.values["runs_message"] == ""


def test_states_in_words():
    """Each state says one thing, and what can be done; a finished run waits for nothing."""
    said = {}
    for state in runs_words.KINDS:
        status = Status("robot-1", state, 3, 9, seconds_a_step=0.5, title="robot", place=2, saved_step=2)
        said[state] = f"{runs_words.short(status)} | {runs_words.line(status, False).html().striptags()}"
    assert len(set(said.values())) == len(said) - 1  # a run that diverged has failed
    assert said["training"] == "training · 0:03 left | robot · step 3/9 · 2.0 steps/s · 0:03 left"
    assert said["waiting"] == "waiting · number 2 | robot waits: 1 before it"
    assert "finished. 9 steps" in said["finished"]
    early = runs_words.line(Status("robot-1", "finished", 3, 9, early="all blocks are frozen"), False)
    assert "finished. 3 of 9 steps, since all blocks are frozen" in early.html().striptags()
    for word in ("waits", "Resume", "when", "goes on"):
        assert word not in said["finished"]
    assert "Saved at step 2" in said["stopped"]
    assert runs_words.resume_label(Status("robot-1", "failed", 3, 9, saved_step=2)) == "Resume from step 2"


def test_a_run_that_cannot_be_read_is_listed_and_says_why(run, handlers, opened, host):
    other = create(run.config, host.output_dir / "runs" / "robot-2")
    (run.folder / "run.json").write_text("{ <b>")
    opened.take(handlers.poll(opened.values))
    for _ in range(2):  # when it has become damaged, and when it is chosen in the list
        assert (opened.values["runs_chosen"], sent(opened, "table")["chosen"]) == ("robot-1", "robot-1")
        assert "robot-1 cannot be read:" in opened.values["runs_state"]
        assert "run.json: line 1: " in opened.values["runs_state"]
        assert (opened.values["runs_message"], sent(opened, "curves"), opened.values["runs_head"]) == ("", None, "")
        assert not any(opened.properties[f"runs_{button}"]["visible"] for button in ("pause", "stop", "resume"))
        assert not any(opened.properties[f"runs_{button}"]["interactive"] for button in ("again", "preview", "weigh"))
        choose(opened, handlers, "robot-2")
        assert sent(opened, "curves")["name"] == "robot-2"
        choose(opened, handlers, "robot-1")
    choose(opened, handlers, "robot-2")
    good, bad = sent(opened, "table")["runs"]
    assert (good["name"], bad["name"], bad["words"], bad["kind"]) == ("robot-2", "robot-1", "cannot be read", "bad")
    assert good.keys() == bad.keys()
    assert "line 1: " in bad["notes"]
    (other.folder / "run.json").unlink()
    opened.take(handlers.poll(opened.values))
    assert "There is no run &#39;robot-2&#39; any more" in opened.values["runs_message"]
    assert "No run can be read: " in opened.values["runs_state"]


def test_two_runs_are_compared(run, handlers, opened, host):
    other = create(run.config, host.output_dir / "runs" / "robot-2")
    other.add_metrics({"step": 1, "loss": 0.25})
    assert sent(opened, "other") is None
    opened.take(handlers.poll(ask(opened, other="robot-2")))
    assert sent(opened, "other")["curves"]["loss"] == [[1], [0.25]]
    for nothing in ("robot-1", "../robot-2", "nobody", 3):
        opened.take(handlers.poll(ask(opened, other=nothing)))
        assert sent(opened, "other") is None


def test_samples_as_data_where_they_cannot_be_fetched(run, handlers, opened):
    assert "pictures" not in sent(opened, "curves")
    opened.take(handlers.poll(ask(opened, inline=True)))
    (name,) = sent(opened, "curves")["pictures"]
    assert name == "000002-00.png"
    assert sent(opened, "curves")["pictures"][name].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    "text", ["{", "[1]", "null", '{"do": 1}', "[" * 5000, '{"do": {"what": "x", "run": "robot-1"}}']
)
def test_requests_that_no_script_writes(run, handlers, opened, text):
    opened.values["runs_ask"] = text
    opened.take(handlers.poll(opened.values))
    before = dict(opened.values)
    answer = handlers.act(opened.values)
    assert set(answer) == {"runs_message", "runs_shown", "runs_beat"}  # an answer, so that the page goes on asking
    assert "blocktrain-failure" in answer["runs_message"]
    assert before == opened.values


def test_title_notes_and_deletion(run, handlers, opened):
    do = {"run": "robot-1", "what": "title", "text": " half of <b>it</b> "}
    opened.take(handlers.act(ask(opened, do=do)))
    opened.take(handlers.act(ask(opened, do={**do, "what": "notes", "text": "too soft"})))
    (row,) = sent(opened, "table")["runs"]
    assert (row["title"], row["notes"]) == ("half of <b>it</b>", "too soft")
    assert "half of &lt;b&gt;it&lt;/b&gt;" in opened.values["runs_head"]
    opened.take(handlers.act(ask(opened, do={**do, "text": "x" * 101})))
    assert "up to 100 characters" in opened.values["runs_message"]
    opened.take(handlers.act(ask(opened, do={"run": "robot-1", "what": "delete"})))
    assert sent(opened, "table")["runs"] == []
    assert not run.folder.exists()
    assert "No run yet" in opened.values["runs_state"]


def test_a_refused_command_is_an_answer_like_any_other(run, handlers, opened):
    """The page asks for nothing until the beat is another one: it stood still for a minute."""
    beat = opened.values["runs_beat"]
    opened.take(handlers.act(ask(opened, do={"run": "gone-1", "what": "delete"})))
    assert "blocktrain-failure" in opened.values["runs_message"]
    assert "gone-1" in opened.values["runs_message"]
    assert opened.values["runs_beat"] != beat
    assert [row["name"] for row in sent(opened, "table")["runs"]] == ["robot-1"]


def test_the_queue_is_put_in_another_order(run, handlers, opened, host):
    names = ["robot-1", "robot-2", "robot-3"]
    for name in names[1:]:
        create(run.config, host.output_dir / "runs" / name)
    (host.output_dir / "runs" / "queue.json").write_text(json.dumps(names))
    handlers.runner.pause()
    opened.take(handlers.act(ask(opened, do={"run": "robot-3", "what": "move", "place": 1})))
    rows = [(row["name"], row["place"]) for row in sent(opened, "table")["runs"]]
    assert rows == [("robot-3", 1), ("robot-1", 2), ("robot-2", 3)]
    assert json.loads((host.output_dir / "runs" / "queue.json").read_text()) == ["robot-3", "robot-1", "robot-2"]
    opened.take(handlers.act(ask(opened, do={"run": "robot-3", "what": "move", "place": "first"})))
    assert "expected a whole number" in opened.values["runs_message"]


def test_run_again_fills_the_form(run, handlers, opened):
    answer = opened.take(handlers.to_training(opened.values))
    assert answer["tabs"] == {"selected": "Train"}
    assert form.config_of(opened.form, json.loads(opened.values["train_rest"])) == run.config


def test_weights_that_were_set_during_training_are_those_of_the_run(run, handlers, opened, host):
    """The box, and Run again, showed those of its start: the next change put the others back without a word."""
    create(run.config, host.output_dir / "runs" / "robot-2")
    assert opened.values["runs_weights"] == run.config.network.weights
    weights = parse("OUT06-OUT11=1,OUT09=0.5", "sd1").weights
    run.add_metrics({"step": 2, "event": "weights", "weights": weights.to_json()})
    choose(opened, handlers, "robot-2")
    assert (opened.values["runs_weights"], opened.values["runs_weigh_message"]) == (run.config.network.weights, "")
    choose(opened, handlers, "robot-1")
    assert parse(opened.values["runs_weights"], "sd1").weights == weights
    assert "These weights were set during training" in opened.values["runs_weigh_message"]
    opened.take(handlers.to_training(opened.values))
    assert parse(opened.form["train_network_weights"], "sd1").weights == weights
    said = opened.values["train_message"]
    assert "then press Start" in said
    assert "Its block weights are those that were set during training" in said


def test_preview_it(run, handlers, opened, host, lora_index):
    opened.take(handlers.controls.open(opened.values))
    write_lora(host.lora_dirs[0] / "robot-out.safetensors")
    run.add_metrics({"step": 2, "published": "robot-out.safetensors"})
    opened.take(handlers.poll(opened.values))
    assert opened.properties["runs_preview"]["interactive"] is True
    answer = opened.take(handlers.to_preview(opened.values))
    assert answer["tabs"] == {"selected": "Preview"}
    assert "robot-out and its weights are on the sliders: press Draw" in answer["status"]
    assert opened.keys == ["robot-out"]
    assert set(opened.weights().values()) == {1.0}
    (host.lora_dirs[0] / "robot-out.safetensors").unlink()
    opened.take(handlers.to_preview(opened.values))
    assert "robot-out.safetensors, is no longer in" in opened.values["runs_message"]


def test_preview_of_a_result_whose_name_is_another_runs_now(run, handlers, opened, host):
    """The run's own is copied again, once; without it, the file of the name is not taken for it."""
    opened.take(handlers.controls.open(opened.values))
    there = host.lora_dirs[0] / "robot-out.safetensors"
    for path in (run.result, there):
        write_lora(path, ss_output_name="of this run")
    digest = hashlib.sha256(there.read_bytes()).hexdigest()
    run.add_metrics({"step": 2, "published": there.name, "published_sha256": digest})
    opened.take(handlers.to_preview(opened.values))
    assert opened.keys == ["robot-out"]
    write_lora(there, ss_output_name="of another run")
    others = there.read_bytes()
    for _ in range(2):
        opened.take(handlers.to_preview(opened.values))
        assert opened.keys == ["robot-out-2"]
    assert there.read_bytes() == others
    names = sorted(path.name for path in there.parent.glob("robot-out*.safetensors"))
    assert names == ["robot-out-2.safetensors", "robot-out.safetensors"]
    run.result.unlink()
    opened.take(handlers.to_preview(opened.values))
    assert "robot-out.safetensors, is no longer in" in opened.values["runs_message"]
    assert "the file of that name is another one" in opened.values["runs_message"]


def test_preview_what_was_saved_on_the_way(run, handlers, opened, host):
    opened.take(handlers.controls.open(opened.values))
    for step in (1, 250):
        write_lora(run.checkpoint(step), ss_output_name=f"at {step}")
    opened.take(handlers.poll(opened.values))
    assert sent(opened, "saved")["files"] == ["step 250", "step 1"]
    assert opened.properties["runs_preview"]["interactive"] is True  # though the run has no result yet
    ask(opened, file="step 250")
    for _ in range(2):  # the second time it is there already
        answer = opened.take(handlers.to_preview(opened.values))
        assert answer["tabs"] == {"selected": "Preview"}
        assert opened.keys == [run.checkpoint(250).stem]
    assert (host.lora_dirs[0] / run.checkpoint(250).name).read_bytes() == run.checkpoint(250).read_bytes()
    assert len(list(host.lora_dirs[0].glob(f"{run.config.name}*.safetensors"))) == 1
    write_lora(host.lora_dirs[0] / run.checkpoint(250).name, ss_output_name="of another run of this name")
    for _ in range(2):  # it was copied anew each time
        opened.take(handlers.to_preview(opened.values))
        assert opened.keys == [f"{run.checkpoint(250).stem}-2"]
    assert len(list(host.lora_dirs[0].glob(f"{run.config.name}*.safetensors"))) == 2
    ask(opened, file="result")
    assert "has no LoRA yet" in handlers.to_preview(opened.values)["runs_message"]
    ask(opened, file="step 1")
    run.checkpoint(1).unlink()
    assert "expected one of step 250" in handlers.to_preview(opened.values)["runs_message"]
