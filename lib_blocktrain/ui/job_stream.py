"""A job that is followed: what the page shows while it goes on, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lib_blocktrain.hosts.host import Cancelled
from lib_blocktrain.runner import explained
from lib_blocktrain.ui import analyse_html, html
from lib_blocktrain.ui.values import Changes, Properties
from lib_blocktrain.workspace.jobs import Cancelling, Job, Jobs, Step, Waiting

WAITING = "Waiting for the model …"


def status_update(report: object, status: str, progress: Callable[[Step], str], waiting: str = WAITING) -> Changes:
    """What a job's report of its way changes in the line ``status``; nothing for one that only says that it goes on."""
    if isinstance(report, Step):
        return {status: progress(report)}
    if isinstance(report, Waiting):
        return {status: html.note(waiting)}
    return {status: html.note("Cancelling …")} if isinstance(report, Cancelling) else {}


def stream_job(
    jobs: Jobs, place: str, work: Callable[[Job], None], ended: Callable[[Job], Changes]
) -> Iterator[Changes]:
    """Do this work as a job; its id, state and Cancel are the widgets PLACE_job, PLACE_status and PLACE_cancel.

    `ended` says what changes when it has come to its end; it is not asked after a failure or a Cancel.
    """
    status, cancel = f"{place}_status", f"{place}_cancel"
    job = jobs.start(work)
    try:
        yield {f"{place}_job": job.id, status: html.note("Starting …"), cancel: Properties(interactive=True)}
        for report in job.reports():
            yield status_update(report, status, analyse_html.progress)
        idle = {cancel: Properties(interactive=False)}
        error = job.error()
        if isinstance(error, Cancelled):
            yield {**idle, status: html.ended(job.id, html.note("Cancelled"))}
        elif error is not None:
            yield {**idle, status: html.ended(job.id, html.failure(explained(error)))}
        else:
            changes = dict(ended(job))
            yield {**idle, **changes, status: html.ended(job.id, str(changes.get(status, "")))}
    finally:
        job.cancel()  # of a page that was closed: nobody waits for its figures
