"""The standalone host: a diffusers pipeline, of the embedded demo model or of a checkpoint file."""

from __future__ import annotations

import json
import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from lib_blocktrain.files import atomic_write, error_text
from lib_blocktrain.hosts import standalone_folders
from lib_blocktrain.hosts.checkpoint import CheckpointInfo, read_checkpoint_info
from lib_blocktrain.hosts.demo_model import LORAS, MODEL, check_present, clip_vocabulary, full_token_table
from lib_blocktrain.hosts.external_vae import external_vae
from lib_blocktrain.hosts.host import NoModel, OutOfMemory, SampleRequest
from lib_blocktrain.hosts.live_picture import Denoised, LivePictures
from lib_blocktrain.hosts.prompt_syntax import unread_notices
from lib_blocktrain.hosts.token_rows import joined_rows, token_rows
from lib_blocktrain.model import unet_forward
from lib_blocktrain.model.diffusion import zero_terminal_snr
from lib_blocktrain.model.freezing import frozen
from lib_blocktrain.model.memory import lacks_memory
from lib_blocktrain.model.protocol import Prediction, Progress, check_clip_skip
from lib_blocktrain.model.unet_forward import BlockState, Caller
from lib_blocktrain.networks.hooks import Applied, applied

log = logging.getLogger(__name__)

