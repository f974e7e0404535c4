"""Routes under ``/sets``: the datasets as the page's Pictures has them."""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from lib_blocktrain.api.errors import ApiError, not_found
from lib_blocktrain.api.responses import CHECKED, NOSNIFF, thumbnail_response
from lib_blocktrain.api.schemas import Done
from lib_blocktrain.api.service import Service
from lib_blocktrain.api.set_schemas import (
    AddedFiles,
    CaptionBody,
    CaptionText,
    ChangeBody,
    ChangeItem,
    FocusBody,
    MaskBody,
    NewSetBody,
    PastChange,
    RepeatsBody,
    SetItem,
)
from lib_blocktrain.files import atomic_write

if TYPE_CHECKING:
    from lib_blocktrain.workspace.set_uploads import Added

T = TypeVar("T")
Side = Annotated[
    int | None, Query(ge=64, le=4096, description="of the training, in pixels; the model's own unless given")
]
KEPT = "private, max-age=604800, immutable"
_FIELD = "files"


def add_set_routes(reading: APIRouter, writing: APIRouter, service: Service) -> None:
    """Add all routes under ``/sets`` but the one for uploads."""
    _add_reading(reading, service)
    _add_writing(writing, service)


def _add_reading(reading: APIRouter, service: Service) -> None:
    @reading.get("/sets", response_model=list[SetItem], summary="List the sets of pictures for training")
    def list_sets() -> list[dict[str, Any]]:
        return [found.to_json() for found in service.picture_sets.sets()]

    @reading.get("/sets/{name}", summary="List a set's pictures: size, bucket, crop, caption, flags, and tags by count")
    def list_pictures(name: str, size: Side = None) -> dict[str, Any]:
        return service.picture_sets.listing(name, size).to_json()

    @reading.get("/sets/{name}/worth", summary="Buckets, steps an epoch, the subject's share of the canvas, warnings")
    def worth(name: str, size: Side = None, batch: Annotated[int, Query(ge=1, le=1024)] = 1) -> dict[str, Any]:
        return service.picture_sets.worth(name, size, batch).to_json()

    @reading.get(
        "/sets/{name}/thumbnail",
        response_class=Response,
        summary="A picture of a set, upright, its longer side 256 or 1024 pixels",
        responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "as the caller has it"}},
    )
    def thumbnail(
        name: str,
        picture: str,
        request: Request,
        side: int = 256,
        v: Annotated[str, Query(description="the listing's version: the answer is kept by the browser")] = "",
    ) -> Response:
        found = service.picture_sets.thumbnail(name, picture, side)
        return thumbnail_response(request, found, KEPT if v else CHECKED)

    @reading.get(
        "/sets/{name}/mask",
        response_class=Response,
        summary="The mask of a picture",
        responses={200: {"content": {"image/png": {}}}},
    )
    def mask(name: str, picture: str) -> Response:
        found = service.picture_sets.mask(name, picture)
        if found is None:
            raise not_found(f"{picture!r} has no mask")
        return Response(found, media_type="image/png", headers={**NOSNIFF, "Cache-Control": CHECKED})

    @reading.get("/sets/{name}/caption", response_model=CaptionText, summary="Read a caption, with its tokens")
    def caption(name: str, picture: str) -> dict[str, Any]:
        return service.picture_sets.caption(name, picture)

    @reading.get("/sets/{name}/changes", response_model=list[PastChange], summary="The changes that undo takes back")
    def changes(name: str) -> list[dict[str, Any]]:
        return service.picture_sets.changes(name)


