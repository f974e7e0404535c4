"""Pictures of what is being sampled, as seldom as keeps their cost below a share of the time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lib_blocktrain.model.protocol import Prediction

log = logging.getLogger(__name__)

SHARE = 0.1  # of the time of sampling
INTERVAL = 0.5  # seconds, at least


class LivePictures:
    """Hands pictures to ``show``, if it is not None: one every `INTERVAL`, or fewer where they take long to make."""

    def __init__(self, show: Callable[[Image.Image], None] | None):
        self._show = show
        self._next = time.monotonic() + INTERVAL

    @property
    def due(self) -> bool:
        """Whether the next `offer` makes a picture."""
        return self._show is not None and time.monotonic() >= self._next

    def offer(self, make: Callable[[], Image.Image | None]) -> None:
        """Make a picture and show it, if one is due; after an error none is made any more, and sampling goes on."""
        if self._show is None or not self.due:
            return
        begun = time.monotonic()
        try:
            image = make()
        except Exception as error:  # noqa: BLE001 - of the user's picture nothing depends on this one
            log.info("no live pictures: %s", error)
            self._show = None
            return
        ended = time.monotonic()
        self._next = ended + max(INTERVAL, (ended - begun) * (1 / SHARE - 1))
        if image is not None:
            self._show(image)


class Denoised:
    """The denoised latents as the U-Net's latest call predicts them; None before the first.

    ``cfg`` weights the second half of a batch against the first, as in classifier-free guidance. A sampler's own
    latents would show noise until its last steps.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction: Prediction, cfg: float):
        self._alphas, self._prediction, self._cfg = alphas_cumprod, prediction, cfg
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None  # latents, timesteps, output

    @contextmanager
    def watching(self, unet: nn.Module) -> Iterator[None]:
        """Note the calls of a U-Net, whose latents are scaled as alphas_cumprod tells."""
        handle = unet.register_forward_hook(self._note)
        try:
            yield
        finally:
            handle.remove()

    def _note(self, _: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        latents, timesteps = arguments[:2]
        self._seen = latents, torch.as_tensor(timesteps), output[0] if isinstance(output, tuple) else output

    def latents(self) -> Tensor | None:
        """Latents of shape (1, channels, height, width), float32."""
        if self._seen is None:
            return None
        latents, timesteps, output = self._seen
        alpha = self._alphas[int(timesteps.flatten()[0].round())].item()
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        x, predicted = latents[-1:, : output.shape[1]].float(), output[-1:].float()
        if len(output) == 2:
            without = output[:1].float()
            predicted = without + self._cfg * (predicted - without)
        return signal * x - noise * predicted if self._prediction == "v" else (x - noise * predicted) / signal
