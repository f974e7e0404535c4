"""The Train tab without a page: the form in both directions, the dataset, the cost, and the start."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from PIL import Image

from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.training.config import FolderConfig, NetworkConfig, RunConfig, load
from lib_blocktrain.training.config_json import ConfigError, write
from lib_blocktrain.training.pace import Pace
from lib_blocktrain.ui import form
from lib_blocktrain.ui import train_handlers as module
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS
from tests.fakes import Page

ROOT = Path(__file__).resolve().parent.parent.parent
READY = ROOT / "demo" / "runs"


class Asked:
    """A runner that is only asked."""

    def __init__(self, folder):
        self.folder, self.configs, self.current = folder, [], None

    def add(self, config):
        self.configs.append(config)
        return type("Added", (), {"folder": self.folder / config.name})

    def runs(self):
        return []

    def queue(self):
        return [type("Waiting", (), {"folder": self.folder / config.name}) for config in self.configs]


@pytest.fixture(scope="session")
def model(random_model):
    from lib_blocktrain.hosts.standalone import load_demo

    return load_demo(random_model)


@pytest.fixture
def handlers(host, controls, model, tmp_path):
    host.loaded = model
    return TrainHandlers(host, controls, Asked(tmp_path), READY)


@pytest.fixture
def filled(handlers):
    """The form with the first ready run in it."""
    page = Page()
    page.values |= {
        "train_form": form.defaults(),
        "train_rest": "",
        "train_preset": None,
        "train_shown": "sd1",
        "train_ready": "1-robot",
    }
    page.take(handlers.load_ready(page.values))
    return page


@pytest.mark.parametrize("path", sorted(READY.glob("*.json")), ids=lambda path: path.stem)
def test_there_and_back(path):
    config = load(path)
    assert form.config_of(form.values_of(config), {}) == config


def test_what_has_no_widget_is_kept(tmp_path):
    folders = (
        FolderConfig(str(tmp_path), repeats=3, mask_folder="masks"),
        FolderConfig(str(tmp_path / "reg"), regularisation=True, class_caption="a photo"),
    )
    config = load(READY / "1-robot.json")
    config = replace(
        config,
        dataset=replace(config.dataset, folders=folders),
        network=NetworkConfig(block_ranks={"OUT09": 8}, elements={"attn2": 0.5}, weights={"architecture": "sd1"}),
    )
    with pytest.raises(ValueError, match="expected 'architecture', 'weights'"):
        form.values_of(config)
    config = replace(config, network=replace(config.network, weights="OUT=1"))
    assert form.config_of(form.values_of(config), write(config)) == config
    assert form.config_of(form.values_of(config), {}) != config


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("train_network_rank", 2.5, "network.rank = 2.5: expected a whole number"),
        ("train_network_rank", None, "network.rank is empty: expected a whole number"),
        ("train_dataset_size", "big", "dataset.size = 'big': expected a number, or nothing"),
        ("train_dataset_size", "100", "size = 100: expected a multiple of 8"),
        ("train_optimizer_arguments", "betas", "'betas': expected name=value"),
        ("train_name", "../../x", "name = '../../x': expected a file's name"),
        ("train_name", "", "has no name yet"),
        ("train_dataset_folders", " ", "no folder of pictures yet"),
        ("train_loss_kind", "l3", "loss.kind = 'l3': expected one of l2"),
    ],
)
def test_bad_values_are_named(name, value, said):
    values = {**form.values_of(load(READY / "1-robot.json")), name: value}
    with pytest.raises(ConfigError, match=re.escape(said)):
        form.config_of(values, {})


def test_the_map_and_the_text_say_the_same(handlers, filled):
    """What is typed is on the map, and what is moved on the map is in the text; what cannot be read moves nothing."""
    filled.form["train_network_weights"] = "OUT09-OUT11=1,M00=0.5"
    weights = handlers.to_map(filled.values)["train_weights"]
    assert {block for block, value in weights.items() if value} >= {"OUT09", "OUT10", "OUT11", "M00"}
    assert (weights["M00"], weights["IN04"]) == (0.5, 0)
    assert handlers.to_map({**filled.values, "train_form": {"train_network_weights": "OUT99=1"}}) == {}

    moved = {**weights, "IN04": 0.25, "OUT10": 0}
    line = handlers.from_map({**filled.values, "train_weights": moved})["train_form"]["train_network_weights"]
    assert "IN04=0.25" in line
    parsed = parse(line, "sd1").weights
    assert {block: parsed[block] for block in ("IN04", "OUT10", "OUT09", "M00")} == {
        "IN04": 0.25, "OUT10": 0, "OUT09": 1, "M00": 0.5,
    }  # fmt: skip


def test_what_fills_in_weights_moves_the_map_and_the_estimate_with_them(handlers, filled):
    """In one answer: of two quick moves the second had the first one's estimate, as gradio drops what follows it."""
    for change in (
        handlers.use_preset({**filled.values, "train_preset": "OUTALL"}),
        handlers.load_ready({**filled.values, "train_ready": "2-robot-out"}),
        handlers.from_sliders(filled.values),
    ):
        line = change["train_form"]["train_network_weights"]
        assert change["train_weights"] == parse(line, "sd1").weights.with_base
        assert change["train_understood"]
        assert "blocktrain" in change["train_estimate"]
        assert "train_map" not in change  # it is that of the model already; its undo is kept
    moved = {**change["train_weights"], "OUT05": 0.75}
    assert "0.75" in handlers.from_map({**filled.values, "train_weights": moved})["train_understood"]
    shown = handlers.follow({**filled.values, "train_form": {**filled.form, "train_network_weights": "OUT=1"}})
    assert shown["train_weights"]["OUT05"] == 1
    shown = filled.take(handlers.follow({**filled.values, "train_shown": "sdxl"}))  # another model has been loaded
    assert 'data-architecture="sd1"' in shown["train_map"]
    assert "train_map" not in handlers.follow(filled.values)


