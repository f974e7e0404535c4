"""The jobs that the API has started, kept so that their progress and result can be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib_blocktrain.api.errors import api_error, not_found
from lib_blocktrain.workspace.recent import Recent

if TYPE_CHECKING:
    from lib_blocktrain.workspace.jobs import Job

KEPT = 16  # jobs of one kind whose result can still be read


class KeptJobs:
    """The last ``KEPT`` jobs of one kind; ``what`` names one in errors, as in "analysis"."""

    def __init__(self, what: str):
        self._what = what
        self._jobs: Recent[str, Job[dict[str, Any]]] = Recent(KEPT)

    def keep(self, job: Job[dict[str, Any]]) -> dict[str, str]:
        """Keep a job; return the answer to the request that started it."""
        self._jobs[job.id] = job
        return {"job": job.id}

    def state(self, job: str) -> dict[str, Any]:
        """Return a job's ``state`` ("running", "failed", "done") and ``share``, with its error or its result's fields.

        Raises ApiError (not found) for one that is not kept.
        """
        known = self._jobs.get(job)
        if known is None:
            raise not_found(f"there is no {self._what} {job!r}: the last {KEPT} can be read, until the server restarts")
        if not known.future.done():
            return {"state": "running", "share": known.step.share if known.step else None}
        error = known.error()
        if error is not None:
            refused = api_error(error)
            return {"state": "failed", "error": refused.code, "detail": str(refused)}
        return {"state": "done", "share": 1.0, **known.result()}
