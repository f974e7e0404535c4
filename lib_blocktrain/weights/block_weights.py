"""Block weights: for each block of the U-Net, the strength at which a LoRA acts there."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lib_blocktrain import blocks
from lib_blocktrain.blocks import BASE, REST

LARGEST = sys.float_info.max


@dataclass(frozen=True, init=False)
class BlockWeights:
    """A weight for every block of an architecture, for its text encoders (BASE) and for the layers outside (REST).

    0 is off, 1 is the LoRA as it is.
    """

    architecture: str
    values: Mapping[str, float]
    base: float
    rest: float

    def __init__(
        self, architecture: str, values: Mapping[str, float], base: float = 1.0, rest: float | None = None
    ) -> None:
        """Check the weights. `rest` None is 1, or 0 where BASE and all blocks are 0: what is off is off everywhere.

        Raises ValueError for a block that is missing or unknown, and for a weight that is not a finite number.
        """
        block_ids = blocks.architecture(architecture).block_ids
        unknown = [block_id for block_id in values if block_id not in block_ids]
        missing = [block_id for block_id in block_ids if block_id not in values]
        if unknown or missing:
            wrong = f"no value for {', '.join(missing)}"
            if unknown:
                wrong = f"unknown {', '.join(repr(name)[:40] for name in unknown[:10])}"
            raise ValueError(f"{wrong}: expected the {len(block_ids)} blocks {block_ids[0]}..{block_ids[-1]}")
        checked = {block_id: _finite(block_id, values[block_id]) for block_id in block_ids}
        base = _finite(BASE, base)
        object.__setattr__(self, "architecture", architecture)
        object.__setattr__(self, "values", MappingProxyType(checked))
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "rest", _rest_of(base, checked) if rest is None else _finite(REST, rest))

    @classmethod
    def uniform(cls, architecture_id: str, value: float) -> "BlockWeights":
        """Return the same weight everywhere, BASE and REST included: the LoRA at this strength."""
        return cls(architecture_id, dict.fromkeys(blocks.architecture(architecture_id).block_ids, value), value, value)

    def __getitem__(self, block_id: str) -> float:
        """Return the weight of a block, BASE or REST; raise KeyError for a block that the architecture lacks."""
        if block_id == BASE:
            return self.base
        return self.rest if block_id == REST else self.values[block_id]

    def __hash__(self) -> int:
        return hash((self.architecture, *self.values.values(), self.base, self.rest))

    def __reduce__(self) -> tuple[object, ...]:  # a mapping proxy can be neither copied nor pickled
        return BlockWeights, (self.architecture, dict(self.values), self.base, self.rest)

    @property
    def with_base(self) -> dict[str, float]:
        """BASE and the blocks, in the order of a preset line."""
        return {BASE: self.base, **self.values}

    @property
    def off(self) -> bool:
        """Whether every weight is 0."""
        return not (self.base or self.rest or any(self.values.values()))

    @property
    def rest_follows(self) -> bool:
        """Whether REST has the value that it has where none is given."""
        return self.rest == _rest_of(self.base, self.values)

    def replace(self, weights: Mapping[str, float] | None = None, **more: float) -> "BlockWeights":
        """Return a copy with other weights of some blocks, BASE or REST.

        A REST that has its default, and is not among the changes, gets the default of the new weights.
        """
        changes = {**(weights or {}), **more}
        base = changes.pop(BASE, self.base)
        rest = changes.pop(REST, None if self.rest_follows else self.rest)
        return BlockWeights(self.architecture, {**self.values, **changes}, base, rest)

    def to_line(
        self, name: str | None = None, *, with_architecture: bool = False, area_share: float | None = None
    ) -> str:
        """Return the canonical preset line, which LoRA Block Weight reads too: 26 values, BASE first; SDXL has 20.

        After `|` follow a REST other than the default and, on request, the architecture and the share of the canvas
        (0 to 1) for which the weights were found. `preset_strings.parse` reads the line back exactly.
        """
        attributes = [f"arch={self.architecture}"] if with_architecture else []
        attributes += [] if area_share is None else [f"canvas={number(area_share)}"]
        attributes += [] if self.rest_follows else [f"rest={number(self.rest)}"]
        line = ",".join(number(value) for value in self.with_base.values())
        return (f"{name}:" if name else "") + " | ".join([line, *([" ".join(attributes)] if attributes else [])])

    def to_json(self) -> dict[str, object]:
        """Return plain values for `json.dumps`: `architecture`, `weights` by block id with BASE, and `rest`."""
        return {"architecture": self.architecture, "weights": self.with_base, "rest": self.rest}

    @classmethod
    def from_json(cls, data: Mapping) -> "BlockWeights":
        """Return the weights that `to_json` wrote; raise ValueError for missing and unknown keys."""
        unknown = set(data) - {"architecture", "weights", "rest"}
        if unknown or "architecture" not in data or not isinstance(data.get("weights"), Mapping):
            keys = ", ".join(repr(key)[:40] for key in [*data][:10])
            raise ValueError(f"keys {keys}: expected 'architecture', 'weights' (an object) and, if any, 'rest'")
        values = dict(data["weights"])
        base, rest = values.pop(BASE, 1.0), values.pop(REST, None)
        return cls(data["architecture"], values, base, data.get("rest", rest))

    def to_kohya(self) -> list[str]:
        """Return sd-scripts' `network_args` with these learning rates, the three `*_lr_weight`, without BASE and REST.

        Raises ValueError for negative weights.
        """
        for block_id, value in self.values.items():
            if value < 0:
                raise ValueError(f"{block_id} = {number(value)}: a learning rate cannot be negative")
        values = list(self.values.values())
        half = len(values) // 2
        middle = values[half : half + 1] * (3 if self.architecture == "sdxl" else 1)
        lists = {"down": values[:half], "mid": middle, "up": values[half + 1 :]}
        return [f"{side}_lr_weight={','.join(map(number, weights))}" for side, weights in lists.items()]


def kohya_entries(architecture_id: str) -> tuple[str, ...]:
    """Return what each entry of kohya's `block_dims` stands for: 25 blocks, or SDXL's 23 entries.

    networks/lora.py of kohya-ss/sd-scripts 48d368fa: SDXL counts the embeddings, the three layers of the middle block
    and the output layers one by one.
    """
    block_ids = blocks.architecture(architecture_id).block_ids
    if architecture_id != "sdxl":
        return block_ids
    middle = block_ids.index("M00")
    return (REST, *block_ids[:middle], *["M00"] * 3, *block_ids[middle + 1 :], REST)


def number(value: float) -> str:
    """Return the shortest text that reads back as exactly this number."""
    return repr(float(value)).removesuffix(".0")


def _rest_of(base: float, values: Mapping[str, float]) -> float:
    """The weight of REST where none is given."""
    return float(base != 0 or any(values.values()))


def _finite(block_id: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise ValueError(f"{block_id} = {repr(value)[:80]}: expected a finite number")
    return float(value) + 0.0  # -0.0 becomes 0.0