def test_a_preset_that_training_cannot_take_is_not_in_its_menu_and_stops_nothing(handlers, filled, host):
    """With it chosen, a block moved on the map left the text as it was, and the old weights were trained."""
    host.presets_path.write_text("CURVED:ALL,OUT=1@0-0.4\nPLAIN:OUT=0.5\n", "utf-8")
    choices = handlers.open(filled.values)["train_preset"]["choices"]
    assert "PLAIN" in choices
    assert "CURVED" not in choices
    filled.values |= {"train_preset": "CURVED", "train_weights": {**dict.fromkeys(WEIGHT_IDS, 1.0), "OUT05": 0.25}}
    assert "OUT05=0.25" in handlers.from_map(filled.values)["train_form"]["train_network_weights"]


def test_the_share_of_the_canvas_goes_along(handlers, filled):
    filled.form["train_network_weights"] = "OUT=1|canvas=0.25"
    filled.values |= {"train_weights": {**dict.fromkeys(WEIGHT_IDS, 1.0), "OUT05": 0.25}}
    assert "canvas=0.25" in handlers.from_map(filled.values)["train_form"]["train_network_weights"]
    filled.values |= {"paste": "OUT=1|canvas=0.5", "preset": None, "loras": "", "weight_changes": ""}
    filled.values["weights"] = dict(parse("OUT=1", "sd1").weights.with_base)
    assert "canvas=0.5" in handlers.from_sliders(filled.values)["train_form"]["train_network_weights"]


@pytest.mark.parametrize("rest", ["[]", "{", "3"])
def test_a_run_that_was_loaded_is_read_from_the_page(handlers, filled, rest):
    assert json.loads(filled.values["train_rest"])["name"] == "robot"
    filled.values["train_rest"] = rest
    assert "expected a run.json; load it again" in handlers.start(filled.values)["train_message"]


