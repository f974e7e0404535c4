"""Analyses: asked for, followed while they go on, and read when they are done."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from fastapi import APIRouter

from lib_blocktrain.api.analysis_schemas import AnalyseBody, Asked, Found
from lib_blocktrain.api.errors import not_found
from lib_blocktrain.api.jobs import Turn
from lib_blocktrain.api.responses import refused_by
from lib_blocktrain.api.service import Service

KEPT = 16  # analyses that can still be read


def add_analysis_routes(reading: APIRouter, service: Service) -> None:
    """Add the routes under ``/analyse``; they write nothing. The last ``KEPT`` analyses can be read."""
    turns: OrderedDict[str, Turn] = OrderedDict()

    @reading.post("/analyse", response_model=Asked, status_code=202, summary="Say how much each block matters")
    def analyse(body: AnalyseBody) -> dict:
        from lib_blocktrain.api.analysing import begin

        turn = begin(service, body)
        turns[turn.id] = turn
        while len(turns) > KEPT:
            turns.popitem(last=False)
        return {"job": turn.id}

    @reading.get("/analyse/{job}", response_model=Found, summary="How an analysis stands, and what it found")
    def found(job: str) -> dict[str, Any]:
        turn = turns.get(job)
        if turn is None:
            raise not_found(f"there is no analysis {job!r}: the last {KEPT} can be read, until the server is restarted")
        if not turn.future.done():
            return {"state": "running", "share": turn.share}
        error = turn.future.exception()
        if error is not None:
            refused = refused_by(error)
            return {"state": "failed", "error": refused.code, "detail": str(refused)}
        return {"state": "done", "share": 1.0, **turn.future.result()}
