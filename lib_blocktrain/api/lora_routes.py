"""LoRAs and pictures: what the files contain, and what they do."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from lib_blocktrain.api.schemas import LoraContents, LoraItem, Picture, PreviewBody
from lib_blocktrain.api.service import Service


def add_lora_routes(reading: APIRouter, service: Service) -> None:
    """Add the routes under ``/loras``, and ``/preview``; none of them writes anything."""

    @reading.get("/loras", response_model=list[LoraItem], summary="List the LoRAs in the host's folders")
    def list_loras(search: str = "") -> list[dict[str, Any]]:
        service.lora_index.refresh()
        return [
            {"name": f.key, "architecture": f.architecture, "algorithms": list(f.algorithms), "problem": f.problem}
            for f in service.lora_index.files(search)
        ]

    @reading.get("/loras/inspect", response_model=LoraContents, summary="Say what a LoRA contains, by its header")
    def inspect_lora(name: str) -> dict[str, Any]:
        from lib_blocktrain.networks.keys import describe

        return dict(describe(service.lora(name).path))

    @reading.post(
        "/preview",
        response_model=Picture,
        summary="Draw one picture with the host's own sampler, under block weights",
        responses={200: {"content": {"image/png": {}}, "description": "the picture"}},
    )
    def preview(body: PreviewBody) -> dict[str, Any] | Response:
        from lib_blocktrain.api.drawing import draw

        drawn = draw(service, body)
        if body.answer == "png":
            return Response(drawn.to_png(), media_type="image/png")
        return drawn.to_json()
