"""Runs: start, watch, steer, and what they wrote."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from lib_blocktrain.api.errors import ApiError
from lib_blocktrain.api.run_files import file_of, files_of, opened
from lib_blocktrain.api.run_schemas import FileItem, RunBody, RunList, RunState, RunStatus, StopBody, WeightsBody, sent
from lib_blocktrain.api.schemas import Done
from lib_blocktrain.api.service import Service

if TYPE_CHECKING:
    from lib_blocktrain.runner import Status

MOST_ROWS = 10_000


def add_run_routes(reading: APIRouter, writing: APIRouter, service: Service) -> None:
    """Add the routes under ``/runs``."""
    _watching(reading, service)
    _steering(writing, service)
    _files(reading, service)


def _watching(reading: APIRouter, service: Service) -> None:
    @reading.get("/runs", response_model=RunList, summary="List all runs, the newest first, and the queue")
    def runs() -> dict:
        states = [_state(service.runner.status(run)) for run in service.runner.runs()]
        return {
            "runs": states,
            "queue": [run.folder.name for run in service.runner.queue()],
            "held": service.runner.held,
        }

    @reading.get("/runs/{name}", response_model=RunStatus, summary="How a run stands, and its metrics since a step")
    def status(name: str, since: int = -1, most: int = Query(1000, ge=1, le=MOST_ROWS)) -> dict:
        run = service.run(name)
        rows, more = run.metrics_after(since, most)  # a step is never cut, so that the next call can go on behind it
        return {"run": _state(service.runner.status(run)), "metrics": [_finite(row) for row in rows], "more": more}


def _steering(writing: APIRouter, service: Service) -> None:
    @writing.post("/runs", response_model=RunState, status_code=202, summary="Put a new run into the queue")
    def start(body: RunBody) -> dict:
        from lib_blocktrain.api.run_config import checked_config

        return _state(service.runner.status(service.runner.add(checked_config(sent(body), service))))

    @writing.post("/runs/{name}/stop", response_model=RunState, summary="End a run; it can be resumed")
    def stop(name: str, body: StopBody | None = None) -> dict:
        run = service.run(name)
        with _as_conflict():
            service.runner.stop(run, save=body is None or body.save)
        return _state(service.runner.status(run))

    @writing.post("/runs/{name}/pause", response_model=RunState, summary="Save a run and free the model")
    def pause(name: str) -> dict:
        run = service.run(name)
        status = service.runner.status(run)
        if not status.is_active:
            raise ApiError(409, "conflict", f"{name} is {status.state}: there is nothing to pause")
        service.runner.pause("paused through the API")
        return _state(service.runner.status(run))

    @writing.post("/runs/{name}/resume", response_model=RunState, summary="Go on with a run that is not finished")
    def resume(name: str) -> dict:
        run = service.run(name)
        with _as_conflict():
            service.runner.resume(run)
        return _state(service.runner.status(run))

    @writing.post("/runs/{name}/weights", response_model=Done, summary="Change the block weights of a run that trains")
    def weights(name: str, body: WeightsBody) -> dict:
        run = service.run(name)
        found = service.parse(body.weights, service.host.model().architecture, seed=0)
        with _as_conflict():
            service.runner.set_weights(run, found.weights)
        return {"done": f"{name}: the weights change with the next step; its metrics say so, or why not"}


def _files(reading: APIRouter, service: Service) -> None:
    @reading.get("/runs/{name}/files", response_model=list[FileItem], summary="List what a run wrote")
    def files(name: str) -> list[dict]:
        return [{"name": file.name, "size": file.size} for file in files_of(service.run(name)).values()]

    @reading.get(
        "/runs/{name}/files/{file:path}",
        response_class=StreamingResponse,
        summary="Read a sample, a checkpoint, the result or the metrics of a run",
    )
    def read(name: str, file: str) -> StreamingResponse:
        found = file_of(service.run(name), file)
        pieces, size = opened(found)
        headers = {"Content-Length": str(size), "X-Content-Type-Options": "nosniff"}
        return StreamingResponse(pieces, media_type=found.kind, headers=headers)


@contextmanager
def _as_conflict() -> Iterator[None]:
    """What the runner refuses is right in itself, and not now."""
    try:
        yield
    except ValueError as error:
        raise ApiError(409, "conflict", str(error)) from error


def _state(status: Status) -> dict[str, Any]:
    """A status as RunState has it: what is not a finite number is none."""
    numbers = {name: None for name, value in status.to_json().items() if _strange(value)}
    return {**status.to_json(), **numbers}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics as JSON can have it: what is not a finite number is text, as the runs write it."""
    return {name: str(value) if _strange(value) else value for name, value in row.items()}


def _strange(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
