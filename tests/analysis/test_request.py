"""Requests for analyses: the limits that the form, the command line and the API have in common."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from lib_blocktrain.analysis import regions
from lib_blocktrain.analysis.regions import WHOLE_IMAGE, Feature, mask_region, read_mask, to_box
from lib_blocktrain.analysis.request import build_request, read_seeds
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.preset_strings import parse

NETWORK = Network("robot", "sd1", {})


def test_what_is_given_is_in_the_request():
    weights = parse("OUT=1 | canvas=0.1", "sd1")
    word = Feature(word="robot")
    request = build_request(
        NETWORK,
        method="fast",
        prompts=["a robot"],
        seeds="4, 5 6",
        guidance=3,
        width=128,
        features=[word],
        weights=weights,
    )
    assert (request.grid.prompts, request.grid.seeds, request.grid.width) == (("a robot",), (4, 5, 6), 128)
    assert (request.method, request.features, request.weights_share) == ("fast", (word,), 0.1)
    assert request.options.weights == weights.weights
    plain = build_request(NETWORK, method="norms", prompts=[])
    assert (plain.features, plain.options.weights, plain.weights_share) == ((WHOLE_IMAGE,), None, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompts": []}, "no prompt: expected at least one for the method exact"),
        ({"prompts": [f"prompt {n}" for n in range(17)]}, "17 prompts: expected up to 16"),
        ({"prompts": ["a" * 100_001]}, "prompt of 100001 characters: expected up to 100000"),
        ({"negative": "a" * 100_001}, "prompt of 100001 characters: expected up to 100000"),
        ({"features": [Feature(word="a" * 1001)]}, "word of 1001 characters: expected up to 1000"),
        ({"seeds": list(range(65))}, "65 seeds: expected up to 64"),
        ({"seeds": "0, one"}, "seeds '0, one': expected whole numbers with commas"),
        ({"seeds": [-1]}, r"seeds \(-1,\): expected whole numbers >= 0"),
        ({"guidance": 31}, "guidance 31: expected 0 to 30"),
        ({"width": 4104}, "width 4104: expected a multiple of 8 from 64 to 4096"),
        ({"height": 100}, "height 100: expected a multiple of 8 from 64 to 4096"),
        ({"multiplier": 11}, "multiplier 11: expected a number from -10 to 10"),
        ({"value": float("nan")}, "value nan: expected a number from -10 to 10"),
        ({"features": [WHOLE_IMAGE] * 3}, "3 features: expected up to 2"),
        ({"method": "guess"}, "method 'guess': expected one of exact, fast"),
        ({"method": "norms", "features": [Feature(word="a")]}, "norms are of the file alone"),
    ],
)
def test_what_is_outside_the_limits_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        build_request(NETWORK, **{"method": "exact", "prompts": ["a robot"], **given})


def test_seeds_and_sides_are_read():
    assert read_seeds("0,1, 2") == read_seeds("0 1 2") == (0, 1, 2)
    assert read_seeds("") == ()
    assert to_box([0, 0, 0.5, 1]) == (0, 0, 0.5, 1)
    with pytest.raises(ValueError, match=r"box \[0, 1\]: expected four numbers"):
        to_box([0, 1])


def test_masks_have_a_limit_and_must_be_images(tmp_path, monkeypatch):
    monkeypatch.setattr(regions, "MAX_MASK_SIDE", 32)
    Image.new("L", (16, 33), 255).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="large, 16x33: expected up to 32 pixels a side"):
        read_mask(tmp_path / "large.png", "large")
    with pytest.raises(ValueError, match="the mask: expected a picture"):
        read_mask(io.BytesIO(b"no picture"), "the mask")
    with pytest.raises(FileNotFoundError):
        read_mask(tmp_path / "none.png", "none")
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.gif")
    assert read_mask(tmp_path / "mask.gif", "mask").size == (8, 8)
    with pytest.raises(ValueError, match="expected a picture"):
        read_mask(tmp_path / "mask.gif", "mask", formats=["PNG", "JPEG"])


def test_an_alpha_channel_counts_unless_it_is_opaque_everywhere():
    """Programs that save everything as RGBA say nothing by it: white counts there."""
    grey = Image.new("L", (64, 64))
    grey.paste(255, (0, 0, 32, 64))
    expected = torch.tensor([[1.0, 0], [1, 0]])
    assert torch.equal(mask_region(grey.convert("RGBA"), (2, 2))[0], expected)
    black = Image.new("RGBA", (64, 64))
    black.putalpha(grey)
    assert torch.equal(mask_region(black, (2, 2))[0], expected)
