"""A small classifier of every factor of the demo's images; it measures the model, its LoRAs and what they leak."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.autoencoder import DECODER_NOISE, build_decoder
from demo.composites import (
    ACCESSORIES,
    BACKGROUNDS,
    HELD_OUT,
    HELD_OUT_STYLES,
    POSITIONS,
    SIZES,
    STYLES,
    SUBJECTS,
    Scene,
    compose,
    draw_scene,
)
from demo.loop import Plan, device, half, save_atomically, train
from demo.pictures import as_tensor

FACTORS: dict[str, tuple[str, ...]] = {
    "subject": (*SUBJECTS, *HELD_OUT),
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "background": tuple(BACKGROUNDS),
    "style": (*STYLES, *HELD_OUT_STYLES),
    "accessory": ("none", *ACCESSORIES),
}
PLAN = Plan(steps=4600, lr=2e-3, warmup=100, ema=0.99, save_every=200)
BATCH = 64
RECONSTRUCTIONS, CHUNK = 6000, 50


class Classifier(nn.Module):
    """Images ``(batch, 3, 128, 128)`` in -1..1 to logits ``(batch, values)`` for each factor."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 64, 96, 96)):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(words)) for name, words in FACTORS.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = self.features(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def labels(scenes: list[Scene]) -> dict[str, Tensor]:
    values = {name: [words.index(getattr(s, name) or "none") for s in scenes] for name, words in FACTORS.items()}
    return {name: torch.tensor(value) for name, value in values.items()}


def draw_labelled(rng: random.Random) -> Scene:
    """Draw a scene with any subject in any style; one in five has an accessory."""
    scene = draw_scene(rng, list(FACTORS["subject"]), FACTORS["style"])
    if rng.random() < 0.2:
        return Scene(**{**scene.__dict__, "accessory": rng.choice(list(ACCESSORIES))})
    return scene


@torch.no_grad()
def build_reconstructions(work: Path) -> dict:
    """Reconstruct images by the autoencoder, once, to ``reconstructions.pt``: 8-bit images and their labels.

    A classifier trained on clean composites alone takes the decoder's soft edges for another style.
    """
    path = work / "reconstructions.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    vae, rng, pictures, targets = build_decoder(work).eval(), random.Random(2), [], []
    for _ in range(RECONSTRUCTIONS // CHUNK):
        scenes = [draw_labelled(rng) for _ in range(CHUNK)]
        composites = torch.stack([as_tensor(compose(s, rng)) for s in scenes]).to(device())
        with half():
            latents = vae.encode(composites)[0].float()
            noise = DECODER_NOISE * 3 * torch.rand(CHUNK, 1, 1, 1, device=device()) * torch.randn_like(latents)
            decoded = vae.decode(latents + noise).float()
        pictures.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
        targets.append(labels(scenes))
    state = {"pictures": torch.cat(pictures), "labels": {n: torch.cat([t[n] for t in targets]) for n in FACTORS}}
    save_atomically(path, state)
    return state


def blurred(pictures: Tensor) -> Tensor:
    """Blur half of the batch a little, and add a little noise to all of it."""
    soft = F.avg_pool2d(pictures[::2], 3, stride=1, padding=1)
    pictures = pictures.clone()
    pictures[::2] = torch.lerp(pictures[::2], soft, torch.rand(len(soft), 1, 1, 1, device=pictures.device))
    return pictures + 0.06 * torch.rand(len(pictures), 1, 1, 1, device=pictures.device) * torch.randn_like(pictures)


def loss(network: nn.Module, batch: tuple[Tensor, dict[str, Tensor]]) -> Tensor:
    pictures, targets = batch
    logits = network(blurred(pictures.to(device())))
    return sum(F.cross_entropy(logits[name], target.to(device())) for name, target in targets.items())


def build_classifier(work: Path) -> Classifier:
    """Train the classifier on batches of new composites and reconstructions in equal parts."""
    stored = build_reconstructions(work)

    def batches(step: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        while True:
            rng = random.Random(10_000_000 + step)
            scenes = [draw_labelled(rng) for _ in range(BATCH // 2)]
            composites = torch.stack([as_tensor(compose(s, rng)) for s in scenes])
            chosen = rng.sample(range(RECONSTRUCTIONS), BATCH // 2)
            decoded = stored["pictures"][chosen].float() / 127.5 - 1
            targets = {name: torch.cat([t, stored["labels"][name][chosen]]) for name, t in labels(scenes).items()}
            yield torch.cat([composites, decoded]), targets
            step += 1

    return train("classifier", Classifier(), batches, loss, PLAN, work)


@torch.no_grad()
def read(network: Classifier, pictures: Tensor) -> dict[str, list[str]]:
    """Return the most likely value of each factor for each image."""
    return {name: [FACTORS[name][i] for i in logits.argmax(-1).tolist()] for name, logits in network(pictures).items()}
