"""Routes for analyses, searches for weights and comparisons of two LoRAs: start one, follow it, and read its result."""

from __future__ import annotations

import base64
import binascii
import io
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from lib_blocktrain.api.kept_jobs import KeptJobs
from lib_blocktrain.api.schemas import (
    AnalyseBody,
    Asked,
    CollideBody,
    CollidedFound,
    FeatureBody,
    Found,
    SolveBody,
    SolvedFound,
)
from lib_blocktrain.api.service import Service

if TYPE_CHECKING:
    from lib_blocktrain.analysis.regions import Feature
    from lib_blocktrain.analysis.request import AnalysisRequest
    from lib_blocktrain.workspace.analyses import AnalysisResult
    from lib_blocktrain.workspace.jobs import Job


def add_analysis_routes(reading: APIRouter, service: Service) -> None:
    """Add the routes under ``/analyse``, ``/solve`` and ``/collide``. They write nothing; the last ones can be read."""
    analyses = KeptJobs("analysis")

    @reading.post("/analyse", response_model=Asked, status_code=202, summary="Say how much each block matters")
    def analyse(body: AnalyseBody) -> dict[str, str]:
        return analyses.keep(_start(service, body))

    @reading.get("/analyse/{job}", response_model=Found, summary="The progress of an analysis, and its result")
    def result(job: str) -> dict[str, Any]:
        return analyses.state(job)

    searches = KeptJobs("search for weights")

    @reading.post("/solve", response_model=Asked, status_code=202, summary="Search for weights that keep A and drop B")
    def solve(body: SolveBody) -> dict[str, str]:
        return searches.keep(_start_search(service, body))

    @reading.get("/solve/{job}", response_model=SolvedFound, summary="The progress of a search, and its answer")
    def answer(job: str) -> dict[str, Any]:
        return searches.state(job)

    comparisons = KeptJobs("comparison")

    @reading.post("/collide", response_model=Asked, status_code=202, summary="Say which blocks two LoRAs both want")
    def collide(body: CollideBody) -> dict[str, str]:
        return comparisons.keep(_start_comparison(service, body))

    @reading.get("/collide/{job}", response_model=CollidedFound, summary="The progress of a comparison, and its result")
    def compared(job: str) -> dict[str, Any]:
        return comparisons.state(job)


def _start_comparison(service: Service, body: CollideBody) -> Job[dict[str, Any]]:
    """Start the comparison once the model is free; raise ValueError for what cannot be asked."""
    from lib_blocktrain.analysis.sampling_grid import SamplingGrid
    from lib_blocktrain.workspace.analyses import run_collide

    files = [service.lora(name) for name in (body.first, body.second)]
    if files[0].key == files[1].key:
        raise ValueError(f"first and second are both {files[0].key!r}: expected two LoRAs")
    first, second = (service.lora_index.network(file.key) for file in files)
    grid = None
    if body.prompts:
        prompts, seeds = tuple(body.prompts), tuple(body.seeds)
        grid = SamplingGrid(prompts, body.negative, seeds, guidance=body.cfg, width=body.width, height=body.height)

    def work(job: Job[dict[str, Any]]) -> dict[str, Any]:
        found = run_collide(service.host, first, second, grid, job.progress(job.what))
        return {"collision": found.to_json()}

    return service.begin(work, "comparison", body.wait)


def _start_search(service: Service, body: SolveBody) -> Job[dict[str, Any]]:
    """Start the search once the model is free; an interrupt ends it with the best until then."""
    from lib_blocktrain.analysis.solve_result import build_solve_request
    from lib_blocktrain.workspace.analyses import run_solve
    from lib_blocktrain.workspace.images import png_of

    file = service.lora(body.lora)
    network = service.lora_index.network(file.key)
    request = build_solve_request(
        network,
        prompts=body.prompts,
        keep=_feature(body.keep),
        drop=None if body.drop is None else _feature(body.drop),
        negative=body.negative,
        seeds=body.seeds,
        guidance=body.cfg,
        width=body.width,
        height=body.height,
        kind=body.kind,
        budget=body.budget,
        weights=service.parse(body.weights, network.architecture, seed=0, lora=file),
        multiplier=body.multiplier,
    )

    def work(job: Job[dict[str, Any]]) -> dict[str, Any]:
        solved = run_solve(service.host, request, job.progress(job.what))
        pictures = [one.picture for one in solved.front if one.picture is not None]
        return {
            "solved": solved.to_json(),
            "pictures": [base64.b64encode(png_of(picture)).decode("ascii") for picture in pictures],
        }

    return service.begin(work, "search for weights", body.wait)


def _start(service: Service, body: AnalyseBody) -> Job[dict[str, Any]]:
    """Start the analysis once the model is free; raise ValueError for what cannot be asked."""
    from lib_blocktrain.workspace.analyses import run_analysis  # brings torch, as all imports inside functions here

    request = _request(service, body)

    def work(job: Job[dict[str, Any]]) -> dict[str, Any]:
        return _json(run_analysis(service.host, request, job.progress(job.what)))

    return service.begin(work, "analysis", body.wait)


def _request(service: Service, body: AnalyseBody) -> AnalysisRequest:
    from lib_blocktrain.analysis.request import build_request

    file = service.lora(body.lora)
    network = service.lora_index.network(file.key)
    return build_request(
        network,
        method=body.method,
        prompts=body.prompts,
        negative=body.negative,
        seeds=body.seeds,
        guidance=body.cfg,
        width=body.width,
        height=body.height,
        features=[_feature(feature) for feature in body.features],
        weights=service.parse(body.weights, network.architecture, seed=0, lora=file),
        multiplier=body.multiplier,
        value=body.value,
        pairs=body.pairs,
    )


def _feature(body: FeatureBody) -> Feature:
    from lib_blocktrain.analysis.regions import Feature, read_mask, to_box

    mask = None
    if body.mask is not None:
        try:
            content = base64.b64decode(body.mask, validate=True)
        except binascii.Error as error:
            raise ValueError("the mask: expected a PNG or JPEG in base64") from error
        mask = read_mask(io.BytesIO(content), "the mask", formats=("PNG", "JPEG"))
    return Feature(body.word, None if body.box is None else to_box(body.box), mask)


def _json(result: AnalysisResult) -> dict[str, Any]:
    from lib_blocktrain.workspace.images import png_of

    return {
        "analyses": [analysis.to_json() for analysis in result.analyses],
        "canvas": result.area_sentence,
        "sheets": {name: base64.b64encode(png_of(image)).decode("ascii") for name, image in result.sheets.items()},
    }
