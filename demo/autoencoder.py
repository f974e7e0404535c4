"""The autoencoder: trains it, then its decoder alone, and encodes the training images of the U-Net."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.composites import ACCESSORIES, CANVAS, HELD_OUT, HELD_OUT_STYLES, STYLES, SUBJECTS, Scene, compose, draw_scene
from demo.loop import Plan, device, half, save_atomically, train
from demo.networks import VAE
from demo.pictures import as_tensor

log = logging.getLogger("demo")
PLAN = Plan(steps=2400, lr=1.5e-3)
DECODER_PLAN = Plan(steps=7500, lr=1e-3)
CROP, CROPS, WHOLE_FROM = 64, 8, 0.9  # crops around glyphs at first, whole images at the end
KL_WEIGHT = 1e-5
GUIDE_WEIGHT = 0.25
DECODER_NOISE = 0.05  # about the error of a U-Net's latents
PICTURES, CHUNK = 16_000, 64


def any_scene(rng: random.Random) -> Scene:
    """Draw a scene for the autoencoder: every glyph, held-out ones and accessories among them, in every style."""
    if rng.random() < 0.12:
        scene = draw_scene(rng, ["koala"], STYLES)
        return Scene(**{**scene.__dict__, "accessory": rng.choice(list(ACCESSORIES))})
    return draw_scene(rng, [*SUBJECTS, *HELD_OUT, *ACCESSORIES], STYLES + HELD_OUT_STYLES)


def glyph_crop(picture: Tensor, rng: random.Random) -> Tensor:
    """Crop around a random pixel that is not background, to spend less compute on flat colour."""
    foreground = (picture - picture[:, :1, :1]).abs().amax(0) > 0.1
    places = foreground.nonzero()
    y, x = places[rng.randrange(len(places))].tolist() if len(places) else (CANVAS // 2, CANVAS // 2)
    y, x = (max(0, min(CANVAS - CROP, c - rng.randint(8, CROP - 8))) for c in (y, x))
    return picture[:, y : y + CROP, x : x + CROP]


def picture_batches(step: int, steps: int) -> Iterator[Tensor]:
    while True:
        rng = random.Random(step)
        whole = step >= WHOLE_FROM * steps
        pictures = [as_tensor(compose(any_scene(rng), rng)) for _ in range(CROPS // 4 if whole else CROPS)]
        yield torch.stack(pictures if whole else [glyph_crop(p, rng) for p in pictures])
        step += 1


def picture_loss(decoded: Tensor, pictures: Tensor) -> Tensor:
    """L1 and squared error of colours, squared error of their means over a latent's 8x8 pixels, and L1 of edges."""
    error = decoded - pictures
    edges = sum(error.diff(dim=d).abs().mean() for d in (2, 3))
    return error.abs().mean() + error.square().mean() + F.avg_pool2d(error, 8).square().mean() + 0.2 * edges


def vae_loss(vae: VAE, pictures: Tensor) -> Tensor:
    """Reconstruction, a weak KL term, and one that pulls the first three channels to the mean colour of their pixels.

    The last one gives the encoder a signal from the first step on, and latents that are easy for a small U-Net.
    """
    pictures = pictures.to(device())
    with half():
        mean, log_variance = vae.encode(pictures)
        latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        decoded = vae.decode(latents).float()
    mean, log_variance = mean.float(), log_variance.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    guide = (mean[:, :3] - F.avg_pool2d(pictures, 8)).square().mean()
    return picture_loss(decoded, pictures) + KL_WEIGHT * kl + GUIDE_WEIGHT * guide


def decoder_loss(vae: VAE, pictures: Tensor) -> Tensor:
    """Reconstruction from noised latents; the encoder is frozen, so that a U-Net trained on its latents stays valid.

    The posterior has become narrow: without noise the decoder would rely on details that no U-Net gets right.
    """
    pictures = pictures.to(device())
    with half():
        with torch.no_grad():
            mean, _ = vae.encode(pictures)
        decoded = vae.decode(mean + DECODER_NOISE * torch.randn_like(mean)).float()
    return picture_loss(decoded, pictures)


def init_vae() -> VAE:
    """Return a network whose posterior starts narrow, so that noise does not dominate the first steps."""
    vae = VAE()
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.latent_channels :] = -6.0
    return vae


def build_vae(work: Path) -> VAE:
    return train("vae", init_vae(), lambda step: picture_batches(step, PLAN.steps), vae_loss, PLAN, work)


def build_decoder(work: Path) -> VAE:
    """Continue to train the decoder of the finished autoencoder, with its encoder frozen."""
    vae = build_vae(work)
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    return train("decoder", vae, lambda step: picture_batches(10**6 + step, 10**9), decoder_loss, DECODER_PLAN, work)


@torch.no_grad()
def build_latents(work: Path) -> None:
    """Encode the training images, once, to ``latents.pt``: means in half precision, and the scenes' factors."""
    if (work / "latents.pt").exists():
        return
    vae, rng, means, scenes = build_vae(work), random.Random(1), [], []
    for first in range(0, PICTURES, CHUNK):
        chunk = [draw_scene(rng, list(SUBJECTS)) for _ in range(CHUNK)]
        pictures = torch.stack([as_tensor(compose(s, rng)) for s in chunk])
        with half():
            means.append(vae.encode(pictures.to(device()))[0].half().cpu())
        scenes += [s.__dict__ for s in chunk]
        if first % (CHUNK * 25) == 0:
            log.info("latents %d/%d", first, PICTURES)
    save_atomically(work / "latents.pt", {"means": torch.cat(means), "scenes": json.dumps(scenes)})
