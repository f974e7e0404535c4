"""An image that is cancelled or runs out of memory leaves the standalone model as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from lib_blocktrain.hosts.host import Cancelled, NoModel, OutOfMemory, SampleRequest
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.networks.adapters import module_from_tensors
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.weights.block_weights import BlockWeights
from tests import lacking

KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def host(random_model) -> StandaloneHost:
    host = StandaloneHost()
    host.use(load_demo(random_model))
    return host


@pytest.fixture
def request_(host) -> SampleRequest:
    width = dict(host.model().unet.named_modules())["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"]
    tensors = {
        "lora_down.weight": torch.ones(2, width.in_features) * 0.2,
        "lora_up.weight": torch.ones(width.out_features, 2),
    }
    network = Network("one", "sd1", {KEY: module_from_tensors(KEY, tensors)})
    placement = Placement(network, BlockWeights.uniform("sd1", 1.0))
    return SampleRequest("a fox", steps=3, width=64, height=64, placements=(placement,))


@contextlib.contextmanager
def unchanged(host: StandaloneHost) -> Iterator[None]:
    """Check that tensors, hooks, scheduler and a drawn image are the same before and after."""
    plain = SampleRequest("a fox", steps=2, width=64, height=64)
    before, scheduler = host.sample(plain).tobytes(), host.model().pipeline.scheduler
    state = {name: tensor.clone() for name, tensor in host.model().unet.state_dict().items()}
    yield
    assert host.model().pipeline.scheduler is scheduler
    assert not any(module._forward_hooks for module in host.model().unet.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in host.model().unet.state_dict().items())
    assert host.sample(plain).tobytes() == before


def test_cancelled(host, request_):
    steps = []

    def progress(done: int, of: int) -> None:
        steps.append(done)
        if done == 2:
            raise Cancelled("enough")

    with unchanged(host), pytest.raises(Cancelled):
        host.sample(request_, progress)
    assert steps == [1, 2]


@pytest.mark.parametrize("lack", lacking.ERRORS)
def test_out_of_memory(host, request_, lack):
    def no_memory(*_):
        lack()

    with unchanged(host):
        handle = host.model().unet.mid_block.register_forward_pre_hook(no_memory)
        with pytest.raises(OutOfMemory, match=r"too little memory.*64x64"):
            host.sample(request_)
        handle.remove()


@pytest.mark.parametrize("content", [None, b"no checkpoint at all"])
def test_a_checkpoint_that_cannot_be_loaded_is_no_model(tmp_path: Path, content):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoModel, match=r"x\.safetensors"):
        StandaloneHost(path).model()
