"""An analysis asked of a host, by any method: what the tab and the command line have in common."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from lib_blocktrain.analysis.area_share import sentence, warning
from lib_blocktrain.analysis.contact_sheet import sheet
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.rendered import analysis_of, blocks_of, render
from lib_blocktrain.analysis.results import Analysis
from lib_blocktrain.analysis.run import METHODS, Options, analyse, masks_of
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.weight_norms import weight_norms
from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.hosts.host import Host, Progress, SampleRequest
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.weights.block_weights import BlockWeights

STEPS = 20  # of a rendered picture
ALL_METHODS: Mapping[str, str] = {
    "exact": "what changes without each block, at the U-Net: the reference, a seventh of a rendered sheet's cost",
    "fast": "each block's signed part of the effect, by gradients: a tenth of the cost",
    "one-only": "what each block does alone",
    "norms": "how large each block's weights are: from the file alone, at once",
    "rendered": "whole pictures with each block lowered, and a sheet of them",
}


@dataclass(frozen=True)
class AnalysisRequest:
    """What is asked; `features` are one or two. `sampler` and `picture_steps` are for rendered pictures."""

    network: Network
    setting: SamplingGrid
    method: str = "exact"
    features: tuple[Feature, ...] = (Feature(),)
    options: Options = field(default_factory=Options)
    sampler: str | None = None
    picture_steps: int = STEPS

    def __post_init__(self):
        if self.method not in ALL_METHODS:
            raise ValueError(f"method {self.method!r}: expected one of {', '.join(ALL_METHODS)}")
        if self.method == "norms" and self.features != (Feature(),):
            raise ValueError("norms know no picture: expected no word, mask or box with them")


def setting_for(method: str, prompts: Sequence[str], **given: Any) -> SamplingGrid:
    """Return the setting of a method's analysis; ``given`` are `Setting`'s other fields.

    Raises ValueError without prompts where the method looks at pictures, and for what `Setting` does not take.
    """
    if not prompts and method != "norms":
        raise ValueError(f"no prompt: expected at least one, as {method} looks at pictures (norms does not)")
    return SamplingGrid(tuple(prompts) or ("none",), **given)


@dataclass(frozen=True)
class AnalysisResult:
    """One analysis a feature; `sheets` are pictures by a name for their file.

    `latent` is the size of the analysed pictures, `(height, width)` in cells; None where none were.
    """

    analyses: tuple[Analysis, ...]
    sheets: Mapping[str, Image.Image] = field(default_factory=dict)
    latent: tuple[int, int] | None = None

    def about_canvas(self, analysed_under: float | None = None) -> str:
        """Say how large the first feature is in each block's grid; "" where that is not known, as of whole pictures.

        `analysed_under` is the share for which the weights in force were found: where that is another case, it is said.
        """
        found = self.analyses[0]
        if found.canvas is None or self.latent is None:
            return ""
        said = sentence(found.canvas, found.architecture, self.latent)
        return " ".join(filter(None, (said, warning(analysed_under, found.canvas))))


def answer(host: Host, inquiry: AnalysisRequest, progress: Progress | None = None) -> AnalysisResult:
    """Return what is asked. The caller holds the host's queue; what is raised leaves the model as it was."""
    if inquiry.method == "norms":
        return AnalysisResult((weight_norms(inquiry.network, inquiry.options.weights),))
    model, network = host.model(), inquiry.network
    latent = inquiry.setting.latent_size(model)
    ours, theirs = ARCHITECTURES[model.architecture], ARCHITECTURES[network.architecture]
    if ours.block_ids != theirs.block_ids:
        raise ValueError(f"{network.name!r} is for {theirs.title}, and the loaded model is {ours.title}")
    if inquiry.method in METHODS:
        asked = (model, network, inquiry.setting, inquiry.method, inquiry.features)
        return AnalysisResult(analyse(*asked, options=inquiry.options, progress=progress), latent=latent)
    rendered = [_rendered(host, inquiry, feature, n, progress) for n, feature in enumerate(inquiry.features)]
    sheets = {name: picture for _, found in rendered for name, picture in found.items()}
    return AnalysisResult(tuple(analysis for analysis, _ in rendered), sheets, latent)


def _rendered(
    host: Host, inquiry: AnalysisRequest, feature: Feature, number: int, progress: Progress | None
) -> tuple[Analysis, dict[str, Image.Image]]:
    model, setting, options = host.model(), inquiry.setting, inquiry.options
    began = time.perf_counter()
    weights = options.weights or BlockWeights.uniform(inquiry.network.architecture, 1.0)
    masks = masks_of(model, inquiry.network, setting, feature, options)
    at = [
        (prompt, seed)
        for prompt in setting.prompts
        for seed in setting.seeds
        if masks is None or (prompt, seed) in masks
    ]
    pictures = len(at) * (len(blocks_of(inquiry.network, weights)) + 1)
    of = len(inquiry.features) * pictures
    done = number * pictures

    def draw(prompt: str, seed: int, of_picture: BlockWeights) -> Image.Image:
        nonlocal done
        request = SampleRequest(
            prompt=prompt,
            negative=setting.negative,
            seed=seed,
            steps=inquiry.picture_steps,
            cfg=setting.guidance,
            sampler=inquiry.sampler or host.samplers[0],
            width=setting.width,
            height=setting.height,
            placements=(Placement(inquiry.network, of_picture, options.multiplier),),
        )
        picture = host.sample(request, _part(progress, done, of))
        done += 1
        return picture

    found = render(draw, inquiry.network, weights, at, value=options.value, regions=masks)
    asked = {**asdict(setting), "prompts": list(setting.prompts), "seeds": list(setting.seeds)}
    asked |= {"weights": weights.to_line(with_architecture=True), "multiplier": options.multiplier}
    changed = analysis_of(found, inquiry.network, model.name, perceived=False).means()  # LoRA Block Weight's figure
    analysis = analysis_of(
        found,
        inquiry.network,
        model.name,
        feature=feature.title,
        canvas=None if masks is None else float(np.mean([np.asarray(mask).mean() / 255 for mask in masks.values()])),
        evaluations=float(pictures * inquiry.picture_steps * (2 if setting.guided else 1)),
        seconds=time.perf_counter() - began,
        setting={**asked, "steps": inquiry.picture_steps, "value": options.value, "changed_share": changed},
    )
    sheets = {
        f"sheet-{number + 1}-{setting.prompts.index(prompt) + 1}-{seed}": sheet(found, prompt, seed)
        for prompt, seed in at
    }
    return analysis, sheets


def _part(progress: Progress | None, number: int, of: int) -> Progress | None:
    """Return the progress of one picture as a part of all."""
    if progress is None:
        return None
    return lambda done, steps: progress(number * steps + done, of * steps)
