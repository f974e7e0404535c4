"""The benchmarks in miniature: that they measure what they say, not how long it takes."""

from __future__ import annotations

import importlib.util

import pytest
import torch

pytest.importorskip("diffusers")

from benchmarks import pieces, preview, setting, start, training
from benchmarks.training_loops import LOOPS, Ours, Work, loop_of
from lib_blocktrain.networks.files import write_network
from lib_blocktrain.training import compiled
from tests.tiny_models import assert_untouched, diffusers_unet, state_of

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def unet():
    return diffusers_unet()


@pytest.fixture
def work(unet, tmp_path):
    latents, conditioning = setting.inputs_of(unet, "sd1", side=16, batch=2)
    return Work(unet, "sd1", "OUT09-OUT11=1", 4, latents, conditioning, tmp_path)


def trained(loop) -> list[torch.Tensor]:
    return loop.trainer.train_state.parameters if isinstance(loop, Ours) else loop.parameters


@pytest.mark.parametrize("name", LOOPS)
def test_programs_train_the_same_layers_and_leave_the_weights(name, work, unet, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")  # torch's own would take minutes
    if name == "PEFT":
        pytest.importorskip("peft")
    before = state_of(unet)
    loop = loop_of(name, work, 0)
    shapes = sorted(tuple(p.shape[:2]) for p in trained(loop))
    expected = [(4, s.layer.weight.shape[1]) for s in work.plan().modules]
    expected += [(s.layer.weight.shape[0], 4) for s in work.plan().modules]
    assert shapes == sorted(expected)
    learned = [p.detach().clone() for p in trained(loop)]
    with loop.ready():
        losses = [loop.step() for _ in range(2)]
    assert all(0 < loss < 100 for loss in losses)
    assert all(not torch.equal(p, old) for p, old in zip(trained(loop), learned))
    assert_untouched(unet, before)


def test_table_of_training(work, monkeypatch):
    monkeypatch.setattr(training, "limits", lambda arguments: {"ALL": 1.0, "OUT=1": 0.8})
    arguments = training.argparse.Namespace(weights=["ALL", "OUT=1"], loops=["ours", "sd-scripts' habit"], rounds=1)
    found = training.times(work, arguments)
    lines = training.report(found, {}, training.limits(arguments)).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2].startswith("| ALL | ours | ")
    assert lines[2].count("1.000") >= 2


def test_preview_measures_every_way_and_puts_the_weights_back(unet, tmp_path):
    before = state_of(unet)
    network = preview.make_network(unet, preview.ATTENTION, rank=2)
    path = write_network(tmp_path / "lora.safetensors", network, dtype=torch.float16)
    found = preview.measure(unet, path, side=16, rounds=2)
    assert {name: len(seconds) for name, seconds in found.items()} == {"hooks": 2, "merged": 2, "file": 2}
    rows = [[cell.strip() for cell in line.split("|")] for line in preview.report(found).splitlines()[2:]]
    assert [row[1] for row in rows if row[2] == "merged"] == [*preview.PARTS, "picture of 20 steps"]
    assert all(row[4] == "1.000" for row in rows if row[2] == "merged")
    assert_untouched(unet, before)


def test_all_forms_of_a_layer_are_the_same_numbers():
    torch.manual_seed(0)
    base, gradient = pieces.drawn(1, 5, 8), pieces.drawn(1, 5, 8)
    given = [pieces.drawn(1, 5, 8, trained=True), pieces.drawn(2, 8, trained=True), pieces.drawn(8, 2, trained=True)]
    found = []
    for form in list(pieces.LAYER.values())[:-1]:
        output = form(base, *given)
        found.append([output, *torch.autograd.grad(output, given, gradient)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    x, downs = given[0], [pieces.drawn(2, 8) for _ in range(3)]
    both = (form(x, [torch.eye(8)] * 3, downs, [given[2]] * 3) for form in (pieces.apart, pieces.together))
    torch.testing.assert_close(*both)


def test_start_times_what_the_script_imports():
    names = start.imported()
    assert "lib_blocktrain.hosts.webui.integration" in names
    assert all(importlib.util.find_spec(name) for name in names)
