"""An analysis of what was sent, on the host's model."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

from PIL import Image, UnidentifiedImageError

from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.run import Options
from lib_blocktrain.api.analysis_schemas import AnalyseBody, FeatureBody
from lib_blocktrain.api.service import Service
from lib_blocktrain.workspace.analyses import AnalysisRequest, answer, setting_for
from lib_blocktrain.workspace.images import png_of
from lib_blocktrain.workspace.jobs import Job

MASK_SIDE = 8192  # pixels: a small file can hold a huge picture


def begin(service: Service, body: AnalyseBody) -> Job[dict[str, Any]]:
    """Begin the analysis once the model is free; raise ValueError for what is wrong with the question."""
    inquiry, canvas = _inquiry(service, body)
    return service.begin(lambda job: _found(service, inquiry, canvas, job), "analysis", body.wait)


def _inquiry(service: Service, body: AnalyseBody) -> tuple[AnalysisRequest, float | None]:
    """What is asked, and the share of the picture for which the weights in force were found."""
    network = service.lora_index.network(service.lora(body.lora).key)
    setting = setting_for(
        body.method,
        body.prompts or (),
        negative=body.negative,
        seeds=tuple(body.seeds),
        guidance=body.cfg,
        width=body.width,
        height=body.height,
    )
    parsed = service.parse(body.weights, network.architecture, seed=0)
    features = tuple(map(_feature, body.features)) or (Feature(),)
    options = Options(parsed.weights, body.multiplier, body.value)
    return AnalysisRequest(network, setting, body.method, features, options), parsed.canvas


def _found(service: Service, inquiry: AnalysisRequest, canvas: float | None, job: Job) -> dict[str, Any]:
    found = answer(service.host, inquiry, job.progress(job.what))
    return {
        "analyses": [analysis.to_json() for analysis in found.analyses],
        "canvas": found.about_canvas(canvas),
        "sheets": {name: base64.b64encode(png_of(picture)).decode("ascii") for name, picture in found.sheets.items()},
    }


def _feature(body: FeatureBody) -> Feature:
    if body.box is not None and len(body.box) != 4:
        raise ValueError(f"box {body.box}: expected four numbers: left, top, right, bottom")
    return Feature(body.word, None if body.box is None else tuple(body.box), _mask(body.mask))


def _mask(text: str | None) -> Image.Image | None:
    if text is None:
        return None
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG", "JPEG"]) as picture:
            if max(picture.size) > MASK_SIDE:
                raise ValueError(
                    f"a mask of {picture.width}x{picture.height}: expected up to {MASK_SIDE} pixels a side"
                )
            return picture.convert("L")
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError("the mask is no picture: expected a PNG or JPEG in base64") from error
