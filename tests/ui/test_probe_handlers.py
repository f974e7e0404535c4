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
def analysing(host, controls, lora_index, jobs, model) -> Iterator[AnalyseHandlers]:
    host.loaded = model
    before = state_of(model.unet)
    yield AnalyseHandlers(host, controls, lora_index, jobs)
    assert_untouched(model.unet, before)


@pytest.fixture
def asking(page, tmp_path, monkeypatch):
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


def test_from_pictures_to_the_training(analysing, asking, host):
    asking.run(ProbeHandlers(analysing).start(asking.values))
    assert asking.values["probe_status"].startswith("<div data-ended=")
    shown = asking.values["analyse_bars"]
    assert shown.count("<li data-block=") == 16  # the blocks with attention
    assert "5_&lt;b&gt;thing" in asking.values["analyse_head"]
    assert asking.values["analyse_rule"] == RULE_LABELS[SUGGESTED]
    answer = asking.take(analysing.to_training(asking.values))
    assert answer["tabs"] == {"selected": "Train"}
    suggested = parse(asking.form["train_network_weights"], "sd1").weights
    assert max(suggested.values.values()) == 1
    assert all(not suggested[block] for block in ("IN00", "IN03", "IN06", "IN09"))

    asking.take(analysing.to_sliders(asking.values))
    assert asking.values["loras"] == ["robot"]  # the LoRA that is weighed stays
    assert {b: asking.values["weights"][b] for b in suggested.values} == dict(suggested.values)
    asking.take(analysing.save(asking.values))
    (path,) = (host.output_dir / "blocktrain" / "analyses").glob("*-dataset-probe.json")
    assert read_analysis(path).method == "probe"
    asking.values["analyse_rule"] = "strongest"
    asking.values["analyse_amount"] = 2
    asking.take(analysing.to_training(asking.values))
    assert sum(parse(asking.form["train_network_weights"], "sd1").weights.values.values()) == 2


def test_against_the_class_both_are_shown(analysing, asking):
    asking.values["probe_class"] = "a photo"
    steps = asking.run(ProbeHandlers(analysing).start(asking.values))
    assert any("Probing: 9 of 9" in str(step.get("probe_status")) for step in steps)  # 3 drawn, 3 and 3 probed
    assert "against “a photo”" in asking.values["analyse_head"] + asking.values["analyse_table"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probe_folder": " "}, "no folder of pictures"),
        ({"probe_folder": "/nowhere"}, "/nowhere: expected a folder of pictures"),
        ({"probe_pictures": 1}, "pictures 1: expected a whole number from 2 to 64"),
        ({"probe_pictures": None}, "pictures None: expected"),
    ],
)
def test_what_cannot_be_probed_is_said(analysing, asking, changes, said):
    asking.values |= changes
    asking.run(ProbeHandlers(analysing).start(asking.values))
    assert said in asking.values["probe_status"]
    assert asking.values["analyse_found"] == ""


def test_cancel(analysing, asking, host):
    probing = ProbeHandlers(analysing)
    with host.queued():
        going = probing.start(asking.values)
        asking.take(next(going))
        asking.take(probing.cancel(asking.values))
        asking.run(going)
    assert "Cancelled" in asking.values["probe_status"]


def test_only_a_probe_suggests(analysing, asking):
    asking.run(ProbeHandlers(analysing).start(asking.values))
    found = analysing._results[asking.values["analyse_found"]]
    analysing._results["other"] = type(found)(found.lora, found.result)
    said = analysing.to_training({**asking.values, "analyse_found": "other"})
    assert "only a probe of pictures does" in said["analyse_message"]
