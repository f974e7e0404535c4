"""The LoRAs in use, each with its weights and strength, and the one whose weights the sliders show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lib_blocktrain.blocks import ARCHITECTURES, BASE, BLOCK_IDS, architecture
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.preset_strings import change

WEIGHT_IDS = (BASE, *BLOCK_IDS)  # one slider each
WEIGHT_MIN, WEIGHT_MAX = -1.0, 2.0
STRENGTH_MIN, STRENGTH_MAX = -2.0, 2.0
MAX_LORAS = 64


@dataclass(frozen=True)
class LoraEntry:
    """A LoRA in use: its strength, and a weight for every slider, including blocks that the model lacks.

    `changes` are weights by kind of layer and over the steps, `OUT03.attn2=0.5,IN=1@0-0.4`, in place of the sliders'. A
    muted one is left out of pictures, and keeps all. Use `checked` or `with_weights` for numbers from outside.
    """

    strength: float = 1.0
    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(WEIGHT_IDS, 1.0))
    muted: bool = False
    changes: str = ""

    @classmethod
    def checked(cls, strength: object, weights: Mapping[str, object]) -> LoraEntry:
        """Return the entry; raise ValueError for a value that is not a number in the range of its slider."""
        return cls(
            in_range("strength =", strength, STRENGTH_MIN, STRENGTH_MAX),
            {id_: in_range(f"{id_} =", weights[id_], WEIGHT_MIN, WEIGHT_MAX) for id_ in WEIGHT_IDS},
        )

    def with_weights(self, weights: BlockWeights | LayerWeights) -> LoraEntry:
        """Return the entry with other weights; raise ValueError for one outside the range of the sliders."""
        layers = LayerWeights.of(weights)
        checked = self.checked(self.strength, {**self.weights, **layers.blocks.with_base})
        return replace(self, weights=checked.weights, changes=layers.changes)

    def acting(self, architecture_id: str) -> BlockWeights | LayerWeights:
        """Return the weights of the sliders with the changes; raise PresetStringError for changes of another model."""
        blocks = self.block_weights(architecture_id)
        if not self.changes:
            return blocks
        return change(LayerWeights(blocks), self.changes).simplest

    def blocks_alone(self, architecture_id: str) -> BlockWeights:
        """Return the weights of the sliders for what takes one number a block; raise ValueError for changes."""
        if self.changes:
            raise ValueError(
                f"{self.changes}: here every block has one number, clear “Kinds of layers, steps” in Preview"
            )
        return self.block_weights(architecture_id)

    def block_weights(self, architecture_id: str) -> BlockWeights:
        """Return the weights of the blocks that this architecture has."""
        values = {block_id: self.weights[block_id] for block_id in architecture(architecture_id).block_ids}
        return BlockWeights(architecture_id, values, self.weights[BASE])


@dataclass(frozen=True)
class LoraSelection:
    """The LoRAs in use by key, in order. The sliders show the weights of ``active``, or ``spare`` if there is none.

    The page keeps a selection in a gradio State between events.
    """

    entries: Mapping[str, LoraEntry] = field(default_factory=dict)
    active: str | None = None
    spare: LoraEntry = field(default_factory=LoraEntry)

    @property
    def unmuted(self) -> dict[str, LoraEntry]:
        """The entries that count in pictures, by key."""
        return {key: entry for key, entry in self.entries.items() if not entry.muted}

    @property
    def shown(self) -> LoraEntry:
        """The entry that the sliders show."""
        return self.entries[self.active] if self.active is not None else self.spare

    def with_shown(self, entry: LoraEntry) -> LoraSelection:
        """Return the selection with another entry shown on the sliders."""
        if self.active is None:
            return replace(self, spare=entry)
        return replace(self, entries={**self.entries, self.active: entry})

    def choose(self, keys: Sequence[str]) -> LoraSelection:
        """Use these LoRAs. A new one starts with the weights on the sliders, and becomes active."""
        new = [key for key in keys if key not in self.entries]
        initial = replace(self.shown, strength=1.0, muted=False)
        entries = {key: self.entries.get(key, initial) for key in keys}
        active = new[-1] if new else self.active if self.active in entries else next(iter(entries), None)
        return LoraSelection(entries, active, self.shown if active is None else self.spare)

    def to_json(self) -> str:
        """The list as the page's script keeps it: keys, strengths, which are muted, weights, and the active one."""
        rows = [
            {
                "key": key,
                "strength": one.strength,
                "muted": one.muted,
                "weights": dict(one.weights),
                "changes": one.changes,
            }
            for key, one in self.entries.items()
        ]
        return json.dumps({"loras": rows, "active": self.active})

    def with_list(self, text: str | None, *, changed: bool = False) -> LoraSelection:
        """Return the selection with the page's list, as `to_json` writes it; "" is a page without one yet.

        Weights are kept; see `choose` for those of a new LoRA. The list's own count only for a LoRA that is not known
        here: a gradio State is lost with the server, or in a page that slept for an hour. The active one's are those on
        the sliders; where the list has just changed, these are still those of the one before. Raises ValueError for
        anything else that a browser may send.
        """
        if not text:
            return self
        rows, active = _list_of(text)
        chosen = self.choose(list(rows))
        entries = {
            key: listed
            if key not in self.entries and listed.weights and (changed or key != active)
            else replace(chosen.entries[key], strength=listed.strength, muted=listed.muted)
            for key, listed in rows.items()
        }
        return replace(chosen, entries=entries, active=active if active in entries else chosen.active)

    def activate(self, key: str | None) -> LoraSelection:
        """Show the weights of this LoRA, which must be in use."""
        if key not in self.entries:
            raise ValueError(f"{key!r} is not in use: expected one of {list(self.entries)}")
        return replace(self, active=key)


