"""The protocol `Model`: what the core needs of a loaded checkpoint, whichever host loaded it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Literal, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor, nn

from lib_blocktrain.model.unet_forward import BlockState, Caller

Prediction = Literal["epsilon", "v"]
Progress = Callable[[int, int], None]  # steps done, steps in all; may raise, which ends the work


def check_clip_skip(clip_skip: int, architecture: str, layers: int = 12) -> None:
    """Raise ValueError for a clip skip that the text encoder of an architecture does not have."""
    if architecture != "sd1":
        raise ValueError(f"clip_skip = {clip_skip}: {architecture} always takes the last layer but one: expected none")
    if not 1 <= clip_skip <= layers:
        raise ValueError(f"clip_skip = {clip_skip}: expected 1 (the last layer) to {layers}")


@runtime_checkable
class Model(Protocol):
    """A Stable Diffusion checkpoint in memory."""

    @property
    def name(self) -> str:
        """What the user knows the checkpoint by."""

    @property
    def architecture(self) -> str:
        """``sd1``, ``sd2`` or ``sdxl``."""

    @property
    def native_size(self) -> int:
        """The side, in pixels, of the images that the checkpoint was trained on."""

    @property
    def in_channels(self) -> int:
        """The channels of the U-Net's input: 4, or more for inpainting and editing models."""

    @property
    def prediction(self) -> Prediction:
        """What the U-Net predicts."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """``(training timesteps,)``, float32."""

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the checkpoint was trained with `alphas_cumprod` rescaled to 0 at the end (2305.08891)."""

    @property
    def unet(self) -> nn.Module:
        """The U-Net, in the layout of diffusers or of LDM."""

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        """``te`` (SD1, SD2), or ``te1`` and ``te2`` (SDXL)."""

    @property
    def vae(self) -> nn.Module:
        """The image autoencoder."""

    @property
    def movable(self) -> tuple[nn.Module, ...]:
        """Those of the VAE and the text encoders that others may move to the CPU while nobody uses them.

        None where the host decides itself what lies on the GPU.
        """

    def encode_image(self, image: Image.Image) -> Tensor:
        """Scaled latents ``(1, 4, h/8, w/8)`` of an RGB image whose sides are multiples of 8."""

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of scaled latents ``(batch, 4, h/8, w/8)``."""

    def encode_prompt(self, text: str, max_tokens: int | None = None) -> Mapping[str, Tensor]:
        """Conditioning of one prompt, taken literally; at least ``context`` ``(1, tokens, width)``.

        Text of more than 75 tokens is encoded in chunks, whose contexts of 77 tokens are concatenated; with
        ``max_tokens``, 75, 150 or 225, text of any length becomes that many tokens and two, as in sd-scripts.
        Differentiable where a network in training acts on the text encoders. SDXL has ``pooled`` and ``size``, too.
        """

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """The U-Net's output, ``epsilon`` or ``v``, for noised latents ``(batch, 4, h, w)``."""

    def enter_blocks(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        """The state in front of the first block, for ``run_blocks``."""

    def run_blocks(
        self,
        start: str,
        saved: BlockState,
        *,
        keep: MutableMapping[str, BlockState] | None = None,
        call: Caller | None = None,
    ) -> Tensor:
        """The U-Net's output from block ``start`` on, given the state in front of it; see ``unet_forward``."""

    def encoding(self, vae: str | None, clip_skip: int | None) -> AbstractContextManager[None]:
        """A context in which images are encoded by the VAE of this file, and text with this clip skip; None: as before.

        Raises ValueError for what this model or its host cannot do.
        """

    def trainable(self) -> AbstractContextManager[None]:
        """A context in which the frozen weights may take part in autograd; afterwards everything is as it was."""