def test_the_path_says_what_is_done(handlers, filled):
    filled.form["train_network_weights"] = "OUT09-OUT11=1"
    filled.take(handlers.estimate(filled.values))
    steps = filled.values["train_path"]
    assert "3 of 25" in steps
    assert "<small>24</small>" in steps
    assert steps.count("blocktrain-is-done") == 3
    assert "alpha × weight" in filled.values["train_understood"]
    filled.form.update({"train_dataset_folders": "", "train_network_meaning": "lr"})
    filled.take(handlers.estimate(filled.values))
    assert "none yet" in filled.values["train_path"]
    assert filled.values["train_path"].count("blocktrain-is-done") == 2
    assert "the rate × its weight" in filled.values["train_understood"]


def folds(handlers, page):
    """What stands beside the titles of the folded groups, by group; without those where nothing is set."""
    page.take(handlers.estimate(page.values))
    lines = re.findall(r'data-fold="(\d+)">(.*?)</p>', page.values["train_folds"])
    assert len(lines) == len(form.FOLDED)
    said = {form.FOLDED[int(number)]: re.sub("<.*?>", "", text) for number, text in lines}
    return {group: text for group, text in said.items() if text}


def test_folded_groups_say_what_is_set_in_them(handlers, filled):
    """A loaded run's noise offset, or its dropout of captions, was out of sight."""
    filled.form.update({**form.defaults(), "train_name": "robot"})
    assert folds(handlers, filled) == {}
    filled.form.update({"train_loss_min_snr_gamma": "5", "train_loss_noise_offset": 0.05, "train_dataset_flip": True})
    filled.form.update({"train_dataset_buckets": False, "train_optimizer_arguments": "a=1\nb=2", "train_seed": 0})
    expected = {
        "Pictures, masks, regularisation, validation": "Flip at random · Buckets off",
        "Loss and noise": "Min-SNR gamma 5 · Noise offset 0.05",
        "Network and optimizer": "Optimizer arguments a=1 b=2",
    }
    assert folds(handlers, filled) == expected
    filled.form["train_network_rank"] = "x"  # also where the form cannot be read
    assert "Loss and noise" in folds(handlers, filled)


def checks(handlers, page):
    """What is said before the start, by state."""
    page.take(handlers.estimate(page.values))
    lines = re.findall(r'blocktrain-is-(\w+)">.*?<span>(.*?)</span></li>', page.values["train_checks"])
    return {state: [text for other, text in lines if other == state] for state, _ in lines}


def test_what_is_known_before_the_start_is_said(host, handlers, filled, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 10_000.0)
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
    (folder / "a.txt").write_text("thing", "utf-8")
    filled.form.update({"train_dataset_folders": str(folder), "train_name": "other"})
    assert checks(handlers, filled) == {
        "good": ["Memory is enough", "The name is free"],
        "warn": ["Without a caption: 1 of 2 pictures, trained on an empty prompt"],
    }
    (folder / "b.txt").write_text("thing", "utf-8")
    (host.lora_dirs[0] / "taken.safetensors").write_bytes(b"")
    filled.form["train_name"] = "taken"
    assert checks(handlers, filled) == {
        "good": ["Pictures: 2, each with a caption", "Memory is enough"],
        "warn": ["There is a LoRA taken already: the new one gets a number"],
    }
    filled.form["train_name"] = ""
    handlers.runner.current = type("Current", (), {"folder": tmp_path / "earlier"})
    assert checks(handlers, filled)["todo"] == ["The LoRA has no name yet", "It starts after earlier"]
    filled.form.update({"train_samples_prompts": "a robot", "train_samples_every": 5, "train_samples_sampler": "none"})
    assert checks(handlers, filled)["bad"] == ["samples.sampler = &#39;none&#39;: expected one of DDIM, Euler"]
    filled.form["train_dataset_folders"] = str(tmp_path / "gone")
    assert f"{tmp_path / 'gone'}: no such folder" in checks(handlers, filled)["bad"]
    filled.form["train_dataset_folders"] = ""
    assert "There are no pictures yet" in checks(handlers, filled)["todo"]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    filled.form.update({"train_samples_every": 0, "train_precision": "bf16"})
    assert "precision bf16: this CPU has no instructions" in str(checks(handlers, filled)["warn"])
    monkeypatch.setattr(module, "free_memory", lambda: 1.0)
    assert "Memory is not enough" in checks(handlers, filled)["bad"]
    assert "blocktrain-over" in filled.values["train_cost"]