def _add_writing(writing: APIRouter, service: Service) -> None:
    @writing.post("/sets", response_model=SetItem, summary="Make a set, or open a folder or a .toml of sd-scripts")
    def new_set(body: NewSetBody) -> dict[str, Any]:
        if (body.name is None) == (body.open is None):
            raise ApiError(400, "bad request", "name or open: expected one of them")
        if body.open is not None:
            return service.picture_sets.open(body.open).to_json()
        return service.picture_sets.create(body.name or "", body.repeats).to_json()

    @writing.post("/sets/{name}/close", response_model=Done, summary="Forget a set that was opened; its files stay")
    def close(name: str) -> dict[str, str]:
        service.picture_sets.close_set(name)
        return {"done": f"{name} is closed, its files are as they were"}

    @writing.post("/sets/{name}/repeats", response_model=SetItem, summary="Rename the N_concept folders of a set")
    def repeats(name: str, body: RepeatsBody) -> dict[str, Any]:
        return service.picture_sets.set_repeats(name, body.repeats, body.label).to_json()

    @writing.post("/sets/{name}/caption", response_model=ChangeItem, summary="Write a caption")
    def write_caption(name: str, body: CaptionBody) -> dict[str, Any]:
        sets = service.picture_sets
        return _changed(lambda: sets.write_caption(name, body.picture, body.text, body.stamp).to_json())

    @writing.post("/sets/{name}/change", response_model=ChangeItem, summary="Change many captions at once")
    def change(name: str, body: ChangeBody) -> dict[str, Any]:
        sets = service.picture_sets
        if body.preview:
            return sets.preview(name, body.operation, body.pictures).to_json()
        return _changed(lambda: sets.apply(name, body.operation, body.pictures, body.stamps).to_json())

    @writing.post("/sets/{name}/undo", response_model=ChangeItem, summary="Take back the newest change")
    def undo(name: str) -> dict[str, Any]:
        return _changed(lambda: service.picture_sets.undo(name).to_json())

    @writing.post("/sets/{name}/mask", response_model=ChangeItem, summary="Write the mask of a picture, or remove it")
    def write_mask(name: str, body: MaskBody) -> dict[str, Any]:
        sets = service.picture_sets
        if body.remove:
            return _changed(lambda: sets.remove_mask(name, body.picture).to_json())
        png = None if body.png is None else _decoded(body.png)
        return _changed(lambda: sets.save_mask(name, body.picture, body.strokes, png, body.mode).to_json())

    @writing.post("/sets/{name}/focus", response_model=ChangeItem, summary="Centre the crop of a picture elsewhere")
    def focus(name: str, body: FocusBody) -> dict[str, Any]:
        if body.focus is not None and len(body.focus) != 2:
            raise ApiError(400, "bad request", f"focus {body.focus[:4]}: expected x and y")
        place = None if body.focus is None else (body.focus[0], body.focus[1])
        return _changed(lambda: service.picture_sets.set_focus(name, body.picture, place).to_json())


def add_upload_route(uploading: APIRouter, service: Service) -> None:
    """Add the route that takes pictures, whose body may be larger than others."""

    @uploading.post(
        "/sets/{name}/pictures", response_model=AddedFiles, summary="Add pictures, captions and masks to a set"
    )
    async def add_pictures(name: str, request: Request) -> dict[str, Any]:
        """``multipart/form-data`` with files in the field ``files``; what is there already is never overwritten."""
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise ApiError(400, "bad request", f"a body of {kind[:80]!r}: expected multipart/form-data with {_FIELD}")
        form = await request.form()
        try:
            given = [one for one in form.getlist(_FIELD) if not isinstance(one, str)]
            others = sorted(set(form) - {_FIELD})
            if others or not given:
                raise ApiError(400, "bad request", f"fields {others[:5]}: expected files in {_FIELD}")
            files = [(one.filename or "", one.file) for one in given]
            return (await run_in_threadpool(_added, service, name, files)).to_json()
        finally:
            await form.close()


def _added(service: Service, name: str, files: list[tuple[str, Any]]) -> Added:
    """Write the files that came to a temporary folder, and have them added."""
    from lib_blocktrain.workspace.set_uploads import Upload

    with tempfile.TemporaryDirectory(prefix="blocktrain-added-") as folder:
        uploads = []
        for number, (shown, stream) in enumerate(files):
            path = Path(folder) / str(number)
            with atomic_write(path) as temporary:
                temporary.write_bytes(stream.read())
            uploads.append(Upload(path, shown))
        return service.picture_sets.add(name, uploads)


def _changed(work: Callable[[], T]) -> T:
    """What the work returns; a file that was changed meanwhile is a conflict."""
    from lib_blocktrain.workspace.set_changes import ChangedMeanwhile

    try:
        return work()
    except ChangedMeanwhile as error:
        raise ApiError(409, "conflict", str(error)) from error


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, "bad request", f"png: {error}: expected base64") from error
