"""The U-Net and its text encoder, trained together on the encoded pictures."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from autoencoder import build_latents
from composites import Scene
from loop import Plan, device, half, train
from networks import TextConfig, TextEncoder, UNet
from tokens import Vocabulary, write_tokenizer
from torch import Tensor, nn

PLAN = Plan(steps=14_500, lr=5e-4, warmup=300, ema=0.9995)
BATCH = 16
NOISE_OFFSET = 0.1  # backgrounds are decided at the highest noise, where plain noise still shows them
MIN_SNR_GAMMA = 5.0  # Hang et al. 2023, 2303.09556
DROPOUT = {"all": 0.1, "style": 0.1, "position": 0.15, "background": 0.08}


class Diffusion(nn.Module):
    """The two networks that are trained together; ``text`` has rows for the words in use only."""

    def __init__(self, words: int):
        super().__init__()
        self.unet, self.text = UNet(), TextEncoder(TextConfig(vocabulary=words))
        nn.init.normal_(self.text.text_model.embeddings.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text.text_model.embeddings.position_embedding.weight, std=0.01)
        nn.init.zeros_(self.unet.conv_out.weight)


def alphas_cumprod() -> Tensor:
    """Stable Diffusion's schedule: ``scaled_linear`` 0.00085-0.012 over 1000 steps."""
    return (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0).float()


def varied_caption(scene: Scene, rng: random.Random) -> str:
    """The scene's caption, at times without one of its parts, at times empty (for classifier-free guidance)."""
    if rng.random() < DROPOUT["all"]:
        return ""
    keep = {name: rng.random() >= p for name, p in DROPOUT.items()}
    style = f"a {scene.style} of " if keep["style"] else ""
    position = f" {scene.position}" if keep["position"] else ""
    background = f", {scene.background} background" if keep["background"] else ""
    return f"{style}a {scene.size} {scene.subject}{position}{background}"


def latent_scale(means: Tensor) -> float:
    """The factor that gives the latents unit variance (diffusers' ``scaling_factor``), to four digits."""
    return round(1 / means.float().std().item(), 4)


def build_unet(work: Path) -> Diffusion:
    build_latents(work)
    if not (work / "tokenizer").exists():
        write_tokenizer(work / "tokenizer")
    vocabulary = Vocabulary(work / "tokenizer")
    stored = torch.load(work / "latents.pt", weights_only=True)
    means, scenes = stored["means"], [Scene(**s) for s in json.loads(stored["scenes"])]
    scale, alphas = latent_scale(means), alphas_cumprod().to(device())
    snr_weight = (MIN_SNR_GAMMA / (alphas / (1 - alphas))).clamp(max=1)

    def batches(step: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rng = random.Random(20_000_000 + step)
            chosen = [rng.randrange(len(scenes)) for _ in range(BATCH)]
            yield (
                means[chosen].float() * scale,
                vocabulary.encode_rows([varied_caption(scenes[i], rng) for i in chosen]),
            )
            step += 1

    def loss(networks: Diffusion, batch: tuple[Tensor, Tensor]) -> Tensor:
        latents, tokens = (x.to(device()) for x in batch)
        noise = torch.randn_like(latents)
        noise = noise + NOISE_OFFSET * torch.randn(*latents.shape[:2], 1, 1, device=latents.device)
        timesteps = torch.randint(0, 1000, (len(latents),), device=latents.device)
        alpha = alphas[timesteps][:, None, None, None]
        with half():
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
            predicted = networks.unet(noisy, timesteps, networks.text(tokens)).float()
        return ((predicted - noise).square().mean((1, 2, 3)) * snr_weight[timesteps]).mean()

    return train("unet", Diffusion(len(vocabulary.rows)), batches, loss, PLAN, work)
