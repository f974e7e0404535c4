"""The checkpoint that AUTOMATIC1111's WebUI has loaded, as the protocol `Model`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from modules import devices, lowvram, sd_hijack, sd_unet, sd_vae, shared
from PIL import Image
from torch import Tensor, nn

from lib_blocktrain import blocks
from lib_blocktrain.hosts.a1111 import lora
from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.webui.model import (
    FP8,
    NOTHING_LOADED,
    check_blocks,
    encode_literally,
    encoding_options,
    known_architecture,
    sdxl_size,
    to_images,
    to_pixels,
    zero_terminal_snr,
)
from lib_blocktrain.model import unet_forward
from lib_blocktrain.model.freezing import frozen
from lib_blocktrain.model.protocol import Prediction
from lib_blocktrain.model.unet_forward import BlockState, Caller

log = logging.getLogger(__name__)

# Attention functions that autograd can differentiate; any other, from an extension, is removed for training.
_DIFFERENTIABLE = {"sdp-no-mem", "sdp", "xformers", "sub-quadratic", "V1", "InvokeAI", "Doggettx", ""}


def hookable_model(sd_model: Any) -> A1111Model:
    """Return the model if its U-Net can be hooked; raise NoModel with the reason if it cannot."""
    if sd_model is None:
        raise NoModel(NOTHING_LOADED)
    name = sd_model.sd_checkpoint_info.name_for_extra
    known = known_architecture(name, sd_model)
    option = getattr(sd_unet.current_unet_option or sd_unet.get_unet_option(), "label", None)
    if option is not None:
        raise NoModel(
            f"the U-Net of {name} is replaced by {option!r}, whose layers cannot be hooked: set SD Unet to None"
        )
    check_blocks(name, sd_model.model.diffusion_model, known)
    return A1111Model(sd_model, name, known.id)


@dataclass(frozen=True)
class A1111Model:
    """The protocol `Model` on the WebUI's `sd_model`, without state of its own."""

    sd_model: Any = field(repr=False)
    name: str
    architecture: str

    @property
    def unet(self) -> nn.Module:
        return self.sd_model.model.diffusion_model

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        names = ("te1", "te2") if self.architecture == "sdxl" else ("te",)
        return {name: _text_model(encoder) for name, encoder in zip(names, self._encoders())}

    @property
    def vae(self) -> nn.Module:
        return self.sd_model.first_stage_model

    @property
    def movable(self) -> tuple[nn.Module, ...]:
        return ()  # the WebUI has settings of its own for it

    @property
    def native_size(self) -> int:
        return blocks.architecture(self.architecture).native_size

    @property
    def in_channels(self) -> int:
        return self.sd_model.model.diffusion_model.in_channels

    @property
    def prediction(self) -> Prediction:
        return "v" if self.sd_model.parameterization == "v" else "epsilon"

    @property
    def alphas_cumprod(self) -> Tensor:
        """The checkpoint's own; the WebUI replaces them for some images (zero terminal SNR)."""
        original = getattr(self.sd_model, "alphas_cumprod_original", None)
        return (self.sd_model.alphas_cumprod if original is None else original).float()

    @property
    def zero_terminal_snr(self) -> bool:
        return zero_terminal_snr()

    def encoding(self, vae: str | None, clip_skip: int | None) -> AbstractContextManager[None]:
        return encoding_options(self.architecture, vae, clip_skip, [sd_vae.loaded_vae_file or ""])

    @torch.no_grad()
    def encode_image(self, image: Image.Image) -> Tensor:
        pixels = to_pixels(image).to(devices.device)
        vae = self.sd_model.first_stage_model
        latents = self._encode(vae, pixels)
        if not torch.isfinite(latents).all():
            before = next(vae.parameters()).dtype
            try:
                latents = self._encode(vae.float(), pixels)
            finally:
                vae.to(before)  # lossless: fp32 holds every value of the narrower types
        return latents

    def _encode(self, vae: Any, pixels: Tensor) -> Tensor:
        with devices.without_autocast():
            posterior = _posterior(vae, pixels.to(next(vae.parameters()).dtype))
        return posterior * self.sd_model.scale_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        vae = self.sd_model.first_stage_model
        with devices.without_autocast():
            pixels = self.sd_model.decode_first_stage(latents.to(devices.device, next(vae.parameters()).dtype))
        return to_images(pixels)

    def encode_prompt(self, text: str, max_tokens: int | None = None) -> Mapping[str, Tensor]:
        if self.architecture == "sdxl":
            _move_to_gpu(self.sd_model.conditioner)
        with devices.autocast():
            encoded = [encode_literally(one, text, one.hijack, devices.device, max_tokens) for one in self._encoders()]
        context = torch.cat([states for states, _ in encoded], dim=-1)
        if self.architecture != "sdxl":
            return {"context": context}
        _, pooled = encoded[-1]
        assert pooled is not None  # of SDXL's second encoder
        return {"context": context, "pooled": pooled, "size": sdxl_size(devices.device)}

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        state = self.enter_blocks(latents, timesteps, conditioning)
        return self.run_blocks("IN00", state)

    def enter_blocks(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        _move_to_gpu(self.sd_model.model)
        weight = next(self.unet.parameters())
        conditioning = {key: t.to(weight.device) if key == "size" else t.to(weight) for key, t in conditioning.items()}
        with devices.autocast():  # half weights with fp32 inputs, as the WebUI does it
            return unet_forward.enter_blocks(self.unet, latents.to(weight), timesteps.to(weight.device), conditioning)

    def run_blocks(
        self,
        start: str,
        saved: BlockState,
        *,
        keep: MutableMapping[str, BlockState] | None = None,
        call: Caller | None = None,
    ) -> Tensor:
        with devices.autocast():
            return unet_forward.run_blocks(self.unet, self.architecture, start, saved, keep=keep, call=call)

    @contextmanager
    def trainable(self) -> Iterator[None]:
        """Unload the WebUI's own networks and replace what breaks autograd; raise NoModel if training is impossible."""
        self._check_trainable()
        parts = (self.unet, *self.text_encoders.values(), self.sd_model.first_stage_model)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(lora.preserve_networks(self.sd_model, unload=True))
            stack.enter_context(_differentiable_attention())
            stack.enter_context(frozen(*parts))
            yield

    def sampling(self) -> AbstractContextManager[None]:
        return lora.preserve_networks(self.sd_model)

    def _check_trainable(self) -> None:
        if shared.cmd_opts.lowvram:
            raise NoModel(
                "with --lowvram only one block of the U-Net is on the GPU at a time, and training needs them all:"
                " start the WebUI with --medvram, or without"
            )
        narrow = next((p.dtype for p in self.unet.parameters() if p.dtype in FP8), None)
        if narrow is not None:
            raise NoModel(f"the weights of {self.name} are {narrow}: set FP8 weight to Disable to train on it")

    def _encoders(self) -> list[Any]:
        """Return the WebUI's text encoders, which wrap those of the checkpoint."""
        if self.architecture == "sdxl":
            return [one for one in self.sd_model.conditioner.embedders if hasattr(one, "process_tokens")]
        return [self.sd_model.cond_stage_model]


def _text_model(encoder: Any) -> nn.Module:
    """Return the module of a text encoder: transformers' or OpenCLIP's."""
    wrapped = encoder.wrapped
    return wrapped.transformer if hasattr(wrapped, "transformer") else wrapped.model


def _posterior(vae: Any, pixels: Tensor) -> Tensor:
    """Return the mean of the VAE's posterior, which ldm's VAE returns and sgm's samples from at once."""
    moments: list[Tensor] = []
    with _collect_outputs(vae.quant_conv, moments):
        vae.encode(pixels)
    return moments[0].chunk(2, dim=1)[0]


@contextmanager
def _collect_outputs(layer: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    hook = layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))
    try:
        yield
    finally:
        hook.remove()


def _move_to_gpu(part: nn.Module) -> None:
    """Move a part to the GPU under --medvram, whose hooks act only where the part is called as a whole."""
    if lowvram.is_enabled(shared.sd_model):
        for hook in list(part._forward_pre_hooks.values()):
            hook(part, ())


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    method = getattr(sd_hijack.model_hijack, "optimization_method", None)
    if method is None or method in _DIFFERENTIABLE:
        yield
        return
    log.info("attention %r is removed for training", method)
    sd_hijack.undo_optimizations()
    try:
        yield
    finally:
        sd_hijack.model_hijack.apply_optimizations()
