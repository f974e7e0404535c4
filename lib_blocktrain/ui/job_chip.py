"""The chip in the page's header: the run in training, waiting, or ended since, in every place of the page.

`javascript/page_job.js` asks for it while the page is shown, and shows its progress in the window's title.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.runner import Runner, Status
from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui import html
from lib_blocktrain.ui.icons import icon
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.values import Changes
from lib_blocktrain.ui.widgets import Widgets

POLL_TRAINING, POLL_IDLE = 1500, 5000  # milliseconds to the next poll
# by state, the kind of the chip and its icon; the others: stopped, paused
_ENDS = {"finished": ("done", "good"), "failed": ("bad", "warn"), "diverged": ("bad", "warn")}
TITLE = "Show the run"
_CHIP = Markup(
    '<button type="button" class="blocktrain-chip blocktrain-chip-job blocktrain-is-{kind}" data-run="{run}" '
    'data-state="{state}" data-share="{share:.3f}" title="{title}">{sign}<span><b class="blocktrain-cut">{name}</b> '
    '<span class="{state_class}">{state}</span> {figures}</span>{left}</button>'
)


class JobChip:
    """The state of the runner in a few words."""

    def __init__(self, runner: Runner):
        self.runner = runner
        self._last: str | None = None  # the run that was in training when the page last asked

    def build(self, w: Widgets) -> None:
        """The widgets, in the header."""
        w.html("job_chip")
        w.add("job_tick", gr.Button, "Refresh the chip", elem_classes="blocktrain-unseen")
        w.html("job_beat")

    def wire(self, w: Widgets) -> None:
        on(w["job_tick"].click, self.poll, {}, w.pick("job_chip", "job_beat"))

    def poll(self, values: Mapping[str, object]) -> Changes:
        """The chip, and how long to wait before the next request."""
        wait = POLL_IDLE if self.runner.current is None else POLL_TRAINING
        beat = Markup('<span data-beat="{}" data-next="{}"></span>').format(time.monotonic_ns(), wait)
        return {"job_chip": self._chip(), "job_beat": beat}

    def _chip(self) -> Markup:
        current = self.runner.current
        if current is not None:
            self._last = current.folder.name
            return _active(current, self.runner.status(current))
        queue = self.runner.queue()
        if self.runner.held and queue:
            others = f"and {len(queue) - 1} more" if len(queue) > 1 else ""
            title = "The queue is held: show the runs"
            state = self.runner.status(queue[0]).state  # waiting, or paused
            return _chip(queue[0], state, "waiting", sign=icon("pause"), figures=others, title=title)
        if self._last is None:
            return Markup("")
        try:
            last = self.runner.find(self._last)
        except ValueError:  # deleted meanwhile
            return Markup("")
        status = self.runner.status(last)
        kind, sign = _ENDS.get(status.state, ("ended", "stop"))
        return _chip(last, status.state, kind, sign=icon(sign), title=status.reason or TITLE)


def _active(run: Run, status: Status) -> Markup:
    share = status.step / max(status.steps, 1)
    left: Markup | str = ""
    if status.state == "training" and status.seconds_left is not None:
        left = Markup("<em>{} left</em>").format(html.clock(status.seconds_left))
    ring = Markup('<i class="blocktrain-ring" style="--blocktrain-p: {:.3f}"></i>').format(share)
    return _chip(run, status.state, "run", sign=ring, figures=f"{status.step}/{status.steps}", left=left, share=share)


def _chip(
    run: Run,
    state: str,
    kind: str,
    *,
    sign: Markup,
    figures: str = "",
    left: str = "",
    share: float = 0.0,
    title: str = TITLE,
) -> Markup:
    return _CHIP.format(
        run=run.folder.name, name=run.config.name, state=state, kind=kind, sign=sign, figures=figures, left=left,
        share=share, title=title,
        state_class="blocktrain-wide" if figures else "blocktrain-chip-state",  # narrow: one of them is shown
    )  # fmt: skip
