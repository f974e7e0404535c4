"""What block weights keep of a LoRA's effect in region A and of that in region B, on the pictures that they draw.

The trajectory is walked under the weights themselves: a change of the predicted noise along another trajectory says
little of the picture that they end in. With z(w) the latents at its end and D(x) the squared distance to z(x) inside A,

    kept = D(without) / (D(without) + D(whole))

1 for the whole LoRA, 0 without it, and between them for what is drawn in place of both. In B most LoRAs change all
pictures alike, for instance to one background. With m(w) the mean of z(w) over B, one figure a channel, and r the mean
over pictures of m(whole) - m(without),

    leaked = <m(w) - mean m(without), r> / |r|^2

so that a picture whose own colours differ from the mean's is judged by what it has become, not by how far it moved.
Where r is less than half of the change in B (by its squared size), a picture is judged by its own change
e = z(whole) - z(without): leaked = <z(w) - z(without), e> / |e|^2 inside B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lib_blocktrain.analysis.attention import HeatMap, recording_attention, tokens_of
from lib_blocktrain.analysis.instrumented_model import InstrumentedModel
from lib_blocktrain.analysis.regions import Feature, fixed_region, strong
from lib_blocktrain.analysis.sampling_grid import SMALL
from lib_blocktrain.analysis.trajectory import ddim_step, ddim_timesteps, denoise, initial_noise
from lib_blocktrain.blocks import REST
from lib_blocktrain.weights.block_weights import BlockWeights

SHARED = 0.5  # least part of the change in B, by squared size, that counts as shared

Loss = Callable[[Tensor], Tensor]  # of latents (seeds, 4, h, w)


@dataclass(frozen=True, eq=False)
class Effect:
    """The LoRA's effect on pictures of one prompt: latents `(seeds, 4, h, w)` without it and with the whole of it.

    The regions `keep` and `drop` are `(seeds, 1, h, w)`. `shared` is what the pictures' changes in B have in common,
    None to judge each by its own.
    """

    prompt: str
    seeds: tuple[int, ...]
    without: Tensor
    whole: Tensor
    keep: Tensor
    drop: Tensor
    shared: SharedChange | None = None

    def of(self, chosen: Sequence[int]) -> Effect:
        """Return that of the seeds at these places."""
        at = list(chosen)
        tensors = (self.without[at], self.whole[at], self.keep[at], self.drop[at])
        return Effect(self.prompt, tuple(self.seeds[n] for n in at), *tensors, self.shared)

    @property
    def sizes(self) -> tuple[Tensor, Tensor]:
        """The squared size of the change inside A and inside B, each `(seeds,)`."""
        square = (self.whole - self.without).square()
        in_a, in_b = _inside(square, self.keep), _inside(square, self.drop)
        if self.shared is not None:
            in_b = self.shared.change.square().sum() * self.drop.sum(dim=(1, 2, 3))
        return in_a, in_b

    def shares(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return kept and leaked of these latents, each `(seeds,)`; differentiable."""
        from_whole = _inside((latents - self.whole).square(), self.keep)
        from_without = _inside((latents - self.without).square(), self.keep)
        smallest = torch.finfo(from_whole.dtype).tiny
        kept = from_without / (from_without + from_whole).clamp(min=smallest)
        if self.shared is not None:
            return kept, self.shared.part(means_inside(latents, self.drop))
        effect = self.whole - self.without
        along, size = _inside((latents - self.without) * effect, self.drop), _inside(effect.square(), self.drop)
        return kept, along / size.clamp(min=smallest)


@dataclass(frozen=True, eq=False)
class SharedChange:
    """The change of B that pictures of one prompt share: their mean without the LoRA, and what it adds, `(4,)` each."""

    origin: Tensor
    change: Tensor

    def part(self, means: Tensor) -> Tensor:
        """Return how far these means `(seeds, 4)` have gone from without the LoRA (0) to with it (1)."""
        return (means - self.origin) @ self.change / self.change.square().sum()


def shared_change(effects: Sequence[Effect]) -> SharedChange | None:
    """Return what pictures of one prompt share; None where that is less than SHARED of their change in B."""
    without, whole = (
        torch.cat([means_inside(getattr(effect, name), effect.drop) for effect in effects])
        for name in ("without", "whole")
    )
    shared = SharedChange(without.mean(dim=0), (whole - without).mean(dim=0))
    changed = sum(float(_inside((effect.whole - effect.without).square(), effect.drop).sum()) for effect in effects)
    alike = float(shared.change.square().sum()) * sum(float(effect.drop.sum()) for effect in effects)
    return shared if alike > SHARED * changed else None


def means_inside(latents: Tensor, region: Tensor) -> Tensor:
    """Return the mean over a region `(seeds, 1, h, w)` of each channel, `(seeds, 4)`; 0 for an empty one."""
    return (latents * region).sum(dim=(2, 3)) / region.sum(dim=(2, 3)).clamp(min=torch.finfo(latents.dtype).tiny)


def _inside(values: Tensor, region: Tensor) -> Tensor:
    return (values * region).sum(dim=(1, 2, 3))


