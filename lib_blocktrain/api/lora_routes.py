"""Routes for LoRAs and previews: what the files contain, and one image by the host's own sampler."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from lib_blocktrain.api.errors import not_found
from lib_blocktrain.api.responses import thumbnail_response
from lib_blocktrain.api.schemas import (
    Done,
    LoraCard,
    LoraContents,
    LoraItem,
    Picture,
    PreviewBody,
    RecommendBody,
    WeighedLora,
    values_of,
)
from lib_blocktrain.api.service import Service

if TYPE_CHECKING:
    from PIL import Image

    from lib_blocktrain.hosts.host import SampleRequest
    from lib_blocktrain.networks.placement import Placement
    from lib_blocktrain.workspace.drawing import Settings
    from lib_blocktrain.workspace.jobs import Job
    from lib_blocktrain.workspace.lora_files import LoraFile


MAX_WAIT = 120  # seconds


def add_lora_routes(reading: APIRouter, writing: APIRouter, service: Service) -> None:
    """Add the routes under ``/loras``, and ``/preview``."""

    @reading.get("/loras", response_model=list[LoraItem], summary="List the LoRAs in the host's folders")
    def list_loras(search: str = "", wait: Annotated[float, Query(ge=0, le=MAX_WAIT)] = 0) -> list[dict[str, Any]]:
        """The names are there at once. ``wait``: seconds to wait for the headers of new files, for facts and search."""
        service.lora_index.refresh()
        service.lora_index.wait(wait)
        return [
            {
                "name": file.key,
                "known": file.known,
                "architecture": file.architecture,
                "algorithms": list(file.algorithms),
                "problem": file.problem,
            }
            for file in service.lora_index.files(search)
        ]

    @reading.get("/loras/listing", include_in_schema=False)  # the page's own: it changes with `lora_store.js`
    def lora_listing(since: Annotated[int, Query(ge=0)] = 0) -> Response:
        from lib_blocktrain.workspace.lora_listing import listing

        index = service.lora_index
        if not since:
            index.refresh()
        text = json.dumps(listing(index, service.host.lora_dirs, since), ensure_ascii=False, separators=(",", ":"))
        return Response(text, media_type="application/json")

    @reading.get("/loras/inspect", response_model=LoraContents, summary="Say what a LoRA contains")
    def inspect_lora(name: str) -> dict[str, Any]:
        from lib_blocktrain.networks.contents import inspect

        return dict(inspect(service.lora(name).path))

    @reading.get("/loras/card", response_model=LoraCard, summary="What a LoRA's card says, and recommended weights")
    def lora_card(name: str) -> dict[str, Any]:
        from lib_blocktrain.workspace.lora_files import Sidecar

        file = service.lora(name)
        beside, recommended = file.sidecar or Sidecar(), file.recommended
        texts = {key: getattr(beside, key) for key in ("activation", "negative", "description", "notes")}
        return {**texts, "strength": beside.weight, "recommended": None if recommended is None else vars(recommended)}

    @writing.post("/loras/recommend", response_model=Done, summary="Write block weights into a LoRA's card")
    def recommend_weights(body: RecommendBody) -> dict[str, str]:
        from lib_blocktrain.networks.cards import recommend

        file = service.lora(body.name)
        parsed = None if body.weights is None else service.parse(body.weights, file.architecture, lora=file)
        weights, share = (None, None) if parsed is None else (parsed.weights, parsed.area_share)
        path = recommend(file.path, weights, body.source, share if body.canvas is None else body.canvas)
        service.host.card_changed(file.path)
        service.lora_index.refresh()
        said = "recommends no weights" if weights is None else f"recommends {weights.to_line()}"
        return {"done": f"{path.name} {said}"}

    @reading.get(
        "/loras/thumbnail",
        response_class=Response,
        summary="The picture beside a LoRA, 72 pixels wide and high",
        responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "as the caller has it"}},
    )
    def thumbnail(name: str, request: Request) -> Response:
        try:
            found = service.lora_previews.thumbnail(name)
        except ValueError as error:
            raise not_found(str(error)) from error
        if found is None:
            raise not_found(f"there is no picture beside {name!r} that can be read")
        return thumbnail_response(request, found)

    @reading.post(
        "/preview",
        response_model=Picture,
        summary="Draw one picture with the host's own sampler, under block weights",
        responses={200: {"content": {"image/png": {}}, "description": "the picture"}},
    )
    def preview(body: PreviewBody) -> dict[str, Any] | Response:
        drawn = _draw(service, body)
        if body.answer == "png":
            return Response(drawn.to_png(), media_type="image/png")
        return drawn.to_json()


@dataclass(frozen=True)
class DrawnImage:
    """An image, what it was made of, and the notices of the host and of the block weights."""

    image: Image.Image
    request: SampleRequest
    model: str
    notices: list[str]

    def to_json(self) -> dict[str, Any]:
        from lib_blocktrain.workspace.images import infotext

        return {
            "image": base64.b64encode(self.to_png()).decode("ascii"),
            "parameters": infotext(self.request, self.image, self.model),
            "seed": self.request.seed,
            "size": list(self.image.size),
            "model": self.model,
            "notices": self.notices,
        }

    def to_png(self) -> bytes:
        from lib_blocktrain.workspace.images import to_png

        return to_png(self.image, self.request, self.model)


def _draw(service: Service, body: PreviewBody) -> DrawnImage:
    """Wait for the model and draw. Raises ApiError (busy) after ``body.wait`` seconds, ValueError for a wrong value."""
    settings = _settings(service, body)
    loras = [(service.lora(lora.name), lora) for lora in body.loras]

    def work(job: Job[DrawnImage]) -> DrawnImage:
        model = service.host.model()
        placed = [_placement(service, model.architecture, file, lora, settings.seed) for file, lora in loras]
        notices = [notice for _, about_weights in placed for notice in about_weights]
        side = model.native_size
        sized = replace(settings, width=body.width or side, height=body.height or side)
        request = sized.request([placement for placement, _ in placed], notices.append)
        image = service.host.sample(request, job.progress(job.what))
        return DrawnImage(image, request, model.name, notices)

    return service.begin(work, "preview", body.wait).result()


def _settings(service: Service, body: PreviewBody) -> Settings:
    """The request's settings, checked as the page checks its own; a missing side is the model's, known later."""
    from lib_blocktrain.workspace.drawing import SIDE_STEP, Settings, with_seed

    sides = {"width": body.width or SIDE_STEP * 64, "height": body.height or SIDE_STEP * 64}
    values = {**values_of(body), **sides, "sampler": body.sampler or service.host.samplers[0]}
    return with_seed(Settings.from_values(values, service.host.samplers))


def _placement(
    service: Service, architecture: str, file: LoraFile, lora: WeighedLora, seed: int
) -> tuple[Placement, tuple[str, ...]]:
    from lib_blocktrain.networks.placement import Placement
    from lib_blocktrain.workspace.lora_selection import fits

    if not fits(file.architecture, architecture):
        raise ValueError(f"{file.key} is for {file.architecture}, and the loaded model is {architecture}")
    parsed = service.parse(lora.weights, architecture, seed, lora.x, file, layers=True)
    return Placement(service.lora_index.network(file.key), parsed.acting, lora.multiplier), parsed.notices
