"""The route for pictures that Preview has drawn: those of its history, and nothing else."""

from __future__ import annotations

from fastapi import APIRouter, Query
from starlette.responses import Response

from lib_blocktrain.api.errors import ApiError, not_found
from lib_blocktrain.api.responses import NOSNIFF
from lib_blocktrain.api.service import Service

HEADERS = {**NOSNIFF, "Cache-Control": "private, max-age=86400"}  # a picture never changes


def add_picture_routes(reading: APIRouter, service: Service) -> None:
    """Add the route ``/pictures/NAME``."""

    @reading.get(
        "/pictures/{name}",
        response_class=Response,
        summary="Read a picture of Preview's history",
        responses={200: {"content": {"image/png": {}, "image/jpeg": {}}}},
    )
    def read_picture(name: str, small: bool = Query(False, description="A thumbnail as JPEG")) -> Response:
        try:
            content = service.pictures.thumbnail(name) if small else service.pictures.read(name)
        except ValueError as error:
            raise ApiError(400, "bad request", str(error)) from error
        except OSError as error:
            raise not_found(f"there is no picture {name!r}") from error
        return Response(content, media_type="image/jpeg" if small else "image/png", headers=HEADERS)
