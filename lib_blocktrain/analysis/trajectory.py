"""The denoising trajectory, sampled by the model under its network, and the points at which blocks are compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_blocktrain.analysis.attention import HeatMap, Tokens, places_of, recording_attention, tokens_of
from lib_blocktrain.analysis.instrumented_model import InstrumentedModel
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.model.protocol import Progress


@dataclass(frozen=True, eq=False)
class TrajectoryPoint:
    """Latents of several seeds at one timestep under one prompt.

    `latents` and `noise`, the prediction for them, are `(seeds, 4, h, w)`, fp32. `stretch` is the part of the
    trajectory, in noise per signal, that this point represents, 0 to 1.
    """

    prompt: str
    seeds: tuple[int, ...]
    timestep: int
    latents: Tensor
    noise: Tensor
    stretch: float


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The compared points of all prompts and seeds; `heat_maps` `(h, w)` of attention by word, prompt and seed."""

    points: tuple[TrajectoryPoint, ...]
    heat_maps: Mapping[tuple[str, str, int], Tensor]


def ddim_timesteps(steps: int, training_steps: int = 1000) -> list[int]:
    """Return the timesteps of DDIM, evenly spaced, the noisiest first (Song et al. 2020, 2010.02502)."""
    return [min(training_steps - 1, 1 + training_steps // steps * step) for step in range(steps)][::-1]


def steps_walked(grid: SamplingGrid, words: bool) -> int:
    """Return how many steps of the trajectory are computed: up to the last compared one, or all of them for words.

    Where a thing will be shows in the attention once the noise has gone down.
    """
    return grid.steps if words else grid.compared_steps[-1] + 1


@torch.no_grad()
def walk(instrumented: InstrumentedModel, words: Sequence[str] = (), progress: Progress | None = None) -> Trajectory:
    """Compute the trajectory of every prompt and group of seeds, as far as `steps_walked` says.

    The attention to each of the `words` is averaged over all steps, for the prompts that have it. Raises ValueError
    for a word that no prompt has.
    """
    grid, size = instrumented.grid, instrumented.grid.latent_size(instrumented.model)
    tokens = {word: _tokens(instrumented, word) for word in words}
    groups = [(prompt, seeds) for prompt in grid.prompts for seeds in grid.seed_batches(instrumented.model)]
    steps = steps_walked(grid, bool(words))
    found: list[TrajectoryPoint] = []
    heat_maps: dict[tuple[str, str, int], Tensor] = {}
    instrumented.set_weights(instrumented.weights)
    for number, (prompt, seeds) in enumerate(groups):
        maps = {word: HeatMap(at[prompt], len(seeds), size) for word, at in tokens.items() if prompt in at}
        with recording_attention(instrumented.model.unet, list(maps.values())):
            for step, point in enumerate(_points(instrumented, prompt, seeds, steps), start=1):
                found += [point] if point.stretch else []
                if progress is not None:
                    progress(number * steps + step, len(groups) * steps)
        for word, heat_map in maps.items():
            heat_maps |= {(word, prompt, seed): of_seed for seed, of_seed in zip(seeds, heat_map.mean)}
    return Trajectory(tuple(found), heat_maps)


def _tokens(instrumented: InstrumentedModel, word: str) -> dict[str, Tokens]:
    """Return a word's tokens by prompt; prompts that lack the word are left out, unless all do."""
    prompts = instrumented.grid.prompts
    having = [prompt for prompt in prompts if places_of(prompt, word)]
    return {prompt: tokens_of(instrumented.model, prompt, word) for prompt in having or prompts}


def _points(
    instrumented: InstrumentedModel, prompt: str, seeds: tuple[int, ...], steps: int
) -> Iterator[TrajectoryPoint]:
    """Yield the points of so many steps; those at which blocks are not compared have stretch 0."""
    grid = instrumented.grid
    timesteps = ddim_timesteps(grid.steps, len(instrumented.model.alphas_cumprod))
    stretches = _stretches(instrumented, [timesteps[step] for step in grid.compared_steps])
    latents = initial_noise(instrumented, seeds)
    for timestep, after in zip(timesteps[:steps], [*timesteps[1:], None]):
        noise = instrumented.predict(latents, timestep, prompt)
        yield TrajectoryPoint(prompt, seeds, timestep, latents, noise, stretches.get(timestep, 0.0))
        latents = ddim_step(instrumented, latents, noise, timestep, after)
    _check_finite(latents)


@torch.no_grad()
def denoise(instrumented: InstrumentedModel, prompt: str, seeds: Sequence[int]) -> Tensor:
    """Return the latents at the trajectory's end, `(seeds, 4, h, w)`: the model's own images."""
    timesteps = ddim_timesteps(instrumented.grid.steps, len(instrumented.model.alphas_cumprod))
    latents = initial_noise(instrumented, seeds)
    for timestep, after in zip(timesteps, [*timesteps[1:], None]):
        noise = instrumented.predict(latents, timestep, prompt)
        latents = ddim_step(instrumented, latents, noise, timestep, after)
    _check_finite(latents)
    return latents


def initial_noise(instrumented: InstrumentedModel, seeds: Sequence[int]) -> Tensor:
    """Return the noise that each seed's image begins with, `(seeds, 4, h, w)`; the same on every device."""
    height, width = instrumented.grid.latent_size(instrumented.model)
    drawn = [torch.randn(1, 4, height, width, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.cat(drawn).to(next(instrumented.model.unet.parameters()).device)


def ddim_step(
    instrumented: InstrumentedModel, latents: Tensor, noise: Tensor, timestep: int, after: int | None
) -> Tensor:
    """Return the latents at the next timestep (DDIM, 2010.02502, eq. 12 with eta = 0); None: without any noise."""
    alpha = instrumented.alpha(timestep)
    next_alpha = 1.0 if after is None else instrumented.alpha(after)
    denoised = (latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5
    return next_alpha**0.5 * denoised + (1 - next_alpha) ** 0.5 * noise


def _stretches(instrumented: InstrumentedModel, timesteps: Sequence[int]) -> dict[int, float]:
    """Return each timestep's part of the trajectory: between the middles to its neighbours, in noise per signal."""
    sigmas = [instrumented.sigma(timestep) for timestep in timesteps]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(sigmas)]
    edges = [sigmas[0], *middles, 0.0]
    return {t: (above - below) / edges[0] for t, above, below in zip(timesteps, edges, edges[1:])}


def _check_finite(latents: Tensor) -> None:
    """Raise ValueError if a step left numbers that are not finite. Asked once, after the last step: each asks the GPU
    to catch up, and such numbers stay in the latents.
    """
    if not torch.isfinite(latents).all():
        raise ValueError("the model predicts numbers that are not finite here: try another prompt, or fp32")
