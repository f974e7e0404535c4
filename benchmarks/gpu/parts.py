"""The parts of `on_gpu.py`, the most important first, and what each of them needs. Imports no package."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass

MODEL = ("safetensors", "numpy", "PIL", "filelock", "diffusers")  # a U-Net, and networks on it
DEMO = (*MODEL, "transformers")  # the demo model, with its text encoder


@dataclass(frozen=True)
class Part:
    """`function` is in `benchmarks.gpu`, "module:name"; `seconds` are its share of the time, not its limit."""

    name: str
    title: str
    seconds: float
    function: str
    needs: tuple[str, ...] = MODEL

    def missing(self) -> list[str]:
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


PARTS = (
    Part("hooks", "Hooks against merged weights", 40, "checks:hooks"),
    Part("gradients", "Gradients in fp32, bf16 and fp16", 25, "checks:gradients"),
    Part("whole", "The model after a preview, analyses and runs", 40, "jobs:whole", DEMO),
    Part("resume", "A run that is killed and resumed", 50, "jobs:resume", DEMO),
    Part("vae", "The VAE in fp16", 20, "checks:vae"),
    Part("attention", "Kernels of attention", 20, "checks:attention"),
    Part("training-sd1", "A training step, SD1, 512 px", 60, "speed:training_sd1"),
    Part("training-sdxl", "A training step, SDXL, 1024 px", 90, "speed:training_sdxl"),
    Part("preview", "From a changed slider to the first step", 40, "speed:preview_sd1"),
    Part("analysis", "Exact and fast analysis", 40, "speed:analyses"),
    Part("compile", "A compiled training step", 90, "speed:compiled_step"),
    Part("demo-run", "500 steps of the demo's run", 60, "jobs:demo_run", DEMO),
)
BY_NAME = {part.name: part for part in PARTS}


class Clock:
    """The time of a part. A part looks at `over` between two measurements, and ends where it is."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._until - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left <= 0


def share(part: Part, waiting: Sequence[Part], left: float) -> float:
    """Return a part's seconds: its share of what is left, for what the earlier parts did not use is shared too."""
    return left * part.seconds / sum(other.seconds for other in waiting)
