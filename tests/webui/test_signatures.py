"""The functions that the extension calls have the same parameters in the real WebUIs' source, which is not run.

For AUTOMATIC1111's those of the stand-ins in `tests/hosts/fake_webui.py`.
"""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path

import pytest

from lib_blocktrain.hosts.webui import integration
from tests.hosts import fake_webui

LORA, FORGE_LORA = "extensions-builtin/Lora", "extensions-builtin/sd_forge_lora"
NETWORKS = fake_webui.Networks([])
PAIRS = [  # file in the WebUI, function in it, our stand-in
    ("modules/patches.py", "patch", fake_webui.Patches().patch),
    ("modules/patches.py", "undo", fake_webui.Patches().undo),
    ("modules/extra_networks.py", "ExtraNetworkParams.__init__", fake_webui.ExtraNetworkParams.__init__),
    ("modules/processing.py", "StableDiffusionProcessing.comment", fake_webui.Processing.comment),
    (f"{LORA}/extra_networks_lora.py", "ExtraNetworkLora.activate", None),
    (f"{LORA}/network.py", "Network.__init__", fake_webui.Network.__init__),
    (f"{LORA}/network.py", "NetworkModule.multiplier", fake_webui.NetworkModule.multiplier),
    (f"{LORA}/networks.py", "load_networks", NETWORKS.load_networks),
    (f"{LORA}/networks.py", "network_apply_weights", NETWORKS.network_apply_weights),
    (f"{LORA}/networks.py", "list_available_networks", NETWORKS.list_available_networks),
]
SHARED = [  # in every fork: file, function, parameters
    ("modules/patches.py", "patch", "key obj field replacement"),
    ("modules/patches.py", "undo", "key obj field"),
    ("modules/extra_networks.py", "ExtraNetworkParams.__init__", "self items"),
    ("modules/processing.py", "StableDiffusionProcessing.comment", "self text"),
    ("{lora}/extra_networks_lora.py", "ExtraNetworkLora.activate", "self p params_list"),
    ("{lora}/network.py", "NetworkOnDisk.__init__", "self name filename"),
    ("{lora}/networks.py", "list_available_networks", ""),
]
BACKEND = [  # with Forge 2's `backend`
    ("modules/sd_models.py", "forge_model_reload", ""),
    ("{lora}/networks.py", "load_lora_for_models", "model clip lora strength_model strength_clip filename online_mode"),
    ("backend/patcher/base.py", "ModelPatcher.clone", "self"),
    (
        "backend/text_processing/classic_engine.py",
        "ClassicTextProcessingEngine.encode_with_transformers",
        "self tokens",
    ),
    ("backend/text_processing/classic_engine.py", "ClassicTextProcessingEngine.tokenize", "self texts"),
    ("backend/nn/vae.py", "DiagonalGaussianDistribution.sample", "self"),
    ("backend/nn/vae.py", "DiagonalGaussianDistribution.mode", "self"),
    ("backend/attention.py", "attention_pytorch", "q k v heads mask attn_precision skip_reshape"),
]
BY_KEY = [  # with Forge 2's patcher
    ("backend/memory_management.py", "load_models_gpu", "models memory_required hard_memory_preservation"),
    ("backend/patcher/lora.py", "LoraLoader.refresh", "self lora_patches offload_device force_refresh"),
    ("backend/patcher/base.py", "ModelPatcher.refresh_loras", "self"),
]
PATCHED = [  # with `ldm_patched`
    ("ldm_patched/modules/sd.py", "load_lora_for_models", "model clip lora strength_model strength_clip filename"),
    ("ldm_patched/modules/model_patcher.py", "ModelPatcher.clone", "self"),
    ("ldm_patched/modules/model_patcher.py", "ModelPatcher.model_size", "self"),
]
LOADING = "models memory_required force_patch_weights minimum_memory_required"
FORKS = {
    "FORGE_DIR": [*SHARED, *BACKEND, *BY_KEY],
    "ERSATZ_DIR": [*SHARED, *BACKEND, *BY_KEY],
    "NEO_DIR": [
        *SHARED,
        *BACKEND,
        ("backend/memory_management.py", "load_models_gpu", LOADING),
        ("backend/patcher/base.py", "ModelPatcher.partially_load", "self device_to extra_memory force_patch_weights"),
    ],
    "REFORGE_DIR": [*SHARED, *PATCHED, ("ldm_patched/modules/model_management.py", "load_models_gpu", LOADING)],
    "CLASSIC_DIR": [
        *SHARED,
        *PATCHED,
        ("ldm_patched/modules/model_management.py", "load_models_gpu", "models memory_required"),
        ("ldm_patched/modules/model_management.py", "unload_model_clones", "model"),
    ],
}
REMEMBERED = [  # how a fork remembers the LoRAs of the image before
    ("{lora}/networks.py", "current_sd.current_lora_hash == compiled_lora_targets_hash"),
    ("{lora}/networks.py", "current_sd.forge_objects_after_applying_lora = "),
]
TEXTS = {  # attributes that are read or set
    "FORGE_DIR": [("backend/patcher/base.py", "lora_patches"), ("backend/patcher/lora.py", "loaded_hash")],
    "ERSATZ_DIR": [("backend/patcher/base.py", "lora_patches"), ("backend/patcher/lora.py", "loaded_hash")],
    "NEO_DIR": [
        *REMEMBERED,
        ("backend/patcher/base.py", "current_weight_patches_uuid"),
        ("backend/patcher/base.py", "(strength_patch, patches[k], strength_model, offset, function, online_mode)"),
        ("backend/patcher/unet.py", "extra_preserved_memory_during_sampling"),
        ("backend/patcher/unet.py", "extra_model_patchers_during_sampling"),
        ("backend/modules/k_model.py", "self.storage_dtype"),
        ("backend/modules/k_model.py", "self.computation_dtype"),
    ],
    "REFORGE_DIR": [
        *REMEMBERED,
        ("{lora}/networks.py", "from ldm_patched.modules.sd import load_lora_for_models"),
        ("ldm_patched/modules/model_patcher.py", "current_weight_patches_uuid"),
        ("ldm_patched/modules/model_patcher.py", "(strength_patch, patches[k], strength_model, offset, function)"),
        ("modules_forge/unet_patcher.py", "extra_preserved_memory_during_sampling"),
        ("modules_forge/unet_patcher.py", "extra_model_patchers_during_sampling"),
    ],
    "CLASSIC_DIR": [
        *REMEMBERED,
        ("{lora}/networks.py", "from ldm_patched.modules.sd import load_lora_for_models"),
        ("ldm_patched/modules/model_patcher.py", "(strength_patch, patches[k], strength_model)"),
        ("modules_forge/unet_patcher.py", "extra_preserved_memory_during_sampling"),
        ("modules_forge/unet_patcher.py", "extra_model_patchers_during_sampling"),
    ],
}
DETECTED = {  # class of the integration, or the beginning of its refusal
    "WEBUI_DIR": "A1111",
    "FORGE_DIR": "Forge",
    "NEO_DIR": "Neo",
    "ERSATZ_DIR": "Forge",
    "REFORGE_DIR": "ReForge",
    "CLASSIC_DIR": "ReForge",
    "SDNEXT_DIR": "this WebUI is SD.Next",
}


