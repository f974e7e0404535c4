"""What the rest of the extension needs of the program that holds the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from lib_blocktrain.model.protocol import Model
from lib_blocktrain.networks.hooks import Placement

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # steps done, steps in all; may raise Cancelled, which ends the picture


class NoModel(ValueError):
    """There is no checkpoint, or it cannot be used; the message says which and why."""


class Cancelled(RuntimeError):
    """Somebody does not want this picture any more; raised by a progress callback, or by a host's own Interrupt."""


class OutOfMemory(RuntimeError):
    """The device has too little memory for this picture; what was taken for it has been freed."""


@dataclass(frozen=True)
class SampleRequest:
    """One picture to draw. ``width`` and ``height`` in pixels, None for the model's own; ``placements``: LoRAs.

    ``say`` is told what a person should know of the picture: tokens that the model does not see, modules left out.
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 6.0
    sampler: str = "DDIM"
    width: int | None = None
    height: int | None = None
    placements: Sequence[Placement] = field(default=())
    say: Callable[[str], None] = field(default=log.warning, compare=False, repr=False)


@runtime_checkable
class Host(Protocol):
    """A program with a model: this one's standalone mode, or a WebUI.

    ``lora_dirs`` are searched for network files, and new ones go to the first; ``samplers`` are the names that
    ``SampleRequest.sampler`` may have, the usual one first; ``presets_path`` is the file of the user's own presets.
    """

    name: str
    lora_dirs: Sequence[Path]
    output_dir: Path
    presets_path: Path
    samplers: Sequence[str]

    def model(self) -> Model:
        """The loaded checkpoint; raises ``NoModel``."""

    def queued(self) -> AbstractContextManager[None]:
        """The host's lock on the GPU; not re-entrant."""

    @property
    def interrupted(self) -> bool:
        """Whether the host's own Interrupt was pressed since ``queued()`` was entered."""

    def progress(self, what: str, done: int, of: int) -> None:
        """Show in the host's own progress how far the work under ``queued()`` is."""

    def refresh_loras(self) -> None:
        """A network file was put into ``lora_dirs``: let the host's own list find it."""

    def sample(self, request: SampleRequest, progress: Progress | None = None) -> Image.Image:
        """Draw one picture with the host's own sampler, under the request's placements.

        The caller holds ``queued()``. Whatever is raised - ``Cancelled``, ``OutOfMemory`` - leaves the model as it was.
        """
