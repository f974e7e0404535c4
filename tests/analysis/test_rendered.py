"""Differences between two images, and the contact sheet of rendered ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lib_blocktrain.analysis.perceptual import changed_share, perceived_difference, to_lab
from lib_blocktrain.analysis.rendered import analysis_of, contact_sheet, render
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.analysis.miniature import lora_for


def noise_picture(seed: int = 0, side: int = 64) -> Image.Image:
    rng = np.random.default_rng(seed)
    blurred = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(3))
    return Image.fromarray(((np.asarray(blurred, dtype=float) - 128) * 4 + 128).clip(0, 255).astype(np.uint8))


def test_lab_of_known_colours():
    """Reference values of sRGB's primaries under D65."""
    for rgb, lab in {
        (255, 255, 255): (100, 0, 0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 0, 255): (32.30, 79.19, -107.86),
        (0, 0, 0): (0, 0, 0),
    }.items():
        found = to_lab(Image.new("RGB", (1, 1), rgb))[0, :, 0, 0]
        assert found.tolist() == pytest.approx(lab, abs=0.15)


def test_perceived_difference_orders_changes_as_an_eye_would():
    a = noise_picture()
    shifted = Image.fromarray(np.roll(np.asarray(a), 2, axis=1))
    grain = np.random.default_rng(1).normal(0, 6, (64, 64, 3))
    grained = Image.fromarray((np.asarray(a) + grain).clip(0, 255).astype(np.uint8))
    found = [perceived_difference(a, other) for other in (a, grained, shifted, noise_picture(7))]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found == sorted(found)
    assert found[1] < 0.1 < found[2] < found[3] <= 1
    assert perceived_difference(shifted, a) == pytest.approx(found[2], abs=1e-5)
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    assert perceived_difference(red, blue) > 0.35  # colour alone: there is no structure to differ
    with pytest.raises(ValueError, match="64x64 and 32x32"):
        perceived_difference(a, noise_picture(0, 32))


def test_changed_share_is_lora_block_weights():
    a = Image.new("RGB", (10, 10), (100, 100, 100))
    b = a.copy()
    b.paste((121, 120, 79), (0, 0, 5, 10))  # by 21, 20 and 21: two of three samples in half of the picture
    assert changed_share(a, b) == pytest.approx(0.5 * 2 / 3)


def test_rendered_sheet(sd1):
    """The picture's grey falls with the weights that are lost: the figures follow, and the region hides the rest."""
    network: Network = lora_for(sd1, ("attn2_to_q",))
    one, drawn = BlockWeights.uniform("sd1", 1.0), []
    ids = [block for block in one.values if network.blocks.get(block)]

    def draw(prompt: str, seed: int, weights: BlockWeights) -> Image.Image:
        drawn.append((prompt, seed, weights))
        picture = noise_picture(seed)
        lost = sum((place + 1) * (1 - weights[block]) for place, block in enumerate(ids))
        picture.paste(Image.new("RGB", (32, 64), (int(12 * lost),) * 3), (0, 0)) if lost else None
        return picture

    at = [("a robot", 0), ("a robot", 1)]
    found = render(draw, network, one, at, value=0.5)
    assert len(drawn) == 2 * (len(ids) + 1)
    assert {cell.weights for cell in found.lowered} == {one.replace({b: 0.5}) for b in ids}
    analysis = analysis_of(found, network, "demo")
    assert analysis.blocks == tuple(ids)
    cell = found.lowered[3]
    assert analysis.values[0][3] == cell.perceived == perceived_difference(noise_picture(0), cell.image)
    assert cell.changed == changed_share(noise_picture(0), cell.image)
    made = contact_sheet(found, "a robot", 1, columns=4)
    rows = -(-(len(ids) + 1) // 4)
    assert made.width == 4 * 200 + 8
    assert made.height > rows * 2 * 192
    right = Image.new("L", (64, 64))
    right.paste(255, (40, 0, 64, 64))
    hidden = render(draw, network, one, at, value=0.5, regions=dict.fromkeys(at, right))
    assert max(max(row) for row in analysis_of(hidden, network, "demo").values) < 1e-4
    with pytest.raises(ValueError, match="seed 5"):
        contact_sheet(found, "a robot", 5)
