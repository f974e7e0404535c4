"""Runs that go on from a network file: the deltas of the file, whatever rank, alpha, weights and algorithm it has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_blocktrain.networks.adapters import BOFT, IA3, OFT, DoRA, GLoRA, LoRA, TLoRA
from lib_blocktrain.networks.files import Network, read_network
from lib_blocktrain.networks.layers import weight_of, weight_shape
from lib_blocktrain.networks.low_rank import factors_of
from lib_blocktrain.training import start
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.init import init_network, training_network
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.start import start_from
from tests.tiny_models import diffusers_unet

OUT = NetworkConfig(rank=4, weights="OUT09=1,OUT10=0.5", conv_rank=4)


def planned(config: NetworkConfig):
    return plan_of(diffusers_unet(), "sd1", config)


def file_of(config: NetworkConfig, seed: int = 0) -> Network:
    """A network with random values in every tensor."""
    plan = planned(config)
    network = init_network(plan, config, "file", seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules.values():
        for name, tensor in module.to_tensors().items():
            if tensor.requires_grad and name != "dora_scale":
                tensor.detach().normal_(generator=generator)
    return network


def deltas(network: Network, plan) -> dict[str, torch.Tensor]:
    layers = {module.key: module.layer for module in plan.modules}
    return {
        key: module.delta_weight(weight_of(layers[key]).detach()).detach()
        for key, module in network.modules.items()
        if key in layers
    }


@pytest.mark.parametrize(
    ("file", "ours"),
    [
        (OUT, OUT),
        (replace(OUT, alpha=1.0), replace(OUT, weights="OUT09=0.25,OUT10=2", alpha=3.0)),
        (OUT, replace(OUT, rank=6, conv_rank=9, weights="OUT09=1,OUT10=1", weight_mode="rank")),
        (replace(OUT, algorithm="loha", rank=2, conv_rank=1), replace(OUT, rank=4)),
        (replace(OUT, algorithm="loha"), replace(OUT, algorithm="loha", weights="OUT09=0.5")),
        (replace(OUT, algorithm="lokr"), replace(OUT, algorithm="lokr", weights="OUT09=0.5")),
        (replace(OUT, algorithm="dora", weight_mode="lr"), replace(OUT, algorithm="dora", weight_mode="lr", rank=8)),
        (OUT, replace(OUT, algorithm="dora", weight_mode="lr")),
    ],
    ids=["same", "weights and alpha", "larger rank", "loha to lora", "loha", "lokr", "dora", "lora to dora"],
)
def test_a_run_begins_with_the_deltas_of_its_file(file, ours):
    plan, given = planned(ours), file_of(file)
    network = init_network(plan, ours, "run", 1)
    assert not any(delta.abs().max() > 1e-5 for delta in deltas(network, plan).values())
    start_from(given, network, plan, ours)
    expected = deltas(given, plan)
    found = deltas(training_network(network, plan, ours), plan)
    assert found.keys() == expected.keys() != set()
    for key, delta in found.items():
        torch.testing.assert_close(delta, expected[key], rtol=1e-3, atol=2e-4)
    assert all(t.requires_grad for m in network.modules.values() for t in m.to_tensors().values() if t.ndim)


def test_a_lower_rank_keeps_the_best_part():
    """The loss is that of the singular values left out, by numpy's own decomposition."""
    plan, given = planned(replace(OUT, rank=2, conv_rank=2)), file_of(OUT)
    network = init_network(plan, replace(OUT, rank=2, conv_rank=2), "run", 1)
    *_, said = start_from(given, network, plan, replace(OUT, rank=2, conv_rank=2))
    worst = 0.0
    for key, delta in deltas(given, plan).items():
        values = torch.linalg.svdvals(delta.flatten(1).double())
        lost = float((delta - deltas(network, plan)[key]).double().norm() / delta.double().norm())
        assert lost == pytest.approx(float(values[2:].square().sum().sqrt() / values.norm()), rel=1e-3, abs=1e-6)
        worst = max(worst, lost)
    assert f"{worst:.1%} of its norm" in said
    factors = factors_of(
        LoRA("k", torch.eye(3), torch.diag(torch.tensor([3.0, 4.0, 0.0])), alpha=3.0), torch.zeros(3, 3)
    )
    assert [factors.rank_for(share) for share in (0.5, 0.8, 0.81, 1.0)] == [1, 1, 2, 2]
    assert factors.lost(1) == pytest.approx(0.6)


def test_what_is_left_out_and_what_is_new_is_said():
    plan = planned(replace(OUT, weights="OUT10=1,OUT11=1"))
    network = init_network(plan, OUT, "run", 1)
    said = start_from(file_of(OUT), network, plan, replace(OUT, weights="OUT10=1,OUT11=1"))
    assert said == (
        "file: what it has in OUT09 is left out, wholly or in part, by this run's weights",
        "OUT11: begin from nothing, wholly or in part, since file has no module there",
    )


def test_what_cannot_be_taken_over_is_refused():
    config = replace(OUT, algorithm="lokr")
    plan = planned(config)
    with pytest.raises(ConfigError, match=r"network.start: lora_unet_\w+ is a lora of .* there and a lokr of"):
        start_from(file_of(OUT), init_network(plan, config, "run", 0), plan, config)
    with pytest.raises(ConfigError, match="file is for sdxl: expected a LoRA for sd1"):
        start_from(
            replace(file_of(OUT), architecture="sdxl", modules={}), init_network(plan, config, "r", 0), plan, config
        )


def test_a_run_goes_on_from_a_finished_one(train, config, tmp_path):
    """A run that learns nothing writes what it was given; resumed, it does not look at that file again."""
    first = train(config, "first").outcome.result
    given = tmp_path / "given.safetensors"
    given.write_bytes(first.read_bytes())
    network = replace(config.network, start=str(given))
    on = replace(config, steps=1, network=network, save_dtype="fp32", optimizer=replace(config.optimizer, lr=1e-12))
    trainer = train(on, "still")
    before, after = (read_network(path).modules for path in (given, trainer.outcome.result))
    for key, module in after.items():
        layer = {m.key: m.layer for m in trainer.train_state.plan.modules}[key]
        weight = torch.zeros(weight_shape(layer))
        torch.testing.assert_close(module.delta_weight(weight), before[key].delta_weight(weight), rtol=1e-3, atol=1e-7)
    given.unlink()
    assert train(replace(on, steps=2), "still").outcome.step == 2
    with pytest.raises(FileNotFoundError, match=r"given\.safetensors"):
        train(on, "gone")


@pytest.mark.parametrize("kind", [GLoRA, IA3, OFT, BOFT, TLoRA, DoRA])
def test_a_file_that_takes_the_models_weights_is_refused_where_they_are_not_there(kind, monkeypatch):
    """With fp8 or offload a layer's weight is one number then, stretched: the start was made of that."""
    monkeypatch.setattr(start, "_form", lambda module: f"a {type(module).__name__}")
    theirs, plan = object.__new__(kind), planned(OUT)
    ours = init_network(plan, OUT, "ours", 0)
    aside = replace(plan.modules[0], layer=torch.nn.Linear(4, 4))
    aside.layer.weight = torch.nn.Parameter(torch.empty(()).expand(4, 4), requires_grad=False)
    with pytest.raises(
        ConfigError,
        match=rf"is a {kind.__name__} there, which takes the model's own weights: expected fp8 and offload false",
    ):
        start._take_over(ours.modules[plan.modules[0].key], theirs, aside, OUT)
