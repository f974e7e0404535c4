"""What an analysis looks at: prompts, seeds, guidance, and how far apart it looks along the denoising."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib_blocktrain.model.protocol import Model

STEPS = 10  # of the trajectory: half of a usual picture's, since only its early part is walked
LOOKS = 3  # timesteps of a trajectory at which blocks are compared; the first two tell nearly as much
GUIDANCE = 5.0
SMALL = 32 * 32  # positions of a latent up to which several seeds are computed at once


@dataclass(frozen=True)
class SamplingGrid:
    """Prompts times seeds times `looks` timesteps of a trajectory of `steps`; `width` and `height` in pixels.

    `looks` None is as many as the method needs. A `guidance` other than 1 is classifier-free and costs two
    evaluations instead of one. `batch` seeds are computed at once; None: all for small latents, one for others.
    Raises ValueError for values that make no sense.
    """

    prompts: tuple[str, ...]
    negative: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = STEPS
    looks: int | None = None
    guidance: float = GUIDANCE
    width: int | None = None
    height: int | None = None
    batch: int | None = None

    def __post_init__(self):
        _check(bool(self.prompts) and all(p.strip() for p in self.prompts), "prompts", self.prompts, "at least one")
        _check(len(set(self.prompts)) == len(self.prompts), "prompts", self.prompts, "different ones")
        _check(bool(self.seeds) and all(0 <= s < 2**63 for s in self.seeds), "seeds", self.seeds, "whole numbers >= 0")
        _check(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "different ones")
        _check(1 <= self.steps <= 1000, "steps", self.steps, "1 to 1000")
        most = max(1, self.steps // 2)  # they lie in the first half
        _check(self.looks is None or 1 <= self.looks <= most, "looks", self.looks, f"1 to half of {self.steps} steps")
        _check(0 <= self.guidance <= 30, "guidance", self.guidance, "0 to 30")
        _check(self.batch is None or self.batch >= 1, "batch", self.batch, "1 or more")
        for name in ("width", "height"):
            side = getattr(self, name)
            _check(side is None or (64 <= side <= 4096 and side % 8 == 0), name, side, "a multiple of 8 from 64 on")

    @property
    def guided(self) -> bool:
        return self.guidance != 1

    def looking(self, looks: int) -> SamplingGrid:
        """Return this setting with so many looks, unless it says how many."""
        return self if self.looks is not None else replace(self, looks=min(looks, max(1, self.steps // 2)))

    def latent_size(self, model: Model) -> tuple[int, int]:
        """Return height and width of the latents."""
        native = model.native_size
        return (self.height or native) // 8, (self.width or native) // 8

    def seed_batches(self, model: Model) -> list[tuple[int, ...]]:
        """Return the seeds in the groups that are computed at once."""
        height, width = self.latent_size(model)
        size = self.batch or (len(self.seeds) if height * width <= SMALL else 1)
        return [self.seeds[start : start + size] for start in range(0, len(self.seeds), size)]


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} {value!r}: expected {expected}")
