"""The Runs tab: the table of runs on the left, the chosen run on the right; `javascript/runs_*.js` draw both."""

from __future__ import annotations

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.ui.frame import actions, aside, bar, menu, messages, pane, panes, segments
from lib_blocktrain.ui.preview_tab import SELECTION, SHOWN
from lib_blocktrain.ui.runs_handlers import BUTTONS, RUN_PARTS, RunsHandlers
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.ui.train_tab import FORM, follow
from lib_blocktrain.ui.widgets import Shared, Widgets

STATE = ("runs_chosen", "runs_ask", "runs_shown")
CONTENTS = ("runs_table", "runs_state", "runs_begin", *RUN_PARTS, "runs_other", *(f"runs_{name}" for name in BUTTONS))
POLLED = ("runs_chosen", "runs_shown", *CONTENTS, "runs_weights", "runs_weigh_message", "runs_message", "runs_beat")

ITEMS = (  # data-do, title, help
    ("preview", "Open in Preview", ""),
    ("title", "Rename…", "The title in the list; the names of its files stay"),
    ("notes", "Notes…", "A text for yourself, kept with the run"),
    ("first", "Train it next", "Put it before the other runs that wait"),
    ("up", "Move up in the queue", ""),
    ("down", "Move down in the queue", ""),
    ("json", "Copy run.json", "The settings, as the command line reads them"),
    ("delete", "Delete the run…", "With its samples, checkpoints and saved state"),
)
_ITEM = Markup('<button type="button" class="blocktrain-mi" data-do="{}" title="{}">{}</button>')
TABLE = Markup(
    '<div class="blocktrain-runs-list"><div class="blocktrain-sec-h"><h2>Runs</h2><label class="blocktrain-search">'
    '<svg class="blocktrain-ic" viewBox="0 0 16 16" aria-hidden="true"><circle cx="7" cy="7" r="4.5" fill="none" '
    'stroke="currentColor" stroke-width="1.5"/><path d="m10.5 10.5 4 4" stroke="currentColor" stroke-width="1.5"/>'
    "</svg>"
    '<input type="search" placeholder="Name, state, block" aria-label="Find a run"></label></div>'
    '<div class="blocktrain-runs-box"><table class="blocktrain-runs"><thead><tr><th>Run</th>'
    '<th class="blocktrain-c-s">Step</th><th class="blocktrain-c-l" title="The smoothed loss">Loss</th>'
    '<th class="blocktrain-c-u">Blocks</th><th class="blocktrain-c-c"><span class="blocktrain-vh">Compare</span></th>'
    '</tr></thead><tbody></tbody></table><p class="blocktrain-line" hidden></p></div></div>'
)
VIEW = Markup(
    '<div class="blocktrain-run-g"><section class="blocktrain-sample blocktrain-part blocktrain-part-now"></section>'
    '<section class="blocktrain-run-log blocktrain-part blocktrain-part-log"><div class="blocktrain-sec-h">'
    "<h2>Events</h2></div><ol></ol></section>"
    '<section class="blocktrain-time blocktrain-part blocktrain-part-now blocktrain-part-change">'
    '<div class="blocktrain-loss"></div><div class="blocktrain-scrub"></div>'
    '<div class="blocktrain-blocks blocktrain-part blocktrain-part-change"></div></section></div>'
    '<div class="blocktrain-runs-empty"><i aria-hidden="true"></i><h2>No runs yet</h2><p>A run shows here from its '
    "first step: samples, loss, and how much each block has changed.</p>"
    '<button type="button" class="blocktrain-btn blocktrain-is-primary" data-go="train">Go to Train</button></div>'
)


