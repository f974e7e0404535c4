"""What the core needs of a loaded checkpoint, whoever loaded it: a protocol without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor, nn

Prediction = Literal["epsilon", "v"]


@runtime_checkable
class Model(Protocol):
    """A Stable Diffusion checkpoint in memory.

    ``architecture`` is "sd1", "sd2" or "sdxl"; ``text_encoders`` maps "te" (SD1, SD2) or "te1" and "te2" (SDXL) to
    modules; ``alphas_cumprod`` has one entry a training timestep, float32.
    """

    architecture: str
    prediction: Prediction
    alphas_cumprod: Tensor
    unet: nn.Module
    text_encoders: Mapping[str, nn.Module]

    def encode_image(self, picture: Image.Image) -> Tensor:
        """Scaled latents ``(1, 4, h/8, w/8)`` of an RGB picture whose sides are multiples of 8."""

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of scaled latents ``(batch, 4, h/8, w/8)``."""

    def encode_prompt(self, text: str) -> Mapping[str, Tensor]:
        """Conditioning of one prompt, taken literally; at least ``context`` ``(1, tokens, width)``."""

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """The U-Net's output, ``epsilon`` or ``v``, for noised latents ``(batch, 4, h, w)``."""
