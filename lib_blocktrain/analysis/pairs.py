"""Pairs of blocks that replace or need each other: how they are found is in `interactions.py`."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from lib_blocktrain.analysis.statistics import figures
from lib_blocktrain.blocks import BASE, REST

Names = tuple[str, str]
NOTABLE = 0.02  # of the effect: less is not worth a word
SHOWN = 6  # pairs in a list


@dataclass(frozen=True)
class Pair:
    """Two blocks in forward order and their interaction, as a part of the LoRA's effect; `noise` as a figure's."""

    first: str
    second: str
    value: float
    noise: float | None
    within_noise: bool

    @property
    def says(self) -> str:
        """What it means, in words."""
        part = f"{abs(self.value):.0%}"
        if self.value < 0:
            return f"{self.first} and {self.second} replace each other ({part} of the effect)"
        return f"{self.first} and {self.second} need each other ({part} of the effect)"


def pairs_of(blocks: Sequence[str]) -> tuple[Names, ...]:
    """Return the pairs of these blocks, BASE and REST left out."""
    return tuple(itertools.combinations([block for block in blocks if block not in (BASE, REST)], 2))


def pairs_from(names: Sequence[Names], draws: np.ndarray) -> tuple[Pair, ...]:
    """Return the pairs, strongest first, from their interactions `(draws, pairs)`."""
    found = [
        Pair(*pair, figure.mean, figure.noise, figure.within_noise or abs(figure.mean) < NOTABLE)
        for pair, figure in zip(names, figures([" ".join(pair) for pair in names], draws))
    ]
    return tuple(sorted(found, key=lambda pair: -abs(pair.value)))


def notable(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Return the strongest of those beyond the noise."""
    return tuple(pair for pair in pairs if not pair.within_noise)[:SHOWN]


def broken(pairs: Sequence[Pair], kept: Collection[str]) -> tuple[str, ...]:
    """Return what breaks, in words, where only these blocks stay: replacing pairs without both, needing ones apart."""
    said = []
    for pair in notable(pairs):
        stay = (pair.first in kept) + (pair.second in kept)
        if pair.value < 0 and not stay:
            said.append(f"{pair.says}, and neither is kept: it loses more than their figures say")
        if pair.value > 0 and stay == 1:
            gone = pair.second if pair.first in kept else pair.first
            said.append(f"{pair.says}, and {gone} is not kept")
    return tuple(said)
