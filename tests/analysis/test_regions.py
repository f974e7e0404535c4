"""Words, boxes and masks: which part of the picture counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lib_blocktrain.analysis.attention import HeatMap, Tokens, WordNotFoundError, recording_attention, tokens_of
from lib_blocktrain.analysis.instrumented_model import instrument
from lib_blocktrain.analysis.regions import (
    Feature,
    area_sentence,
    area_warning,
    box_region,
    mask_region,
    otsu,
    read_box,
    strong,
    views,
)
from lib_blocktrain.analysis.trajectory import walk
from tests.analysis.miniature import GRID, PROMPT, lora_for
from tests.tiny_models import assert_untouched, state_of


def test_words_are_found_without_a_tokenizer(sd1):
    """begin, a, red, robot, the comma, green, background, end."""
    assert tokens_of(sd1, PROMPT, "robot") == Tokens((3,), (1, 2, 3, 4, 5, 6))
    assert tokens_of(sd1, PROMPT, "Green Background").word == (5, 6)
    assert tokens_of(sd1, "a dog and a dog", "dog").word == (2, 5)
    with pytest.raises(WordNotFoundError, match="it is all of the prompt: expected other words beside it"):
        tokens_of(sd1, "a dog", "a dog")  # its share of the attention is 1 everywhere
    for word in ("rob", "hat", " "):
        with pytest.raises(WordNotFoundError, match="expected one that stands in the prompt"):
            tokens_of(sd1, PROMPT, word)
    with pytest.raises(WordNotFoundError, match="75 tokens"):
        tokens_of(sd1, " ".join(["a"] * 20) + " robot", "robot")


def test_heat_is_the_words_share_of_the_attention_to_the_text(model):
    """Against attention probabilities computed layer by layer from the layers' inputs."""
    tokens = Tokens((3,), (1, 2, 3, 4, 5, 6))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    conditioning, before = model.encode_prompt(PROMPT), state_of(model.unet)
    heat_map, inputs = HeatMap(tokens, 1, (8, 8)), {}
    layers = [m for name, m in model.unet.named_modules() if name.endswith("attn2")]
    hooks = [
        layer.to_q.register_forward_hook(lambda m, i, o, layer=layer: inputs.update({layer: i[0]})) for layer in layers
    ]
    with torch.no_grad(), recording_attention(model.unet, [heat_map]):
        model.predict(latents, torch.tensor([400]), conditioning)
    for hook in hooks:
        hook.remove()
    expected = torch.zeros(8, 8)
    assert len(inputs) == len(layers) > 4
    for layer, x in inputs.items():
        q, k = layer.to_q(x)[0], layer.to_k(conditioning["context"])[0]
        side, width = int(len(q) ** 0.5), q.shape[1] // layer.heads
        shares = torch.zeros(len(q))
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            attention = (q[:, part] @ k[:, part].T / width**0.5).softmax(dim=1)
            shares += attention[:, 3] / attention[:, 1:7].sum(dim=1) / layer.heads
        grid = shares.reshape(1, 1, side, side)
        expected += torch.nn.functional.interpolate(grid, (8, 8), mode="bilinear")[0, 0] / len(layers)
    assert torch.allclose(heat_map.mean[0], expected, atol=1e-5)
    assert heat_map.mean.std() > 1e-4
    assert_untouched(model.unet, before)


def test_both_layouts_see_a_word_in_the_same_place(models):
    heat_maps = []
    for name in ("diffusers sd1", "ldm sd1"):
        with instrument(models[name], lora_for(models["diffusers sd1"]), GRID) as instrumented:
            heat_maps.append(walk(instrumented, ["robot", "green"]).heat_maps)
    assert set(heat_maps[0]) == {(word, PROMPT, seed) for word in ("robot", "green") for seed in (0, 1)}
    for key, heat_map in heat_maps[0].items():
        assert torch.allclose(heat_map, heat_maps[1][key], atol=1e-5)


def test_boxes_and_masks_cover_what_they_say():
    region = box_region((0.25, 0, 0.5, 0.3), (10, 8))
    assert region.shape == (1, 10, 8)
    assert region.mean() == pytest.approx(0.25 * 0.3)
    assert (region[0, 0] == torch.tensor([0, 0, 1, 1, 0, 0, 0, 0])).all()
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 16))
    assert mask_region(mask, (8, 8)).sum() == 8
    see_through = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    see_through.paste((0, 0, 0, 255), (32, 32, 64, 64))
    assert torch.equal(mask_region(see_through, (2, 2))[0], torch.tensor([[0.0, 0], [0, 1]]))
    with pytest.raises(ValueError, match="black everywhere"):
        mask_region(Image.new("L", (8, 8)), (8, 8))
    for box in ((0.5, 0, 0.5, 1), (0, 0, 1.5, 1)):
        with pytest.raises(ValueError, match="expected left < right"):
            Feature(box=box)
    with pytest.raises(ValueError, match="word and box together"):
        Feature(word="a", box=(0, 0, 1, 1))
    with pytest.raises(ValueError, match="expected left,top,right,bottom"):
        read_box("1,2,3")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_mask_is_where_it_is_opaque_in_every_mode(mode, tmp_path):
    see_through = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    see_through.paste((0, 0, 0, 255), (4, 4, 8, 8))
    see_through.convert(mode).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == mode
        assert torch.equal(mask_region(mask, (2, 2))[0], torch.tensor([[0.0, 0], [0, 1]]))


def test_a_mask_of_16_bits():
    grey = Image.fromarray(np.full((8, 8), 128 * 257, dtype=np.uint16))
    assert mask_region(grey, (1, 1)).item() == pytest.approx(128 / 255)


def test_otsu_parts_two_groups():
    values = torch.cat([torch.linspace(0.1, 0.2, 50), torch.linspace(0.7, 0.8, 14)]).reshape(8, 8)
    assert 0.2 < otsu(values) < 0.7
    assert strong(values).sum() == 14


def test_canvas_share_in_cells_and_words():
    found = views(0.1, "sd1", (64, 64))
    assert [(v.height, v.width, round(v.cells, 1)) for v in found] == [
        (64, 64, 409.6),
        (32, 32, 102.4),
        (16, 16, 25.6),
        (8, 8, 6.4),
    ]
    assert found[0].blocks[:4] == ("IN00", "IN01", "IN02", "IN03")
    assert "M00" in found[-1].blocks
    text = area_sentence(0.01, "sd1", (64, 64))
    assert "fills 1% of the picture: 41 cells of 64×64" in text
    assert "smaller than one cell in IN10-OUT02" in text
    assert area_warning(0.1, 0.19) == area_warning(None, 0.5) == ""
    assert "10% of the picture, used for one that fills 25%" in area_warning(0.1, 0.25)
