"""Routes under ``/sets`` that need the model: a mask from a word, and which blocks training on a set would change."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from lib_blocktrain.api.kept_jobs import KeptJobs
from lib_blocktrain.api.schemas import Asked
from lib_blocktrain.api.service import Service
from lib_blocktrain.api.set_schemas import ProbeSetBody, SetJob, WordMaskBody

if TYPE_CHECKING:
    from lib_blocktrain.workspace.jobs import Job


def add_set_job_routes(reading: APIRouter, service: Service) -> None:
    """Add the routes for jobs. They write nothing; the results of the last can be read."""
    jobs = KeptJobs("job")

    @reading.post("/sets/{name}/find-mask", response_model=Asked, status_code=202, summary="Find a word in a picture")
    def find_mask(name: str, body: WordMaskBody) -> dict[str, str]:
        from lib_blocktrain.workspace import set_jobs  # brings torch

        host, sets = service.host, service.picture_sets
        sets.listed(name, body.picture)  # raises for an unknown one

        def work(job: Job[dict[str, Any]]) -> dict[str, Any]:
            found = set_jobs.find_mask(host, sets, name, body.picture, body.word, job.progress(job.what))
            return {"result": {"png": base64.b64encode(found.png).decode("ascii"), "share": found.share}}

        return jobs.keep(service.begin(work, "mask from a word", body.wait))

    @reading.post(
        "/sets/{name}/probe", response_model=Asked, status_code=202, summary="Which blocks training would change"
    )
    def probe(name: str, body: ProbeSetBody) -> dict[str, str]:
        from lib_blocktrain.workspace import set_jobs

        host, sets = service.host, service.picture_sets
        sets.get(name).check()

        def work(job: Job[dict[str, Any]]) -> dict[str, Any]:
            probed = set_jobs.probe_set(host, sets, name, body.pictures, job.progress(job.what))
            return {"result": probed.to_json()}

        return jobs.keep(service.begin(work, "probe", body.wait))

    @reading.get("/sets/{name}/jobs/{job}", response_model=SetJob, summary="The progress of such a job, and its result")
    def result(name: str, job: str) -> dict[str, Any]:
        return jobs.state(job)
