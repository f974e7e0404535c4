"""The request for an analysis: built and checked here for the form, the command line and the API alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib_blocktrain.analysis import sampling_grid as limits
from lib_blocktrain.analysis.attribution import NODES
from lib_blocktrain.analysis.regions import WHOLE_IMAGE, Feature
from lib_blocktrain.analysis.sampling_grid import GUIDANCE, SamplingGrid
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import Parsed

IMAGE_STEPS = 20  # of a rendered image
METHODS: Mapping[str, str] = {
    "exact": "what changes without each block, at the U-Net: the reference, a seventh of a rendered sheet's cost",
    "fast": "each block's signed part of the effect, by gradients: a tenth of the cost",
    "one-only": "what each block does alone",
    "norms": "how large each block's weights are: from the file alone, at once",
    "rendered": "whole pictures with each block lowered, and a sheet of them",
}


@dataclass(frozen=True)
class Options:
    """Options of a method: `value` is what "exact" lowers a block to, `nodes` are those of "fast".

    `pairs` asks "exact" for the pairs of blocks that replace or need each other, too.
    """

    weights: BlockWeights | None = None  # None: 1 everywhere
    multiplier: float = 1.0
    value: float = 0.0
    nodes: int = NODES
    pairs: bool = False

    def weights_for(self, network: Network) -> BlockWeights:
        return self.weights or BlockWeights.uniform(network.architecture, 1.0)


@dataclass(frozen=True)
class AnalysisRequest:
    """One analysis of a network; `features` are one, or two to compare.

    `weights_share` is the area share that the weights in force were found for, None where they do not say.
    `image_steps` are the sampler's, for rendered images. Raises ValueError for what is outside the limits.
    """

    network: Network
    grid: SamplingGrid
    method: str = "exact"
    features: tuple[Feature, ...] = (WHOLE_IMAGE,)
    options: Options = field(default_factory=Options)
    weights_share: float | None = None
    image_steps: int = IMAGE_STEPS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r}: expected one of {', '.join(METHODS)}")
        if self.method == "norms" and self.features != (WHOLE_IMAGE,):
            raise ValueError("norms are of the file alone: expected no word, mask or box with them")
        if self.options.pairs and self.method != "exact":
            raise ValueError(f"pairs of blocks with the method {self.method}: expected the method exact")
        for name, count, most in (
            ("prompts", len(self.grid.prompts), limits.MAX_PROMPTS),
            ("seeds", len(self.grid.seeds), limits.MAX_SEEDS),
            ("features", len(self.features), 2),
        ):
            if count > most:
                raise ValueError(f"{count} {name}: expected up to {most}")
        texts = [("prompt", text, limits.MAX_TEXT) for text in (self.grid.negative, *self.grid.prompts)]
        texts += [("word", feature.word or "", limits.MAX_WORD) for feature in self.features]
        for name, text, most in texts:
            if len(text) > most:
                raise ValueError(f"{name} of {len(text)} characters: expected up to {most}")
        for name in ("multiplier", "value"):
            number = getattr(self.options, name)
            if not -limits.MAX_STRENGTH <= number <= limits.MAX_STRENGTH:
                raise ValueError(
                    f"{name} {number!r}: expected a number from -{limits.MAX_STRENGTH} to {limits.MAX_STRENGTH}"
                )


def build_request(
    network: Network,
    *,
    method: str,
    prompts: Sequence[str],
    negative: str = "",
    seeds: Sequence[int] | str = (0, 1, 2),
    guidance: float = GUIDANCE,
    width: int | None = None,
    height: int | None = None,
    features: Sequence[Feature] = (),
    weights: Parsed | None = None,
    multiplier: float = 1.0,
    value: float = 0.0,
    pairs: bool = False,
) -> AnalysisRequest:
    """Return the request; without `features` it asks about the whole image.

    Raises ValueError, with the value and what was expected, for what cannot be asked.
    """
    if not prompts and method in METHODS and method != "norms":
        raise ValueError(f"no prompt: expected at least one for the method {method} (norms needs none)")
    return AnalysisRequest(
        network,
        SamplingGrid(
            tuple(prompts) or ("none",),
            negative=negative,
            seeds=read_seeds(seeds) if isinstance(seeds, str) else tuple(seeds),
            guidance=guidance,
            width=width,
            height=height,
        ),
        method,
        tuple(features) or (WHOLE_IMAGE,),
        Options(None if weights is None else weights.weights, multiplier, value, pairs=pairs),
        weights_share=None if weights is None else weights.area_share,
    )


def read_seeds(text: str) -> tuple[int, ...]:
    """Read whole numbers with commas or spaces between them; raises ValueError."""
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"seeds {text!r}: expected whole numbers with commas, such as 0,1,2") from error


def settings_json(network: Network, grid: SamplingGrid, options: Options) -> dict[str, Any]:
    """Return the settings of a request that results record, apart from those of a single method."""
    line = options.weights_for(network).to_line(with_architecture=True)
    return {**grid.to_json(), "weights": line, "multiplier": options.multiplier}
