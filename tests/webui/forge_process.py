"""A real Forge for `test_in_forge.py`: started from `FORGE_DIR`, with a data folder and a random checkpoint of its own.

Forge recognises a checkpoint by a width of 320 and a context of 768, not by how its width grows: 320 x [1, 1, 1, 1] is
small enough. Text encoder and VAE have the sizes of Forge's own configurations.
"""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from lib_blocktrain.blocks import diffusers_to_ldm
from lib_blocktrain.hosts.ldm_export import vae_to_ldm
from lib_blocktrain.networks.keys import key_of
from tests.tiny_models import randomised
from tests.webui.process import PATIENCE, started

CONFIGS = Path("backend", "huggingface", "runwayml", "stable-diffusion-v1-5")


class Forge:
    """A running Forge, its API, and what runs inside its process."""

    def __init__(self, url: str, data: Path):
        self.url, self.data = url, data
        self.loras = data / "models" / "Lora"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, route: str, body: dict):
        request = urllib.request.Request(
            self.url + route, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with self._opener.open(request, timeout=900) as answer:
            return json.loads(answer.read() or "null")

    def inside(self, name: str, **arguments):
        """Call a function of `forge_inside.py` in Forge's process."""
        answer = self.call(f"/blocktrain-probe/{name}", arguments)
        assert "error" not in answer, answer.get("error")
        return answer["answer"]

    def draw(self, prompt: str, **options) -> tuple[Image.Image, str]:
        """Draw an image; return it and its generation parameters."""
        body = {"prompt": prompt, "width": 64, "height": 64, "steps": 2, "cfg_scale": 5, "seed": 1, **options}
        answer = self.call("/sdapi/v1/txt2img", {"sampler_name": "Euler", **body})
        return picture_of(answer["images"][0]), json.loads(answer["info"])["infotexts"][0]


def picture_of(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")


@contextmanager
def running(folder: Path, data: Path) -> Iterator[Forge]:
    """Start Forge with this extension, and end it afterwards."""
    python = os.environ.get("FORGE_PYTHON", str(folder / "venv" / "bin" / "python"))
    inside = {"BLOCKTRAIN_INSIDE": str(Path(__file__).with_name("forge_inside.py"))}
    with started(python, folder, data, ["--always-cpu"], inside, max(PATIENCE, 900)) as url:
        yield Forge(url, data)


def write_models(folder: Path, data: Path) -> None:
    """Write a random checkpoint, and a LoRA on its attention and its text encoder."""
    import diffusers
    import transformers

    torch.manual_seed(1)
    vae = json.loads((folder / CONFIGS / "vae" / "config.json").read_text("utf-8"))
    text = json.loads((folder / CONFIGS / "text_encoder" / "config.json").read_text("utf-8"))
    models = {
        "unet": diffusers.UNet2DConditionModel(
            block_out_channels=(320,) * 4, cross_attention_dim=768, attention_head_dim=8
        ),
        "vae": diffusers.AutoencoderKL(**{name: value for name, value in vae.items() if not name.startswith("_")}),
        "te": transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
    }
    randomised(models["unet"])
    final = models["te"].get_submodule("text_model.final_layer_norm")
    torch.nn.init.normal_(final.bias, mean=0.1, std=0.3)  # emphasis divides by the mean
    checkpoint = data / "models" / "Stable-diffusion" / "random.safetensors"
    lora = data / "models" / "Lora" / "random.safetensors"
    for path in (checkpoint, lora):
        path.parent.mkdir(parents=True)
    save_file(_ldm_state(models), checkpoint)
    save_file(_lora(models), lora, {"ss_output_name": "random", "ss_base_model_version": "sd_v1-5"})


def _ldm_state(models) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in models["unet"].state_dict().items():
        state["model.diffusion_model." + diffusers_to_ldm(name, "sd1")] = tensor
    for name, tensor in models["vae"].state_dict().items():
        name = vae_to_ldm(name)
        pointwise = ".mid.attn_1." in name and name.endswith(".weight") and tensor.ndim == 2
        state["first_stage_model." + name] = tensor[:, :, None, None] if pointwise else tensor
    for name, tensor in models["te"].state_dict().items():
        if tensor.is_floating_point():
            state["cond_stage_model.transformer." + name] = tensor
    return {name: tensor.detach().half().contiguous() for name, tensor in state.items()}


def _lora(models) -> dict[str, torch.Tensor]:
    tensors = {}
    for component, part in (("unet", ".attn"), ("te", ".mlp.fc")):
        for path, layer in models[component].named_modules():
            if part in path and isinstance(layer, torch.nn.Linear):
                key = key_of(path, "sd1", component)
                tensors[f"{key}.lora_down.weight"] = torch.randn(4, layer.in_features) / layer.in_features**0.5
                tensors[f"{key}.lora_up.weight"] = torch.randn(layer.out_features, 4) * 0.1
                tensors[f"{key}.alpha"] = torch.tensor(4.0)
    return tensors