def in_range(name: str, value: object, low: float, high: float) -> float:
    """Return the number; raise ValueError, which starts with `name`, for anything else that a browser may send."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} {value!r}: expected a number from {low:g} to {high:g}")
    return float(value)


def _list_of(text: str) -> tuple[dict[str, LoraEntry], object]:
    """The LoRAs of a page's list, those without weights with none, and the active one."""
    try:
        data = json.loads(text)
        rows = [
            (row["key"], row["strength"], row["muted"], row.get("weights"), row.get("changes")) for row in data["loras"]
        ]
        active = data["active"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the list of LoRAs {text[:80]!r}: expected JSON of this page ({error})") from error
    if len(rows) > MAX_LORAS:
        raise ValueError(f"{len(rows)} LoRAs: expected up to {MAX_LORAS}")
    entries: dict[str, LoraEntry] = {}
    for key, strength, muted, weights, changes in rows:
        if not isinstance(key, str) or not isinstance(muted, bool):
            raise ValueError(f"{key!r}, muted = {muted!r}: expected the name of a LoRA, and true or false")
        if key in entries:
            raise ValueError("a LoRA is twice in the list: expected each once")
        strength = in_range(f"strength of {key} =", strength, STRENGTH_MIN, STRENGTH_MAX)
        if weights is not None and (not isinstance(weights, dict) or not set(WEIGHT_IDS) <= weights.keys()):
            raise ValueError(f"weights of {key}: {str(weights)[:80]}: expected a number for each slider")
        known = {} if weights is None else LoraEntry.checked(strength, weights).weights
        entries[key] = LoraEntry(strength, known, muted, str(changes or ""))
    return entries, active


def fits(lora_architecture: str, model_architecture: str) -> bool:
    """Whether a LoRA of one architecture has the blocks of the other (SD1's and SD2's are the same)."""
    return ARCHITECTURES[lora_architecture].block_ids == ARCHITECTURES[model_architecture].block_ids


def unavailable(architecture_id: str, lacks: Mapping[str, str]) -> dict[str, str]:
    """The reason why a block's slider has no effect: the model lacks it, or else the LoRA does (``lacks``)."""
    known = ARCHITECTURES[architecture_id]
    reasons = {block_id: f"not in {known.title}" for block_id in BLOCK_IDS if block_id not in known.block_ids}
    return {**lacks, **reasons}
