"""Streams the state of a job to the page: progress, Cancel, result or error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from lib_blocktrain.hosts.host import Cancelled
from lib_blocktrain.runner import describe_error
from lib_blocktrain.ui import analyse_html, html
from lib_blocktrain.ui.values import Changes, Properties
from lib_blocktrain.workspace.jobs import Cancelling, Job, Jobs, Step, Waiting

T = TypeVar("T")
WAITING = "Waiting for the model …"


def status_update(report: object, status: str, progress: Callable[[Step], Markup], waiting: str = WAITING) -> Changes:
    """The change to the widget ``status`` for a job's report; none for one that only keeps the connection open."""
    if isinstance(report, Step):
        return {status: progress(report)}
    if isinstance(report, Waiting):
        return {status: html.note(waiting)}
    return {status: html.note("Cancelling …")} if isinstance(report, Cancelling) else {}


@dataclass(frozen=True)
class Panel:
    """Where the page shows one kind of job: the widgets NAME_job, NAME_status and NAME_cancel.

    ``values`` are those of the event that starts one, NAME_job among them. ``what`` is the kind of job shown to others
    that wait for the model, if it is not NAME.
    """

    name: str
    values: Mapping[str, object]
    what: str = ""

    @property
    def job(self) -> str:
        """The id of the last job that was started here."""
        return str(self.values[f"{self.name}_job"] or "")


def stream_job(
    jobs: Jobs, panel: Panel, work: Callable[[Job[T]], T], finished: Callable[[Job[T]], Changes]
) -> Iterator[Changes]:
    """Run ``work`` as a job, and stream its progress to its panel.

    There is one job at a time in a panel, since that has one Cancel. ``finished`` returns the changes after success; it
    is not called if the job failed or was cancelled.
    """
    status, cancel = f"{panel.name}_status", f"{panel.name}_cancel"
    if jobs.goes_on(panel.job):
        yield {status: html.failure("The last one is not done: cancel it, or wait")}
        return
    job = jobs.start(work, panel.what or panel.name)
    try:
        yield {f"{panel.name}_job": job.id, status: html.note("Starting …"), cancel: Properties(interactive=True)}
        for report in job.reports():
            yield status_update(report, status, analyse_html.progress)
        idle = {cancel: Properties(interactive=False)}
        error = job.error()
        if isinstance(error, Cancelled):
            yield {**idle, status: html.ended(job.id, html.note("Cancelled"))}
        elif error is not None:
            yield {**idle, status: html.ended(job.id, html.failure(describe_error(error)))}
        else:
            changes = dict(finished(job))
            message = changes.get(status)
            yield {**idle, **changes, status: html.ended(job.id, message if isinstance(message, str) else "")}
    finally:
        job.cancel()  # if the page was closed before the end
