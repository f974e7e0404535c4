"""Weights as fp8 or on the CPU: the same step as with the rounded weights, and nothing left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers")

from lib_blocktrain.model.weight_storage import FP8, WeightStorage
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, RunConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.step import Denoiser
from tests.tiny_models import CONTEXT, diffusers_unet, ldm_unet
from tests.training.bare import Bare, training
from tests.training.test_backward import inputs

WEIGHTS = "OUT06-OUT11=1"


@pytest.fixture
def config():
    return RunConfig("test", DatasetConfig(folders=(FolderConfig("."),)))


def movable(unet) -> Bare:
    return Bare(unet, "sd1", movable=(unet,))


def gradients(model: Bare, storage: WeightStorage | None = None, checkpointing: bool = False, **network):
    """The output and the trained gradients of a step."""
    with training(model, WEIGHTS, checkpointing=checkpointing, **network) as (denoiser, tensors):
        if storage is not None:
            storage.begin("OUT06")
        own = Denoiser(model, torch.float32, denoiser.first_block, checkpointing, storage=storage)
        found = own.predict(*inputs(16, CONTEXT))
        found.square().sum().backward()
        return found.detach(), {name: tensor.grad.clone() for name, tensor in tensors.items()}


def is_away(layer: torch.nn.Module) -> bool:
    return not any(layer.weight.stride())


@pytest.mark.parametrize("layout", [diffusers_unet, ldm_unet])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_is_that_of_the_rounded_weights(layout, checkpointing):
    """To the last bit; before and after it no layer of a block has its weight, and in the end all have their own."""
    model, rounded = movable(layout()), movable(layout())
    rounded.unet.load_state_dict(model.unet.state_dict())
    before = {name: (p.data_ptr(), p.clone()) for name, p in model.unet.named_parameters()}
    with WeightStorage(model, fp8=True, offload=False) as storage:
        storage.begin("OUT06")
        layers = {name: layer for name, layer in model.unet.named_modules() if layer in storage._weights}
        assert len(layers) > 200
        with torch.no_grad():
            for name in layers:
                weight = rounded.unet.get_submodule(name).weight
                weight.copy_(weight.to(FP8).float())
        expected, expected_gradients = gradients(rounded, None, checkpointing)
        assert all(map(is_away, layers.values()))
        found, own = gradients(model, storage, checkpointing)
        assert all(map(is_away, layers.values()))
    assert torch.equal(found, expected)
    assert all(torch.equal(own[name], gradient) for name, gradient in expected_gradients.items())
    for name, parameter in model.unet.named_parameters():
        pointer, value = before[name]
        assert parameter.data_ptr() == pointer
        assert torch.equal(parameter, value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.unet.modules())


def test_the_backward_pass_keeps_no_weight():
    """Nor do other algorithms; what is in front of the first trained block is away, and that is all of it."""
    model = movable(diffusers_unet())
    plain = gradients(model, algorithm="lokr")
    with WeightStorage(model, fp8=False, offload=True) as storage:
        storage.begin("OUT06")
        away = [layer for layer in model.unet.modules() if layer in storage._weights]
        ups = {id(layer) for part in (2, 3) for layer in model.unet.up_blocks[part].modules()}
        assert away
        assert not any(id(layer) in ups for layer in away)
        stored = gradients(model, storage, algorithm="lokr")
        storage.begin("OUT09")  # blocks were frozen: more of it is in front
        assert len(storage._weights) > len(away)
    assert torch.equal(stored[0], plain[0])
    assert all(torch.equal(stored[1][name], gradient) for name, gradient in plain[1].items())

    with WeightStorage(model, fp8=True, offload=False) as storage:
        storage.begin("OUT06")
        seen: list[bool] = []
        pack = storage._pack
        storage._pack = lambda tensor: (found := pack(tensor), seen.append(found is not tensor))[0]
        gradients(model, storage)
    assert sum(seen) > 50  # weights that stand in the graph by name


def test_what_it_cannot_do_is_said(config):
    with pytest.raises(ConfigError, match="fp8 = True: expected false with compile"):
        replace(config, fp8=True, compile=True)
    dora = replace(config.network, algorithm="dora", weight_mode="lr")
    with pytest.raises(ConfigError, match=r"offload = True: expected false with network\.algorithm dora"):
        replace(config, offload=True, network=dora)
    with pytest.raises(ValueError, match="this WebUI decides itself"):
        WeightStorage(Bare(diffusers_unet(), "sd1"), fp8=True, offload=False).begin(None)


def test_a_weight_that_fp8_cannot_hold_stays():
    model = movable(diffusers_unet())
    weight = model.unet.mid_block.resnets[0].conv1.weight
    with torch.no_grad():
        weight[0, 0, 0, 0] = 500.0  # above 448
    with WeightStorage(model, fp8=True, offload=False) as storage:
        storage.begin(None)
        kept = storage._weights[model.unet.mid_block.resnets[0].conv1].kept
        assert kept.dtype == torch.float32
        assert storage._weights[model.unet.mid_block.resnets[0].conv2].kept.dtype == FP8
