"""The place Runs: the list and the queue on the left, the chosen run on the right."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.ui.form import NAMES
from lib_blocktrain.ui.preview_tab import SELECTION, SHOWN
from lib_blocktrain.ui.runs_handlers import BUTTONS, PARTS, RESULT, RunsHandlers
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.ui.widgets import Shared, Widgets

ASKED = ("runs_chosen", "runs_shown")
TOLD = (*ASKED, *PARTS, "runs_begin", *(f"runs_{name}" for name in BUTTONS), "runs_file", "runs_beat")


class RunsTab:
    """What is trained, what waits, and what there was."""

    title = "Runs"

    def __init__(self, shared: Shared):
        training = TrainHandlers(shared.host, shared.controls, shared.runner, shared.first.runs)
        self.watching, self.training = RunsHandlers(shared.host, shared.controls, shared.runner, training), training

    def build(self, w: Widgets) -> None:
        """Make its widgets."""
        w["runs_chosen"], w["runs_shown"] = gr.State(""), gr.State({})
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                w.add("runs_list", gr.Radio, choices=[], label="Runs")
                w.html("runs_queue")
                w.add("runs_begin", gr.Button, "Go on with the queue", variant="primary", visible=False)
                w.add("runs_tick", gr.Button, "Look again", size="sm")
                w.html("runs_beat")
            with gr.Column(scale=5, min_width=420):
                w.html("runs_head")
                with gr.Row():
                    w.add("runs_stop_save", gr.Button, "Stop and save", interactive=False, min_width=110)
                    w.add("runs_stop", gr.Button, "Stop", variant="stop", interactive=False, min_width=80)
                    w.add("runs_pause", gr.Button, "Pause", interactive=False, min_width=80)
                    w.add("runs_resume", gr.Button, "Resume", interactive=False, min_width=80)
                    w.add("runs_again", gr.Button, "Run again", interactive=False, min_width=90)
                with gr.Row():
                    w.add("runs_file", gr.Dropdown, choices=[RESULT], value=RESULT, label="File", min_width=140)
                    w.add("runs_preview", gr.Button, "Preview it", interactive=False, min_width=100)
                w.html("runs_message")
                w.html("runs_samples")
                w.html("runs_curves")
                w.html("runs_map")
                with gr.Accordion("Change the block weights while it runs", open=False, elem_id="blocktrain_runs_live"):
                    w.add("runs_weights", gr.Textbox, label="Block weights", lines=1, max_lines=4)
                    with gr.Row():
                        w.add("runs_sliders", gr.Button, "Take the sliders of Preview", size="sm")
                        w.add("runs_weigh", gr.Button, "Change them", size="sm", interactive=False)
                w.html("runs_events")

    def wire(self, w: Widgets) -> None:
        """Tie its events."""
        watching, asked, outputs = self.watching, w.pick(*ASKED), w.pick(*TOLD, "runs_message")
        on(w["runs_tick"].click, watching.look, asked, w.pick(*TOLD))
        chosen = w.pick(*TOLD, "runs_message", "runs_weights")
        on(w["runs_list"].input, watching.choose, w.pick(*ASKED, "runs_list"), chosen)
        on(w["runs_begin"].click, watching.begin, asked, outputs)
        tells = {"stop_save": watching.stop_and_save, "stop": watching.stop, "pause": watching.pause}
        for name, function in {**tells, "resume": watching.resume}.items():
            on(w[f"runs_{name}"].click, function, asked, outputs)
        on(w["runs_sliders"].click, watching.from_sliders, w.pick(*SELECTION), w.pick("runs_weights", "runs_message"))
        on(w["runs_weigh"].click, watching.weigh, w.pick("runs_chosen", "runs_weights"), w.pick("runs_message"))
        form = w.pick(*NAMES, "train_rest", "train_dataset", "train_loaded", "tabs", "runs_message")
        filled = on(w["runs_again"].click, watching.again, w.pick("runs_chosen"), form)
        estimated = w.pick("train_understood", "train_estimate")
        on(filled.then, self.training.weigh, w.pick(*NAMES, "train_rest"), estimated)
        shown = w.pick(*SHOWN, "search", "tabs", "status", "runs_message")
        on(w["runs_preview"].click, watching.preview, w.pick("runs_chosen", "runs_file"), shown)

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        """Show the run that goes on, or the newest."""
        on(blocks.load, self.watching.open, w.pick(*ASKED), w.pick(*TOLD))
