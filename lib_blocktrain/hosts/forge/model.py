"""The checkpoint that Forge has loaded, as the protocol `Model`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from backend import memory_management
from modules import sd_models, shared
from PIL import Image
from torch import Tensor, nn

from lib_blocktrain import blocks
from lib_blocktrain.hosts.forge.borrowed_weights import BorrowedWeights, load_plain, preserve_loras
from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.webui.model import (
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
from lib_blocktrain.networks.layers import is_linear

_PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v"}


def hookable_model(sd_model: Any) -> ForgeModel:
    """Return the model if its U-Net can be hooked; raise NoModel with the reason if it cannot."""
    if not hasattr(sd_model, "forge_objects_original"):
        raise NoModel(NOTHING_LOADED)
    unet = sd_model.forge_objects_original.unet
    if not hasattr(unet, "lora_patches") and not hasattr(unet, "patches_uuid"):
        raise NoModel(
            "this Forge keeps its LoRAs in another way than Forge 2 (by file, in lora_patches) and Forge Neo (by"
            " parameter, in patches): expected one of these two"
        )
    name, model = sd_model.sd_checkpoint_info.name_for_extra, unet.model
    known = architecture_by_blocks(sd_model)
    _check_weights(name, model)
    prediction = getattr(model.predictor, "prediction_type", None)
    if prediction not in _PREDICTIONS:
        raise NoModel(f"{name} predicts {prediction!r}: expected {', '.join(_PREDICTIONS)}")
    return ForgeModel(sd_model, name, known.id)


def architecture_by_blocks(sd_model: Any) -> blocks.Architecture:
    """Return the architecture of a loaded checkpoint; raise NoModel if it is none of SD1, SD2 and SDXL."""
    name = sd_model.sd_checkpoint_info.name_for_extra
    known = known_architecture(name, sd_model)
    check_blocks(name, sd_model.forge_objects_original.unet.model.diffusion_model, known)
    return known


def _check_weights(name: str, model: Any) -> None:
    layer = model.diffusion_model.get_submodule("middle_block.1.transformer_blocks.0.attn1.to_q")
    if not is_linear(layer):
        raise NoModel(
            f"the U-Net of {name} is stored as {model.storage_dtype}, in layers ({type(layer).__name__}) that cannot be"
            " hooked: expected weights in fp32, fp16, bf16 or fp8"
        )


class ForgeModel:
    """The protocol `Model` on one of Forge's diffusion engines."""

    def __init__(self, sd_model: Any, name: str, architecture: str):
        self.sd_model, self.name, self.architecture = sd_model, name, architecture
        self._weights, self._borrowers = BorrowedWeights(sd_model), 0

    @property
    def unet(self) -> nn.Module:
        return self._patched.diffusion_model

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        names = ("te1", "te2") if self.architecture == "sdxl" else ("te",)
        return {name: engine.text_encoder.transformer for name, engine in zip(names, self._engines())}

    @property
    def vae(self) -> nn.Module:
        return self.sd_model.forge_objects.vae.first_stage_model

    @property
    def movable(self) -> tuple[nn.Module, ...]:
        return ()  # Forge moves its models itself

    @property
    def native_size(self) -> int:
        return blocks.architecture(self.architecture).native_size

    @property
    def in_channels(self) -> int:
        return self._patched.diffusion_model.in_channels

    @property
    def prediction(self) -> Prediction:
        return _PREDICTIONS[self._patched.predictor.prediction_type]

    @property
    def alphas_cumprod(self) -> Tensor:
        return _normal(self._patched.predictor.alphas_cumprod)

    @property
    def zero_terminal_snr(self) -> bool:
        return zero_terminal_snr(getattr(self.sd_model, "model_config", None))

    def encoding(self, vae: str | None, clip_skip: int | None) -> AbstractContextManager[None]:
        loaded = getattr(shared.opts, "forge_additional_modules", None) or []
        return encoding_options(self.architecture, vae, clip_skip, loaded)

    def encode_image(self, image: Image.Image) -> Tensor:
        pixels, vae = to_pixels(image), self.sd_model.forge_objects.vae
        with self._weights.returned(), torch.inference_mode(), _mean(vae):
            latents = self.sd_model.encode_first_stage(pixels)
            if not torch.isfinite(latents).all():  # SDXL's VAE overflows in fp16
                with _in_fp32(vae):
                    latents = self.sd_model.encode_first_stage(pixels)
        return _normal(latents)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        with self._weights.returned(), torch.inference_mode():
            pixels = self.sd_model.decode_first_stage(latents.detach().float())
        return to_images(pixels)

    def encode_prompt(self, text: str, max_tokens: int | None = None) -> Mapping[str, Tensor]:
        self._prepare()
        self.sd_model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        cpu = torch.device("cpu")  # Forge moves the tokens itself
        with torch.inference_mode(not self._borrowers):  # Forge's own parameters can only be cast in inference mode
            encoded = [encode_literally(engine, text, engine.embeddings, cpu, max_tokens) for engine in self._engines()]
        context = torch.cat([_normal(states) for states, _ in encoded], dim=-1)
        if self.architecture != "sdxl":
            return {"context": context}
        _, pooled = encoded[-1]
        assert pooled is not None  # of SDXL's second encoder
        return {"context": context, "pooled": _normal(pooled), "size": sdxl_size(context.device)}

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        return self.run_blocks("IN00", self.enter_blocks(latents, timesteps, conditioning))

    def enter_blocks(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        self._prepare()
        device, dtype = self.sd_model.forge_objects_original.unet.load_device, self._patched.computation_dtype
        moved = {key: t.to(device) if key == "size" else t.to(device, dtype) for key, t in conditioning.items()}
        return unet_forward.enter_blocks(self.unet, latents.to(device, dtype), timesteps.to(device), moved)

    def run_blocks(
        self,
        start: str,
        saved: BlockState,
        *,
        keep: MutableMapping[str, BlockState] | None = None,
        call: Caller | None = None,
    ) -> Tensor:
        return unet_forward.run_blocks(self.unet, self.architecture, start, saved, keep=keep, call=call)

    @contextmanager
    def trainable(self) -> Iterator[None]:
        """Borrow the weights from Forge, without its LoRAs; the context may be entered again while it is open."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if not self._borrowers:
                stack.enter_context(preserve_loras(self.sd_model))
                stack.enter_context(self._weights.borrowed())
                stack.enter_context(frozen(self.unet, *self.text_encoders.values()))
            self._borrowers += 1
            try:
                yield
            finally:
                self._borrowers -= 1

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Return the weights to Forge for an image, in the middle of training, too."""
        with self._weights.returned(), preserve_loras(self.sd_model), _same_checkpoint():
            yield

    def _prepare(self) -> None:
        """Load the U-Net and the text encoders onto their device."""
        if self._borrowers:
            self._weights.ensure_borrowed()
        else:
            load_plain(self.sd_model)

    @property
    def _patched(self) -> Any:
        return self.sd_model.forge_objects_original.unet.model

    def _engines(self) -> list[Any]:
        """Return Forge's text encoders with their tokenizers."""
        names = ("text_processing_engine_l", "text_processing_engine_g", "text_processing_engine")
        return [getattr(self.sd_model, name) for name in names if hasattr(self.sd_model, name)]


def _normal(tensor: Tensor) -> Tensor:
    """Return the tensor in fp32, and never as an inference tensor."""
    with torch.inference_mode(False):
        return tensor.clone().float() if tensor.is_inference() else tensor.float()


@contextmanager
def _mean(vae: Any) -> Iterator[None]:
    """Encode to the mean of the VAE's posterior: Forge draws a sample from it otherwise."""
    posterior = sys.modules[type(vae.first_stage_model).__module__].DiagonalGaussianDistribution
    before = posterior.sample
    posterior.sample = posterior.mode
    try:
        yield
    finally:
        posterior.sample = before


@contextmanager
def _in_fp32(vae: Any) -> Iterator[None]:
    """Run the VAE in fp32; lossless, since fp32 holds every value of the narrower types."""
    before = vae.vae_dtype
    memory_management.load_models_gpu([vae.patcher])
    try:
        vae.first_stage_model.to(torch.float32)
        vae.vae_dtype = torch.float32
        yield
    finally:
        vae.first_stage_model.to(before)
        vae.vae_dtype = before


class _EqualToAll(str):
    """A record of the loaded checkpoint that equals every other, so that Forge never loads another one."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


@contextmanager
def _same_checkpoint() -> Iterator[None]:
    """Keep the loaded checkpoint: another one that was chosen in the page meanwhile waits for the queue."""
    data = sd_models.model_data
    before = data.forge_hash
    data.forge_hash = _EqualToAll(before)
    try:
        yield
    finally:
        data.forge_hash = before