def source(place: str, file: str) -> str:
    """Return a file of the WebUI whose folder this variable of the environment names."""
    if not os.environ.get(place):
        pytest.skip(f"{place} does not name an installed one")
    return (Path(os.environ[place]) / file).read_text("utf-8")


def real_parameters(place: str, file: str, function: str) -> list[str]:
    body: list = ast.parse(source(place, file)).body
    for name in function.split("."):
        found = next(node for node in body if getattr(node, "name", None) == name)
        body = found.body
    return [argument.arg for argument in (*found.args.args, *found.args.kwonlyargs)]


@pytest.mark.parametrize(("file", "function", "ours"), PAIRS, ids=[function for _, function, _ in PAIRS])
def test_signature(file, function, ours):
    if ours is None:
        ours = fake_webui.extra_networks_lora(NETWORKS).ExtraNetworkLora.activate
    made = list(inspect.signature(ours).parameters)
    assert real_parameters("WEBUI_DIR", file, function) == ["self" if name == "layer" else name for name in made]


def located(place: str, file: str) -> str:
    """Return the file with the folder of this fork's Lora extension in it."""
    folder = Path(os.environ.get(place) or ".")
    return file.format(lora=FORGE_LORA if (folder / FORGE_LORA).is_dir() else LORA)


@pytest.mark.parametrize("place", FORKS)
def test_signatures_of_a_fork(place):
    for file, function, expected in FORKS[place]:
        found = real_parameters(place, located(place, file), function)
        assert found[: len(expected.split())] == expected.split(), (file, function)
    for file, text in TEXTS[place]:
        assert text in source(place, located(place, file)), (file, text)


@pytest.mark.parametrize("place", DETECTED)
def test_detected_by_its_files(place, monkeypatch):
    """Each WebUI is told by the modules that it has; one that is refused is named."""
    if not os.environ.get(place):
        pytest.skip(f"{place} does not name an installed one")
    folder = Path(os.environ[place])

    def there(name: str) -> bool:
        path = folder.joinpath(*name.split("."))
        return path.is_dir() or path.with_suffix(".py").is_file()

    monkeypatch.setattr(integration, "_can_import", there)
    patcher = folder / "backend" / "patcher" / "base.py"
    by_parameter = patcher.is_file() and "def partially_load" in patcher.read_text("utf-8")
    monkeypatch.setattr(integration, "_merges_by_parameter", lambda: by_parameter)
    try:
        found = type(integration.detect()).__name__
    except integration.UnknownWebUI as refused:
        found = str(refused)
    assert found.startswith(DETECTED[place])
