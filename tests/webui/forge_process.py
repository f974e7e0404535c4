"""A real fork of Forge's family for `test_in_forge.py`, with a data folder and random checkpoints of its own.

All recognise a checkpoint by a width of 320 and the width of its context, not by how its width grows: 320 x [1, 1, 1]
is small enough. Text encoders and VAE have the sizes of Forge's own configurations.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from lib_blocktrain.blocks import diffusers_to_ldm
from lib_blocktrain.hosts.ldm_export import vae_to_ldm
from lib_blocktrain.networks.keys import key_of
from tests.tiny_models import randomised
from tests.webui.process import FOLDERS, PATIENCE, TRAINS, started
from tests.webui.running import WebUI

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
REPOSITORIES = {"sd1": "runwayml/stable-diffusion-v1-5", "sdxl": "stabilityai/stable-diffusion-xl-base-1.0"}
FLAGS = {
    "forge": ["--no-download-sd-model", "--always-cpu"],
    "neo": ["--cpu"],
    "reforge": ["--no-download-sd-model", "--always-cpu", "--all-in-fp32"],
    "ersatz": ["--always-cpu"],
    "classic": ["--no-download-sd-model", "--always-cpu", "--all-in-fp32"],
}


class Forge(WebUI):
    """A running fork."""

    answers_within = 900  # seconds: it loads the model for the first picture

    def __init__(self, kind: str, url: str, data: Path, auth: str | None = None):
        super().__init__(url, data, data / "log.txt", auth)
        self.kind, self.trains = kind, kind in TRAINS

    def answer(self, prompt: str, route: str = "txt2img", **options) -> dict:
        """Return the API's answer for a small image."""
        return self.txt2img(prompt, route, **{"steps": 2, **options})

    def draw(self, prompt: str, **options) -> tuple[Image.Image, str]:
        """Draw an image; return it and its generation parameters."""
        answer = self.answer(prompt, **options)
        return picture_of(answer["images"][0]), json.loads(answer["info"])["infotexts"][0]


def picture_of(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")


@contextmanager
def running(
    kind: str, data: Path, *flags: str, auth: str | None = None, environment: dict | None = None
) -> Iterator[Forge]:
    """Start one of `NAMES` with this extension, and end it afterwards."""
    folder = Path(FOLDERS[kind])
    python = os.environ.get(f"{kind.upper()}_PYTHON", str(folder / "venv" / "bin" / "python"))
    allowed = ["--gradio-allowed-path", str(folder)]  # its own scripts are outside its data folder
    inside = {"BLOCKTRAIN_INSIDE": "forge_inside.py", **(environment or {})}
    with started(python, folder, data, [*FLAGS[kind], *allowed, *flags], inside, max(PATIENCE, 900)) as url:
        forge = Forge(kind, url, data, auth)
        options = {"show_progress_type": "Approx cheap"}  # the other kinds want downloads
        forge.call("/sdapi/v1/options", {**options, "grid_format": "png"})  # Neo's is jpg
        yield forge


def write_models(kind: str, data: Path, architecture: str) -> None:
    """Write a random checkpoint and a LoRA on its attention and its text encoders; both are named as the architecture.

    A second LoRA, with other values, is named `ARCHITECTURE-2`.
    """
    torch.manual_seed(1)
    models = _models(_config_reader(Path(FOLDERS[kind]), architecture), architecture)
    randomised(models["unet"])
    for component, model in models.items():
        if component.startswith("te"):
            final = model.get_submodule("text_model.final_layer_norm")
            torch.nn.init.normal_(final.bias, mean=0.1, std=0.3)  # emphasis divides by the mean
    folders = {name: data / "models" / name for name in ("Stable-diffusion", "Lora")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    save_file(_ldm_state(models, architecture), folders["Stable-diffusion"] / f"{architecture}.safetensors")
    version = {"sd1": "sd_v1-5", "sdxl": "sdxl_base_v1-0"}[architecture]
    for name in (architecture, f"{architecture}-2"):
        metadata = {"ss_output_name": name, "ss_base_model_version": version}
        save_file(_lora(models, architecture), folders["Lora"] / f"{name}.safetensors", metadata)


def _config_reader(folder: Path, architecture: str) -> Callable[[str], dict]:
    """Return a function from a component of SD1 or SDXL to its configuration, as the fork has it."""

    def read(name: str) -> dict:
        if (folder / "backend").is_dir():
            file = folder / "backend" / "huggingface" / REPOSITORIES[architecture] / name / "config.json"
        elif name == "vae":  # without `backend` it is in the code
            return {**VAE, "scaling_factor": {"sd1": 0.18215, "sdxl": 0.13025}[architecture]}
        else:
            file = folder / "ldm_patched" / "modules" / {"text_encoder": "sd1_clip_config.json"}[name]
        return {key: value for key, value in json.loads(file.read_text("utf-8")).items() if not key.startswith("_")}

    return read


def _models(config: Callable[[str], dict], architecture: str) -> dict[str, torch.nn.Module]:
    import diffusers
    import transformers

    vae = diffusers.AutoencoderKL(**config("vae"))
    first = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config("text_encoder")))
    if architecture == "sd1":
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(320,) * 4, cross_attention_dim=768, attention_head_dim=8
        )
        return {"unet": unet, "vae": vae, "te": first}
    unet = diffusers.UNet2DConditionModel(
        **{**config("unet"), "block_out_channels": (320,) * 3, "attention_head_dim": (5, 5, 5)}
    )
    second = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**config("text_encoder_2")))
    return {"unet": unet, "vae": vae, "te1": first, "te2": second}


