"""The Runs tab: the list and the queue on the left, the chosen run on the right."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.ui.frame import actions, aside, bar, messages, pane, panes, section, segments
from lib_blocktrain.ui.preview_tab import SELECTION, SHOWN
from lib_blocktrain.ui.runs_handlers import BUTTONS, RESULT, RUN_PARTS, RunsHandlers
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.ui.train_tab import ESTIMATE, FORM
from lib_blocktrain.ui.widgets import Shared, Widgets

STATE = ("runs_chosen", "runs_shown")
CONTENTS = ("runs_list", "runs_queue", "runs_begin", *RUN_PARTS, "runs_file", *(f"runs_{name}" for name in BUTTONS))
POLLED = (*STATE, *CONTENTS, "runs_beat")


class RunsTab:
    """The run in training, queued runs, and earlier ones."""

    title = "Runs"

    def __init__(self, shared: Shared):
        self.train_handlers = TrainHandlers(shared.host, shared.controls, shared.runner)
        self.handlers = RunsHandlers(shared.host, shared.controls, shared.runner, self.train_handlers)

    def build(self, w: Widgets) -> None:
        w["runs_chosen"], w["runs_shown"] = gr.State(""), gr.State({})
        segments("runs", {"now": "Now", "change": "Blocks", "log": "Log", "all": "All runs"})
        with bar("runs"):
            with actions():
                w.add("runs_begin", gr.Button, "Start the queue", variant="primary", visible=False)
                w.add("runs_pause", gr.Button, "Pause", interactive=False)
                w.add("runs_stop_save", gr.Button, "Stop and save", interactive=False)
                w.add("runs_stop", gr.Button, "Stop", variant="stop", interactive=False)
                w.add("runs_resume", gr.Button, "Resume", interactive=False)
            with messages():
                w.html("runs_message")
            with aside():
                w.add("runs_again", gr.Button, "Run again", interactive=False)
                w.add("runs_file", gr.Dropdown, choices=[RESULT], value=RESULT, label="File", min_width=110)
                w.add("runs_preview", gr.Button, "Open in Preview", interactive=False)
        with panes("runs"):
            with pane("left", "all"), section("All runs"):
                w.add("runs_list", gr.Radio, choices=[], label="Runs")
                w.html("runs_queue")
                w.add("runs_tick", gr.Button, "Refresh", size="sm")
                w.html("runs_beat")
            with pane("canvas", "now", "change", "log"):
                with section("", "now"):
                    w.html("runs_head")
                    w.html("runs_samples")
                    w.html("runs_curves")
                with section("", "change"):
                    w.html("runs_map")
                    with gr.Accordion(
                        "Change the block weights during a run", open=False, elem_id="blocktrain_runs_live"
                    ):
                        w.add("runs_weights", gr.Textbox, label="Block weights", lines=1, max_lines=4)
                        with gr.Row():
                            w.add("runs_sliders", gr.Button, "Use the sliders of Preview", size="sm")
                            w.add("runs_weigh", gr.Button, "Change weights", size="sm", interactive=False)
                with section("", "log"):
                    w.html("runs_events")

    def wire(self, w: Widgets) -> None:
        handlers, state, answer = self.handlers, w.pick(*STATE), w.pick(*POLLED, "runs_message")
        on(w["runs_tick"].click, handlers.poll, state, w.pick(*POLLED))
        on(w["runs_list"].input, handlers.choose, w.pick(*STATE, "runs_list"), {**answer, **w.pick("runs_weights")})
        on(w["runs_begin"].click, handlers.start_queue, state, answer)
        on(w["runs_stop_save"].click, handlers.stop_and_save, state, answer)
        on(w["runs_stop"].click, handlers.stop, state, answer)
        on(w["runs_pause"].click, handlers.pause, state, answer)
        on(w["runs_resume"].click, handlers.resume, state, answer)
        on(w["runs_sliders"].click, handlers.from_sliders, w.pick(*SELECTION), w.pick("runs_weights", "runs_message"))
        weights = w.pick("runs_chosen", "runs_weights")
        on(w["runs_weigh"].click, handlers.set_weights, weights, w.pick("runs_message"))
        form = w.pick(*FORM, "train_dataset", "train_loaded", "tabs", "runs_message")
        filled = on(w["runs_again"].click, handlers.to_training, w.pick("runs_chosen"), form)
        on(filled.then, self.train_handlers.estimate, w.pick(*FORM), w.pick(*ESTIMATE))
        shown = w.pick(*SHOWN, "search", "tabs", "status", "runs_message")
        on(w["runs_preview"].click, handlers.to_preview, w.pick("runs_chosen", "runs_file"), shown)

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        on(blocks.load, self.handlers.open, w.pick("runs_chosen"), w.pick(*POLLED))
