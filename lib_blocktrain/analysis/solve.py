"""Search for the block weights that keep one feature of a LoRA and drop another: "keep A, drop B".

The search is Adam (Kingma & Ba 2015, 1412.6980) on the weights, by gradients through the trajectory that they draw
(`solve_effect`), from START of the LoRA as it is. With a few seeds at a time it lowers

    L = mean (1 - kept) + mean max(leaked, 0)^2

each mean weighing a seed by the size of the LoRA's effect there, and no seed's derivatives longer than LONGEST: of the
few where B is about to go they are many times the others', and one of them slows all of Adam's later steps.

That leads from most of A and B to less and less of B. Weights on that way are drawn for seeds that the search does not
use; those that no others beat both in A and in B are the front.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib_blocktrain.analysis.instrumented_model import BACKWARD, InstrumentedModel, instrument
from lib_blocktrain.analysis.request import settings_json
from lib_blocktrain.analysis.sampling_grid import SMALL
from lib_blocktrain.analysis.solve_effect import Effect, gradient, latents_under, measure_effect, shared_change
from lib_blocktrain.analysis.solve_result import (
    BOUNDS,
    TOGETHER,
    Solution,
    Solved,
    SolveRequest,
    front_of,
    parts,
    worth,
)
from lib_blocktrain.analysis.weight_rules import rounded
from lib_blocktrain.blocks import BASE, REST
from lib_blocktrain.model.protocol import Model, Progress
from lib_blocktrain.weights.block_weights import BlockWeights

BATCH = 4  # pictures of one step of the search
RATES = (0.16, 0.08)  # of the first step and the last
MEAN_DECAY, SQUARE_DECAY = 0.8, 0.95  # of Adam, for some ten steps
START = 0.6  # of the whole strength: near where most of A is left
POINTS = 4  # of the way, that are drawn for the other seeds
UNSEEN = 0.4  # part of the seeds that solutions are measured on, and the search does not use
LONGEST = 0.5  # derivatives of one picture: of few, where B is undecided, they are many times those of the others
FEWEST_STEPS = 4
WEAK = 0.25  # sparse weights below it are 0
SHRINKING = 0.03  # pull of sparse weights towards 0, beside derivatives of the order of 0.1


def solve(
    model: Model,
    request: SolveRequest,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Solved:
    """Return the answer; the model is afterwards as before.

    `stop` is asked before each part of the work: when it is true, the best until then is returned. Raises ValueError
    for a budget that is too small, and where there is nothing to keep or to drop.
    """
    began = time.perf_counter()
    with instrument(model, request.network, request.grid, request.options.weights, request.options.multiplier) as on:
        search = _Search(on, request, progress or (lambda done, of: None), stop or (lambda: False))
        search.run()
        return search.answer(time.perf_counter() - began)


class _Stopped(Exception):
    """The search is to end with what it has."""


@dataclass(frozen=True, eq=False)
class _Measured:
    """Weights drawn for the unseen seeds, and the first of their latents `(1, 4, h, w)`."""

    solution: Solution
    latents: Tensor
    worth: float


class _Search:
    def __init__(
        self, instrumented: InstrumentedModel, request: SolveRequest, progress: Progress, stop: Callable[[], bool]
    ):
        self._on, self._request, self._progress, self._stop = instrumented, request, progress, stop
        grid, model = instrumented.grid, instrumented.model
        searched, unseen = seeds_apart(grid.seeds)
        self._seeds = [replace(grid, seeds=seeds).seed_batches(model) for seeds in (searched, unseen)]
        self._pictures = len(grid.prompts) * len(grid.seeds)
        self._batch = min(BATCH, len(grid.prompts) * len(searched))
        height, width = grid.latent_size(model)
        self._remember = height * width <= SMALL
        walk = grid.steps * (2 if grid.guided else 1)
        self._of_regions = 2 * walk * len(grid.prompts) * len({*searched, *unseen})
        self._of_drawing = walk * len(grid.prompts) * len(unseen)
        self._of_gradient = walk * self._batch * (1 + BACKWARD + (0 if self._remember else 1))
        self.steps = self._planned()
        self._blocks = tuple(block for block in instrumented.blocks if block not in (BASE, REST))
        if not self._blocks:
            raise ValueError(f"{request.network.name!r} acts in no block of the U-Net: there are no weights to find")
        self._searched: list[Effect] = []
        self._unseen: list[Effect] = []
        self._found: list[_Measured] = []
        self._finished = False

    def _planned(self) -> int:
        """Return how many steps the budget allows; raises ValueError for too few."""
        fixed = self._of_regions + POINTS * self._of_drawing
        steps = int((self._request.budget - fixed) // self._of_gradient)
        if steps < FEWEST_STEPS:
            least = fixed + FEWEST_STEPS * self._of_gradient
            raise ValueError(
                f"a budget of {self._request.budget} U-Net evaluations: expected at least {least} for"
                f" {self._pictures} pictures; or ask for fewer seeds or prompts"
            )
        return steps

    def run(self) -> None:
        try:
            self._prepare()
            self._walk()
            self._finished = True
        except _Stopped:
            pass

    def _pause(self) -> None:
        self._progress(round(self._on.evaluations), self._request.budget)
        if self._stop():
            raise _Stopped

    # --- what there is to keep and to drop --------------------------------------------------------------------------

    def _prepare(self) -> None:
        measured: dict[tuple[str, tuple[int, ...]], Effect] = {}
        for prompt in self._on.grid.prompts:
            of_prompt = [(prompt, seeds) for batches in self._seeds for seeds in batches]
            for key in dict.fromkeys(of_prompt):
                self._pause()
                measured[key] = measure_effect(self._on, *key, self._request.keep, self._request.drop)
            shared = shared_change([measured[key] for key in dict.fromkeys(of_prompt)])
            for key in of_prompt:
                measured[key] = replace(measured[key], shared=shared)
        self._searched, self._unseen = (
            [measured[prompt, seeds] for prompt in self._on.grid.prompts for seeds in batches]
            for batches in self._seeds
        )
        sizes = [effect.sizes for effect in self._searched]
        self._mean_sizes = [float(torch.cat([size[n] for size in sizes]).mean()) for n in (0, 1)]
        for size, feature, what in zip(self._mean_sizes, ("A", "B"), ("keep", "drop")):
            if not size > 0:
                raise ValueError(f"the LoRA changes nothing in {feature}: there is nothing to {what}")
        self._found.append(self._measured(self._on.weights, [effect.whole for effect in self._unseen]))

    # --- the search -------------------------------------------------------------------------------------------------

    def _walk(self) -> None:
        low, high = BOUNDS[self._request.kind]
        weights = np.clip([START * self._on.weights[block] for block in self._blocks], low, high)
        adam = _Adam(len(weights))
        drawn_after = {round(self.steps * (n + 1) / POINTS) for n in range(POINTS)}
        batches = self._batches()
        rates = np.geomspace(*RATES, self.steps)
        for step in range(self.steps):
            slope = self._slope(weights, next(batches))
            if self._request.kind == "sparse":
                slope += SHRINKING * np.sign(weights)
            weights = np.clip(weights - rates[step] * adam.direction(slope), low, high)
            if step + 1 in drawn_after:
                self._draw(weights)

    def _batches(self) -> Iterator[list[tuple[int, list[int]]]]:
        """Yield some pictures at a time, all of them in changing order: places of effects, and of seeds in each."""
        rng = random.Random(0)
        left: list[tuple[int, int]] = []
        while True:
            if len(left) < self._batch:
                every = [(n, seed) for n, effect in enumerate(self._searched) for seed in range(len(effect.seeds))]
                left = [*rng.sample(every, len(every)), *left]
            chosen, left = left[-self._batch :], left[: -self._batch]
            yield [(n, [seed for of, seed in chosen if of == n]) for n in sorted({of for of, _ in chosen})]

    def _slope(self, weights: np.ndarray, chosen: Sequence[tuple[int, list[int]]]) -> np.ndarray:
        """Return the loss's derivative by each weight at the weights that would be drawn, of pictures as if clipped."""
        total = np.zeros(len(weights))
        at = self._as_drawn(weights)
        for number, places in chosen:
            self._pause()
            effect = self._searched[number].of(sorted(set(places)))
            found = gradient(self._on, effect, at, partial(self._loss, effect))
            total += clipped(found).sum(dim=0).numpy()
        return total / self._batch

    def _loss(self, effect: Effect, latents: Tensor) -> Tensor:
        (in_a, in_b), (kept, leaked) = effect.sizes, effect.shares(latents)
        mean_a, mean_b = self._mean_sizes
        return (in_a / mean_a * (1 - kept)).sum() + (in_b / mean_b * leaked.relu().square()).sum()

    def _as_drawn(self, weights: np.ndarray) -> dict[str, float]:
        """Return the weights as they are drawn and given out, whose derivatives the search takes for its own."""
        kind = self._request.kind
        if kind == "on-off":
            return {block: float(weight >= 0.5) for block, weight in zip(self._blocks, weights)}
        weak = WEAK if kind == "sparse" else 0.0
        return {block: rounded(w) if abs(w) >= weak else 0.0 for block, w in zip(self._blocks, weights.tolist())}

    def _draw(self, weights: np.ndarray) -> None:
        """Draw these weights for every seed that the search does not use."""
        whole = self._on.weights
        drawn = whole.replace({BASE: whole.base, REST: whole.rest, **self._as_drawn(weights)})
        latents = []
        for effect in self._unseen:
            self._pause()
            latents.append(latents_under(self._on, effect.prompt, effect.seeds, drawn))
        self._found.append(self._measured(drawn, latents))

    def _measured(self, weights: BlockWeights, latents: Sequence[Tensor]) -> _Measured:
        """Measure the unseen seeds' latents under these weights."""
        shares = [effect.shares(found) for effect, found in zip(self._unseen, latents)]
        kept, leaked = (torch.cat([share[n] for share in shares]) for n in (0, 1))
        in_a, in_b = (torch.cat([effect.sizes[n] for effect in self._unseen]) for n in (0, 1))
        solution = Solution(weights, float((kept * in_a).sum() / in_a.sum()), float((leaked * in_b).sum() / in_b.sum()))
        return _Measured(solution, latents[0][:1], worth(kept.tolist(), leaked.tolist()))

    # --- the answer -------------------------------------------------------------------------------------------------

    def answer(self, seconds: float) -> Solved:
        request, model = self._request, self._on.model
        known = {found.solution: found for found in self._found}
        front = front_of(known) or (Solution(self._on.weights, 1.0, 1.0),)
        pictured = tuple(self._pictured(solution, known.get(solution)) for solution in front)
        worths = [known[solution].worth if solution in known else 0.0 for solution in front]
        drop = "everything else" if request.drop is None else request.drop.title
        shares = [effect.keep for effect in (*self._searched, *self._unseen)]
        return Solved(
            architecture=model.architecture,
            name=request.network.name,
            model=model.name,
            keep=request.keep.title,
            drop=drop,
            kind=request.kind,
            front=pictured,
            chosen=max(range(len(front)), key=worths.__getitem__),
            area_share=float(torch.cat(shares).mean()) if shares else 0.0,
            evaluations=self._on.evaluations,
            budget=request.budget,
            seconds=seconds,
            pictures=self._pictures,
            finished=self._finished,
            notices=() if parts(front) or not self._finished else (TOGETHER,),
            settings=settings_json(request.network, request.grid, request.options),
        )

    def _pictured(self, solution: Solution, found: _Measured | None) -> Solution:
        if found is None:
            return solution
        picture: Image.Image = self._on.model.decode(found.latents)[0]
        return Solution(solution.weights, solution.kept, solution.leaked, picture)


def clipped(slopes: Tensor) -> Tensor:
    """Shorten each picture's derivatives `(pictures, blocks)` to a length of LONGEST."""
    return slopes * (LONGEST / slopes.norm(dim=1, keepdim=True).clamp(min=LONGEST))


def seeds_apart(seeds: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the seeds to search with and those to measure on; a single one is both."""
    unseen = round(UNSEEN * len(seeds)) or 1
    return (seeds[:-unseen], seeds[-unseen:]) if len(seeds) > 1 else (seeds, seeds)


class _Adam:
    """Adam's directions for a few steps."""

    def __init__(self, count: int):
        self._steps, self._mean, self._square = 0, np.zeros(count), np.zeros(count)

    def direction(self, slope: np.ndarray) -> np.ndarray:
        self._steps += 1
        self._mean = MEAN_DECAY * self._mean + (1 - MEAN_DECAY) * slope
        self._square = SQUARE_DECAY * self._square + (1 - SQUARE_DECAY) * slope**2
        mean = self._mean / (1 - MEAN_DECAY**self._steps)
        square = self._square / (1 - SQUARE_DECAY**self._steps)
        return mean / (np.sqrt(square) + 1e-8)
