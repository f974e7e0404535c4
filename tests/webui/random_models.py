"""Checkpoints of random weights for the WebUI, and LoRAs that change every block of one.

The WebUI's own code builds a checkpoint of a configuration (`inside.write_random`), so that its names and shapes are
the real ones; only the widths are small. SD2's text encoder, and SDXL's second, are OpenCLIP's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open

from lib_blocktrain.blocks import UnknownLayerError
from lib_blocktrain.networks.adapters import module_from_tensors
from lib_blocktrain.networks.files import Network, write_network
from lib_blocktrain.networks.keys import key_of

SMALLEST_OPENCLIP = "ViT-S-32-alt"  # of its own configurations: 256 wide, 10 layers
_RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(?:attn\.)?(in_proj|out_proj|mlp\.c_fc|mlp\.c_proj)[._]weight")
_OF_RESBLOCK = {
    "in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out_proj": ("self_attn.out_proj",),
    "mlp.c_fc": ("mlp.fc1",),
    "mlp.c_proj": ("mlp.fc2",),
}
_VAE = {
    "embed_dim": 4,
    "monitor": "val/rec_loss",
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 64,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
    "lossconfig": {"target": "torch.nn.Identity"},
}
_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": 2,
    "num_head_channels": 16,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "use_checkpoint": False,
    "legacy": False,
}


def configuration(architecture: str, clip: Path) -> str:
    """Return the yaml of a small SD2 or SDXL; `clip` is a folder with the configuration of a CLIP text encoder."""
    made = {"sd2": _sd2, "sdxl": _sdxl}[architecture](clip)
    return json.dumps({"model": made})  # JSON is YAML


def _sd2(_clip: Path) -> dict:
    unet = {
        **_UNET,
        "image_size": 32,
        "attention_resolutions": [4, 2, 1],
        "channel_mult": [1, 2, 2, 2],
        "transformer_depth": 1,
        "context_dim": 256,
    }
    text = {"arch": SMALLEST_OPENCLIP, "freeze": True, "layer": "penultimate"}
    parameters = {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": 64,
        "channels": 4,
        "conditioning_key": "crossattn",
        "parameterization": "v",
        "scale_factor": 0.18215,
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": _VAE},
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder", "params": text},
    }
    return {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": parameters}


def _sdxl(clip: Path) -> dict:
    width = json.loads((clip / "config.json").read_text("utf-8"))["hidden_size"]
    denoiser = "sgm.modules.diffusionmodules"
    unet = {
        **_UNET,
        "adm_in_channels": 256 + 6 * 256,
        "num_classes": "sequential",
        "attention_resolutions": [4, 2],
        "channel_mult": [1, 2, 2],
        "transformer_depth": [1, 2, 10],
        "context_dim": width + 256,
        "spatial_transformer_attn_type": "softmax-xformers",
    }
    second = {
        "arch": SMALLEST_OPENCLIP,
        "version": "laion2b_s39b_b160k",
        "freeze": True,
        "layer": "penultimate",
        "always_return_pooled": True,
        "legacy": False,
    }
    embedders = [
        ("txt", "FrozenCLIPEmbedder", {"version": str(clip), "layer": "hidden", "layer_idx": 1}),
        ("txt", "FrozenOpenCLIPEmbedder2", second),
        *((name, "ConcatTimestepEmbedderND", {"outdim": 256}) for name in _SIZES),
    ]
    parameters = {
        "scale_factor": 0.13025,
        "disable_first_stage_autocast": True,
        "denoiser_config": {
            "target": f"{denoiser}.denoiser.DiscreteDenoiser",
            "params": {
                "num_idx": 1000,
                "weighting_config": {"target": f"{denoiser}.denoiser_weighting.EpsWeighting"},
                "scaling_config": {"target": f"{denoiser}.denoiser_scaling.EpsScaling"},
                "discretization_config": {"target": f"{denoiser}.discretizer.LegacyDDPMDiscretization"},
            },
        },
        "network_config": {"target": f"{denoiser}.openaimodel.UNetModel", "params": unet},
        "conditioner_config": {
            "target": "sgm.modules.GeneralConditioner",
            "params": {
                "emb_models": [
                    {
                        "is_trainable": False,
                        "input_key": key,
                        "target": f"sgm.modules.encoders.modules.{name}",
                        "params": options,
                    }
                    for key, name, options in embedders
                ]
            },
        },
        "first_stage_config": {"target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper", "params": _VAE},
    }
    return {"target": "sgm.models.diffusion.DiffusionEngine", "params": parameters}


_SIZES = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")


def write_lora(checkpoint: Path, path: Path, architecture: str = "sd1", seed: int = 0) -> None:
    """Write a LoRA of rank 2 for all linear layers of a checkpoint's attention and text encoders."""
    generator, modules = torch.Generator().manual_seed(seed), {}
    with safe_open(checkpoint, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118, no mapping
            shape = file.get_slice(name).get_shape()
            for key in _keys(name, architecture) if len(shape) == 2 else ():
                out = shape[0] // 3 if "in_proj" in name else shape[0]
                factors = {"lora_down.weight": (2, shape[1]), "lora_up.weight": (out, 2)}
                tensors = {part: torch.randn(size, generator=generator) * 0.3 for part, size in factors.items()}
                modules[key] = module_from_tensors(key, tensors)
    write_network(path, Network(path.stem, architecture, modules), overwrite=True)


def _keys(name: str, architecture: str) -> list[str]:
    """Return the LoRA keys of the layers in this weight: OpenCLIP has q, k and v in one."""
    component = {"sdxl": "te2" if "embedders.1." in name else "te1"}.get(architecture, "te")
    found = _RESBLOCK.search(name)
    if found:
        layers = [f"text_model.encoder.layers.{found[1]}.{layer}" for layer in _OF_RESBLOCK[found[2]]]
    elif "text_model.encoder.layers" in name:
        layers = ["text_model." + name.partition("text_model.")[2].removesuffix(".weight")]
    elif "diffusion_model" in name and "attn" in name:
        layers, component = [name.partition("diffusion_model.")[2].removesuffix(".weight")], "unet"
    else:
        return []
    try:
        return [key_of(layer, architecture, component) for layer in layers]
    except UnknownLayerError:
        return []
