"""Ways to search for block weights, each within the same number of U-Net evaluations; for benchmarks/solve.py.

All measure kept and leaked as `lib_blocktrain.analysis.solve` does, on the same seeds, and give POINTS weights for its
front. Those that search lower (1 - kept) + pressure * max(leaked, 0)^2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from lib_blocktrain.analysis.instrumented_model import InstrumentedModel
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.solve import BATCH, POINTS, START, seeds_apart
from lib_blocktrain.analysis.solve_effect import Effect, latents_under, measure_effect, shared_change
from lib_blocktrain.analysis.weight_rules import rounded
from lib_blocktrain.weights.block_weights import BlockWeights

LOW, HIGH = -0.5, 1.5
PRESSURES = (0.5, 1.0, 2.0, 4.0)  # one for each of POINTS
RIDGE = 0.3  # on the pairs of a surrogate, beside differences of the order of 0.1

Tries = list[tuple[np.ndarray, float, float]]  # weights, kept, leaked


class Measure:
    """Kept and leaked of any weights of the network's blocks, until `budget` leaves just the drawing of the front."""

    def __init__(self, on: InstrumentedModel, keep: Feature, drop: Feature | None, budget: int):
        self.on, self.blocks = on, tuple(block for block in on.blocks if block not in ("BASE", "REST"))
        (prompt,), parts = on.grid.prompts, seeds_apart(on.grid.seeds)
        effects = [measure_effect(on, prompt, seeds, keep, drop) for seeds in parts]
        shared = shared_change(effects)
        self.searched, self.unseen = (replace(effect, shared=shared) for effect in effects)
        walk = on.grid.steps * (2 if on.grid.guided else 1)
        self._last = budget - POINTS * walk * len(parts[1])
        self._of_picture, self._rng = walk, np.random.default_rng(0)

    def weights(self, values: np.ndarray) -> BlockWeights:
        """Return them as they are drawn."""
        return self.on.weights.replace({block: rounded(float(v)) for block, v in zip(self.blocks, values)})

    def some(self, count: int = BATCH) -> list[int]:
        """Draw the places of some seeds."""
        return sorted(self._rng.choice(len(self.searched.seeds), count, replace=False).tolist())

    def affords(self, pictures: int = BATCH) -> bool:
        return self.on.evaluations + pictures * self._of_picture <= self._last

    def shares(self, values: np.ndarray, effect: Effect) -> tuple[float, float]:
        """Return kept and leaked, means over the effect's seeds weighed as in the search."""
        latents = latents_under(self.on, effect.prompt, effect.seeds, self.weights(values))
        return self.means(effect, latents)

    @staticmethod
    def means(effect: Effect, latents: Tensor) -> tuple[float, float]:
        pairs = zip(effect.shares(latents), effect.sizes)
        kept, leaked = (float((share * size).sum() / size.sum()) for share, size in pairs)
        return kept, leaked

    def at(self, values: np.ndarray, places: Sequence[int]) -> tuple[float, float]:
        return self.shares(values, self.searched.of(places))


def loss(kept: float, leaked: float, pressure: float = 1.0) -> float:
    return 1 - kept + pressure * max(leaked, 0.0) ** 2


def cma_es(measure: Measure, rng: np.random.Generator) -> list[np.ndarray]:
    """(mu/mu_w, lambda)-CMA-ES (Hansen 2016, 1604.00772); the front is its mean after each of the last generations."""
    n, size = len(measure.blocks), 6
    mu = size // 2
    raw = np.log(mu + 0.5) - np.log(np.arange(1, mu + 1))
    part = raw / raw.sum()
    mass = 1 / (part**2).sum()
    c_sigma, c_c = (mass + 2) / (n + mass + 5), (4 + mass / n) / (n + 4 + 2 * mass / n)
    c_1 = 2 / ((n + 1.3) ** 2 + mass)
    c_mu = min(1 - c_1, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
    damping = 1 + 2 * max(0, np.sqrt((mass - 1) / (n + 1)) - 1) + c_sigma
    expected = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    mean, sigma, covariance = np.full(n, START), 0.3, np.eye(n)
    path_sigma, path_c, means = np.zeros(n), np.zeros(n), []
    while measure.affords(size * BATCH):
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 1e-12))
        steps = rng.standard_normal((size, n)) @ root.T
        places = measure.some()
        drawn = [np.clip(mean + sigma * step, LOW, HIGH) for step in steps]
        order = np.argsort([loss(*measure.at(one, places)) for one in drawn])[:mu]
        best = steps[order]
        step = part @ best
        mean = np.clip(mean + sigma * step, LOW, HIGH)
        path_sigma = (1 - c_sigma) * path_sigma + np.sqrt(c_sigma * (2 - c_sigma) * mass) * (
            vectors @ ((vectors.T @ step) / np.sqrt(np.maximum(values, 1e-12)))
        )
        path_c = (1 - c_c) * path_c + np.sqrt(c_c * (2 - c_c) * mass) * step
        covariance = (1 - c_1 - c_mu) * covariance + c_1 * np.outer(path_c, path_c) + c_mu * (best.T * part) @ best
        sigma *= np.exp(c_sigma / damping * (np.linalg.norm(path_sigma) / expected - 1))
        means.append(mean)
    return means[-POINTS:]


