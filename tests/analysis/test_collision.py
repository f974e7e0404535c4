"""What two LoRAs share, block by block, and weights that divide the blocks between them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_blocktrain.analysis.collision import collide
from lib_blocktrain.networks.adapters import LoRA
from lib_blocktrain.networks.files import Network
from tests.analysis.miniature import GRID
from tests.tiny_models import diffusers_unet, network_for

IN04 = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
OUT03 = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"


def lora(key: str, seed: int, size: float = 1.0, rank: int = 3) -> LoRA:
    generator = torch.Generator().manual_seed(seed)
    return LoRA(
        key,
        alpha=2.0,
        down=torch.randn(rank, 20, generator=generator),
        up=size * torch.randn(16, rank, generator=generator),
    )


def network(name: str, **modules: LoRA) -> Network:
    return Network(name, "sd1", {module.key: module for module in modules.values()})


def dense(module: LoRA) -> torch.Tensor:
    return (module.scale * module.up @ module.down).double()


def test_the_figures_are_those_of_the_whole_matrices():
    a, b = lora(IN04, 1), lora(IN04, 2)
    (row,) = collide(network("a", x=a), network("b", x=b)).blocks
    one, two = dense(a), dense(b)
    assert row.cosine == pytest.approx(float((one * two).sum() / one.norm() / two.norm()))
    shares = []
    for own, other in ((one, two), (two, one)):
        u, values, vh = torch.linalg.svd(other)
        rank = int((values > 1e-4).sum())
        reads = own @ vh[:rank].T
        writes = u[:, :rank].T @ own
        shares.append([float(part.square().sum() / own.square().sum()) for part in (reads, writes)])
    assert row.inputs == pytest.approx(sum(share[0] for share in shares) / 2)
    assert row.outputs == pytest.approx(sum(share[1] for share in shares) / 2)


def test_a_lora_and_its_opposite_share_everything():
    a = lora(IN04, 1)
    (row,) = collide(network("a", x=a), network("b", x=replace(a, up=-a.up))).blocks
    assert (row.cosine, row.inputs, row.outputs) == pytest.approx((-1, 1, 1))


def test_a_block_is_left_to_the_one_that_needs_it_more():
    first = network("first", x=lora(IN04, 1, 4.0), y=lora(OUT03, 2, 1.0))
    second = network("second", x=lora(IN04, 3, 1.0), y=lora(OUT03, 4, 4.0))
    found = collide(first, second)
    assert found.method == "norms"
    rows = {row.block: row for row in found.blocks}
    assert rows["IN04"].first > 2 * rows["IN04"].second
    ours, theirs = found.weights
    assert (ours["IN04"], theirs["OUT03"]) == (1, 1)
    assert theirs["IN04"] == pytest.approx(rows["IN04"].second / rows["IN04"].first, abs=0.03)
    assert ours["OUT03"] == pytest.approx(rows["OUT03"].first / rows["OUT03"].second, abs=0.03)
    assert (ours["OUT11"], ours.base, ours.rest) == (1, 1, 1)
    assert "first: 1,1" in found.to_table()
    assert found.to_json()["names"] == ["first", "second"]


def test_effects_on_the_model_have_a_direction(sd1):
    unet = diffusers_unet()
    one = network_for(unet, layers=("down_blocks_1_attentions_0", "up_blocks_1_attentions_1"))
    same = collide(replace(one, name="a"), replace(one, name="b"), sd1, GRID)
    assert same.method == "exact"
    assert [row.block for row in same.blocks] == ["IN04", "OUT04"]
    assert [row.effect for row in same.blocks] == pytest.approx([1, 1])
    assert all(weight == 1 for weights in same.weights for weight in weights.values.values())


def test_what_cannot_be_compared_is_said():
    with pytest.raises(ValueError, match="act in no block together"):
        collide(network("a", x=lora(IN04, 1)), network("b", x=lora(OUT03, 1)))
    other = Network("xl", "sdxl", {"k": lora("lora_unet_output_blocks_1_1_transformer_blocks_0_attn1_to_q", 1)})
    with pytest.raises(ValueError, match=r"is for SD1 and .xl. for SDXL"):
        collide(network("a", x=lora(IN04, 1)), other)
