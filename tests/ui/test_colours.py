"""Colour-blind readers can distinguish the meaningful colours: simulated by Machado et al. 2009, compared in CIELAB."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

CSS = (Path(__file__).resolve().parent.parent.parent / "style.css").read_text("utf-8")
APART = 20.0  # CIE76; 2.3 is just noticeable side by side
EYES = {  # severity 1, on linear RGB
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def rgb(colour: str) -> np.ndarray:
    """`#3b7ddd` as three numbers up to 1."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def lab(colour: np.ndarray, eyes: str) -> np.ndarray:
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(EYES[eyes]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ seen / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: str, other: str, eyes: str) -> float:
    return float(np.linalg.norm(lab(rgb(one), eyes) - lab(rgb(other), eyes)))


def of_theme(dark: bool) -> dict[str, str]:
    """The colours among the tokens of the style sheet, by name without the prefix; dark ones replace light ones."""
    tokens: dict[str, str] = {}
    for selector, block in re.findall(r"^((?:\.dark )?:where\(#blocktrain[^{]*)\{(.*?)^\}", CSS, re.M | re.S):
        if dark or ".dark" not in selector:
            tokens |= dict(re.findall(r"--blocktrain-([\w-]+): (#[0-9a-f]{6}|var\(--blocktrain-[\w-]+\));", block))
    for name, value in tokens.items():
        while value.startswith("var("):  # the name of another token
            value = tokens.get(value[len("var(--blocktrain-") : -1], "")
        tokens[name] = value
    return tokens


def used(rule: str, dark: bool) -> list[str]:
    """The colours of the first declaration of each rule whose class this pattern names."""
    names = re.findall(rf"\.{rule} \{{\s+(?:background|stroke): var\(--blocktrain-([\w-]+)\)", CSS)
    return [of_theme(dark)[name] for name in names]


def test_each_token_is_defined_once_a_theme_and_used():
    """Also from the scripts and the HTML, which set some of them."""
    root = Path(__file__).resolve().parent.parent.parent
    sources = [*(root / "javascript").glob("*.js"), *(root / "lib_blocktrain" / "ui").glob("*.py")]
    elsewhere = set(re.findall(r"--blocktrain-[\w-]+", "".join(source.read_text("utf-8") for source in sources)))
    defined = set(re.findall(r"^\s*(--blocktrain-[\w-]+):", CSS, re.M))
    read = set(re.findall(r"var\(\s*(--blocktrain-[\w-]+)", CSS))
    assert read <= defined | elsewhere
    composed = tuple(name for name in elsewhere if name.endswith("-"))  # `--blocktrain-heat-${level}`
    assert {name for name in defined - read - elsewhere if not name.startswith(composed)} == set()
    for block in re.findall(r"^(?:\.dark )?:where\(#blocktrain[^{]*\{(.*?)^\}", CSS, re.M | re.S):
        names = re.findall(r"^    (--blocktrain-[\w-]+):", block, re.M)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_maps_pairs(dark, eyes):
    colours = of_theme(dark)
    for one, other in (("w-edge", "n-edge"), ("e-lo", "e-hi")):
        assert distance(colours[one], colours[other], eyes) > APART, (one, other)


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_bars_and_lines(dark, eyes):
    bars = used("blocktrain-bar-(?:plus|minus)", dark)
    lines = used("blocktrain-cp .blocktrain-l-(?:lr|other)", dark)
    assert (len(bars), len(lines)) == (2, 2)
    for one, other in (*combinations(bars, 2), *combinations(lines, 2)):
        assert distance(one, other, eyes) > APART, (one, other)


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_heat_map_is_a_ramp(dark, eyes):
    """Light to dark, in the dark theme dark to light: the lightness alone says what is more."""
    colours = of_theme(dark)
    lightness = [float(lab(rgb(colours[f"heat-{level}"]), eyes)[0]) for level in range(9)]
    assert lightness == sorted(lightness, reverse=not dark)
    assert min(abs(one - other) for one, other in pairwise(lightness)) > 3
