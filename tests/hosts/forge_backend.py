"""Small stand-ins for what Forge's process has: a model with its patchers, and the modules that manage them.

`tests/webui/test_in_forge.py` compares their names and signatures with the real ones.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from tests.hosts.fake_webui import Patches, module
from tests.model.forge_unet import attention_function, forge_unet, load_as_forge_does
from tests.tiny_models import CONTEXT, ldm_unet, randomised


class LoraLoader:
    """Merges patches by replacing parameters, as `backend.patcher.lora` does."""

    def __init__(self, model):
        self.model, self.backup, self.loaded_hash, self.merges = model, {}, str([]), 0

    @torch.inference_mode()
    def refresh(self, lora_patches, offload_device=None, force_refresh=False):
        if str(list(lora_patches)) == self.loaded_hash:
            return
        self.merges += 1
        for key, parameter in self.backup.items():
            self._set(key, parameter)
        self.backup = {}
        for patches in lora_patches.values():
            for key, changes in patches.items():
                weight = self.model.get_parameter(key)
                self.backup.setdefault(key, weight)
                for strength, (_, (up, down, alpha, *_)), *_ in changes:
                    weight = weight + strength * alpha / len(down) * (up.flatten(1) @ down.flatten(1)).view_as(weight)
                self._set(key, nn.Parameter(weight, requires_grad=False))
        self.loaded_hash = str(list(lora_patches))

    def _set(self, key, parameter):
        layer, _, name = key.rpartition(".")
        self.model.get_submodule(layer)._parameters[name] = parameter


class Patcher:
    """Manages a model's memory and LoRAs, as `backend.patcher.base.ModelPatcher` does."""

    def __init__(self, model):
        self.model, self.lora_patches, self.model_options = model, {}, {}
        self.load_device = torch.device("cpu")
        if not hasattr(model, "lora_loader"):
            object.__setattr__(model, "lora_loader", LoraLoader(model))
        self.lora_loader = model.lora_loader

    def clone(self):
        other = Patcher(self.model)
        other.lora_patches = self.lora_patches.copy()
        return other

    def refresh_loras(self):
        self.lora_loader.refresh(lora_patches=self.lora_patches)


class Clip:
    def __init__(self, encoders):
        self.cond_stage_model, self.patcher = encoders, Patcher(encoders)

    def clone(self):
        other = copy.copy(self)
        other.patcher = self.patcher.clone()
        return other


class Engine:
    """A text encoder with its tokenizer: a word's token is its length."""

    chunk_length, id_start, id_end, id_pad = 75, 1, 2, 2

    def __init__(self, text_encoder):
        self.text_encoder, self.embeddings = text_encoder, SimpleNamespace(fixes=["of the prompt before"])

    def tokenize(self, texts):
        return [[3 + len(word) for word in text.split()] for text in texts]

    def encode_with_transformers(self, tokens):
        assert self.embeddings.fixes is None
        return self.text_encoder.transformer(tokens)


class TextModel(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(99, width)
        self.text_model = nn.ModuleDict({"encoder": nn.ModuleDict({"layers": nn.ModuleList([_layer(width)])})})

    def forward(self, tokens):
        mlp = self.text_model["encoder"]["layers"][0]["mlp"]
        return mlp["fc2"](torch.tanh(mlp["fc1"](self.embedding(tokens))))


def _layer(width):
    return nn.ModuleDict({"mlp": nn.ModuleDict({"fc1": nn.Linear(width, width), "fc2": nn.Linear(width, width)})})


class Objects(SimpleNamespace):
    def shallow_copy(self):
        return Objects(**vars(self))


def sd_model(unet: nn.Module | None = None) -> SimpleNamespace:
    """Return a loaded SD1 checkpoint of random inference tensors; `unet` replaces the real topology."""
    kernel = nn.Module()
    kernel.diffusion_model = load_as_forge_does(unet or forge_unet(randomised(ldm_unet())))
    kernel.storage_dtype = kernel.computation_dtype = torch.float32
    kernel.predictor = SimpleNamespace(prediction_type="epsilon", alphas_cumprod=torch.linspace(0.99, 0.01, 1000))
    torch.manual_seed(3)
    encoders = load_as_forge_does(nn.ModuleDict({"clip_l": nn.ModuleDict({"transformer": TextModel(CONTEXT)})}))
    objects = Objects(unet=Patcher(kernel), clip=Clip(encoders), vae=SimpleNamespace(first_stage_model=nn.Identity()))
    return SimpleNamespace(
        is_sdxl=False,
        is_sd1=True,
        forge_objects=objects.shallow_copy(),
        forge_objects_original=objects.shallow_copy(),
        forge_objects_after_applying_lora=objects.shallow_copy(),
        current_lora_hash="[]",
        sd_checkpoint_info=SimpleNamespace(name_for_extra="tiny"),
        set_clip_skip=lambda layers: None,
        text_processing_engine=Engine(encoders["clip_l"]),
    )


@contextmanager
def process(monkeypatch) -> Iterator[SimpleNamespace]:
    """Put Forge's modules into this process; yield their contents: `loaded`, `shared`, `load`.

    Our modules that import them are imported again inside the context, and again after it.
    """
    before = _taken_out()
    try:
        yield _forge(monkeypatch)
    finally:
        _taken_out()
        for name, module in before.items():
            package, _, child = name.rpartition(".")
            sys.modules[name] = module
            setattr(sys.modules[package], child, module)


def _taken_out() -> dict[str, ModuleType]:
    ours = tuple(f"lib_blocktrain.hosts.{host}." for host in ("forge", "neo", "reforge", "webui"))
    found = {name: module for name, module in sys.modules.items() if name.startswith(ours)}
    for name in found:
        package, _, child = name.rpartition(".")
        del sys.modules[name]
        vars(sys.modules[package]).pop(child, None)
    return found


def _forge(monkeypatch) -> SimpleNamespace:
    loaded: list[SimpleNamespace] = []

    def load_models_gpu(models, memory_required=0, hard_memory_preservation=0):
        for patcher in models:
            loaded[:] = [entry for entry in loaded if entry.model.model is not patcher.model]
            loaded.insert(0, SimpleNamespace(model=patcher))
            patcher.refresh_loras()

    memory = module("backend.memory_management", current_loaded_models=loaded, load_models_gpu=load_models_gpu)
    attention = module("backend.attention", attention_pytorch=attention_function)
    options = SimpleNamespace(CLIP_stop_at_last_layers=1, sdxl_crop_top=0, sdxl_crop_left=0, data={})
    shared = module("modules.shared", opts=options, sd_model=None, cmd_opts=SimpleNamespace())
    sd_models = module("modules.sd_models", model_data=SimpleNamespace(forge_hash="", sd_model=None))
    patches = Patches()
    modules = {
        "backend": module("backend", memory_management=memory, attention=attention),
        "backend.memory_management": memory,
        "backend.attention": attention,
        "modules": module("modules", shared=shared, sd_models=sd_models, patches=patches),
        "modules.shared": shared,
        "modules.sd_models": sd_models,
        "modules.patches": patches,
    }
    for name, content in modules.items():
        monkeypatch.setitem(sys.modules, name, content)
    return SimpleNamespace(loaded=loaded, shared=shared, load=load_models_gpu, data=sd_models.model_data)
