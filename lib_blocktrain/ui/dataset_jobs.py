"""Jobs on the model that Pictures starts: a mask from a word, and the probe of a set.

The script asks how a job is until it has ended, by questions like the others, so that the page can be used meanwhile. A
job that nobody asks about any more, as after the page was closed, ends before its next step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_blocktrain.hosts.host import Cancelled, Host
from lib_blocktrain.model.protocol import Progress
from lib_blocktrain.runner import describe_error
from lib_blocktrain.ui import html
from lib_blocktrain.workspace.jobs import Job, Jobs
from lib_blocktrain.workspace.picture_sets import PictureSets
from lib_blocktrain.workspace.recent import Recent
from lib_blocktrain.workspace.set_jobs import find_mask, probe_set

Answer = dict[str, Any]
KEPT = 16  # jobs whose result can be asked for
UNSEEN = 180.0  # seconds; a browser asks at least once a minute while another window is in front


@dataclass
class _Known:
    job: Job[Answer]
    asked: float = field(default_factory=time.monotonic)


class DatasetJobs:
    """The jobs of the place Pictures, of all pages."""

    def __init__(self, host: Host, sets: PictureSets, jobs: Jobs):
        self._host, self._sets, self._jobs = host, sets, jobs
        self._known: Recent[str, _Known] = Recent(KEPT)

    def find_mask(self, key: str, picture: str, word: str) -> str:
        """Look for a word in a picture; return the job's id. Raises FileNotFoundError for an unknown picture."""
        self._sets.listed(key, picture)

        def work(progress: Progress) -> Answer:
            found = find_mask(self._host, self._sets, key, picture, word, progress)
            return {"mask": html.data_url(found.png), "share": found.share}

        return self._start("mask from a word", work)

    def probe(self, key: str) -> str:
        """Probe a set; return the job's id. Raises ValueError for a set that cannot be read."""
        self._sets.get(key).check()
        return self._start(
            "probe", lambda progress: probe_set(self._host, self._sets, key, progress=progress).to_json()
        )

    def follow(self, job_id: str) -> Answer:
        """Return how a job is: `state`, while it runs the `done` part (0 to 1), at its end its result or `problem`."""
        known = self._known.get(job_id)
        if known is None:
            raise ValueError("this job is not known any more: start it again")
        known.asked, job = time.monotonic(), known.job
        if not job.future.done():
            return {"state": "running" if job.started.is_set() else "waiting", "done": job.step and job.step.share}
        error = job.error()
        if isinstance(error, Cancelled):
            return {"state": "cancelled"}
        if error is not None:
            return {"state": "failed", "problem": describe_error(error)}
        return {"state": "done", "result": job.result()}

    def cancel(self, job_id: str) -> None:
        """Cancel a job; does nothing if it has ended."""
        self._jobs.cancel(job_id)

    def _start(self, what: str, work: Callable[[Progress], Answer]) -> str:
        def watched(job: Job[Answer]) -> Answer:
            report = job.progress(what)

            def progress(done: int, steps: int) -> None:
                known = self._known.get(job.id)
                if known is not None and time.monotonic() - known.asked > UNSEEN:
                    raise Cancelled("cancelled: the page that asked for it is closed")
                report(done, steps)

            return work(progress)

        job = self._jobs.start(watched, what)
        self._known[job.id] = _Known(job)
        return job.id


def job_questions(
    jobs: DatasetJobs, text: Callable[[Mapping[str, Any], str], str]
) -> Mapping[str, Callable[..., Answer]]:
    """The questions of the script about jobs; `text` reads a field of one."""

    def cancel(question: Mapping[str, Any]) -> Answer:
        jobs.cancel(text(question, "job"))
        return {}

    return {
        "find mask": lambda q: {"job": jobs.find_mask(text(q, "set"), text(q, "picture"), text(q, "word"))},
        "probe set": lambda q: {"job": jobs.probe(text(q, "set"))},
        "job": lambda q: jobs.follow(text(q, "job")),
        "cancel": cancel,
    }