def coordinates(measure: Measure, rng: np.random.Generator) -> list[np.ndarray]:
    """One block at a time up or down, kept if that lowers the loss on the same seeds; states evenly spaced in time.

    A trajectory changes from its first step on, so that blocks before the changed one can be reused in that step only:
    each try is counted whole.
    """
    now, states = np.full(len(measure.blocks), START), []
    places = measure.some()
    least = loss(*measure.at(now, places))
    order = itertools.cycle(rng.permutation(len(now)))
    while measure.affords():
        block = next(order)
        for change in (0.4, -0.4):
            if not measure.affords():
                break
            other = now.copy()
            other[block] = np.clip(other[block] + change, LOW, HIGH)
            found = loss(*measure.at(other, places))
            if found < least:
                now, least = other, found
                break
        states.append(now)
    return [states[round(len(states) * (n + 1) / POINTS) - 1] for n in range(POINTS)]


def random_weights(measure: Measure, rng: np.random.Generator) -> list[np.ndarray]:
    """Uniform from -0.3 to 1.3; the best for each pressure."""
    tries: Tries = []
    while measure.affords():
        drawn = rng.uniform(-0.3, 1.3, len(measure.blocks))
        tries.append((drawn, *measure.at(drawn, measure.some())))
    return [min(tries, key=lambda one: loss(one[1], one[2], pressure))[0] for pressure in PRESSURES]


def shap_with_pairs(measure: Measure, rng: np.random.Generator) -> list[np.ndarray]:
    """Paired KernelSHAP with pairs of blocks, and a search on the surrogate between 0 and 1 for each pressure."""
    kept, leaked = surrogates(paired_coalitions(measure, rng))
    return [_least(kept, leaked, pressure, len(measure.blocks), rng) for pressure in PRESSURES]


def paired_coalitions(measure: Measure, rng: np.random.Generator, pictures: int = 2) -> Tries:
    """Draw sets of blocks and their complements on the same seeds: sizes by SHAP's kernel (1705.07874), paired as in
    2601.18608.
    """
    n = len(measure.blocks)
    sizes = np.arange(1, n)
    likely = (n - 1) / (sizes * (n - sizes))
    tries: Tries = []
    while measure.affords(2 * pictures):
        mask = np.zeros(n)
        mask[rng.choice(n, rng.choice(sizes, p=likely / likely.sum()), replace=False)] = 1
        places = measure.some(pictures)
        tries += [(one, *measure.at(one, places)) for one in (mask, 1 - mask)]
    return tries


Surrogate = Callable[[np.ndarray], np.ndarray]  # of weights (..., blocks)


def surrogates(tries: Tries) -> tuple[Surrogate, Surrogate]:
    """Return kept and leaked as functions with a part of each block and each pair, 0 for none and 1 for all."""
    masks = np.array([one[0] for one in tries])
    n = masks.shape[1]
    ends, weight = np.stack([np.zeros(n), np.ones(n)]), 30.0
    design = np.concatenate([pairs_of(masks), weight * pairs_of(ends)])
    ridge = np.diag(np.r_[np.full(n, RIDGE / 10), np.full(design.shape[1] - n, RIDGE)])
    found = []
    for place in (1, 2):
        target = np.r_[[one[place] for one in tries], 0.0, weight]
        parts = np.linalg.solve(design.T @ design + ridge, design.T @ target)
        found.append(lambda values, parts=parts: pairs_of(values) @ parts)
    return found[0], found[1]


def pairs_of(values: np.ndarray) -> np.ndarray:
    """Return each block's value and the product of each pair, `(..., blocks + pairs)`."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return np.concatenate([values, values[..., first] * values[..., second]], axis=-1)


def _least(kept: Surrogate, leaked: Surrogate, pressure: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the values between 0 and 1 of least predicted loss, by descent along one block at a time."""

    def predicted(values: np.ndarray) -> np.ndarray:
        return 1 - np.minimum(kept(values), 1) + pressure * np.maximum(leaked(values), 0) ** 2

    starts = rng.uniform(0, 1, (30, n))
    for _ in range(10):
        for block in range(n):
            options = np.repeat(starts[:, None], 11, axis=1)
            options[:, :, block] = np.linspace(0, 1, 11)
            starts[:, block] = np.linspace(0, 1, 11)[predicted(options).argmin(axis=1)]
    return starts[predicted(starts).argmin()]


SEARCHES: Mapping[str, Callable[[Measure, np.random.Generator], list[np.ndarray]]] = {
    "CMA-ES": cma_es,
    "coordinates": coordinates,
    "SHAP with pairs": shap_with_pairs,
    "random": random_weights,
}
