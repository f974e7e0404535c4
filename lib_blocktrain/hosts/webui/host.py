"""A WebUI as the protocol `Host`: its folders, queue, progress and sampler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from modules import call_queue, sd_models, sd_samplers, shared
from modules.processing import StableDiffusionProcessingTxt2Img, process_images
from PIL import Image

from lib_blocktrain.hosts.host import Cancelled, OutOfMemory, SampleRequest
from lib_blocktrain.hosts.webui import extra_networks, folders
from lib_blocktrain.hosts.webui.model import WebUIModel
from lib_blocktrain.hosts.webui.steps import listen
from lib_blocktrain.model.memory import lacks_memory
from lib_blocktrain.model.protocol import Progress
from lib_blocktrain.networks.hooks import Applied, applied
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.weights.tagged_prompts import without


class WebUIHost:
    """The protocol `Host` in a running WebUI, whose loaded checkpoint `get_model` returns."""

    reads_prompt_syntax = True
    no_training = ""

    def __init__(self, name: str, get_model: Callable[[], WebUIModel]):
        self.name, self._get_model = name, get_model

    @property
    def lora_dirs(self) -> Sequence[Path]:
        return folders.lora_dirs()

    @property
    def output_dir(self) -> Path:
        return folders.output_dir()

    @property
    def presets_path(self) -> Path:
        return folders.presets_path()

    @property
    def samplers(self) -> Sequence[str]:
        return tuple(sampler.name for sampler in sd_samplers.visible_samplers())

    def model(self) -> WebUIModel:
        return self._get_model()

    @contextmanager
    def queued(self) -> Iterator[None]:
        with call_queue.queue_lock:
            shared.state.begin(job="blocktrain")
            try:
                yield
            finally:
                shared.state.end()
                shared.state.interrupted = shared.state.skipped = False

    @property
    def interrupted(self) -> bool:
        return bool(shared.state.interrupted or shared.state.stopping_generation)

    def progress(self, what: str, done: int, of: int) -> None:
        state = shared.state
        state.job, state.textinfo, state.job_count, state.job_no = what, f"{what}: {done}/{of}", 1, 0
        state.sampling_step, state.sampling_steps = done, of

    def refresh_loras(self) -> None:
        networks = sys.modules.get("networks")  # the Lora extension's, unless that is disabled
        if networks is not None and hasattr(networks, "list_available_networks"):
            networks.list_available_networks()
        # Forge and its forks know a LoRA by its name and strength alone: a file that was replaced is read again
        sd_model = sd_models.model_data.sd_model
        if hasattr(sd_model, "current_lora_hash"):
            sd_model.current_lora_hash = ""
        forget = getattr(getattr(networks, "load_lora_state_dict", None), "cache_clear", None)
        if forget is not None:
            forget()

    def drawing_state(self) -> tuple[object, ...]:
        """Return the checkpoint's file, and all settings: VAE, clip skip, fp8, emphasis, the source of noise ..."""
        info = getattr(self.model().sd_model, "sd_checkpoint_info", None)
        path = Path(getattr(info, "filename", ""))
        changed = path.stat().st_mtime_ns if path.is_file() else 0
        chosen = getattr(sd_models.model_data, "forge_loading_parameters", None)
        return str(path), changed, repr(chosen), repr(sorted(shared.opts.data.items(), key=lambda item: item[0]))

    def card_changed(self, network_file: Path) -> None:
        extra_networks.card_changed(network_file)

    def sample(self, request: SampleRequest, progress: Progress | None = None) -> Image.Image:
        model = self.model()
        request = replace(request, width=request.width or model.native_size, height=request.height or model.native_size)
        placed = _names(request.placements)
        prompt, dropped = without(request.prompt, placed | request.ignored)
        if placed.intersection(dropped):
            request.say(f"Tags of {', '.join(dropped)} in the prompt are ignored: this preview has its own weights")
        try:
            with model.sampling(), self._applied(model, request, prompt) as (prompt, networks):
                return _draw(model, request, prompt, progress, networks)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            # raised outside the except block, since this error's frames hold tensors
        torch.cuda.empty_cache()
        where = "the GPU" if torch.cuda.is_available() else "this machine"
        raise OutOfMemory(
            f"{where} has too little memory for this picture: try fewer pixels than {request.width}x{request.height}"
        )

    @contextmanager
    def _applied(self, model: WebUIModel, request: SampleRequest, prompt: str) -> Iterator[tuple[str, Applied | None]]:
        """Let the request's LoRAs act; yield the prompt to draw, and their hooks."""
        if not request.placements:
            yield prompt, None
            return
        with applied({"unet": model.unet, **model.text_encoders}, request.placements, say=request.say) as networks:
            yield prompt, networks


def _names(placements: Sequence[Placement]) -> set[str]:
    """Return the names that a prompt may have for these LoRAs."""
    networks = [placement.network for placement in placements]
    return {name for network in networks for name in (network.name, network.metadata.get("ss_output_name")) if name}


@contextmanager
def _no_trace() -> Iterator[None]:
    """Keep params.txt, from which the WebUI brings back the settings of the user's last picture."""
    options = shared.cmd_opts
    before = getattr(options, "no_prompt_history", None)
    options.no_prompt_history = True
    try:
        yield
    finally:
        options.no_prompt_history = before


def _draw(
    model: WebUIModel, request: SampleRequest, prompt: str, progress: Progress | None, networks: Applied | None
) -> Image.Image:
    p = StableDiffusionProcessingTxt2Img(
        sd_model=model.sd_model,
        prompt=prompt,
        negative_prompt=request.negative,
        seed=request.seed,
        sampler_name=request.sampler,
        steps=request.steps,
        cfg_scale=request.cfg,
        width=request.width,
        height=request.height,
        do_not_save_samples=True,
        do_not_save_grid=True,
        # the loaded checkpoint: another one that was chosen in the page meanwhile waits for the queue
        override_settings={"sd_model_checkpoint": model.sd_model.sd_checkpoint_info.title},
    )
    # not the class's caches: they are shared with the page and were filled without our hooks
    p.cached_c, p.cached_uc = [None, None], [None, None]
    listener, before = listen(p, progress, request.live, networks), shared.state.interrupted
    try:
        with _no_trace():
            processed = process_images(p)
    finally:
        p.close()
        if listener.error is not None:
            shared.state.interrupted = before
    if listener.error is not None:
        raise listener.error
    for name in ("interrupted", "stopping_generation", "skipped"):  # what was drawn so far is no picture
        if getattr(shared.state, name, False):
            raise Cancelled("the WebUI's Interrupt or Skip was pressed")
    if progress is not None:
        progress(request.steps, request.steps)
    return processed.images[0]