def measure_effect(
    instrumented: InstrumentedModel, prompt: str, seeds: tuple[int, ...], keep: Feature, drop: Feature | None
) -> Effect:
    """Draw the pictures of a prompt without the LoRA and with it, and find A and B in them.

    `drop` None is everything but A, which is grown by one cell for it.
    """
    words = [feature.word for feature in (keep, drop) if feature is not None and feature.word is not None]
    size = instrumented.grid.latent_size(instrumented.model)
    instrumented.set_weights(instrumented.weights)
    maps = {
        word: HeatMap(tokens_of(instrumented.model, prompt, word), len(seeds), size) for word in dict.fromkeys(words)
    }
    with recording_attention(instrumented.model.unet, list(maps.values())):
        whole = denoise(instrumented, prompt, seeds)
    instrumented.set_weights(BlockWeights.uniform(instrumented.weights.architecture, 0.0))
    without = denoise(instrumented, prompt, seeds)
    region_a = _region(keep, maps, seeds, size).to(whole.device)
    if drop is None:
        region_b = 1 - F.max_pool2d(region_a, 3, stride=1, padding=1)
    else:
        region_b = _region(drop, maps, seeds, size).to(whole.device)
    return Effect(prompt, seeds, without, whole, region_a, region_b)


def _region(feature: Feature, maps: Mapping[str, HeatMap], seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Return the feature's region in each picture, `(seeds, 1, h, w)`."""
    if feature.word is not None:
        return torch.stack([strong(heat) for heat in maps[feature.word].mean])
    fixed = fixed_region(feature, size)
    if fixed is None:
        fixed = torch.ones(1, *size)
    return fixed.repeat(len(seeds), 1, 1, 1)


def latents_under(
    instrumented: InstrumentedModel, prompt: str, seeds: tuple[int, ...], weights: BlockWeights
) -> Tensor:
    """Return the latents that these weights draw, `(seeds, 4, h, w)`."""
    instrumented.set_weights(weights)
    return denoise(instrumented, prompt, seeds)


def gradient(instrumented: InstrumentedModel, effect: Effect, weights: Mapping[str, float], loss: Loss) -> Tensor:
    """Return the derivative, by each of these block weights, of each picture's loss, `(seeds, blocks)` in fp64.

    `loss` is the sum over the pictures, of which none depends on another one's latents. Each step of the trajectory is
    differentiated by itself, the last first, and handed the derivative by the latents after it. Of small latents the
    activations of all steps are kept; of others those of one step alone, which are computed again. BASE and REST stay
    as in the instrumented weights.
    """
    walk = _Walk(instrumented, effect.prompt, weights, len(effect.seeds))
    height, width = effect.whole.shape[-2:]
    small = height * width <= SMALL
    try:
        steps, latents = [], initial_noise(instrumented, effect.seeds)
        for number in range(len(walk.timesteps)):
            step = walk.step(number, latents, graph=small)
            steps.append(step)
            latents = step.after.detach()
        latents.requires_grad_()
        with torch.enable_grad():
            (by_latents,) = torch.autograd.grad(loss(latents), latents)
        total = torch.zeros(len(effect.seeds), len(weights), dtype=torch.float64)
        while steps:
            step = steps.pop()
            if not small:
                step = walk.step(step.number, step.before, graph=True)
            by_latents, by_weights = _derivatives(step, by_latents)
            instrumented.count_backward(by_latents)
            total += by_weights.double().cpu()
    finally:
        instrumented.set_weights(instrumented.weights)
    return total


@dataclass(frozen=True, eq=False)
class _Step:
    """A step of the trajectory: latents before and after it, and its block weights `(seeds, blocks)`."""

    number: int
    before: Tensor
    weights: Tensor
    after: Tensor


class _Walk:
    """A trajectory step by step, under block weights that autograd can differentiate by, for each picture apart."""

    def __init__(self, instrumented: InstrumentedModel, prompt: str, weights: Mapping[str, float], pictures: int):
        self._instrumented, self._prompt, self._blocks = instrumented, prompt, tuple(weights)
        self.timesteps = ddim_timesteps(instrumented.grid.steps, len(instrumented.model.alphas_cumprod))
        instrumented.set_weights(instrumented.weights)
        instrumented.conditioning(prompt)  # encoded under BASE's weight, before factors take its place
        device = next(instrumented.model.unet.parameters()).device
        self._weights = torch.tensor([list(weights.values())] * pictures, device=device)
        self._rest = torch.tensor(instrumented.weights[REST], device=device)

    def step(self, number: int, latents: Tensor, *, graph: bool) -> _Step:
        """Compute a step, with its autograd graph if wanted."""
        before, weights = latents.detach().requires_grad_(graph), self._weights.clone().requires_grad_(graph)
        timestep = self.timesteps[number]
        after = self.timesteps[number + 1] if number + 1 < len(self.timesteps) else None
        with torch.set_grad_enabled(graph):
            copies = 2 if self._instrumented.grid.guided else 1
            by_block = dict(zip(self._blocks, weights.repeat(copies, 1).unbind(dim=1)))
            self._instrumented.hooks.set_factors({REST: self._rest, **by_block})
            noise = self._instrumented.predict(before, timestep, self._prompt)
            return _Step(number, before, weights, ddim_step(self._instrumented, before, noise, timestep, after))


def _derivatives(step: _Step, by_after: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives by the latents before a step and by its weights, given that by the latents after it."""
    # of unit size, so that half precision does not lose small ones
    size = by_after.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    by_before, by_weights = torch.autograd.grad((step.after * (by_after / size)).sum(), (step.before, step.weights))
    return by_before * size, by_weights * size