def test_numbers_of_blocks_that_no_field_shows_are_said(handlers, filled):
    """They stay over every change of the weights."""
    assert "in place of the weights" not in str(checks(handlers, filled))
    own = {"block_ranks": {"OUT09": 2}, "block_alphas": {"OUT07": 1, "BASE": 4, "OUT05": 1, "OUT06": 1}}
    config = load(READY / "1-robot.json")
    config = replace(config, network=replace(config.network, **own, conv_block_ranks={"OUT05": 3}))
    filled.take(handlers.filled(config, ""))
    filled.form.update({"train_network_weights": "OUT=0.5", "train_name": "other"})
    said = "block_ranks: OUT09; block_alphas: BASE, OUT05-OUT07"
    assert checks(handlers, filled)["warn"] == [
        f"The loaded run has its own numbers in place of the weights ({said}): "
        "to have none, start from a run.json without them"
    ]
    filled.form["train_network_conv_rank"] = 4
    assert f"({said}; conv_block_ranks: OUT05)" in str(checks(handlers, filled))


def test_the_menu_names_the_preset_of_the_weights(handlers, filled):
    """The box was empty, whatever the weights were."""
    for text, shown in (("ALL", "ALL"), ("OUT=1,IN05=0.5", None), ("INALL", "INALL")):
        filled.form["train_network_weights"] = text
        filled.take(handlers.estimate(filled.values))
        assert filled.values["train_preset"] == shown


def test_what_was_found(handlers, filled, tmp_path):
    filled.take(handlers.inspect_dataset(filled.values))
    assert "<dt>pictures</dt><dd>" in filled.values["train_dataset"]
    assert "robot" in filled.values["train_dataset"]

    folder = tmp_path / "3_<b>thing"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    (folder / "a.txt").write_text("<i>tag</i>, thing", "utf-8")
    (folder / "broken.png").write_bytes(b"no picture")
    filled.form.update({"train_dataset_folders": str(folder), "train_name": ""})
    filled.take(handlers.inspect_dataset(filled.values))
    said = filled.values["train_dataset"]
    assert "1, 3 with their repeats" in said
    assert "&lt;i&gt;tag&lt;/i&gt;" in said
    assert "broken.png" in said
    assert "<i>" not in said
    assert "<b>" not in said
    (folder / "a.txt").write_text("thing " * 80, "utf-8")
    filled.form.update({"train_max_tokens": "75", "train_name": ""})
    filled.take(handlers.inspect_dataset(filled.values))
    assert "a.png loses 5 tokens" in filled.values["train_dataset"]
    assert filled.form["train_name"] == "<b>thing"


def test_syntax_in_the_prompts_of_samples_is_said(host, handlers, filled):
    """Where the host reads none: before the run begins."""
    filled.form["train_samples_prompts"] = "a robot <lora:x:1>"
    filled.take(handlers.estimate(filled.values))
    assert "the prompt of the samples: &#39;&lt;lora:x:1&gt;&#39; is read as words" in filled.values["train_estimate"]
    host.reads_prompt_syntax = True
    filled.take(handlers.estimate(filled.values))
    assert "is read as words" not in filled.values["train_estimate"]


def test_the_cost_follows_the_weights(handlers, filled, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 10_000.0)
    times = {}
    for text in ("ALL", "OUT09-OUT11=1"):
        filled.form["train_network_weights"] = text
        filled.take(handlers.estimate(filled.values))
        assert "Understood as" in filled.values["train_understood"]
        times[text] = float(re.search(r"beside all blocks</span><b>([\d.]+) ×", filled.values["train_estimate"])[1])
    assert times["ALL"] == 1
    assert 0.4 < times["OUT09-OUT11=1"] < 0.8
    assert "stops at OUT09" in filled.values["train_estimate"]
    assert "is known once a run has started" in filled.values["train_estimate"]
    monkeypatch.setattr(module, "pace_of", lambda *_: Pace("earlier", 10.0, 2.0))
    filled.take(handlers.estimate(filled.values))
    assert "judging by earlier" in filled.values["train_estimate"]
    monkeypatch.setattr(module, "free_memory", lambda: 1.0)
    filled.take(handlers.estimate(filled.values))
    assert "blocktrain-failure" in filled.values["train_estimate"]
    assert ": choose " in filled.values["train_estimate"] or "no choice" in filled.values["train_estimate"]
    filled.form["train_network_weights"] = "OUT=oops"
    filled.take(handlers.estimate(filled.values))
    assert "oops" in filled.values["train_understood"]
    assert filled.values["train_estimate"] == ""


