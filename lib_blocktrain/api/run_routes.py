"""Routes for training runs: start, watch and control them, and read the files that they wrote.

Only listed files can be read: the result, checkpoints, samples and metrics, not the training state, and not `run.json`,
which names folders of this machine. A name from a request is compared with the list and never used as a path.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse

from lib_blocktrain.api.errors import ApiError, not_found
from lib_blocktrain.api.responses import NOSNIFF
from lib_blocktrain.api.run_schemas import (
    AboutBody,
    FileItem,
    PlaceBody,
    ResumeBody,
    RunBody,
    RunList,
    RunState,
    RunStatus,
    StopBody,
    WeightsBody,
    sent_config,
)
from lib_blocktrain.api.schemas import Done
from lib_blocktrain.api.service import Service
from lib_blocktrain.files import is_device_name

if TYPE_CHECKING:
    from lib_blocktrain.runner import Status
    from lib_blocktrain.training.runs import Run

MOST_ROWS = 10_000
MEDIA_TYPES = {
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".jsonl": "text/plain; charset=utf-8",
}
CHUNK = 1 << 20  # bytes
LARGEST_SIDE = 2048  # pixels
SIDE = "of a sample: return it as JPEG, reduced to this many pixels; 0 is the file as it is"


def add_run_routes(reading: APIRouter, writing: APIRouter, service: Service) -> None:
    """Add the routes under ``/runs``."""
    _add_reading_routes(reading, service)
    _add_writing_routes(writing, service)
    _add_file_routes(reading, service)


def _add_reading_routes(reading: APIRouter, service: Service) -> None:
    @reading.get("/runs", response_model=RunList, summary="List all runs, the newest first, and the queue")
    def list_runs() -> dict[str, Any]:
        return _list(service)

    @reading.get("/runs/{name}", response_model=RunStatus, summary="The state of a run, and its metrics since a step")
    def read_run(name: str, since: int = -1, most: int = Query(1000, ge=1, le=MOST_ROWS)) -> dict[str, Any]:
        run = service.run(name)
        rows, more = run.metrics_after(since, most)  # all rows of a step, so that the next call can continue after it
        return {"run": _state(service.runner.status(run)), "metrics": [_finite(row) for row in rows], "more": more}


def _add_writing_routes(writing: APIRouter, service: Service) -> None:
    @writing.post("/runs", response_model=RunState, status_code=202, summary="Put a new run into the queue")
    def start_run(body: RunBody) -> dict[str, Any]:
        from lib_blocktrain.api.run_config import checked_config

        service.runner.check_trains()  # rather than a fault of the configuration, which could then be mended in vain
        return _state(service.runner.status(service.runner.add(checked_config(sent_config(body), service))))

    @writing.post("/runs/{name}/stop", response_model=RunState, summary="End a run; it can be resumed")
    def stop_run(name: str, body: StopBody | None = None) -> dict[str, Any]:
        run = service.run(name)
        with _as_conflict():
            service.runner.stop(run, save=body is None or body.save)
        return _state(service.runner.status(run))

    @writing.post("/runs/{name}/pause", response_model=RunState, summary="Save a run and free the model")
    def pause_run(name: str) -> dict[str, Any]:
        run = service.run(name)
        status = service.runner.status(run)
        if not status.is_active:
            raise ApiError(409, "conflict", f"{name} is {status.state}: there is nothing to pause")
        service.runner.pause("paused through the API")
        return _state(service.runner.status(run))

    @writing.post("/runs/{name}/resume", response_model=RunState, summary="Go on with a run that is not finished")
    def resume_run(name: str, body: ResumeBody | None = None) -> dict[str, Any]:
        run = service.run(name)
        with _as_conflict():
            service.runner.resume(run, earlier_state=body is not None and body.earlier_state)
        return _state(service.runner.status(run))

    @writing.post("/runs/{name}/weights", response_model=Done, summary="Change the block weights of a run that trains")
    def change_weights(name: str, body: WeightsBody) -> dict[str, Any]:
        run = service.run(name)
        found = service.parse(body.weights, service.host.model().architecture, seed=0)
        with _as_conflict():
            service.runner.set_weights(run, found.weights)
        return {"done": f"{name}: the weights change with the next step; its metrics say so, or why not"}

    @writing.post(
        "/runs/{name}/move", response_model=RunList, summary="Put a waiting run at another place of the queue"
    )
    def move_run(name: str, body: PlaceBody) -> dict[str, Any]:
        run = service.run(name)
        with _as_conflict():
            service.runner.move(run, body.place)
        return _list(service)

    @writing.post("/runs/{name}/about", response_model=RunState, summary="Change a run's title or notes")
    def describe_run(name: str, body: AboutBody) -> dict[str, Any]:
        run = service.run(name)
        service.runner.set_about(run, title=body.title, notes=body.notes)
        return _state(service.runner.status(run))

    @writing.delete("/runs/{name}", response_model=Done, summary="Delete a run with its samples and checkpoints")
    def delete_run(name: str) -> dict[str, Any]:
        run = service.run(name)
        with _as_conflict():
            service.runner.delete(run)
        return {"done": f"{name} is deleted; what was copied into the LoRA folder stays"}


def _add_file_routes(reading: APIRouter, service: Service) -> None:
    @reading.get("/runs/{name}/files", response_model=list[FileItem], summary="List what a run wrote")
    def list_files(name: str) -> list[dict[str, Any]]:
        return [{"name": file.name, "size": file.size} for file in _files_of(service.run(name)).values()]

    @reading.get(
        "/runs/{name}/files/{file:path}",
        response_class=StreamingResponse,
        summary="Read a sample, a checkpoint, the result or the metrics of a run",
    )
    def read_file(name: str, file: str, side: int = Query(0, ge=0, le=LARGEST_SIDE, description=SIDE)) -> Response:
        found = _file_of(service.run(name), file)
        chunks, size = open_file(found)
        headers = dict(NOSNIFF)
        if found.path.suffix == ".png":  # a sample is not changed once it is there
            headers["Cache-Control"] = "private, max-age=86400"
            if side:
                reduced = _reduced(b"".join(chunks), side)
                return Response(reduced, media_type="image/jpeg", headers=headers)
        headers["Content-Length"] = str(size)
        return StreamingResponse(chunks, media_type=found.media_type, headers=headers)


def _reduced(png: bytes, side: int) -> bytes:
    """A sample as JPEG whose longer side is at most `side` pixels. Raises ApiError for a file that is no picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ApiError(409, "conflict", f"this file is no picture that can be read: {error}") from error
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=90)
    return content.getvalue()