class RunsTab:
    """The run in training, queued runs, and earlier ones."""

    title = "Runs"

    def __init__(self, shared: Shared):
        self.train_handlers = TrainHandlers(shared.host, shared.controls, shared.runner)
        self.handlers = RunsHandlers(shared.host, shared.controls, shared.runner, self.train_handlers)

    def build(self, w: Widgets) -> None:
        w["runs_shown"] = gr.State({})
        segments("runs", {"now": "Now", "change": "Blocks", "log": "Log", "all": "All runs"})
        with bar("runs"):
            _bar(w)
        with panes("runs"):
            with pane("left", "all"):
                w.html("runs_list", TABLE)
                for name in ("runs_table", "runs_curves", "runs_blocks", "runs_events", "runs_other", "runs_saved"):
                    w.add(name, gr.HTML, "", elem_classes="blocktrain-unseen")
                for name, label in (("runs_chosen", "Run"), ("runs_ask", "Asked")):
                    w.add(name, gr.Textbox, label=label, elem_classes="blocktrain-unseen")
                for name, label in (("runs_tick", "Refresh"), ("runs_act", "Do")):
                    w.add(name, gr.Button, label, elem_classes="blocktrain-unseen")
                w.html("runs_beat")
            with pane("canvas", "now", "change", "log"):
                w.html("runs_head")
                w.html("runs_view", VIEW)
                with gr.Accordion(
                    "Change the block weights while it trains", open=False, elem_id="blocktrain_runs_live"
                ):
                    w.add("runs_weights", gr.Textbox, label="Block weights", lines=1, max_lines=4)
                    with gr.Row():
                        w.add("runs_sliders", gr.Button, "Use the sliders of Preview", size="sm")
                        w.add("runs_weigh", gr.Button, "Change weights", size="sm", interactive=False)
                    w.html("runs_weigh_message")

    def wire(self, w: Widgets) -> None:
        handlers, state, answer = self.handlers, w.pick(*STATE), w.pick(*POLLED)
        on(w["runs_tick"].click, handlers.poll, state, answer)
        on(w["runs_act"].click, handlers.act, state, answer)
        on(w["runs_begin"].click, handlers.start_queue, state, answer)
        on(w["runs_stop_save"].click, handlers.stop_and_save, state, answer)
        on(w["runs_stop"].click, handlers.stop, state, answer)
        on(w["runs_pause"].click, handlers.pause, state, answer)
        on(w["runs_resume"].click, handlers.resume, state, answer)
        weighing = w.pick("runs_weights", "runs_weigh_message")
        on(w["runs_sliders"].click, handlers.from_sliders, w.pick(*SELECTION), weighing)
        weights = w.pick("runs_chosen", "runs_weights")
        on(w["runs_weigh"].click, handlers.set_weights, weights, w.pick("runs_weigh_message"))
        form = w.pick(*FORM, "train_dataset", "train_message", "tabs", "runs_message")
        filled = on(w["runs_again"].click, handlers.to_training, w.pick("runs_chosen"), form)
        follow(filled.then, self.train_handlers, w)
        shown = w.pick(*SHOWN, "tabs", "status", "runs_message")
        on(w["runs_preview"].click, handlers.to_preview, w.pick("runs_chosen", "runs_ask"), shown)

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        on(blocks.load, self.handlers.open, w.pick("runs_chosen", "runs_ask"), w.pick(*POLLED))


def _bar(w: Widgets) -> None:
    hidden = {"visible": False}
    with actions():
        w.add("runs_begin", gr.Button, "Start the queue", variant="primary", **hidden)
        w.add("runs_resume", gr.Button, "Resume", variant="primary", **hidden)
        w.add("runs_pause", gr.Button, "Pause", **hidden)
        w.add("runs_stop_save", gr.Button, "Stop and save", **hidden)
        w.add("runs_stop", gr.Button, "Stop", variant="stop", **hidden)
    with messages():
        w.html("runs_state")
        w.html("runs_message")
    with aside():
        w.html("runs_file", Markup('<select class="blocktrain-in blocktrain-in-s" aria-label="File"></select>'))
        w.add("runs_preview", gr.Button, "Preview it", interactive=False)
        with menu("runs", "More about this run", "⋯", right=True):
            w.add("runs_again", gr.Button, "Run again with these settings…", interactive=False)
            items = Markup("").join(_ITEM.format(do, about, title) for do, title, about in ITEMS)
            w.html("runs_menu", Markup('<div class="blocktrain-runs-menu">{}</div>').format(items))
