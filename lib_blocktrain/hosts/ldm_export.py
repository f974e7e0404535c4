"""Writes a diffusers model folder as a single-file checkpoint in the original (LDM) layout, with its ``.yaml``.

AUTOMATIC1111 reads a checkpoint's configuration from ``NAME.yaml`` beside ``NAME.safetensors``. The yaml names the CLIP
text encoder by the absolute path of a folder with its configuration and tokenizer.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from lib_blocktrain.blocks import diffusers_to_ldm
from lib_blocktrain.files import atomic_write
from lib_blocktrain.hosts.demo_model import clip_vocabulary, full_token_table

WEIGHTS = "diffusion_pytorch_model.safetensors"

# From diffusers' names in the autoencoder to LDM's; all that match apply, in this order.
_VAE_NAMES = (
    (r"^(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.mid.attn_1."),
    (r"^encoder\.down_blocks\.(\d)\.resnets\.(\d)\.", r"encoder.down.\1.block.\2."),
    (r"^encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"attn_1\.group_norm\.", "attn_1.norm."),
    (r"attn_1\.to_([qkv])\.", r"attn_1.\1."),
    (r"attn_1\.to_out\.0\.", "attn_1.proj_out."),
)
_VAE_UP = re.compile(r"^decoder\.up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)\.")


def vae_to_ldm(name: str, levels: int = 4) -> str:
    """Return the LDM name of an autoencoder parameter; LDM numbers the decoder's levels from the output."""

    def up(match: re.Match[str]) -> str:
        level = levels - 1 - int(match[1])
        return f"decoder.up.{level}." + (f"block.{match[3]}." if match[3] else "upsample.")

    name = _VAE_UP.sub(up, name)
    for pattern, replacement in _VAE_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def ldm_state(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the folder's U-Net, autoencoder and text encoder by their LDM names, in float16."""
    state = {}
    for name, tensor in load_file(folder / "unet" / WEIGHTS).items():
        state["model.diffusion_model." + diffusers_to_ldm(name, "sd1")] = tensor
    for name, tensor in load_file(folder / "vae" / WEIGHTS).items():
        name = vae_to_ldm(name)
        # LDM's attention over pixels has 1x1 convolutions in place of diffusers' linear layers
        pointwise = ".mid.attn_1." in name and name.endswith(".weight") and tensor.ndim == 2
        state["first_stage_model." + name] = tensor[:, :, None, None] if pointwise else tensor
    config = _json(folder / "text_encoder" / "config.json")
    text = full_token_table(load_file(folder / "text_encoder" / "model.safetensors"), config["vocab_size"])
    for name, tensor in text.items():
        state["cond_stage_model.transformer." + name] = tensor
    return {name: tensor.half().contiguous() for name, tensor in state.items()}


def ldm_yaml(folder: Path, clip: Path) -> str:
    """Return the model's configuration for LDM's code; ``clip`` is the folder with the text encoder's files."""
    unet, vae = _json(folder / "unet" / "config.json"), _json(folder / "vae" / "config.json")
    schedule = _json(folder / "scheduler" / "scheduler_config.json")
    width, base = unet["block_out_channels"][0], vae["block_out_channels"][0]
    config = {
        "linear_start": schedule["beta_start"],
        "linear_end": schedule["beta_end"],
        "timesteps": schedule["num_train_timesteps"],
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": unet["sample_size"],
        "channels": unet["in_channels"],
        "conditioning_key": "crossattn",
        "parameterization": "eps",
        "scale_factor": vae["scaling_factor"],
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {
                "image_size": 32,  # required by LDM, and unused
                "in_channels": unet["in_channels"],
                "out_channels": unet["out_channels"],
                "model_channels": width,
                "attention_resolutions": [4, 2, 1],
                "num_res_blocks": unet["layers_per_block"],
                "channel_mult": [n // width for n in unet["block_out_channels"]],
                "num_heads": unet["attention_head_dim"],  # diffusers' misnomer for the number of heads
                "use_spatial_transformer": True,
                "transformer_depth": 1,
                "context_dim": unet["cross_attention_dim"],
                "use_checkpoint": False,
                "legacy": False,
            },
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": vae["latent_channels"],
                "ddconfig": {
                    "double_z": True,
                    "z_channels": vae["latent_channels"],
                    "resolution": vae["sample_size"],
                    "in_channels": 3,
                    "out_ch": 3,
                    "ch": base,
                    "ch_mult": [n // base for n in vae["block_out_channels"]],
                    "num_res_blocks": vae["layers_per_block"],
                    "attn_resolutions": [],
                    "dropout": 0.0,
                },
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": str(clip)},
        },
    }
    model = {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": config}}
    return json.dumps(model, indent=2, ensure_ascii=False) + "\n"  # JSON is YAML


def export(folder: Path, out: Path, name: str = "blocktrain-demo") -> dict[str, Path]:
    """Write ``NAME.safetensors``, ``NAME.yaml`` and ``NAME-clip/`` to ``out``, and return their paths.

    ``out`` must not be moved: the yaml has its absolute path, since LDM resolves a relative one against the working
    directory of the WebUI's process.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    clip = (out / f"{name}-clip").resolve()
    tokenizer = [folder / "tokenizer" / file for file in ("merges.txt", "tokenizer_config.json")]
    with atomic_write(clip / "vocab.json") as temporary:
        temporary.write_text(json.dumps(clip_vocabulary(tokenizer[0])), "utf-8")
    for source in (folder / "text_encoder" / "config.json", *tokenizer):
        with atomic_write(clip / source.name) as temporary:
            shutil.copyfile(source, temporary)
    checkpoint, yaml = out / f"{name}.safetensors", out / f"{name}.yaml"
    with atomic_write(checkpoint) as temporary:
        save_file(ldm_state(folder), temporary, {"format": "pt", "modelspec.title": "sd-webui-blocktrain demo model"})
    with atomic_write(yaml) as temporary:
        temporary.write_text(ldm_yaml(folder, clip), "utf-8")
    return {"checkpoint": checkpoint, "yaml": yaml, "clip": clip}


def _json(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text("utf-8"))
