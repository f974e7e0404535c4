"""An analysis of a model's predicted noise, from features to figures; several features share what they can."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lib_blocktrain.analysis.attribution import (
    FAST_TIMESTEPS,
    Pause,
    integrated_gradients,
    leave_one_out,
    norm,
    one_only,
    without,
)
from lib_blocktrain.analysis.instrumented_model import InstrumentedModel, check_channels, instrument
from lib_blocktrain.analysis.interactions import interactions, leave_two_out
from lib_blocktrain.analysis.pairs import Names, pairs_from, pairs_of
from lib_blocktrain.analysis.regions import WHOLE_IMAGE, Feature, fixed_region, strong
from lib_blocktrain.analysis.request import Options, settings_json
from lib_blocktrain.analysis.results import Analysis, Observation
from lib_blocktrain.analysis.sampling_grid import TIMESTEPS, SamplingGrid
from lib_blocktrain.analysis.statistics import by_draw
from lib_blocktrain.analysis.trajectory import Trajectory, TrajectoryPoint, steps_walked, walk
from lib_blocktrain.blocks import BASE, REST
from lib_blocktrain.model.protocol import Model, Progress
from lib_blocktrain.networks.files import Network

Regions = Mapping[tuple[str, int], Tensor]  # by prompt and seed: (1, h, w)
Measured = tuple[Tensor, Tensor]  # values `(seeds, blocks)`, the whole effect `(seeds,)`
Measure = Callable[[Tensor | None], Measured]  # in a region (seeds, 1, h, w), or everywhere
MeasurePairs = Callable[[Tensor | None], Mapping[Names, list[float]]]  # likewise; a value a seed


def analyse(
    model: Model,
    network: Network,
    grid: SamplingGrid,
    method: str = "exact",
    features: Sequence[Feature] = (WHOLE_IMAGE,),
    *,
    options: Options | None = None,
    progress: Progress | None = None,
) -> tuple[Analysis, ...]:
    """Return an analysis of each feature; what they have in common is computed once, and each states the whole cost.

    What `progress` raises ends the analysis, and the model is as before. Raises ValueError for what cannot be asked.
    """
    if method not in NOISE_METHODS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(NOISE_METHODS)}")
    if not features:
        raise ValueError("no feature: expected at least one")
    options, began = options or Options(), time.perf_counter()
    fast = method == "fast"
    grid = grid.with_timesteps(FAST_TIMESTEPS if fast else TIMESTEPS)
    with instrument(model, network, grid, options.weights, options.multiplier) as instrumented:
        words = list(dict.fromkeys(feature.word for feature in features if feature.word is not None))
        parts = options.nodes * len(features) if fast else len(instrumented.blocks)
        parts += len(set(instrumented.blocks) - {BASE, REST}) if options.pairs else 0
        counter = _Counter(progress, instrumented, bool(words), parts)
        trajectory = walk(instrumented, words, counter.walked)
        measured = [_MeasuredFeature(feature, _regions(feature, instrumented, trajectory)) for feature in features]
        for point in trajectory.points:
            measure = _MEASURES[method](instrumented, point, options, counter.pause)
            of_pairs = _of_pairs(instrumented, point, counter.pause) if options.pairs else None
            for of_feature in measured:
                of_feature.add(point, measure, of_pairs)
        of_method = {"nodes": options.nodes} if fast else {"value": options.value}
        settings = {**settings_json(network, grid, options), **of_method}
        seconds = time.perf_counter() - began
        return tuple(of_feature.analysis(instrumented, method, settings, seconds) for of_feature in measured)


def region_masks(
    model: Model, network: Network, grid: SamplingGrid, feature: Feature, options: Options | None = None
) -> dict[tuple[str, int], Image.Image] | None:
    """Return the feature's region in every image as a mask at the latents' size, None for the whole image.

    Only for a word does the model predict anything, for its attention.
    """
    if feature.word is None:
        check_channels(model)
        regions = _fixed_regions(feature, grid, model)
    else:
        options = options or Options()
        with instrument(model, network, grid, options.weights, options.multiplier) as instrumented:
            regions = _regions(feature, instrumented, walk(instrumented, [feature.word]))
    if regions is None:
        return None
    return {key: Image.fromarray((region[0] * 255).byte().cpu().numpy()) for key, region in regions.items()}


def _exact(instrumented: InstrumentedModel, point: TrajectoryPoint, options: Options, pause: Pause) -> Measure:
    return _in_regions(instrumented, point, leave_one_out(instrumented, point, options.value, pause))


def _one_only(instrumented: InstrumentedModel, point: TrajectoryPoint, _options: Options, pause: Pause) -> Measure:
    return _in_regions(instrumented, point, one_only(instrumented, point, pause))


def _in_regions(instrumented: InstrumentedModel, point: TrajectoryPoint, changes: Mapping[str, Tensor]) -> Measure:
    effect = point.noise - without(instrumented, point)

    def measure(region: Tensor | None) -> Measured:
        values = torch.stack([norm(changes[block], region) for block in instrumented.blocks], dim=1)
        return values.double().cpu(), norm(effect, region).double().cpu()

    return measure


def _fast(instrumented: InstrumentedModel, point: TrajectoryPoint, options: Options, pause: Pause) -> Measure:
    def measure(region: Tensor | None) -> Measured:
        found = integrated_gradients(instrumented, point, region, options.nodes, pause)
        return found.values, found.whole

    return measure


def _of_pairs(instrumented: InstrumentedModel, point: TrajectoryPoint, pause: Pause) -> MeasurePairs:
    changes, effect = leave_two_out(instrumented, point, pause), point.noise - without(instrumented, point)
    return lambda region: interactions(changes, effect, region)


_MEASURES: Mapping[str, Callable[[InstrumentedModel, TrajectoryPoint, Options, Pause], Measure]] = {
    "exact": _exact,
    "fast": _fast,
    "one-only": _one_only,
}
NOISE_METHODS = tuple(_MEASURES)  # those that compare predicted noise


@dataclass(eq=False)
class _MeasuredFeature:
    """What was measured of one feature; `regions` None is everywhere."""

    feature: Feature
    regions: Regions | None
    observations: list[Observation] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    of_pairs: list[list[float]] = field(default_factory=list)  # a row an observation, a column a pair

    def add(self, point: TrajectoryPoint, measure: Measure, of_pairs: MeasurePairs | None = None) -> None:
        """Measure at this point, if the feature is in its images."""
        region = None
        if self.regions is not None:
            if (point.prompt, point.seeds[0]) not in self.regions:
                return
            found = [self.regions[point.prompt, seed] for seed in point.seeds]
            region = torch.stack(found).to(point.latents.device)
        values, whole = measure(region)
        if not (whole > 0).all():
            raise ValueError(f"the LoRA changes nothing in {self.feature.title}: there is nothing to tell blocks by")
        for seed, row, size in zip(point.seeds, values / whole[:, None], whole.tolist()):
            self.observations.append(Observation(point.prompt, seed, point.timestep, point.stretch, size))
            self.values.append(row)
        if of_pairs is not None:
            found_pairs = of_pairs(region)
            self.of_pairs += [list(row) for row in zip(*found_pairs.values())]

    def analysis(
        self, instrumented: InstrumentedModel, method: str, settings: Mapping[str, Any], seconds: float
    ) -> Analysis:
        sums = [float(row.sum()) * at.whole for row, at in zip(self.values, self.observations)]
        complete = sum(sums) / sum(at.whole for at in self.observations) if method == "fast" else None
        regions = None if self.regions is None else list(self.regions.values())
        names = pairs_of(instrumented.blocks)
        draws = by_draw(self.observations, self.of_pairs) if self.of_pairs and names else None
        return Analysis(
            method=method,
            architecture=instrumented.model.architecture,
            name=instrumented.network.name,
            model=instrumented.model.name,
            feature=self.feature.title,
            blocks=instrumented.blocks,
            observations=tuple(self.observations),
            values=tuple(tuple(row.tolist()) for row in self.values),
            area_share=None if regions is None else float(torch.stack(regions).mean()),
            completeness=complete,
            evaluations=instrumented.evaluations,
            seconds=seconds,
            settings=settings,
            pairs=() if draws is None else pairs_from(names, draws),
        )


class _Counter:
    """Progress over the trajectory and the measurements after it, in parts that take about as long as each other."""

    def __init__(self, progress: Progress | None, instrumented: InstrumentedModel, words: bool, parts: int) -> None:
        """`parts` of the work at each point."""
        self._report, self._done = progress, 0
        grid = instrumented.grid
        groups = len(grid.prompts) * len(grid.seed_batches(instrumented.model))
        self._total = groups * (steps_walked(grid, words) + len(grid.compared_steps) * parts)

    def walked(self, done: int, _steps: int) -> None:
        self._done = done - 1
        self.pause()

    def pause(self) -> None:
        self._done += 1
        if self._report is not None:
            self._report(self._done, self._total)


def _regions(feature: Feature, instrumented: InstrumentedModel, trajectory: Trajectory) -> Regions | None:
    """Return the feature's region in every image that has it, None for the whole image."""
    if feature.word is not None:
        maps = trajectory.heat_maps.items()
        return {(prompt, seed): strong(heat_map) for (word, prompt, seed), heat_map in maps if word == feature.word}
    return _fixed_regions(feature, instrumented.grid, instrumented.model)


def _fixed_regions(feature: Feature, grid: SamplingGrid, model: Model) -> Regions | None:
    """Return the region of a box or mask for every image, None for the whole image."""
    fixed = fixed_region(feature, grid.latent_size(model))
    if fixed is None:
        return None
    return {(prompt, seed): fixed for prompt in grid.prompts for seed in grid.seeds}
