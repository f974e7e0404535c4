"""Deltas that are folded into weights while block weights rest: as merged weights, and the model whole afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_blocktrain.networks import folding
from lib_blocktrain.networks.hooks import Placement, applied
from lib_blocktrain.networks.merge import merged
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.networks.test_hooks import ALGORITHMS, MIXED, SOME
from tests.tiny_models import assert_untouched, diffusers_unet, ldm_unet, network_for, predict, state_of

OFF = BlockWeights.uniform("sd1", 0.0)


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return diffusers_unet()


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def parameters_of(unet: nn.Module) -> list[tuple[int, int]]:
    """The very objects, and where their numbers are."""
    return [(id(parameter), parameter.data_ptr()) for parameter in unet.parameters()]


def changed(unet: nn.Module, before: list[tuple[int, int]]) -> int:
    return sum(now != then for now, then in zip(parameters_of(unet), before))


@pytest.mark.parametrize(
    ("algorithm", "dtype"),
    [*((name, torch.float32) for name in ALGORITHMS), ("lora", torch.bfloat16), ("loha", torch.bfloat16)],
)
def test_folded_weights_are_merged_ones(algorithm, dtype):
    unet = diffusers_unet().to(dtype)
    state, objects = state_of(unet), parameters_of(unet)
    network, base = network_for(unet, algorithm, layers=SOME), predict(unet)
    with merged(unet, network, MIXED, 0.5):
        expected = predict(unet)
    with applied(unet, network, MIXED, 0.5, fold=True):
        first = predict(unet)
        assert changed(unet, objects) == 0
        later = [predict(unet) for _ in range(2)]
        assert changed(unet, objects) > 0
    effect = (expected - base).float().norm()
    limit = {torch.float32: 1e-3, torch.bfloat16: 0.1}[dtype] * effect
    assert all((output - expected).float().norm() < limit for output in (first, *later))
    assert torch.equal(*later)
    assert changed(unet, objects) == 0
    assert_untouched(unet, state)


def test_a_change_unfolds_at_once(unet):
    network, base, objects = network_for(unet), predict(unet), parameters_of(unet)
    with applied(unet, network, MIXED):
        expected = predict(unet)
    with applied(unet, network, fold=True) as handle:
        whole = predict(unet)
        predict(unet)
        assert changed(unet, objects) > 0
        handle.set_weights(MIXED)
        assert changed(unet, objects) == 0
        assert torch.equal(predict(unet), expected)
        predict(unet)
        handle.set_weights(OFF)
        assert [torch.equal(predict(unet), base) for _ in range(3)] == [True] * 3
        handle.placements = [Placement(network, BlockWeights.uniform("sd1", 1.0))]
        assert torch.equal(predict(unet), whole)
        predict(unet)
        handle.set_factors({"OUT05": torch.tensor(0.5)})
        assert changed(unet, objects) == 0
        predict(unet), predict(unet)
        assert changed(unet, objects) == 0  # tensors as weights stay in the hooks


def test_a_block_at_0_keeps_its_own_weights(unet):
    own = {name: parameter for name, parameter in unet.named_parameters() if "up_blocks.1" in name}
    with applied(unet, network_for(unet), BlockWeights.uniform("sd1", 1.0).replace({"OUT05": 0.0}), fold=True):
        predict(unet), predict(unet)
        now = dict(unet.named_parameters())
        kept = [name for name, parameter in own.items() if now[name] is parameter]
        assert any("resnets.2" in name and "conv1.weight" in name for name in kept)
        assert any(now[name] is not parameter for name, parameter in own.items())


def test_several_networks_are_folded_together(unet):
    networks = [network_for(unet, algorithm, layers=SOME) for algorithm in ("lora", "dora on output")]
    placements = [Placement(networks[0], MIXED, 0.5), Placement(networks[1], multiplier=0.4, weights=MIXED)]
    with merged(unet, placements):
        expected = predict(unet)
    objects = parameters_of(unet)
    with applied(unet, placements, fold=True):
        predict(unet)
        assert torch.allclose(predict(unet), expected, atol=2e-4)
        assert changed(unet, objects) > 0


def test_the_layout_of_ldm(unet):
    other = ldm_unet(unet)
    objects, network = parameters_of(other), network_for(unet)
    with merged(other, network):
        expected = predict(other)
    with applied(other, network, fold=True):
        predict(other)
        assert torch.allclose(predict(other), expected, atol=2e-4)
        assert changed(other, objects) > 0
    assert changed(other, objects) == 0


def test_an_error_leaves_no_trace(unet):
    state, objects = state_of(unet), parameters_of(unet)
    with pytest.raises(RuntimeError, match="out of memory"), applied(unet, network_for(unet), fold=True):  # noqa: PT012
        predict(unet), predict(unet)
        raise RuntimeError("out of memory")
    assert changed(unet, objects) == 0
    assert_untouched(unet, state)


def test_an_error_while_folding_leaves_no_trace(unet, monkeypatch):
    state, objects, calls = state_of(unet), parameters_of(unet), []
    whole = folding._changed

    def breaking(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise ValueError("a bug")
        return whole(*arguments)

    monkeypatch.setattr(folding, "_changed", breaking)
    with pytest.raises(ValueError, match="a bug"), applied(unet, network_for(unet), fold=True):
        predict(unet), predict(unet)
    assert changed(unet, objects) == 0
    assert_untouched(unet, state)


def test_without_memory_the_rest_stays_in_the_hooks(unet, monkeypatch):
    objects, network, calls, whole = parameters_of(unet), network_for(unet), [], folding._changed

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(*arguments)

    with merged(unet, network):
        expected = predict(unet)
    monkeypatch.setattr(folding, "_changed", full)
    with applied(unet, network, fold=True):
        predict(unet)
        assert torch.allclose(predict(unet), expected, atol=2e-4)
        assert changed(unet, objects) == 5


@pytest.mark.parametrize(("limit", "some"), [(0, False), (40_000, True)])
def test_the_memory_has_a_limit(unet, monkeypatch, limit, some):
    monkeypatch.setattr(folding, "MOST_BYTES", limit)
    objects, network = parameters_of(unet), network_for(unet)
    with applied(unet, network, fold=True):
        predict(unet), predict(unet)
        now = {id(p): p for p in unet.parameters()}
        taken = sum(p.numel() * 4 for key, p in now.items() if key not in {known for known, _ in objects})
        assert taken <= limit
        assert (taken > 0) is some


def test_contexts_may_be_nested(unet):
    network, objects = network_for(unet), parameters_of(unet)
    with merged(unet, [Placement(network, MIXED, 0.5), Placement(network, MIXED, 0.2)]):
        expected = predict(unet)
    with applied(unet, network, MIXED, 0.5, fold=True):
        predict(unet), predict(unet)
        with applied(unet, network, MIXED, 0.2, fold=True):
            predict(unet)
            assert torch.allclose(predict(unet), expected, atol=1e-3)
        assert changed(unet, objects) > 0
    assert changed(unet, objects) == 0


def test_what_is_trained_stays_in_the_hooks(unet):
    network, objects = network_for(unet, layers=("up_blocks_3",)), parameters_of(unet)
    for module in network.modules.values():
        module.up.requires_grad_()
    with torch.enable_grad(), applied(unet, network, fold=True):
        predict(unet), predict(unet)
        with torch.no_grad():
            predict(unet), predict(unet)
        assert changed(unet, objects) == 0


def test_inference_tensors_are_put_back():
    with torch.inference_mode():
        unet = diffusers_unet()
    objects, network = parameters_of(unet), network_for(unet, "dora on output", layers=SOME)
    with merged(unet, network, MIXED, 0.5):
        expected = predict(unet)
    with applied(unet, network, MIXED, 0.5, fold=True):
        predict(unet)
        assert torch.allclose(predict(unet), expected, atol=2e-4)
    assert changed(unet, objects) == 0


def test_only_what_pays_is_folded():
    """A wide layer with few positions costs more to merge than its products in the calls of a picture."""
    network = network_for(diffusers_unet(), layers=("mid_block_attentions_0_proj_in",))
    (module,) = network.modules.values()
    wide, narrow = torch.zeros(2560, 2560), torch.zeros(64, 64)
    saved, spent = folding._costs(wide, [(1.0, module)], positions=16)
    assert spent > folding.CALLS * saved
    saved, spent = folding._costs(narrow, [(1.0, module)], positions=4096)
    assert spent <= folding.CALLS * saved
