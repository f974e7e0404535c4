"""An analysis from its question to its figures: walk, look, measure, for one feature or for several at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from PIL import Image
from torch import Tensor

from lib_blocktrain.analysis import integrated
from lib_blocktrain.analysis.effects import Pause, leave_one_out, one_only, without
from lib_blocktrain.analysis.instrumented_model import InstrumentedModel, staged
from lib_blocktrain.analysis.integrated import NODES, integrated_gradients, norm
from lib_blocktrain.analysis.regions import Feature, fixed_region, strong
from lib_blocktrain.analysis.results import Analysis, Observation
from lib_blocktrain.analysis.sampling_grid import LOOKS, SamplingGrid
from lib_blocktrain.analysis.trajectory import Progress, TrajectoryPoint, Walked, steps_walked, walked
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights

EVERYTHING = Feature()

Regions = Mapping[tuple[str, int], Tensor]  # by prompt and seed: (1, h, w)
Measured = tuple[Tensor, Tensor]  # values `(seeds, blocks)`, the whole effect `(seeds,)`
Measure = Callable[[Tensor | None], Measured]  # in a region (seeds, 1, h, w), or everywhere


@dataclass(frozen=True)
class Options:
    """How a method goes about it: `value` is what "exact" lowers a block to, `nodes` are those of "fast"."""

    weights: BlockWeights | None = None  # None: 1 everywhere
    multiplier: float = 1.0
    value: float = 0.0
    nodes: int = NODES


def analyse(
    model: Model,
    network: Network,
    setting: SamplingGrid,
    method: str = "exact",
    features: Sequence[Feature] = (EVERYTHING,),
    *,
    options: Options | None = None,
    progress: Progress | None = None,
) -> tuple[Analysis, ...]:
    """Return an analysis of each feature; what they have in common is computed once, and each says the whole cost.

    What `progress` raises ends it, with the model as it was. Raises ValueError for what cannot be asked.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if not features:
        raise ValueError("no feature: expected at least one")
    options, began = options or Options(), time.perf_counter()
    setting = setting.looking(integrated.LOOKS if method == "fast" else LOOKS)
    with staged(model, network, setting, options.weights, options.multiplier) as stage:
        words = list(dict.fromkeys(feature.word for feature in features if feature.word is not None))
        counter = _Counter(progress, stage, bool(words), options.nodes * len(features) if method == "fast" else None)
        found = walked(stage, words, counter.walked)
        gathered = [_Gathered(feature, _regions(feature, stage, found)) for feature in features]
        for moment in found.moments:
            measure = _MEASURES[method](stage, moment, options, counter.pause)
            for of_feature in gathered:
                of_feature.take(moment, measure)
        asked = _asked(setting, stage, method, options)
        cost = {"evaluations": stage.evaluations, "seconds": time.perf_counter() - began}
        return tuple(of_feature.analysis(stage, method, setting=asked, **cost) for of_feature in gathered)


def masks_of(
    model: Model, network: Network, setting: SamplingGrid, feature: Feature, options: Options | None = None
) -> dict[tuple[str, int], Image.Image] | None:
    """Return the feature's region in every picture as a mask at the latents' size, None for everything."""
    options = options or Options()
    with staged(model, network, setting.looking(LOOKS), options.weights, options.multiplier) as stage:
        found = walked(stage, [feature.word]) if feature.word is not None else Walked((), {})
        regions = _regions(feature, stage, found)
    if regions is None:
        return None
    return {key: Image.fromarray((region[0] * 255).byte().cpu().numpy()) for key, region in regions.items()}


def _exact(stage: InstrumentedModel, moment: TrajectoryPoint, options: Options, pause: Pause) -> Measure:
    return _in_regions(stage, moment, leave_one_out(stage, moment, options.value, pause))


def _alone(stage: InstrumentedModel, moment: TrajectoryPoint, options: Options, pause: Pause) -> Measure:
    return _in_regions(stage, moment, one_only(stage, moment, pause))


def _in_regions(stage: InstrumentedModel, moment: TrajectoryPoint, changes: Mapping[str, Tensor]) -> Measure:
    effect = moment.noise - without(stage, moment)

    def measure(region: Tensor | None) -> Measured:
        values = torch.stack([norm(changes[block], region) for block in stage.blocks], dim=1)
        return values.double().cpu(), norm(effect, region).double().cpu()

    return measure


