"""Routes under ``/sets`` that need the model: a mask from a word, and which blocks training on a set would change."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from lib_blocktrain.api.errors import api_error, not_found
from lib_blocktrain.api.schemas import Asked
from lib_blocktrain.api.service import Service
from lib_blocktrain.api.set_schemas import ProbeSetBody, SetJob, WordMaskBody
from lib_blocktrain.workspace.recent import Recent

if TYPE_CHECKING:
    from lib_blocktrain.workspace.jobs import Job

KEPT = 16  # jobs whose result can still be read


def add_set_job_routes(reading: APIRouter, service: Service) -> None:
    """Add the routes for jobs. They write nothing; the results of the last ``KEPT`` can be read."""
    jobs: Recent[str, Job[dict[str, Any]]] = Recent(KEPT)

    def begun(job: Job[dict[str, Any]]) -> dict[str, str]:
        jobs[job.id] = job
        return {"job": job.id}

    @reading.post("/sets/{name}/find-mask", response_model=Asked, status_code=202, summary="Find a word in a picture")
    def find_mask(name: str, body: WordMaskBody) -> dict[str, str]:
        from lib_blocktrain.workspace import set_jobs  # brings torch

        host, sets = service.host, service.picture_sets
        sets.listed(name, body.picture)  # raises for an unknown one

        def work(job: Job[dict[str, Any]]) -> dict[str, Any]:
            found = set_jobs.find_mask(host, sets, name, body.picture, body.word, job.progress(job.what))
            return {"png": base64.b64encode(found.png).decode("ascii"), "share": found.share}

        return begun(service.begin(work, "mask from a word", body.wait))

    @reading.post(
        "/sets/{name}/probe", response_model=Asked, status_code=202, summary="Which blocks training would change"
    )
    def probe(name: str, body: ProbeSetBody) -> dict[str, str]:
        from lib_blocktrain.workspace import set_jobs

        host, sets = service.host, service.picture_sets
        sets.get(name).check()

        def work(job: Job[dict[str, Any]]) -> dict[str, Any]:
            return set_jobs.probe_set(host, sets, name, body.pictures, job.progress(job.what)).to_json()

        return begun(service.begin(work, "probe", body.wait))

    @reading.get("/sets/{name}/jobs/{job}", response_model=SetJob, summary="The progress of such a job, and its result")
    def result(name: str, job: str) -> dict[str, Any]:
        known = jobs.get(job)
        if known is None:
            raise not_found(f"there is no job {job!r}: the last {KEPT} can be read, until the server is restarted")
        if not known.future.done():
            return {"state": "running", "share": known.step.share if known.step else None}
        error = known.error()
        if error is not None:
            refused = api_error(error)
            return {"state": "failed", "error": refused.code, "detail": str(refused)}
        return {"state": "done", "share": 1.0, "result": known.result()}
