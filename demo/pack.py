"""Writes the trained networks as a diffusers model folder, in half precision, with only the token rows in use.

``text_encoder/model.safetensors`` lacks the rows of CLIP's token table that no caption of the demo uses (6.3 million
untrained numbers). ``used_tokens`` holds the ids of the rows that are present; the standalone host draws the others
from a seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from demo.autoencoder import build_decoder
from demo.classifier import build_classifier
from demo.diffusion import build_unet, latent_scale
from demo.networks import TextConfig, UNetConfig, VAEConfig
from demo.tokens import Vocabulary, write_tokenizer

TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"


def configs(scaling_factor: float) -> dict[str, dict]:
    unet, vae, text = UNetConfig(), VAEConfig(), TextConfig()
    return {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
        },
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel",
            "attention_head_dim": unet.heads,  # diffusers' old name for the number of heads
            "block_out_channels": list(unet.channels),
            "cross_attention_dim": unet.context,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "layers_per_block": unet.layers,
            "in_channels": 4,
            "out_channels": 4,
            "sample_size": 16,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "block_out_channels": list(vae.channels),
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": vae.layers,
            "latent_channels": 4,
            "sample_size": 128,
            "scaling_factor": scaling_factor,
        },
        "text_encoder/config.json": {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "hidden_act": "quick_gelu",
            "hidden_size": text.width,
            "intermediate_size": text.width * 4,
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.layers,
            "max_position_embeddings": text.length,
            "vocab_size": text.vocabulary,
            "projection_dim": text.width,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 1,
        },
        "tokenizer/tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": text.length,
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "DDIMScheduler",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "prediction_type": "epsilon",
        },
    }


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.half().contiguous().cpu() if v.is_floating_point() else v.cpu() for k, v in state.items()}


def write_model(folder: Path, networks: Mapping[str, nn.Module], rows: list[int], scaling_factor: float) -> None:
    """Write ``unet``, ``vae`` and ``text`` (whose token table has the given rows only) with their configurations."""
    for name, config in configs(scaling_factor).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config, indent=2) + "\n")
    text = {**networks["text"].state_dict(), "used_tokens": torch.tensor(rows)}
    weights = "diffusion_pytorch_model.safetensors"
    save_file(halved(networks["vae"].state_dict()), folder / "vae" / weights, {"format": "pt"})
    save_file(halved(networks["unet"].state_dict()), folder / "unet" / weights, {"format": "pt"})
    save_file(halved(text), folder / "text_encoder" / "model.safetensors", {"format": "pt"})


def pack(work: Path, folder: Path) -> None:
    """Write the finished stages of ``work`` to ``folder``."""
    diffusion = build_unet(work)
    networks = {"vae": build_decoder(work), "unet": diffusion.unet, "text": diffusion.text}
    scale = latent_scale(torch.load(work / "latents.pt", weights_only=True)["means"])
    write_tokenizer(folder / "tokenizer")
    write_model(folder, networks, Vocabulary(folder / "tokenizer").rows, scale)
    save_file(halved(build_classifier(work).state_dict()), folder / "classifier.safetensors", {"format": "pt"})
