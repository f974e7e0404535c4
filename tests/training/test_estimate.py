"""The estimate against what is counted on the real configurations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib_blocktrain.training.config import DatasetConfig, FolderConfig, NetworkConfig, RunConfig
from lib_blocktrain.training.estimate import PARAMETERS, UNetSize, estimate, size_of_model

pytest.importorskip("diffusers")

from benchmarks.memory import Case, count, estimated, full_size
from tests.training.bare import Bare, real_unet
from tests.training.test_backward import flops, fused_on_meta, inputs, saved_bytes  # noqa: F401 - fixtures

DATASET = DatasetConfig(folders=(FolderConfig("pictures"),))
SELECTIONS = {
    "sd1": ("OUT09-OUT11=1", "OUT06-OUT11=1", "OUT=1", "OUT03-OUT05=1", "IN=1", "M00=1"),
    "sdxl": ("OUT03-OUT05=1", "OUT01=1", "IN07-IN08=1"),
}


def run(weights: str, **changes) -> RunConfig:
    network = NetworkConfig(rank=16, weights=weights, **changes.pop("network", {}))
    return RunConfig("test", DATASET, network, **changes)


@pytest.mark.usefixtures("fused_on_meta")
@pytest.mark.parametrize("architecture", ["sd1", pytest.param("sdxl", marks=pytest.mark.long)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_time(flops, architecture, checkpointing):  # noqa: F811
    """Relative time within 0.01 of FLOP counted by torch, and the FLOP themselves within 2 %.

    With checkpointing 0.02 and 5 %: torch stops computing a block again when it has what it saved.
    """
    absolute, relative = (0.02, 0.05) if checkpointing else (0.01, 0.02)
    everything = flops(architecture, "ALL", checkpointing)
    for weights in SELECTIONS[architecture]:
        counted = flops(architecture, weights, checkpointing)
        found = estimate(run(weights, checkpointing=checkpointing), UNetSize.real(architecture))
        assert found.relative_time == pytest.approx(counted / everything, abs=absolute), weights
        assert found.gflop == pytest.approx(counted / 1e9, rel=relative), weights


@pytest.mark.usefixtures("fused_on_meta")
@pytest.mark.parametrize(("architecture", "side", "context"), [("sd1", 64, 768), ("sdxl", 128, 2048)])
def test_activations(architecture, side, context):
    """Bytes that autograd keeps, within 6 %."""
    model = Bare(real_unet(architecture), architecture)
    arguments = inputs(side, context, "meta", sdxl=architecture == "sdxl")
    for weights in ("ALL", *SELECTIONS[architecture]):
        _, counted = saved_bytes(model, weights, arguments)
        found = estimate(run(weights), UNetSize.real(architecture, itemsize=4)).mib["activations"]
        assert found == pytest.approx(counted / 2**20, rel=0.06), weights


COUNTED = json.loads((Path(__file__).parent.parent.parent / "benchmarks" / "memory.json").read_text("utf-8"))


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: "-".join(str(value) for value in row.values()))
def test_memory(row):
    """Within 10 % of what `benchmarks/memory.py` has counted; the weights, which are known, within 1 %."""
    case = Case(**{name: value for name, value in row.items() if name not in ("mib", "frozen_mib")})
    found = estimated(case)
    assert found.rest == pytest.approx(row["mib"], rel=0.1)
    assert found.weights == pytest.approx(row["frozen_mib"], rel=0.01)


def test_the_models_that_are_on_the_device():
    """On a GPU those that the steps need; all of them on a CPU, where the host moves none, and before the steps."""
    unet = UNetSize.real("sdxl")
    own, encoders, autoencoder = (2 * number / 2**20 for number in PARAMETERS["sdxl"])
    varied = replace(DATASET, shuffle_tags=True)
    for config, size, device, expected in (
        (run("ALL"), unet, "cuda", own),
        (run("ALL"), unet, "cpu", own + encoders + autoencoder),
        (run("ALL"), replace(unet, movable=False), "cuda", own + encoders + autoencoder),
        (replace(run("ALL"), dataset=varied), unet, "cuda", own + encoders),
        (run("BASE=1,OUT=1", network={"text_encoder": True}), unet, "cuda", own + encoders),
    ):
        assert estimate(config, size, None, device).mib["model"] == pytest.approx(expected)
    small = estimate(run("OUT03=1", checkpointing=True), unet)
    assert small.total_mib == pytest.approx(unet.loaded_mib + 643 * 1024**2 * 2 / 2**20 + small.mib["overhead"])
    assert "encoding" not in estimate(run("ALL"), unet).mib


def test_the_counts_are_those_of_the_code():
    """One is counted again: SD1 at 512 with checkpointing."""
    [row] = [row for row in COUNTED if row["architecture"] == "sd1" and row["side"] == 512 and row["checkpointing"]]
    case = Case(**{name: value for name, value in row.items() if name not in ("mib", "frozen_mib")})
    assert count(case, full_size("sd1", torch.float16)).rest == pytest.approx(row["mib"], rel=0.01)


def test_parameters(model):
    """Exactly those of the network that is made, for LoRA and LoCon without time embeddings, and for any rank."""
    from lib_blocktrain.training.init import init_network, trained_tensors
    from lib_blocktrain.training.plan import plan_of

    for changes in (
        {},
        {"weight_mode": "rank"},
        {"block_ranks": {"OUT09": 3}},
        {"elements": {"ff": 0, "OUT11.attn2": 0}},
    ):
        config = run("OUT09=1,OUT10=0.5,OUT11=1", network=changes)
        plan = plan_of(model.unet, "sd1", config.network)
        made = init_network(plan, config.network, "x", 0)
        count = sum(t.numel() for module in made.modules.values() for t in trained_tensors(module).values())
        assert estimate(config, size_of_model(model)).parameters == count, changes


def test_what_would_fit():
    """Issue 4's example: too much for the card, with what to choose instead."""
    wanted = replace(run("ALL"), batch=2)
    found = estimate(wanted, UNetSize.real("sdxl"), free_mib=12000)
    assert found.enough is False
    assert "checkpointing" in found.fits
    assert "you have 12000 MiB: choose checkpointing" in found.text
    assert estimate(wanted, UNetSize.real("sdxl"), free_mib=80000).enough
    assert "no choice" in estimate(wanted, UNetSize.real("sdxl"), free_mib=1000).text


def test_the_text_encoder_reaches_back():
    plain, with_text = (
        estimate(run("BASE=1,OUT=1", network={"text_encoder": flag}), UNetSize.real("sd1")) for flag in (False, True)
    )
    assert plain.first_block == "OUT03"
    assert with_text.first_block == "IN01"
    assert with_text.relative_time > 0.95 > plain.relative_time
    assert any("BASE is trained" in notice for notice in with_text.notices)