@dataclass(frozen=True)
class RunFile:
    """A file of a run; ``name`` is its path in the run's folder, such as ``samples/000100-00.png``."""

    name: str
    path: Path
    size: int

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.path.suffix]


def _files_of(run: Run) -> dict[str, RunFile]:
    """What the run wrote, by name: result, checkpoints, samples and metrics. Links are left out."""
    paths = [run.result, run.metrics_path, *_inside(run.folder / "checkpoints"), *_inside(run.folder / "samples")]
    folder, found = run.folder.resolve(), {}
    for path in paths:
        name = path.relative_to(run.folder).as_posix()
        if path.suffix in MEDIA_TYPES and path.is_file() and path.resolve() == folder / name:
            with suppress(FileNotFoundError):  # a run removes old checkpoints
                found[name] = RunFile(name, path, path.stat().st_size)
    return found


def _file_of(run: Run, name: str) -> RunFile:
    """The file of this name. Raises ApiError: 400 for what cannot be a name, 404 for what the run did not write."""
    for part in name.split("/"):
        if part in ("", ".", "..") or is_device_name(part) or re.search(r'[\\:*?"<>|\x00-\x1f]', part):
            raise ApiError(
                400, "bad request", f"{name!r} is not a file of a run: expected a name such as metrics.jsonl"
            )
    found = _files_of(run).get(name)
    if found is None:
        raise not_found(f"run {run.folder.name} wrote no file {name!r}")
    return found


def open_file(file: RunFile) -> tuple[Iterator[bytes], int]:
    """The file's bytes in chunks, and their number: its size when it was opened, even if it grows."""
    descriptor = _open(file)
    size = os.fstat(descriptor).st_size
    return _chunks(descriptor, size), size


def _open(file: RunFile) -> int:
    """Open a file without following a link that has replaced it, or its folder, since it was listed."""
    *folders, name = file.name.split("/")
    if os.open not in os.supports_dir_fd:
        return os.open(file.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    parent = os.open(file.path.parents[len(folders)], os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            os.close(parent)
            parent = inner
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
    finally:
        os.close(parent)


def _chunks(descriptor: int, size: int) -> Iterator[bytes]:
    with open(descriptor, "rb") as stream:
        while size and (chunk := stream.read(min(CHUNK, size))):
            size -= len(chunk)
            yield chunk


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _list(service: Service) -> dict[str, Any]:
    """All runs and the queue, as `RunList` describes them."""
    return {
        "runs": [_state(service.runner.status(run)) for run in service.runner.runs()],
        "queue": [run.folder.name for run in service.runner.queue()],
        "held": service.runner.held,
        "damaged": service.runner.damaged(),
    }


@contextmanager
def _as_conflict() -> Iterator[None]:
    """Turn the runner's ValueError into 409: the request is right, but not in the run's present state."""
    try:
        yield
    except ValueError as error:
        raise ApiError(409, "conflict", str(error)) from error


def _state(status: Status) -> dict[str, Any]:
    """A status as `RunState` describes it, with None for numbers that are not finite."""
    return {name: None if _not_finite(value) else value for name, value in status.to_json().items()}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics for JSON, with text for numbers that are not finite, as in metrics.jsonl."""
    return {name: str(value) if _not_finite(value) else value for name, value in row.items()}


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