def test_weights_from_the_sliders(handlers, filled):
    filled.values["weights"]["OUT05"] = 0.5
    filled.take(handlers.from_sliders(filled.values))
    assert filled.form["train_network_weights"].endswith("| arch=sd1")
    filled.take(handlers.start(filled.values))
    assert "1,1,1,1,1,0.5,1" in handlers.runner.configs[0].network.weights
    filled.values["weights"]["OUT05"] = -0.5
    filled.take(handlers.from_sliders(filled.values))
    filled.take(handlers.start(filled.values))
    assert "OUT05 = -0.5: expected 0 to 2 in training" in filled.values["train_message"]


def test_weights_for_another_share_of_the_picture_are_said_before_and_at_the_start(handlers, filled, tmp_path):
    folder = tmp_path / "3_thing"
    folder.mkdir()
    for name in "ab":
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
        mask = Image.new("L", (64, 64))
        mask.paste(255, (0, 0, 32, 64))  # half of the picture
        mask.save(folder / f"{name}.mask.png")
    filled.form.update({"train_dataset_folders": str(folder), "train_dataset_size": "64"})
    for share, warned in (("0.1", True), ("0.4", False)):
        handlers.controls.presets.own.path.write_text(f"face:OUT=1|arch=sd1 canvas={share}\n", "utf-8")
        filled.take(handlers.use_preset({**filled.values, "train_preset": "face"}))
        assert filled.form["train_network_weights"].endswith(f"canvas={share}")
        filled.take(handlers.inspect_dataset(filled.values))
        filled.take(handlers.start(filled.values))
        for place in ("train_dataset", "train_message"):
            said = f"found for a feature that fills {float(share):.0%} of the picture, used for one that fills 50%"
            assert (said in filled.values[place]) == warned
    assert [parse(config.network.weights, "sd1").area_share for config in handlers.runner.configs] == [0.1, 0.4]


def test_the_form_begins_with_what_suits_the_model(handlers, filled, monkeypatch):
    for architecture, checkpointing in (("sd1", False), ("sdxl", True)):
        monkeypatch.setattr(handlers, "_architecture", lambda name=architecture: name)
        filled.take(handlers.open(filled.values))
        assert filled.form["train_checkpointing"] is checkpointing
        assert filled.form["train_samples_every"] == 100
        assert filled.form["train_name"] == ""


def test_start(handlers, filled):
    handlers.controls.presets.save("mine", handlers.controls.presets.parse("OUT=1", "sd1").weights)
    filled.form.update({"train_network_weights": "mine"})
    changes = filled.take(handlers.start(filled.values))
    assert changes["tabs"] == {"selected": "Runs"}
    assert changes["runs_chosen"] == "robot"
    # a preset of the user's own is written out: another machine does not know it
    assert handlers.runner.configs[0].network.weights == "mine:1,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1,1,1,1"


def test_a_second_click_on_start_starts_nothing_more(handlers, filled, monkeypatch):
    """A click while the dataset was still read made a second run of the same."""
    first = filled.take(handlers.start(filled.values))
    assert filled.take(handlers.start(filled.values)) == first
    assert len(handlers.runner.configs) == 1
    monkeypatch.setattr(module, "SECOND_CLICK", -1.0)  # long after
    handlers.start(filled.values)
    filled.form["train_steps"] = 7
    handlers.start(filled.values)
    assert len(handlers.runner.configs) == 3


