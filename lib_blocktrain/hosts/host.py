"""The protocol `Host`: what the rest of the extension needs from the program that holds the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from lib_blocktrain.model.protocol import Model, Progress
from lib_blocktrain.networks.hooks import Placement

log = logging.getLogger(__name__)


class NoModel(ValueError):
    """No checkpoint is loaded, or it cannot be used; the message says why."""


class Cancelled(RuntimeError):
    """The image was cancelled, by a progress callback or by the host's own Interrupt."""


class OutOfMemory(RuntimeError):
    """The device has too little memory for this image; what was allocated for it has been freed."""


@dataclass(frozen=True)
class SampleRequest:
    """One image to draw. ``width`` and ``height`` in pixels, None for the model's native size; ``placements``: LoRAs.

    A host that reads tags in prompts ignores those of the placed LoRAs, and of the names in ``ignored``: LoRAs of the
    same comparison, which do not act on this image.
    ``say`` is called with notices for the user: tokens that the model does not see, modules that fit no layer. ``live``
    is called now and then with what the image looks like so far, at any size; not if the user has turned that off.
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
    ignored: frozenset[str] = frozenset()
    say: Callable[[str], None] = field(default=log.warning, compare=False, repr=False)
    live: Callable[[Image.Image], None] | None = field(default=None, compare=False, repr=False)


@runtime_checkable
class Host(Protocol):
    """A program that holds a model: this one in standalone mode, or a WebUI."""

    @property
    def name(self) -> str:
        """What the page calls the program."""

    @property
    def lora_dirs(self) -> Sequence[Path]:
        """The folders that are searched for network files; new ones go to the first."""

    @property
    def output_dir(self) -> Path:
        """The folder for runs and saved previews."""

    @property
    def presets_path(self) -> Path:
        """The file of the user's own presets."""

    @property
    def samplers(self) -> Sequence[str]:
        """What ``SampleRequest.sampler`` may be; the default comes first."""

    @property
    def reads_prompt_syntax(self) -> bool:
        """Whether ``sample`` reads a WebUI's syntax in prompts: tags of LoRAs, weights of words, BREAK and AND."""

    @property
    def no_training(self) -> str:
        """Why the host's checkpoints can be drawn with only: training and analyses of noise raise NoModel with it.

        Empty where they can be trained on.
        """

    def model(self) -> Model:
        """The loaded checkpoint; raises ``NoModel``."""

    def queued(self) -> AbstractContextManager[None]:
        """The host's lock on the GPU; not re-entrant."""

    @property
    def interrupted(self) -> bool:
        """Whether the host's own Interrupt was pressed since ``queued()`` was entered."""

    def progress(self, what: str, done: int, of: int) -> None:
        """Show the progress of the work under ``queued()`` in the host's own progress display."""

    def refresh_loras(self) -> None:
        """Update the host's own list of LoRAs, after a network file was written to ``lora_dirs``."""

    def drawing_state(self) -> tuple[object, ...]:
        """What a picture depends on besides the model and the request: it is drawn again where this has changed."""

    def card_changed(self, network_file: Path) -> None:
        """Let the host read the card beside a network file again, after it was changed."""

    def sample(self, request: SampleRequest, progress: Progress | None = None) -> Image.Image:
        """Draw one image with the host's own sampler, with the request's placements applied.

        The caller holds ``queued()``. After any error, ``Cancelled`` and ``OutOfMemory`` among them, the model is as it
        was.
        """


def check_noise(host: Host, without: str) -> None:
    """Raise NoModel where the host's checkpoints can be drawn with only; `without` says what to do there."""
    if host.no_training:
        raise NoModel(f"{without}. {host.no_training}")


def native_size(host: Host) -> tuple[int, bool]:
    """The side that the host's model is trained for, in pixels, and whether it is known: without a model it is 512."""
    try:
        return host.model().native_size, True
    except NoModel:
        return 512, False