LIVE_SIDE = 64  # latents of a live picture's longer side
CONFIGS = Path(__file__).parent / "configs"
SAMPLERS: dict[str, tuple[Any, dict[str, object]]] = {  # scheduler class and options
    "DDIM": (diffusers.DDIMScheduler, {}),
    "Euler": (diffusers.EulerDiscreteScheduler, {}),
    "Euler a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "DPM++ 2M": (diffusers.DPMSolverMultistepScheduler, {}),
    "DPM++ 2M Karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}


@dataclass(frozen=True)
class _Encoded:
    """Contexts `(1, tokens, width)` to be joined along a dimension, and SDXL's pooled one, of the first 75 tokens."""

    contexts: Sequence[Tensor]
    dim: int
    pooled: Tensor

    def joined(self) -> Tensor:
        return torch.cat(list(self.contexts), dim=self.dim)


@dataclass
class StandaloneModel:
    """The protocol ``Model`` on a diffusers pipeline."""

    pipeline: Any  # diffusers adds a pipeline's parts at run time, where no type checker sees them
    architecture: str
    name: str
    notices: tuple[str, ...] = ()
    clip_skip: int = 1  # the layer of SD1's text encoder, from the end

    @property
    def unet(self) -> nn.Module:
        return self.pipeline.unet

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        if self.architecture == "sdxl":
            return {"te1": self.pipeline.text_encoder, "te2": self.pipeline.text_encoder_2}
        return {"te": self.pipeline.text_encoder}

    @property
    def vae(self) -> nn.Module:
        return self.pipeline.vae

    @property
    def movable(self) -> tuple[nn.Module, ...]:
        return (self.vae, *self.text_encoders.values())

    @property
    def prediction(self) -> Prediction:
        return "v" if self.pipeline.scheduler.config.prediction_type == "v_prediction" else "epsilon"

    @property
    def alphas_cumprod(self) -> Tensor:
        return self.pipeline.scheduler.alphas_cumprod

    @property
    def zero_terminal_snr(self) -> bool:
        return bool(self.pipeline.scheduler.config.get("rescale_betas_zero_snr", False))

    @property
    def schedule_options(self) -> dict[str, object]:
        """What every sampler is made with: `from_config` drops what had its default in the checkpoint's own."""
        return {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if self.zero_terminal_snr else {}

    @property
    def native_size(self) -> int:
        return self.pipeline.unet.config.sample_size * 8

    @property
    def in_channels(self) -> int:
        return self.pipeline.unet.config.in_channels

    @torch.no_grad()
    def encode_image(self, image: Image.Image) -> Tensor:
        vae = self.pipeline.vae
        pixels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1)
        pixels = pixels.permute(2, 0, 1)[None].to(vae.device)
        latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mean
        if vae.dtype != torch.float32 and not torch.isfinite(latents).all():
            latents = _encoded_in_fp32(vae, pixels)  # SDXL's overflows in fp16
        return latents * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        vae = self.pipeline.vae
        pixels = vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
        return self.pipeline.image_processor.postprocess(pixels, output_type="pil")

    def encode_prompt(self, text: str, max_tokens: int | None = None) -> Mapping[str, Tensor]:
        device = self.pipeline.unet.device
        # diffusers returns the weights' dtype, which torch.cat refuses under autocast to another one
        plain = torch.autocast(device.type, enabled=False) if device.type in ("cuda", "cpu") else nullcontext()
        encoded = self._encoded_chunks(text) if max_tokens is None else self._encoded_rows(text, max_tokens)
        with plain:
            context = encoded.joined()
        pooled = encoded.pooled
        if self.architecture != "sdxl":
            return {"context": context.to(device)}
        side = float(self.native_size)
        size = torch.tensor([[side, side, 0.0, 0.0, side, side]], device=device)  # original, crop, target
        return {"context": context.to(device), "pooled": pooled.to(device), "size": size}

    def _encoded_chunks(self, text: str) -> _Encoded:
        """Return the contexts of chunks of up to 75 tokens, of both encoders together."""
        device = self.pipeline.text_encoder.device  # the CPU while the encoders are set aside
        options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False, **self.diffusers_clip_skip}
        chunks = [
            self.pipeline.encode_prompt(chunk, device=device, **options)
            for chunk in _chunks(self.pipeline.tokenizer, text)
        ]
        return _Encoded([chunk[0] for chunk in chunks], 1, chunks[0][-2])

    @property
    def diffusers_clip_skip(self) -> dict[str, int]:
        """The argument of diffusers, which counts layers from 0."""
        return {"clip_skip": self.clip_skip - 1} if self.clip_skip > 1 else {}

    def _encoded_rows(self, text: str, max_tokens: int) -> _Encoded:
        """Return the contexts of sd-scripts' rows of tokens, one of each encoder."""
        contexts, pooled = [], torch.empty(0)
        pipeline = self.pipeline
        second = [(pipeline.tokenizer_2, pipeline.text_encoder_2)] if self.architecture == "sdxl" else []
        for tokenizer, encoder in ((pipeline.tokenizer, pipeline.text_encoder), *second):
            tokens = tokenizer(text, verbose=False).input_ids[1:-1]
            ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
            rows = torch.tensor(token_rows(tokens, max_tokens, *ids), device=encoder.device)
            made = encoder(rows, output_hidden_states=True)
            if self.architecture == "sdxl":
                states, pooled = made.hidden_states[-2], made[0][:1]
            elif self.clip_skip > 1:
                states = encoder.text_model.final_layer_norm(made.hidden_states[-self.clip_skip])
            else:
                states = made.last_hidden_state
            contexts.append(joined_rows(states))
        return _Encoded(contexts, 2, pooled)

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        added = None
        if "pooled" in conditioning:
            added = {"text_embeds": conditioning["pooled"], "time_ids": conditioning["size"]}
        context = conditioning["context"]
        return self.unet(latents, timesteps, context, added_cond_kwargs=added, return_dict=False)[0]

    def enter_blocks(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        return unet_forward.enter_blocks(self.unet, latents, timesteps, conditioning)

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
    def encoding(self, vae: str | None, clip_skip: int | None) -> Iterator[None]:
        before = self.pipeline.vae, self.clip_skip
        if clip_skip is not None:
            check_clip_skip(clip_skip, self.architecture, self.pipeline.text_encoder.config.num_hidden_layers)
        try:
            self.clip_skip = clip_skip or self.clip_skip
            if vae is not None:
                self.pipeline.register_modules(vae=external_vae(Path(vae), before[0], convert_ldm_vae_checkpoint))
            yield
        finally:
            self.clip_skip = before[1]
            self.pipeline.register_modules(vae=before[0])

    def trainable(self) -> AbstractContextManager[None]:
        return frozen(self.unet, *self.text_encoders.values(), self.pipeline.vae)


class StandaloneHost:
    """The protocol ``Host`` without a WebUI; the checkpoint is loaded when it is first asked for."""

    name = "standalone"
    reads_prompt_syntax = False
    no_training = ""

    def __init__(
        self,
        checkpoint: Path | None = None,
        output_dir: Path | None = None,
        lora_dirs: Sequence[Path] = (),
    ):
        self.checkpoint = checkpoint
        self.output_dir = output_dir or standalone_folders.output_dir()
        self.presets_path = standalone_folders.presets_path(self.output_dir)
        self.samplers: Sequence[str] = tuple(SAMPLERS)
        # the first receives baked files: in outputs, not among the checkout's own files
        beside = LORAS if checkpoint is None else checkpoint.parent
        self.lora_dirs: Sequence[Path] = tuple(lora_dirs) or (self.output_dir / "loras", beside)
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._model: StandaloneModel | None = None

    def use(self, model: StandaloneModel) -> None:
        """Use a model that is already in memory."""
        self._model = model

    def model(self) -> StandaloneModel:
        with self._loading:  # two requests at the same time load it once
            if self._model is None:
                self._model = self._load()
        return self._model

    def _load(self) -> StandaloneModel:
        try:
            model = load_demo() if self.checkpoint is None else load_checkpoint(self.checkpoint)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: out of memory
            raise NoModel(error_text(error)) from error
        for notice in model.notices:
            log.warning("%s: %s", model.name, notice)
        return model

    @contextmanager
    def queued(self) -> Iterator[None]:
        with self._lock:
            yield

    @property
    def interrupted(self) -> bool:
        """Always False: jobs are cancelled by the page's own Cancel."""
        return False

    def progress(self, what: str, done: int, of: int) -> None:
        log.debug("%s: %d of %d", what, done, of)

    def refresh_loras(self) -> None:
        """Do nothing: only the tab lists LoRAs here."""

    def drawing_state(self) -> tuple[object, ...]:
        """Nothing: the model, its VAE and its settings stay."""
        return ()

    def card_changed(self, network_file: Path) -> None:
        """Do nothing: only the tab shows cards here."""

    def sample(self, request: SampleRequest, progress: Progress | None = None) -> Image.Image:
        """Draw one image; its noise is drawn on the CPU, and so depends on the seed but not on the device."""
        model = self.model()
        targets = {"unet": model.unet, **model.text_encoders}
        try:
            with applied(targets, request.placements, say=request.say, fold=True) as networks:
                return _draw(model, request, progress, networks)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            # raised outside the except block, since this error's frames hold tensors
        torch.cuda.empty_cache()
        where, size = "the GPU" if torch.cuda.is_available() else "this machine", _size(model, request)
        raise OutOfMemory(f"{where} has too little memory for this picture: try fewer pixels than {size}")


def _encoded_in_fp32(vae: Any, pixels: Tensor) -> Tensor:
    before = vae.dtype
    try:
        return vae.float().encode(pixels.float()).latent_dist.mean
    finally:
        vae.to(before)  # lossless: fp32 holds every value of the narrower types


def _chunks(tokenizer: transformers.CLIPTokenizer, text: str, limit: int = 75) -> list[str]:
    """Split a text between words into chunks of at most ``limit`` tokens; CLIP's tokens never cross a space."""
    chunks: list[list[str]] = [[]]
    length = 0
    for word in text.split(" "):
        count = len(tokenizer(word, verbose=False).input_ids) - 2
        if length + count > limit and chunks[-1]:
            chunks.append([])
            length = 0
        chunks[-1].append(word)
        length += count
    return [" ".join(words) for words in chunks]


def _size(model: StandaloneModel, request: SampleRequest) -> str:
    return f"{request.width or model.native_size}x{request.height or model.native_size}"


def _draw(model: StandaloneModel, request: SampleRequest, progress: Progress | None, networks: Applied) -> Image.Image:
    pipeline = model.pipeline
    if request.sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {request.sampler!r}; known: {', '.join(SAMPLERS)}")
    _check_size(request)
    _check_prompts(model, request)
    (scheduler, options), before = SAMPLERS[request.sampler], pipeline.scheduler
    alphas = zero_terminal_snr(model.alphas_cumprod) if model.zero_terminal_snr else model.alphas_cumprod
    live, denoised = LivePictures(request.live), Denoised(alphas, model.prediction, request.cfg)

    def after_step(_pipeline: object, step: int, _timestep: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if progress is not None:
            progress(step + 1, request.steps)
        if step + 1 < request.steps:
            networks.enter_step(step + 2, request.steps)
            live.offer(lambda: _live_picture(model, denoised.latents()))
        return tensors

    width, height = request.width or model.native_size, request.height or model.native_size
    extra: dict[str, object] = {**model.diffusers_clip_skip}
    if model.in_channels == 9:  # with everything masked, an inpainting model draws from the text alone
        blank = Image.new("RGB", (width, height), (127, 127, 127))
        extra |= {"image": blank, "mask_image": Image.new("L", (width, height), 255), "strength": 1.0}
    try:
        pipeline.scheduler = scheduler.from_config(before.config, **options, **model.schedule_options)
        with denoised.watching(model.unet) if request.live is not None else nullcontext():
            return pipeline(
                prompt=request.prompt,
                negative_prompt=request.negative,
                num_inference_steps=request.steps,
                guidance_scale=request.cfg,
                width=width,
                height=height,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                callback_on_step_end=after_step,
                **extra,
            ).images[0]
    finally:
        pipeline.scheduler = before


def _live_picture(model: StandaloneModel, latents: Tensor | None) -> Image.Image | None:
    """Decode latents, reduced to `LIVE_SIDE`; None before there are any."""
    if latents is None:
        return None
    most = max(latents.shape[-2:])
    if most > LIVE_SIDE:
        latents = nn.functional.interpolate(latents, scale_factor=LIVE_SIDE / most, mode="area")
    vae = model.vae
    upcast = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)  # SDXL's overflows
    try:
        if upcast:
            vae.float()
        return model.decode(latents)[0]
    finally:
        if upcast:
            vae.half()


def _check_size(request: SampleRequest) -> None:
    for side, value in (("width", request.width), ("height", request.height)):
        if value is not None and (value < 64 or value % 8):
            raise ValueError(f"{side} {value}: a multiple of 8, at least 64, was expected")
    if request.steps < 1:
        raise ValueError(f"steps {request.steps}: at least 1 was expected")


def _check_prompts(model: StandaloneModel, request: SampleRequest) -> None:
    for name, text in (("prompt", request.prompt), ("negative prompt", request.negative)):
        tokens = len(model.pipeline.tokenizer(text, verbose=False).input_ids) - 2
        if tokens > 75:
            request.say(f"the {name} has {tokens} tokens; those after the 75th are not seen by this model")
    for notice in unread_notices([request.prompt], request.negative):
        request.say(notice)


def _device() -> tuple[str, torch.dtype]:
    if torch.cuda.is_available():
        return "cuda", torch.float16
    return "cpu", torch.float32


def _finish(pipeline: Any) -> Any:
    device, dtype = _device()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device, dtype)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    return pipeline


