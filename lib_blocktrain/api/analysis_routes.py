"""Analyses: asked for, followed while they go on, and read when they are done."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from lib_blocktrain.api.analysis_schemas import AnalyseBody, Asked, Found
from lib_blocktrain.api.errors import api_error, not_found
from lib_blocktrain.api.service import Service

if TYPE_CHECKING:
    from lib_blocktrain.workspace.jobs import Job

KEPT = 16  # analyses that can still be read


def add_analysis_routes(reading: APIRouter, service: Service) -> None:
    """Add the routes under ``/analyse``; they write nothing. The last ``KEPT`` analyses can be read."""
    jobs: OrderedDict[str, Job[dict[str, Any]]] = OrderedDict()

    @reading.post("/analyse", response_model=Asked, status_code=202, summary="Say how much each block matters")
    def analyse(body: AnalyseBody) -> dict:
        from lib_blocktrain.api.analysing import begin

        job = begin(service, body)
        jobs[job.id] = job
        while len(jobs) > KEPT:
            jobs.popitem(last=False)
        return {"job": job.id}

    @reading.get("/analyse/{job}", response_model=Found, summary="How an analysis stands, and what it found")
    def result(job: str) -> dict[str, Any]:
        known = jobs.get(job)
        if known is None:
            raise not_found(f"there is no analysis {job!r}: the last {KEPT} can be read, until the server is restarted")
        if not known.future.done():
            return {"state": "running", "share": known.step.share if known.step else None}
        error = known.error()
        if error is not None:
            refused = api_error(error)
            return {"state": "failed", "error": refused.code, "detail": str(refused)}
        return {"state": "done", "share": 1.0, **known.result()}
