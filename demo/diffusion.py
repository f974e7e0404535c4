"""Trains the U-Net and its text encoder together, on the encoded images."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from demo.autoencoder import build_latents
from demo.composites import Scene
from demo.loop import Plan, device, half, train
from demo.networks import TextConfig, TextEncoder, UNet
from demo.tokens import Vocabulary, write_tokenizer

PLAN = Plan(steps=14_500, lr=5e-4, warmup=300, ema=0.9995)
BATCH = 16
NOISE_OFFSET = 0.1  # plain noise hides an image's mean colour too little, and backgrounds would not be learnt
MIN_SNR_GAMMA = 5.0  # Hang et al. 2023, 2303.09556
DROPOUT = {"all": 0.1, "style": 0.1, "position": 0.15, "background": 0.08}


class Diffusion(nn.Module):
    """The two networks that are trained together; ``text`` has token rows for the words in use only."""

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
    """Return the scene's caption, at random without some parts, or empty (for classifier-free guidance)."""
    if rng.random() < DROPOUT["all"]:
        return ""
    keep = {name: rng.random() >= p for name, p in DROPOUT.items()}
    style = f"a {scene.style} of " if keep["style"] else ""
    position = f" {scene.position}" if keep["position"] else ""
    background = f", {scene.background} background" if keep["background"] else ""
    return f"{style}a {scene.size} {scene.subject}{position}{background}"


def latent_scale(means: Tensor) -> float:
    """Return the factor that gives the latents unit variance (diffusers' ``scaling_factor``), to four digits."""
    return round(1 / means.float().std().item(), 4)


@dataclass(frozen=True)
class Examples:
    """Encoded images `(count, 4, 16, 16)`, of unit variance when multiplied by ``scale``, and their scenes."""

    means: Tensor
    scenes: list[Scene]
    scale: float


def build_unet(work: Path) -> Diffusion:
    build_latents(work)
    if not (work / "tokenizer").exists():
        write_tokenizer(work / "tokenizer")
    vocabulary = Vocabulary(work / "tokenizer")
    stored = torch.load(work / "latents.pt", weights_only=True)
    scenes = [Scene(**s) for s in json.loads(stored["scenes"])]
    examples = Examples(stored["means"], scenes, latent_scale(stored["means"]))
    return fit("unet", Diffusion(len(vocabulary.rows)), examples, vocabulary, PLAN, work)


def fit(
    name: str, networks: Diffusion, examples: Examples, vocabulary: Vocabulary, plan: Plan, work: Path, *,
    draw: int = 20_000_000,
) -> Diffusion:  # fmt: skip
    """Train both networks on the examples; ``draw`` + step is the seed of a step's images and captions."""
    alphas = alphas_cumprod().to(device())
    snr_weight = (MIN_SNR_GAMMA / (alphas / (1 - alphas))).clamp(max=1)

    def batches(step: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rng = random.Random(draw + step)
            chosen = [rng.randrange(len(examples.scenes)) for _ in range(BATCH)]
            yield (
                examples.means[chosen].float() * examples.scale,
                vocabulary.encode_rows([varied_caption(examples.scenes[i], rng) for i in chosen]),
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

    return train(name, networks, batches, loss, plan, work)
