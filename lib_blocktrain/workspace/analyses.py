"""Runs analyses and rankings on a host, for the page, the API and the command line alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from lib_blocktrain.analysis.attribution import weight_norms
from lib_blocktrain.analysis.collision import Collision, collide
from lib_blocktrain.analysis.instrumented_model import active_blocks
from lib_blocktrain.analysis.regions import area_sentence, area_warning
from lib_blocktrain.analysis.rendered import analysis_of, contact_sheet, render
from lib_blocktrain.analysis.request import AnalysisRequest, settings_json
from lib_blocktrain.analysis.results import Analysis
from lib_blocktrain.analysis.run import NOISE_METHODS, analyse, region_masks
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.similar import Profile, Profiles, Ranking, rank
from lib_blocktrain.analysis.solve import solve
from lib_blocktrain.analysis.solve_result import Solved, SolveRequest
from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.hosts.host import Cancelled, Host, SampleRequest, check_noise
from lib_blocktrain.hosts.prompt_syntax import unread_notices
from lib_blocktrain.model.protocol import Model, Progress
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.weights.block_weights import BlockWeights


@dataclass(frozen=True)
class AnalysisResult:
    """One analysis for each feature; `sheets` are images by the stem of their file's name.

    `latent` is the height and width of the analysed latents, None if the method has none.
    """

    analyses: tuple[Analysis, ...]
    sheets: Mapping[str, Image.Image] = field(default_factory=dict)
    latent: tuple[int, int] | None = None
    weights_share: float | None = None

    @property
    def area_sentence(self) -> str:
        """A sentence on the size of the first feature in each block's grid; "" if it is unknown, as for whole images.

        It includes a warning if the weights in force were found for a feature of another size.
        """
        found = self.analyses[0]
        if found.area_share is None or self.latent is None:
            return ""
        sentence = area_sentence(found.area_share, found.architecture, self.latent)
        return " ".join(filter(None, (sentence, area_warning(self.weights_share, found.area_share))))


def run_analysis(host: Host, request: AnalysisRequest, progress: Progress | None = None) -> AnalysisResult:
    """Run an analysis. The caller holds the host's queue; an error leaves the model as it was."""
    network, options = request.network, request.options
    if request.method == "norms":
        return AnalysisResult((weight_norms(network, options.weights),))
    model = host.model()
    _check_architecture(model, network)
    sheets: dict[str, Image.Image] = {}
    if request.method in NOISE_METHODS:
        asked = network, request.grid, request.method, request.features
        analyses = analyse(model, *asked, options=options, progress=progress)
        said: Iterable[str] = unread_notices(request.grid.prompts, request.grid.negative)  # also in a WebUI
    else:
        if any(feature.word is not None for feature in request.features):
            check_noise(host, "the region of a word cannot be found: give a box, a mask or the whole picture instead")
        said = dict[str, None]()  # as a set that keeps the order: every image says it again
        rendered = [
            _rendered(host, request, number, progress, say=lambda notice: said.update({notice: None}))
            for number in range(len(request.features))
        ]
        analyses = tuple(analysis for analysis, _ in rendered)
        sheets = {name: image for _, found in rendered for name, image in found.items()}
    analyses = (replace(analyses[0], notices=(*analyses[0].notices, *said)), *analyses[1:])
    return AnalysisResult(analyses, sheets, request.grid.latent_size(model), request.weights_share)


def run_solve(
    host: Host, request: SolveRequest, progress: Progress | None = None, stop: Callable[[], bool] | None = None
) -> Solved:
    """Search for weights. The caller holds the host's queue; an error leaves the model as it was.

    `stop` and an end that `progress` raises (`Cancelled`) both return the best until then.
    """
    model, ended = host.model(), False
    check_noise(host, "Search cannot run: use the analysis method rendered instead, whose result gives weights too")
    _check_architecture(model, request.network)

    def report(done: int, of: int) -> None:
        nonlocal ended
        try:
            if progress is not None:
                progress(done, of)
        except Cancelled:
            ended = True

    solved = solve(model, request, progress=report, stop=lambda: ended or (stop is not None and stop()))
    said = unread_notices(request.grid.prompts, request.grid.negative)
    return replace(solved, notices=(*solved.notices, *said))