def _ldm_state(models, architecture: str) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in models["unet"].state_dict().items():
        state["model.diffusion_model." + diffusers_to_ldm(name, architecture)] = tensor
    for name, tensor in models["vae"].state_dict().items():
        name = vae_to_ldm(name)
        pointwise = ".mid.attn_1." in name and name.endswith(".weight") and tensor.ndim == 2
        state["first_stage_model." + name] = tensor[:, :, None, None] if pointwise else tensor
    for component, prefix in (("te", "cond_stage_model."), ("te1", "conditioner.embedders.0.")):
        for name, tensor in models[component].state_dict().items() if component in models else ():
            state[f"{prefix}transformer.{name}"] = tensor
    if "te2" in models:
        state.update(_openclip(models["te2"].state_dict()))
    floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    return {name: tensor.detach().half().contiguous() for name, tensor in floating.items()}


_OPENCLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.out_proj.": ".attn.out_proj.",
}


def _openclip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state of SDXL's second text encoder by OpenCLIP's names, which have q, k and v in one tensor."""
    found, prefix = {}, "conditioner.embedders.1.model."
    for name, tensor in state.items():
        if name == "text_projection.weight":
            found[f"{prefix}text_projection"] = tensor.T
            continue
        if ".self_attn.q_proj." in name:
            tensor = torch.cat([state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
            name = name.replace(".self_attn.q_proj.", ".attn.in_proj_")
        elif ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            continue
        for ours, theirs in _OPENCLIP.items():
            name = name.replace(ours, theirs)
        found[prefix + name] = tensor
    return found


def _lora(models, architecture: str) -> dict[str, torch.Tensor]:
    tensors = {}
    for component, model in models.items():
        part = ".attn" if component == "unet" else ".mlp.fc"
        for path, layer in model.named_modules() if component != "vae" else ():
            if part in path and isinstance(layer, torch.nn.Linear):
                key = key_of(path, architecture, component)
                tensors[f"{key}.lora_down.weight"] = torch.randn(4, layer.in_features) / layer.in_features**0.5
                tensors[f"{key}.lora_up.weight"] = torch.randn(layer.out_features, 4) * 0.1
                tensors[f"{key}.alpha"] = torch.tensor(4.0)
    return tensors
