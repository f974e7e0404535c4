"""The grid that an analysis samples - prompts, seeds, guidance, timesteps, size - and the limits of requests."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib_blocktrain.model.protocol import Model  # brings torch, which the API's schemas must not need

STEPS = 10  # of the trajectory: half of a usual image's, since only its early part is walked
TIMESTEPS = 3  # of a trajectory at which blocks are compared; the first two tell nearly as much
GUIDANCE = 5.0
SMALL = 32 * 32  # positions of a latent up to which several seeds are computed at once

# The form, the command line and the API have these limits in common.
MAX_PROMPTS, MAX_SEEDS = 16, 64
MAX_TEXT, MAX_WORD = 100_000, 1000  # characters of a prompt, and of a word of it
MIN_SIDE, MAX_SIDE = 64, 4096  # pixels
MAX_GUIDANCE = 30
MAX_STRENGTH = 10  # of the multiplier, and of the weight that a block is lowered to; either sign


@dataclass(frozen=True)
class SamplingGrid:
    """Prompts times seeds times `timesteps` of a trajectory of `steps`; `width` and `height` in pixels.

    `timesteps` None is as many as the method needs. A `guidance` other than 1 is classifier-free and costs two
    evaluations instead of one. `batch` seeds are computed at once; None: all for small latents, one for others.
    Raises ValueError for values that make no sense.
    """

    prompts: tuple[str, ...]
    negative: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = STEPS
    timesteps: int | None = None
    guidance: float = GUIDANCE
    width: int | None = None
    height: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        _check(bool(self.prompts) and all(p.strip() for p in self.prompts), "prompts", self.prompts, "at least one")
        _check(len(set(self.prompts)) == len(self.prompts), "prompts", self.prompts, "different ones")
        _check(bool(self.seeds) and all(0 <= s < 2**63 for s in self.seeds), "seeds", self.seeds, "whole numbers >= 0")
        _check(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "different ones")
        _check(1 <= self.steps <= 1000, "steps", self.steps, "1 to 1000")
        fits = self.timesteps is None or 1 <= self.timesteps <= self._first_half
        _check(fits, "timesteps", self.timesteps, f"1 to half of {self.steps} steps")
        _check(0 <= self.guidance <= MAX_GUIDANCE, "guidance", self.guidance, f"0 to {MAX_GUIDANCE}")
        _check(self.batch is None or self.batch >= 1, "batch", self.batch, "1 or more")
        for name in ("width", "height"):
            side = getattr(self, name)
            fits = side is None or (MIN_SIDE <= side <= MAX_SIDE and side % 8 == 0)
            _check(fits, name, side, f"a multiple of 8 from {MIN_SIDE} to {MAX_SIDE}")

    @property
    def guided(self) -> bool:
        return self.guidance != 1

    def with_timesteps(self, count: int) -> SamplingGrid:
        """Return this grid with so many timesteps, unless it says how many."""
        return self if self.timesteps is not None else replace(self, timesteps=min(count, self._first_half))

    @property
    def compared_steps(self) -> list[int]:
        """The steps at which blocks are compared: the first, and others evenly spread over the first half.

        These decide what the image shows; later steps change little that can be seen.
        """
        count = self.timesteps or min(TIMESTEPS, self._first_half)
        return [step * self.steps // (2 * count) for step in range(count)]

    @property
    def _first_half(self) -> int:
        return max(1, self.steps // 2)

    def latent_size(self, model: Model) -> tuple[int, int]:
        """Return height and width of the latents."""
        return (self.height or model.native_size) // 8, (self.width or model.native_size) // 8

    def seed_batches(self, model: Model) -> list[tuple[int, ...]]:
        """Return the seeds in the groups that are computed at once."""
        height, width = self.latent_size(model)
        size = self.batch or (len(self.seeds) if height * width <= SMALL else 1)
        return [self.seeds[start : start + size] for start in range(0, len(self.seeds), size)]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`; `timesteps` is called `looks` there."""
        data = {**asdict(self), "prompts": list(self.prompts), "seeds": list(self.seeds)}
        return {"looks" if name == "timesteps" else name: value for name, value in data.items()}


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} {value!r}: expected {expected}")
