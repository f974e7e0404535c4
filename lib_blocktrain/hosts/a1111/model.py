"""The checkpoint that AUTOMATIC1111's WebUI has loaded, as the protocol ``Model``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from modules import devices, lowvram, sd_hijack, sd_unet, shared
from PIL import Image
from torch import Tensor, nn

from lib_blocktrain import blocks, unet_forward
from lib_blocktrain.freezing import frozen
from lib_blocktrain.hosts.a1111 import lora
from lib_blocktrain.hosts.a1111.text import encode_literally
from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.model import Prediction
from lib_blocktrain.unet_forward import BlockState, Caller

log = logging.getLogger(__name__)

# Attention through which the backward pass goes; any other that an extension brings is taken off for training.
_DIFFERENTIABLE = {"sdp-no-mem", "sdp", "xformers", "sub-quadratic", "V1", "InvokeAI", "Doggettx", ""}
_FP8 = tuple(getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name))


def architecture_of(sd_model: Any) -> str | None:
    """Return "sd1", "sd2" or "sdxl", None for any other model."""
    for architecture, flag in (("sdxl", "is_sdxl"), ("sd2", "is_sd2"), ("sd1", "is_sd1")):
        if getattr(sd_model, flag, False):
            return architecture
    return None


def checked(sd_model: Any) -> A1111Model:
    """Return the model if its U-Net can be hooked; raise NoModel with the reason if it cannot."""
    if sd_model is None:
        raise NoModel("no checkpoint is loaded: choose one at the top of the page, and look at the console if it fails")
    architecture, name = architecture_of(sd_model), sd_model.sd_checkpoint_info.name_for_extra
    if architecture is None:
        raise NoModel(f"{name} is a {type(sd_model).__name__}: expected a checkpoint of SD1, SD2 or SDXL")
    option = getattr(sd_unet.current_unet_option or sd_unet.get_unet_option(), "label", None)
    if option is not None:
        raise NoModel(
            f"the U-Net of {name} is replaced by {option!r}, whose layers cannot be hooked: set SD Unet to None"
        )
    unet, known = sd_model.model.diffusion_model, blocks.architecture(architecture)
    found = [block_id for block_id in _block_ids(unet) if block_id not in known.block_ids]
    missing = [block_id for block_id in known.block_ids if block_id not in _block_ids(unet)]
    if found or missing:
        raise NoModel(f"the U-Net of {name} has other blocks than {known.title}: {', '.join(found or missing)}")
    return A1111Model(sd_model, name, architecture)


def _block_ids(unet: nn.Module) -> list[str]:
    inputs, outputs = len(unet.input_blocks), len(unet.output_blocks)
    return [*(f"IN{n:02}" for n in range(inputs)), "M00", *(f"OUT{n:02}" for n in range(outputs))]


@dataclass(frozen=True)
class A1111Model:
    """The protocol ``Model`` on the WebUI's `sd_model`; it holds nothing of its own."""

    sd_model: Any = field(repr=False)
    name: str
    architecture: str

    @property
    def unet(self) -> nn.Module:
        return self.sd_model.model.diffusion_model

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        names = ("te1", "te2") if self.architecture == "sdxl" else ("te",)
        return {name: _text_model(clip) for name, clip in zip(names, self._clips())}

    @property
    def prediction(self) -> Prediction:
        return "v" if self.sd_model.parameterization == "v" else "epsilon"

    @property
    def alphas_cumprod(self) -> Tensor:
        """As the checkpoint has them: a picture that is drawn may be given others for a while."""
        original = getattr(self.sd_model, "alphas_cumprod_original", None)
        return (self.sd_model.alphas_cumprod if original is None else original).float()

    @torch.no_grad()
    def encode_image(self, picture: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 127.5 - 1)
        pixels = pixels.permute(2, 0, 1)[None].to(devices.device)
        vae = self.sd_model.first_stage_model
        latents = self._encode(vae, pixels)
        if not torch.isfinite(latents).all():
            before = next(vae.parameters()).dtype
            try:
                latents = self._encode(vae.float(), pixels)
            finally:
                vae.to(before)  # fp32 holds every number of the narrower types: the weights are what they were
        return latents

    def _encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        with devices.without_autocast():
            posterior = _posterior(vae, pixels.to(next(vae.parameters()).dtype))
        return posterior * self.sd_model.scale_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        vae = self.sd_model.first_stage_model
        with devices.without_autocast():
            pixels = self.sd_model.decode_first_stage(latents.to(devices.device, next(vae.parameters()).dtype))
        pixels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(picture) for picture in pixels]

    def encode_prompt(self, text: str) -> Mapping[str, Tensor]:
        """A text of more than 75 tokens comes in several contexts of 77, one behind the other."""
        if self.architecture == "sdxl":
            _wake(self.sd_model.conditioner)
        with devices.autocast():
            encoded = [encode_literally(clip, text) for clip in self._clips()]
        context = torch.cat([states for states, _ in encoded], dim=-1)
        if self.architecture != "sdxl":
            return {"context": context}
        side = float(blocks.architecture("sdxl").native_size)
        top, left = float(shared.opts.sdxl_crop_top), float(shared.opts.sdxl_crop_left)
        size = torch.tensor([[side, side, top, left, side, side]], device=devices.device)  # original, crop, target
        return {"context": context, "pooled": encoded[-1][1], "size": size}

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        state = self.enter_blocks(latents, timesteps, conditioning)
        return self.run_blocks("IN00", state)

    def enter_blocks(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        _wake(self.sd_model.model)
        weight = next(self.unet.parameters())
        conditioning = {key: t.to(weight.device) if key == "size" else t.to(weight) for key, t in conditioning.items()}
        with devices.autocast():  # half weights are called with wider numbers: the WebUI relies on it, too
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
        """Take out the WebUI's own networks and what breaks autograd; raise NoModel where training cannot be."""
        self._check_trainable()
        parts = (self.unet, *self.text_encoders.values(), self.sd_model.first_stage_model)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(lora.kept(self.sd_model, taken_out=True))
            stack.enter_context(_differentiable_attention())
            stack.enter_context(frozen(*parts))
            yield

    def _check_trainable(self) -> None:
        if shared.cmd_opts.lowvram:
            raise NoModel(
                "with --lowvram only one block of the U-Net is on the GPU at a time, and training needs them all:"
                " start the WebUI with --medvram, or without"
            )
        narrow = next((p.dtype for p in self.unet.parameters() if p.dtype in _FP8), None)
        if narrow is not None:
            raise NoModel(f"the weights of {self.name} are {narrow}: set FP8 weight to Disable to train on it")

    def _clips(self) -> list[nn.Module]:
        """The WebUI's own text encoders, which wrap the checkpoint's."""
        if self.architecture == "sdxl":
            return [clip for clip in self.sd_model.conditioner.embedders if hasattr(clip, "process_tokens")]
        return [self.sd_model.cond_stage_model]


def _text_model(clip: nn.Module) -> nn.Module:
    """The network of a text encoder: transformers' or OpenCLIP's."""
    wrapped = clip.wrapped
    return wrapped.transformer if hasattr(wrapped, "transformer") else wrapped.model


def _posterior(vae: nn.Module, pixels: Tensor) -> Tensor:
    """The mean of what the VAE encodes: ldm's hands over the distribution, sgm's draws a sample from it."""
    moments: list[Tensor] = []
    with _listening(vae.quant_conv, moments):
        vae.encode(pixels)
    return moments[0].chunk(2, dim=1)[0]


@contextmanager
def _listening(layer: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    hook = layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))
    try:
        yield
    finally:
        hook.remove()


def _wake(part: nn.Module) -> None:
    """Let a part that is called by its pieces come to the GPU, as --medvram has it when it is called as a whole."""
    if lowvram.is_enabled(shared.sd_model):
        for hook in list(part._forward_pre_hooks.values()):
            hook(part, ())


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    method = getattr(sd_hijack.model_hijack, "optimization_method", None)
    if method is None or method in _DIFFERENTIABLE:
        yield
        return
    log.info("attention %r is taken off for training", method)
    sd_hijack.undo_optimizations()
    try:
        yield
    finally:
        sd_hijack.model_hijack.apply_optimizations()
