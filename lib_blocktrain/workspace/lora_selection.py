"""Which LoRAs are in use, each with its own weights and strength, and whose weights the sliders show.

A mix is kept by the page between two events, as plain values, and the sliders hold the weights of its active LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lib_blocktrain.blocks import ARCHITECTURES, BASE, BLOCK_IDS, architecture
from lib_blocktrain.weights.block_weights import BlockWeights

WEIGHT_IDS = (BASE, *BLOCK_IDS)  # one slider each
WEIGHT_MIN, WEIGHT_MAX = -1.0, 2.0
STRENGTH_MIN, STRENGTH_MAX = -2.0, 2.0


@dataclass(frozen=True)
class LoraEntry:
    """A LoRA in use: a strength, and one number for every slider (blocks that the model lacks keep theirs)."""

    strength: float = 1.0
    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(WEIGHT_IDS, 1.0))

    def block_weights(self, architecture_id: str) -> BlockWeights:
        """The weights that this architecture has."""
        values = {block_id: float(self.weights[block_id]) for block_id in architecture(architecture_id).block_ids}
        return BlockWeights(architecture_id, values, float(self.weights[BASE]))


@dataclass(frozen=True)
class LoraSelection:
    """The LoRAs in use by key, in order; ``spare`` are the weights that the sliders show while there is none."""

    entries: Mapping[str, LoraEntry] = field(default_factory=dict)
    active: str | None = None
    spare: LoraEntry = field(default_factory=LoraEntry)

    @property
    def shown(self) -> LoraEntry:
        """What the sliders show."""
        return self.entries[self.active] if self.active is not None else self.spare

    def with_shown(self, entry: LoraEntry) -> LoraSelection:
        """The mix after a person has moved the sliders."""
        if self.active is None:
            return replace(self, spare=entry)
        return replace(self, entries={**self.entries, self.active: entry})

    def choose(self, keys: Sequence[str]) -> LoraSelection:
        """Use these LoRAs. One that is new begins with the weights that the sliders show, and becomes active."""
        new = [key for key in keys if key not in self.entries]
        beginning = replace(self.shown, strength=1.0)
        entries = {key: self.entries.get(key, beginning) for key in keys}
        active = new[-1] if new else self.active if self.active in entries else next(iter(entries), None)
        return LoraSelection(entries, active, self.shown if active is None else self.spare)

    def activate(self, key: str) -> LoraSelection:
        """Show the weights of this LoRA, which must be in use."""
        if key not in self.entries:
            raise ValueError(f"{key!r} is not in use: expected one of {list(self.entries)}")
        return replace(self, active=key)


def entry_of(values: Mapping[str, object], strength: object) -> LoraEntry:
    """The slot that sliders show: what was typed is checked, since a browser may send anything."""
    weights = {}
    for block_id in WEIGHT_IDS:
        weights[block_id] = checked(block_id, values[block_id], WEIGHT_MIN, WEIGHT_MAX)
    return LoraEntry(checked("strength", strength, STRENGTH_MIN, STRENGTH_MAX), weights)


def checked(name: str, value: object, low: float, high: float) -> float:
    """The number, or ValueError for none and for one outside the range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} = {value!r}: expected a number from {low:g} to {high:g}")
    return float(value)


def fits(lora_architecture: str, model_architecture: str) -> bool:
    """Whether a LoRA of one architecture has the blocks of the other (SD1's and SD2's are the same)."""
    return ARCHITECTURES[lora_architecture].block_ids == ARCHITECTURES[model_architecture].block_ids


def unavailable(architecture_id: str, lacks: Mapping[str, str]) -> dict[str, str]:
    """Why sliders do nothing, by block: first the model, then the LoRA (``lacks``: block id to reason)."""
    known = ARCHITECTURES[architecture_id]
    reasons = {block_id: f"not in {known.title}" for block_id in BLOCK_IDS if block_id not in known.block_ids}
    return {**lacks, **reasons}
