"""A probe of pictures without a page: from a folder to bars, and from there to the weights of a training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("diffusers")

from PIL import Image

from lib_blocktrain.analysis import probe as module
from lib_blocktrain.analysis.results import read_analysis
from lib_blocktrain.ui.analyse_handlers import RULE_LABELS, SUGGESTED, AnalyseHandlers
from lib_blocktrain.ui.probe_handlers import ProbeHandlers
from lib_blocktrain.weights.preset_strings import parse
from tests.tiny_models import assert_untouched, state_of


@pytest.fixture(scope="module")
def model(random_model):
    from lib_blocktrain.hosts.standalone import load_demo

    return load_demo(random_model)


@pytest.fixture
def handlers(host, controls, lora_index, jobs, model) -> Iterator[AnalyseHandlers]:
    host.loaded = model
    before = state_of(model.unet)
    yield AnalyseHandlers(host, controls, lora_index, jobs)
    assert_untouched(model.unet, before)


@pytest.fixture
def filled(page, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMESTEPS", (400,))
    folder = tmp_path / "5_<b>thing"
    folder.mkdir()
    for number in range(3):
        Image.linear_gradient("L").resize((64, 64)).rotate(2 * number).convert("RGB").save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a robot", "utf-8")
    page.values |= {"probe_folder": str(folder), "probe_class": "", "probe_pictures": 3, "probe_convolutions": False}
    page.values |= {"probe_job": "", "probe_status": "", "analyse_found": "", "analyse_rule": "down-to"}
    page.values |= {"analyse_amount": 80, "analyse_message": "", "analyse_table": ""}
    return page


def test_from_pictures_to_the_training(handlers, filled, host):
    filled.run(ProbeHandlers(handlers).start(filled.values))
    assert filled.values["probe_status"].startswith("<div data-ended=")
    shown = filled.values["analyse_bars"]
    assert shown.count("<li data-block=") == 16  # the blocks with attention
    assert "5_&lt;b&gt;thing" in filled.values["analyse_head"]
    assert filled.values["analyse_rule"] == RULE_LABELS[SUGGESTED]
    answer = filled.take(handlers.to_training(filled.values))
    assert answer["tabs"] == {"selected": "Train"}
    suggested = parse(filled.form["train_network_weights"], "sd1").weights
    assert max(suggested.values.values()) == 1
    assert all(not suggested[block] for block in ("IN00", "IN03", "IN06", "IN09"))

    filled.take(handlers.to_sliders(filled.values))
    assert filled.keys == ["robot"]  # the LoRA that is weighed stays
    assert {b: filled.values["weights"][b] for b in suggested.values} == dict(suggested.values)
    filled.take(handlers.save(filled.values))
    (path,) = (host.output_dir / "blocktrain" / "analyses").glob("*-dataset-probe.json")
    assert read_analysis(path).method == "probe"
    filled.values["analyse_rule"] = "strongest"
    filled.values["analyse_amount"] = 2
    filled.take(handlers.to_training(filled.values))
    assert sum(parse(filled.form["train_network_weights"], "sd1").weights.values.values()) == 2


def test_against_the_class_both_are_shown(handlers, filled):
    filled.values["probe_class"] = "a photo"
    steps = filled.run(ProbeHandlers(handlers).start(filled.values))
    assert any("Probing: 9 of 9" in str(step.get("probe_status")) for step in steps)  # 3 drawn, 3 and 3 probed
    assert "against “a photo”" in filled.values["analyse_head"] + filled.values["analyse_table"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probe_folder": " "}, "no folder of pictures"),
        ({"probe_folder": "/nowhere"}, "/nowhere: expected a folder of pictures"),
        ({"probe_pictures": 1}, "pictures 1: expected a whole number from 2 to 64"),
        ({"probe_pictures": None}, "pictures None: expected"),
    ],
)
def test_what_cannot_be_probed_is_said(handlers, filled, changes, said):
    filled.values |= changes
    filled.run(ProbeHandlers(handlers).start(filled.values))
    assert said in filled.values["probe_status"]
    assert filled.values["analyse_found"] == ""


def test_cancel(handlers, filled, host):
    probing = ProbeHandlers(handlers)
    with host.queued():
        going = probing.start(filled.values)
        filled.take(next(going))
        filled.take(probing.cancel(filled.values))
        filled.run(going)
    assert "Cancelled" in filled.values["probe_status"]


def test_only_a_probe_suggests(handlers, filled):
    filled.run(ProbeHandlers(handlers).start(filled.values))
    found = handlers._results[filled.values["analyse_found"]]
    handlers._results["other"] = type(found)(found.lora, found.result)
    said = handlers.to_training({**filled.values, "analyse_found": "other"})
    assert "only a probe of pictures suggests weights" in said["analyse_message"]
