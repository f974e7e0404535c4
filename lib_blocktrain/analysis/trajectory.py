"""The way from noise to a picture, walked by the model under its network, and the moments at which one looks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_blocktrain.analysis.attention import Heat, Tokens, tokens_of, watching
from lib_blocktrain.analysis.instrumented_model import InstrumentedModel
from lib_blocktrain.analysis.sampling_grid import SamplingGrid

Progress = Callable[[int, int], None]  # done, in all; may raise, which ends the analysis


@dataclass(frozen=True, eq=False)
class TrajectoryPoint:
    """Latents of several seeds at one timestep under one prompt.

    `latents` and `noise`, what is predicted there, are `(seeds, 4, h, w)`, fp32. `stretch` is the part of the way,
    in noise per signal, that this moment stands for, 0 to 1.
    """

    prompt: str
    seeds: tuple[int, ...]
    timestep: int
    latents: Tensor
    noise: Tensor
    stretch: float


def timesteps_of(steps: int, training_steps: int = 1000) -> list[int]:
    """Return the timesteps of DDIM, evenly spaced, the noisiest first (Song et al. 2020, 2010.02502)."""
    return [min(training_steps - 1, 1 + training_steps // steps * step) for step in range(steps)][::-1]


def looked_at(steps: int, looks: int) -> list[int]:
    """Return the steps at which one looks: the first, and others evenly spread over the first half of the way.

    There it is decided what the picture shows; what happens later changes little that is seen.
    """
    return [step * steps // (2 * looks) for step in range(looks)]


def steps_walked(setting: SamplingGrid, words: bool) -> int:
    """Return how far the trajectory is walked: to the last look, or, for words, until their places are settled.

    Where a thing will be shows in the attention once the noise has gone down.
    """
    return setting.steps if words else looked_at(setting.steps, setting.looks)[-1] + 1


@dataclass(frozen=True, eq=False)
class Walked:
    """The moments of all prompts and seeds; `heats`: attention to a word, `(h, w)`, by word, prompt and seed."""

    moments: tuple[TrajectoryPoint, ...]
    heats: Mapping[tuple[str, str, int], Tensor]


@torch.no_grad()
def walked(stage: InstrumentedModel, words: Sequence[str] = (), progress: Progress | None = None) -> Walked:
    """Walk the trajectory of every prompt and group of seeds: as far as one looks, or to the end for words.

    The attention to each of the `words` is averaged over all steps, for the prompts that have it. Raises ValueError
    for a word that no prompt has.
    """
    setting, size = stage.setting, stage.setting.latent_size(stage.model)
    tokens = {word: _tokens(stage, word) for word in words}
    groups = [(prompt, seeds) for prompt in setting.prompts for seeds in setting.seed_batches(stage.model)]
    steps = steps_walked(setting, bool(words))
    found: list[TrajectoryPoint] = []
    heats: dict[tuple[str, str, int], Tensor] = {}
    stage.weigh(stage.weights)
    for number, (prompt, seeds) in enumerate(groups):
        of_words = {word: Heat(places[prompt], len(seeds), size) for word, places in tokens.items() if prompt in places}
        with watching(stage.model.unet, list(of_words.values())):
            for step, moment in enumerate(_walk(stage, prompt, seeds, steps), start=1):
                found += [moment] if moment.stretch else []
                if progress is not None:
                    progress(number * steps + step, len(groups) * steps)
        for word, heat in of_words.items():
            heats |= {(word, prompt, seed): of_seed for seed, of_seed in zip(seeds, heat.map)}
    return Walked(tuple(found), heats)


def _tokens(stage: InstrumentedModel, word: str) -> dict[str, Tokens]:
    """Return a word's tokens by prompt; one that some prompts lack is looked for in the others."""
    having = [prompt for prompt in stage.setting.prompts if word.casefold() in prompt.casefold()]
    return {prompt: tokens_of(stage.model, prompt, word) for prompt in having or stage.setting.prompts}


def _walk(stage: InstrumentedModel, prompt: str, seeds: tuple[int, ...], steps: int) -> Iterator[TrajectoryPoint]:
    """Yield so many steps; those that are not looked at have no stretch."""
    setting = stage.setting
    timesteps = timesteps_of(setting.steps, len(stage.model.alphas_cumprod))
    chosen = looked_at(setting.steps, setting.looks)
    stretches = _stretches(stage, [timesteps[step] for step in chosen])
    latents = noise_of(stage, seeds)
    for timestep, after in zip(timesteps[:steps], [*timesteps[1:], None]):
        noise = _finite(stage.predict(latents, timestep, prompt))
        yield TrajectoryPoint(prompt, seeds, timestep, latents, noise, stretches.get(timestep, 0.0))
        latents = stepped(stage, latents, noise, timestep, after)


@torch.no_grad()
def walk(stage: InstrumentedModel, prompt: str, seeds: Sequence[int]) -> Tensor:
    """Return the latents at the trajectory's end, `(seeds, 4, h, w)`: the model's own pictures."""
    timesteps = timesteps_of(stage.setting.steps, len(stage.model.alphas_cumprod))
    latents = noise_of(stage, seeds)
    for timestep, after in zip(timesteps, [*timesteps[1:], None]):
        latents = stepped(stage, latents, _finite(stage.predict(latents, timestep, prompt)), timestep, after)
    return latents


def noise_of(stage: InstrumentedModel, seeds: Sequence[int]) -> Tensor:
    """Return what a picture of each seed begins with, the same on every device."""
    height, width = stage.setting.latent_size(stage.model)
    drawn = [torch.randn(1, 4, height, width, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.cat(drawn).to(next(stage.model.unet.parameters()).device)


def stepped(stage: InstrumentedModel, latents: Tensor, noise: Tensor, timestep: int, after: int | None) -> Tensor:
    """Return the latents at the next timestep (DDIM, 2010.02502, eq. 12 with eta = 0); None: without any noise."""
    alpha = stage.alpha(timestep)
    following = 1.0 if after is None else stage.alpha(after)
    picture = (latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5
    return following**0.5 * picture + (1 - following) ** 0.5 * noise


def _stretches(stage: InstrumentedModel, timesteps: Sequence[int]) -> dict[int, float]:
    """Return each moment's part of the way: up to the middle between it and its neighbours, in noise per signal."""
    sigmas = [stage.sigma(timestep) for timestep in timesteps]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(sigmas)]
    edges = [sigmas[0], *middles, 0.0]
    return {t: (above - below) / edges[0] for t, above, below in zip(timesteps, edges, edges[1:])}


def _finite(noise: Tensor) -> Tensor:
    if not torch.isfinite(noise).all():
        raise ValueError("the model predicts numbers that are not finite here: try another prompt, or fp32")
    return noise
