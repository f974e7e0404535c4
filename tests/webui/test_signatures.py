"""The functions that the extension calls have the same parameters in the real WebUIs' source, which is not run.

For AUTOMATIC1111's those of the stand-ins in `tests/hosts/fake_webui.py`.
"""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path

import pytest

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
FORGES = [  # in both Forges: file, function, parameters
    ("modules/patches.py", "patch", "key obj field replacement"),
    ("modules/patches.py", "undo", "key obj field"),
    ("modules/extra_networks.py", "ExtraNetworkParams.__init__", "self items"),
    ("modules/processing.py", "StableDiffusionProcessing.comment", "self text"),
    ("modules/script_callbacks.py", "CFGDenoiserParams.__init__", "self x image_cond sigma sampling_step"),
    ("modules/sd_models.py", "forge_model_reload", ""),
    (f"{FORGE_LORA}/extra_networks_lora.py", "ExtraNetworkLora.activate", "self p params_list"),
    (f"{FORGE_LORA}/network.py", "NetworkOnDisk.__init__", "self name filename"),
    (f"{FORGE_LORA}/networks.py", "list_available_networks", ""),
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
ONE_FORGE = {
    "FORGE_DIR": [
        (
            f"{FORGE_LORA}/networks.py",
            "load_lora_for_models",
            "model clip lora strength_model strength_clip filename online_mode",
        ),
        ("backend/memory_management.py", "load_models_gpu", "models memory_required hard_memory_preservation"),
        ("backend/patcher/lora.py", "LoraLoader.refresh", "self lora_patches offload_device force_refresh"),
        ("backend/patcher/base.py", "ModelPatcher.refresh_loras", "self"),
    ],
    "NEO_DIR": [
        (
            f"{FORGE_LORA}/networks.py",
            "load_lora_for_models",
            "model clip lora strength_model strength_clip filename online_mode",
        ),
        (
            "backend/memory_management.py",
            "load_models_gpu",
            "models memory_required force_patch_weights minimum_memory_required force_full_load",
        ),
        (
            "backend/patcher/base.py",
            "ModelPatcher.partially_load",
            "self device_to extra_memory force_patch_weights",
        ),
    ],
}
NAMES = {  # attributes that are read or set
    "FORGE_DIR": [("backend/patcher/base.py", "lora_patches"), ("backend/patcher/lora.py", "loaded_hash")],
    "NEO_DIR": [
        ("backend/patcher/base.py", "current_weight_patches_uuid"),
        ("backend/patcher/base.py", "n.parent = self"),
        ("backend/patcher/base.py", "(strength_patch, patches[k], strength_model, offset, function, online_mode)"),
        ("backend/patcher/unet.py", "extra_preserved_memory_during_sampling"),
        ("backend/patcher/unet.py", "extra_model_patchers_during_sampling"),
        (f"{FORGE_LORA}/networks.py", "current_sd.current_lora_hash == compiled_lora_targets_hash"),
        (f"{FORGE_LORA}/networks.py", "current_sd.forge_objects_after_applying_lora = "),
        ("backend/modules/k_model.py", "self.storage_dtype"),
        ("backend/modules/k_model.py", "self.computation_dtype"),
    ],
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


@pytest.mark.parametrize("place", ONE_FORGE)
def test_signatures_of_a_forge(place):
    for file, function, expected in [*FORGES, *ONE_FORGE[place]]:
        found = real_parameters(place, file, function)
        assert found[: len(expected.split())] == expected.split(), (file, function)
    for file, text in NAMES[place]:
        assert text in source(place, file), (file, text)
