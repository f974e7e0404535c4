"""Ends on the page what was lost with the connection: a job whose end gradio never told it.

`javascript/lost_jobs.js` asks when the server responds again, and until nothing looks as if it went on any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.ui.preview_handlers import IDLE
from lib_blocktrain.ui.shim import forget_stream, on
from lib_blocktrain.ui.values import Changes, Properties
from lib_blocktrain.ui.widgets import Widgets
from lib_blocktrain.workspace.jobs import Jobs

_LOST = Markup('<p class="blocktrain-failure blocktrain-lost" role="alert">{}</p>').format(
    "The connection broke off before this was done. Start it again."
)


@dataclass(frozen=True)
class Place:
    """The widgets of one kind of job: its ids, its line, and its Cancel, which can be pressed while it goes on."""

    job: str
    status: str
    cancel: str


PLACES = (
    Place("drawing", "status", "cancel"),
    *(
        Place(f"{name}_job", f"{name}_status", f"{name}_cancel")
        for name in ("bake", "analyse", "probe", "solve", "collide")
    ),
)


class LostJobs:
    """Answers the page that asks what has become of its jobs."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs

    def build(self, w: Widgets) -> None:
        """Add the widgets that are not seen."""
        w.add("lost_ask", gr.Textbox, label="Jobs that look as if they went on", elem_classes="blocktrain-unseen")
        for name, label in (("lost_tick", "What has become of them"), ("lost_stream", "Close gradio's stream")):
            w.add(name, gr.Button, label, elem_classes="blocktrain-unseen")

    def wire(self, w: Widgets) -> None:
        """Connect them; after all others, whose events `lost_stream` cancels."""
        given = w.pick("lost_ask", *(place.job for place in PLACES))
        changed = w.pick("draw", "draw_grid", *(name for place in PLACES for name in (place.status, place.cancel)))
        on(w["lost_tick"].click, self.answer, given, changed)
        forget_stream(w["lost_stream"].click)

    def answer(self, values: Mapping[str, str | None]) -> Changes:
        """Return the end of each job that the page names by its Cancel and that goes on no more."""
        named = (values["lost_ask"] or "").split()
        changes: dict[str, object] = {}
        for place in PLACES:
            if place.cancel in named and not any(map(self.jobs.goes_on, (values[place.job] or "").split())):
                idle = IDLE if place.cancel == "cancel" else {place.cancel: Properties(interactive=False)}
                changes |= {place.status: _LOST, **idle}
        return changes
