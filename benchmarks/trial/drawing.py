"""Many pictures at once, straight from the model: DDIM without the host, so that a cell costs little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from demo.loop import half
from lib_blocktrain.hosts.standalone import StandaloneModel
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.merge import merged
from lib_blocktrain.training.batches import joined
from lib_blocktrain.weights.block_weights import BlockWeights

BATCH = 24  # latents at once; guidance doubles them


@dataclass(frozen=True)
class Sampler:
    """DDIM (2010.02502, eta = 0) under classifier-free guidance; in bfloat16 where that is fast."""

    steps: int = 8
    guidance: float = 5.0


@contextmanager
def acting(
    model: StandaloneModel, network: Network | None, weights: BlockWeights | None = None, multiplier: float = 1.0
) -> Iterator[None]:
    """Put a network into the model's weights for a while; None: the model alone."""
    targets = {"unet": model.unet, **model.text_encoders}
    with merged(targets, network, weights, multiplier) if network and multiplier else nullcontext():
        yield


@torch.no_grad()
def draw(model: StandaloneModel, prompts: Sequence[str], seeds: Sequence[int], sampler: Sampler) -> Tensor:
    """Return latents `(pictures, 4, h, w)`, fp32; picture i has prompt i and the noise of seed i."""
    texts = {text: model.encode_prompt(text) for text in {"", *prompts}}
    parts = []
    for start in range(0, len(prompts), BATCH):
        chosen = prompts[start : start + BATCH]
        conditioning = joined([texts[""] for _ in chosen] + [texts[text] for text in chosen])
        parts.append(_denoised(model, _noise(model, seeds[start : start + BATCH]), conditioning, sampler))
    return torch.cat(parts)


def _noise(model: StandaloneModel, seeds: Sequence[int]) -> Tensor:
    side = model.native_size // 8
    drawn = [torch.randn(4, side, side, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(model.unet.device)


def _denoised(model: StandaloneModel, latents: Tensor, conditioning: dict[str, Tensor], sampler: Sampler) -> Tensor:
    alphas = model.alphas_cumprod.to(latents.device)
    stride = len(alphas) // sampler.steps
    timesteps = [1 + stride * step for step in reversed(range(sampler.steps))]
    for timestep, following in zip(timesteps, [*timesteps[1:], None]):
        alpha = alphas[timestep]
        after = alphas.new_ones(()) if following is None else alphas[following]
        doubled = torch.cat([latents, latents])
        with half(model.unet.device):
            times = torch.full((len(doubled),), timestep, device=latents.device)
            empty, full = model.predict(doubled, times, conditioning).float().chunk(2)
        noise = empty + sampler.guidance * (full - empty)
        picture = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        latents = after.sqrt() * picture + (1 - after).sqrt() * noise
    return latents


@torch.no_grad()
def decode(model: StandaloneModel, latents: Tensor) -> Tensor:
    """Return pictures `(pictures, 3, h, w)` in -1..1; one at a time, which is faster on a CPU."""
    vae = model.pipeline.vae
    with half(model.unet.device):
        decoded = [vae.decode(one[None] / vae.config.scaling_factor).sample.float() for one in latents]
    return torch.cat(decoded).clamp(-1, 1)