def run_collide(
    host: Host, first: Network, second: Network, grid: SamplingGrid | None = None, progress: Progress | None = None
) -> Collision:
    """Compare two LoRAs: their files, or with a grid their effects on the model, whose queue the caller holds."""
    if grid is None:
        return collide(first, second)
    model = host.model()
    check_noise(host, "the effects of two LoRAs cannot be measured: compare their files alone instead")
    for network in (first, second):
        _check_architecture(model, network)
    found = collide(first, second, model, grid, progress=progress)
    return replace(found, notices=(*found.notices, *unread_notices(grid.prompts, grid.negative)))


def _check_architecture(model: Model, network: Network) -> None:
    ours, theirs = ARCHITECTURES[model.architecture], ARCHITECTURES[network.architecture]
    if ours.block_ids != theirs.block_ids:
        raise ValueError(f"{network.name!r} is for {theirs.title}, and the loaded model is {ours.title}")


def _rendered(
    host: Host, request: AnalysisRequest, number: int, progress: Progress | None, say: Callable[[str], None]
) -> tuple[Analysis, dict[str, Image.Image]]:
    """Return the analysis of one feature by rendered images, and their contact sheets."""
    began = time.perf_counter()
    model, network, grid, options = host.model(), request.network, request.grid, request.options
    feature = request.features[number]
    weights = options.weights_for(network)
    masks = region_masks(model, network, grid, feature, options)
    at = [(p, seed) for p in grid.prompts for seed in grid.seeds if masks is None or (p, seed) in masks]
    images = len(at) * (len(active_blocks(network, weights)) + 1)
    drawn = number * images

    def draw(prompt: str, seed: int, block_weights: BlockWeights) -> Image.Image:
        nonlocal drawn
        placement = Placement(network, block_weights, options.multiplier)
        sample = replace(sample_request(host, request), prompt=prompt, seed=seed, placements=(placement,), say=say)
        image = host.sample(sample, _part(progress, drawn, len(request.features) * images))
        drawn += 1
        return image

    found = render(draw, network, weights, at, value=options.value, regions=masks)
    changed_share = analysis_of(found, network, model.name, perceived=False).means()
    settings = {**settings_json(network, grid, options), "steps": request.image_steps, "value": options.value}
    analysis = replace(
        analysis_of(found, network, model.name),
        feature=feature.title,
        area_share=None if masks is None else _share_of(masks.values()),
        evaluations=float(images * request.image_steps * (2 if grid.guided else 1)),
        seconds=time.perf_counter() - began,
        settings={**settings, "changed_share": changed_share},
    )
    sheets = {
        f"sheet-{number + 1}-{grid.prompts.index(prompt) + 1}-{seed}": contact_sheet(found, prompt, seed)
        for prompt, seed in at
    }
    return analysis, sheets


def sample_request(host: Host, request: AnalysisRequest) -> SampleRequest:
    """Return the image of the request's first prompt and seed, with the network under its weights."""
    grid, options = request.grid, request.options
    return SampleRequest(
        prompt=grid.prompts[0],
        negative=grid.negative,
        seed=grid.seeds[0],
        steps=request.image_steps,
        cfg=grid.guidance,
        sampler=host.samplers[0],
        width=grid.width,
        height=grid.height,
        placements=(Placement(request.network, options.weights_for(request.network), options.multiplier),),
    )


def _share_of(masks: Iterable[Image.Image]) -> float:
    return float(np.mean([np.asarray(mask).mean() / 255 for mask in masks]))


def _part(progress: Progress | None, number: int, of: int) -> Progress | None:
    """Return a callback that reports the progress of one image as part of the progress of all."""
    if progress is None:
        return None
    return lambda done, steps: progress(number * steps + done, of * steps)


def rank_similar(
    host: Host, target: Profile, folders: Sequence[Path] = (), progress: Progress | None = None
) -> Ranking:
    """Rank the LoRAs in some folders, by default the host's own, by similarity to a LoRA or dataset.

    Raises ValueError for a target that cannot be read.
    """
    if target.problem:
        raise ValueError(target.problem)
    folders = folders or [folder for folder in host.lora_dirs if folder.is_dir()]
    profiles = Profiles(host.output_dir / "cache" / "profiles.json")
    return replace(rank(target, profiles.of(folders, progress)), folders=tuple(folders))