def load_demo(folder: Path = MODEL) -> StandaloneModel:
    """Load the embedded demo model: SD1's 25 blocks, narrow, for images of 128x128."""
    check_present(folder)
    pipeline = diffusers.StableDiffusionPipeline(
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False),
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False),
        text_encoder=_demo_text_encoder(folder / "text_encoder"),
        tokenizer=_tokenizer(),
        scheduler=diffusers.DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return StandaloneModel(_finish(pipeline), "sd1", "demo model")


def _demo_text_encoder(folder: Path) -> transformers.CLIPTextModel:
    config = transformers.CLIPTextConfig(**json.loads((folder / "config.json").read_text("utf-8")))
    encoder = transformers.CLIPTextModel(config)
    encoder.load_state_dict(full_token_table(load_file(folder / "model.safetensors"), config.vocab_size))
    return encoder


def _tokenizer(pad: str = "<|endoftext|>") -> transformers.CLIPTokenizer:
    """Return CLIP's tokenizer, which all checkpoints share; SD2 and SDXL's second encoder pad with "!"."""
    merges = MODEL / "tokenizer" / "merges.txt"
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.json"
        with atomic_write(vocabulary) as temporary:
            temporary.write_text(json.dumps(clip_vocabulary(merges)), "utf-8")
        return transformers.CLIPTokenizer(str(vocabulary), str(merges), pad_token=pad, model_max_length=77)


