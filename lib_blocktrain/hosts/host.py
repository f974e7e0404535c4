"""What the rest of the extension needs of the program that holds the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from lib_blocktrain.hooks import Placement
from lib_blocktrain.model import Model

Progress = Callable[[int, int], None]  # steps done, steps in all


class NoModel(RuntimeError):
    """There is no checkpoint, or it cannot be used; the message says which and why."""


@dataclass(frozen=True)
class SampleRequest:
    """One picture to draw. ``width`` and ``height`` in pixels, None for the model's own; ``placements``: LoRAs."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 6.0
    sampler: str = "DDIM"
    width: int | None = None
    height: int | None = None
    placements: Sequence[Placement] = field(default=())


@runtime_checkable
class Host(Protocol):
    """A program with a model: this one's standalone mode, or a WebUI."""

    name: str
    lora_dirs: Sequence[Path]
    output_dir: Path

    def model(self) -> Model:
        """The loaded checkpoint; raises ``NoModel``."""

    def queued(self) -> AbstractContextManager[None]:
        """The host's lock on the GPU; not re-entrant."""

    def sample(self, request: SampleRequest, progress: Progress | None = None) -> Image.Image:
        """Draw one picture with the host's own sampler, under the request's placements."""