def test_a_form_without_a_rate_has_the_optimizers_own(handlers, filled):
    assert form.defaults()["train_optimizer_lr"] == ""
    filled.form.update({"train_optimizer_name": "Prodigy", "train_optimizer_lr": ""})
    filled.take(handlers.start(filled.values))
    assert handlers.runner.configs[0].optimizer.rate == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_optimizer_name": "Prodigy", "train_network_meaning": "lr"}, "expected the meaning scale or rank"),
        ({"train_optimizer_name": "Prodigy", "train_optimizer_lr": "1e-4"}, "expected about 1, at least 0.1, or no lr"),
        ({"train_network_algorithm": "dora"}, "alpha does not scale"),
        ({"train_network_weights": "NONE"}, "nothing to train"),
        ({"train_network_weights": "IN00=1"}, "expected a conv_rank above 0"),
        ({"train_samples_sampler": "Heun"}, "samples.sampler = &#39;Heun&#39;: expected one of DDIM, Euler"),
        ({"train_dataset_folders": "/nowhere"}, "no such folder"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(handlers, filled, changes, said):
    filled.form.update(changes)
    filled.take(handlers.start(filled.values))
    assert said in filled.values["train_message"]
    assert handlers.runner.configs == []


def test_without_a_model(handlers, filled):
    handlers.host.loaded = None
    filled.take(handlers.estimate(filled.values))
    assert "no checkpoint is loaded" in filled.values["train_estimate"]
    filled.take(handlers.start(filled.values))
    assert "no checkpoint is loaded" in filled.values["train_message"]
    with pytest.raises(NoModel):
        handlers.host.model()


def test_load_file(handlers, filled, tmp_path):
    path = tmp_path / "run.json"
    path.write_text((READY / "2-robot-out.json").read_text("utf-8"), "utf-8")
    filled.take(handlers.load_file({**filled.values, "train_file": path}))
    assert filled.form["train_network_weights"] == "OUT06-OUT11=1"
    assert "../datasets/robot is relative: enter the full path" in filled.values["train_message"]
    for content, said in ((b"{", "expected a run.json"), (b"\xff", "is not text"), (b'{"nmae": 1}', "did you mean")):
        path.write_bytes(content)
        filled.take(handlers.load_file({**filled.values, "train_file": path}))
        assert said in filled.values["train_message"]


def test_from_a_lora_that_was_trained_here(handlers, filled, lora_index, host):
    from tests.fakes import write_lora

    run = {**write(replace(load(READY / "2-robot-out.json"), steps=77))}
    run["dataset"]["folders"][0]["path"] = "robot"
    record = json.dumps({"version": "0", "run": run})
    write_lora(host.lora_dirs[0] / "robot.safetensors", ss_blocktrain=record)
    lora_index.refresh()
    filled.take(handlers.controls.open(filled.values))
    filled.take(handlers.load_lora(filled.values))
    assert filled.form["train_steps"] == 77
    assert filled.form["train_dataset_folders"] == ""
    assert "a folder “robot”" in filled.values["train_message"]
    assert filled.form["train_network_weights"] == "OUT06-OUT11=1"
    for text, changed in (("OUT06-OUT11=1", False), ("OUT06-OUT11=1,OUT09=0.5", True)):
        weights = parse(text, "sd1").weights
        record = json.dumps({"version": "0", "run": run, "trained": {"weights": weights.to_json()}})
        write_lora(host.lora_dirs[0] / "robot.safetensors", ss_blocktrain=record)
        lora_index.refresh()
        filled.take(handlers.load_lora(filled.values))
        assert parse(filled.form["train_network_weights"], "sd1").weights == weights
        assert ("that were set during training" in filled.values["train_message"]) == changed
    write_lora(host.lora_dirs[0] / "robot.safetensors", ss_blocktrain="{")
    lora_index.refresh()
    filled.take(handlers.load_lora(filled.values))
    assert "was not trained with this extension" in filled.values["train_message"]
    assert isinstance(form.config_of({**filled.form, "train_dataset_folders": str(READY)}, {}), RunConfig)