def load_checkpoint(path: Path) -> StandaloneModel:
    """Load a SD1, SD2 or SDXL checkpoint from one safetensors file; its configurations come with this package."""
    found = read_checkpoint_info(path)
    config = CONFIGS / found.architecture
    tokenizers = {"tokenizer": _tokenizer("!" if found.architecture == "sd2" else "<|endoftext|>")}
    if found.architecture == "sdxl":
        tokenizers["tokenizer_2"] = _tokenizer("!")
    options: dict[str, object] = {"config": str(config), "torch_dtype": _device()[1], **tokenizers}
    if found.architecture != "sdxl":
        options.update(safety_checker=None, feature_extractor=None)
    if found.inpainting:
        options["num_in_channels"] = 9
    pipeline = _finish(_pipeline_class(found).from_single_file(str(path), **options))
    model = StandaloneModel(pipeline, found.architecture, path.name, found.notices, found.clip_skip)
    prediction = found.prediction or measured_prediction(model)
    if prediction == "v":
        pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    if found.zero_terminal_snr:  # its last timestep must be drawn, too (2305.08891, section 3.3)
        pipeline.scheduler.register_to_config(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    if found.prediction is None:
        model.notices += (f"{prediction}-prediction, found from the output of its U-Net",)
    return model


def _pipeline_class(found: CheckpointInfo) -> Any:
    if found.architecture == "sdxl":
        return diffusers.StableDiffusionXLInpaintPipeline if found.inpainting else diffusers.StableDiffusionXLPipeline
    return diffusers.StableDiffusionInpaintPipeline if found.inpainting else diffusers.StableDiffusionPipeline


@torch.no_grad()
def measured_prediction(model: StandaloneModel) -> Prediction:
    """Tell v- from epsilon-prediction by the output at the last timestep, as A1111's ``sd_models_config.py`` does.

    At t = 999 the input is nearly all noise: an epsilon U-Net returns it, a v U-Net returns far less.
    """
    unet = model.pipeline.unet
    latents = torch.full((1, 4, 8, 8), 0.5, device=unet.device, dtype=unet.dtype)
    timesteps = torch.tensor([999], device=unet.device)
    output = model.predict(latents, timesteps, model.encode_prompt(""))
    return "v" if (output - latents).mean().item() < -1 else "epsilon"