def _fast(stage: InstrumentedModel, moment: TrajectoryPoint, options: Options, pause: Pause) -> Measure:
    def measure(region: Tensor | None) -> Measured:
        found = integrated_gradients(stage, moment, region, options.nodes, pause)
        return found.values, found.whole

    return measure


_MEASURES: Mapping[str, Callable[[InstrumentedModel, TrajectoryPoint, Options, Pause], Measure]] = {
    "exact": _exact,
    "fast": _fast,
    "one-only": _alone,
}
METHODS = tuple(_MEASURES)  # the others need no model, or a host


@dataclass(eq=False)
class _Gathered:
    """What was measured of one feature; `regions` None is everywhere."""

    feature: Feature
    regions: Regions | None
    observations: list[Observation] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def take(self, moment: TrajectoryPoint, measure: Measure) -> None:
        """Measure at this moment, if the feature is in its pictures."""
        region = None
        if self.regions is not None:
            if (moment.prompt, moment.seeds[0]) not in self.regions:
                return
            found = [self.regions[moment.prompt, seed] for seed in moment.seeds]
            region = torch.stack(found).to(moment.latents.device)
        values, whole = measure(region)
        if not (whole > 0).all():
            raise ValueError(f"the LoRA changes nothing in {self.feature.title}: there is nothing to tell blocks by")
        for seed, row, size in zip(moment.seeds, values / whole[:, None], whole.tolist()):
            self.observations.append(Observation(moment.prompt, seed, moment.timestep, moment.stretch, size))
            self.values.append(row)

    def analysis(self, stage: InstrumentedModel, method: str, **facts) -> Analysis:
        sums = [float(row.sum()) * at.whole for row, at in zip(self.values, self.observations)]
        complete = sum(sums) / sum(at.whole for at in self.observations) if method == "fast" else None
        regions = None if self.regions is None else list(self.regions.values())
        return Analysis(
            method=method,
            architecture=stage.model.architecture,
            name=stage.network.name,
            model=stage.model.name,
            feature=self.feature.title,
            blocks=stage.blocks,
            observations=tuple(self.observations),
            values=tuple(tuple(row.tolist()) for row in self.values),
            canvas=None if regions is None else float(torch.stack(regions).mean()),
            completeness=complete,
            **facts,
        )


class _Counter:
    """Progress over the walk and all that comes after it, in parts that take about as long as each other."""

    def __init__(self, progress: Progress | None, stage: InstrumentedModel, words: bool, parts: int | None):
        """`parts` of the work at each moment; None: one a block."""
        self._report, self._done = progress, 0
        setting = stage.setting
        groups = len(setting.prompts) * len(setting.seed_batches(stage.model))
        parts = parts or len(stage.blocks)
        self._total = groups * (steps_walked(setting, words) + setting.looks * parts)

    def walked(self, done: int, _steps: int) -> None:
        self._done = done - 1
        self.pause()

    def pause(self) -> None:
        self._done += 1
        if self._report is not None:
            self._report(self._done, self._total)


def _regions(feature: Feature, stage: InstrumentedModel, found: Walked) -> Regions | None:
    """Return the feature's region in every picture that has it, None for everywhere."""
    setting = stage.setting
    if feature.word is not None:
        return {
            (prompt, seed): strong(heat) for (word, prompt, seed), heat in found.heats.items() if word == feature.word
        }
    fixed = fixed_region(feature, setting.latent_size(stage.model))
    if fixed is None:
        return None
    return {(prompt, seed): fixed for prompt in setting.prompts for seed in setting.seeds}


def _asked(setting: SamplingGrid, stage: InstrumentedModel, method: str, options: Options) -> dict[str, object]:
    asked = {**asdict(setting), "prompts": list(setting.prompts), "seeds": list(setting.seeds)}
    asked |= {"weights": stage.weights.to_line(with_architecture=True), "multiplier": options.multiplier}
    return asked | ({"nodes": options.nodes} if method == "fast" else {"value": options.value})
