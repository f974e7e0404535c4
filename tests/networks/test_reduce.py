"""A lower rank keeps the share of the norm that was asked for, and says its error."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lib_blocktrain.networks.adapters import LoRA
from lib_blocktrain.networks.files import Network, read_network, write_network
from lib_blocktrain.networks.reduce import reduced
from tests.tiny_models import diffusers_unet, network_for

LINEAR = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"  # IN04
OUT = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"  # OUT03
KERNEL = "lora_unet_down_blocks_1_resnets_0_conv1"  # IN04


def module(key: str, values: list[float], *, kernel: bool = False, alpha: float = 4.0, dtype=torch.float32) -> LoRA:
    """A module whose delta has these singular values, its factors mixed so that no column is one of them."""
    torch.manual_seed(len(key))
    rank, shape = len(values), (3, 3) if kernel else ()
    left = torch.linalg.qr(torch.randn(12, rank, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(10 * 9 if kernel else 10, rank, dtype=torch.float64))[0]
    mix = torch.randn(rank, rank, dtype=torch.float64)
    up, down = left * torch.tensor(values, dtype=torch.float64) @ mix, torch.linalg.inv(mix) @ right.T
    up = up * (rank / alpha)
    return LoRA(
        key,
        alpha=alpha,
        down=down.reshape(rank, 10, *shape).to(dtype),
        up=up.reshape(12, rank, *[1] * len(shape)).to(dtype),
    )


def delta(found: LoRA) -> torch.Tensor:
    return found.scale * found.up.double().reshape(12, -1) @ found.down.double().reshape(found.rank, -1)


def test_each_block_gets_the_lowest_rank_that_keeps_the_share():
    network = Network("a", "sd1", {LINEAR: module(LINEAR, [3, 1, 0.1, 0.01]), OUT: module(OUT, [1, 1, 1, 0.1])})
    smaller, report = reduced(network, keep=0.99)
    ranks = {block: (found.rank_before, found.rank) for block, found in report.blocks.items()}
    assert ranks == {"IN04": (4, 2), "OUT03": (4, 3)}
    for key, block in ((LINEAR, "IN04"), (OUT, "OUT03")):
        before, after = delta(network.modules[key]), delta(smaller.modules[key])
        error = float((after - before).norm() / before.norm())
        assert error == pytest.approx(report.blocks[block].error, rel=1e-3)
        assert float(after.norm() / before.norm()) >= 0.99
    assert report.blocks["IN04"].error == pytest.approx(math.sqrt(0.0101 / 10.0101), rel=1e-3)  # Eckart-Young
    assert {found.alpha for found in smaller.modules.values()} == {4.0}  # diffusers reads one for all
    assert report.numbers == 22 * 5 < report.numbers_before == 22 * 8
    arguments = json.loads(smaller.metadata["ss_network_args"])
    assert (arguments["block_dims"].split(",")[4], arguments["block_dims"].split(",")[16]) == ("2", "3")
    assert smaller.metadata["ss_network_dim"] == "3"


def test_a_rank_is_a_limit_and_kernels_have_their_own(tmp_path):
    modules = {LINEAR: module(LINEAR, [2, 1]), KERNEL: module(KERNEL, [5, 4, 3], kernel=True, alpha=1)}
    smaller, report = reduced(Network("a", "sd1", modules), 2)
    assert [found.rank for found in smaller.modules.values()] == [2, 2]
    assert torch.allclose(delta(smaller.modules[LINEAR]), delta(modules[LINEAR]), atol=1e-5)
    written = read_network(write_network(tmp_path / "a.safetensors", smaller))
    assert written.modules[KERNEL].down.shape == (2, 10, 3, 3)
    assert report.error == pytest.approx(3 / math.sqrt(25 + 16 + 9 + 4 + 1), rel=1e-3)
    auto, _ = reduced(Network("a", "sd1", modules), keep=0.92)  # 0.91 and 0.89 with one less
    assert [found.rank for found in auto.modules.values()] == [2, 3]


def test_the_error_counts_what_fp16_rounds_and_a_share_of_1_keeps_all():
    network = Network("a", "sd1", {LINEAR: module(LINEAR, [3, 1, 0.5], dtype=torch.float16)})
    smaller, report = reduced(network, keep=1.0)
    assert (report.blocks["IN04"].rank, report.error) == (3, 0)
    assert smaller.modules[LINEAR] is network.modules[LINEAR]
    network = Network("a", "sd1", {LINEAR: module(LINEAR, [3, 1, 1e-9], dtype=torch.float16)})
    smaller, report = reduced(network, 2)
    assert 0 < report.error < 2e-3
    assert smaller.modules[LINEAR].up.dtype == torch.float16


def test_other_algorithms_stay_and_nonsense_is_said():
    unet = diffusers_unet()
    layers = ("down_blocks_1_attentions_0",)
    loha, lora = (network_for(unet, name, layers=layers) for name in ("loha", "lora"))
    both = Network("a", "sd1", {**lora.modules, **dict(list(loha.modules.items())[:1])})
    smaller, report = reduced(both, 1)
    first = next(iter(loha.modules))
    assert (report.kept, smaller.modules[first]) == (1, both.modules[first])
    with pytest.raises(ValueError, match="no LoRA modules"):
        reduced(loha, 1)
    for options in ({"rank": 0}, {"keep": 0.0}, {"keep": 1.5}):
        with pytest.raises(ValueError, match="expected"):
            reduced(both, **options)
