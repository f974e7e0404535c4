"""The place Train: pictures, weights and their cost on the left, everything else on the right."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.ui import form
from lib_blocktrain.ui.form import CHOICE, GROUPS, LINES, MAIN, NAMES, PAIRS, SWITCH, TEXT, UNFOLDED, Field
from lib_blocktrain.ui.preview_tab import SELECTION
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.train_handlers import FOLDERS, WEIGHTS, TrainHandlers
from lib_blocktrain.ui.widgets import Shared, Widgets

# The entries on which the estimate depends.
COSTLY = (
    form.WEIGHTS, "network.meaning", "network.algorithm", "network.rank", "network.conv_rank", "network.text_encoder",
    "network.elements", "steps", "batch", "dataset.size", "dataset.height", "checkpointing", "optimizer.name",
    "optimizer.ema",
)  # fmt: skip
OPEN_CHOICES = ("optimizer.name",)  # a dotted class may be typed too
A_ROW = 4  # widgets beside each other
FORM = (*NAMES, "train_rest")


class TrainTab:
    """A LoRA under block weights, on the model that is loaded."""

    title = "Train"

    def __init__(self, shared: Shared):
        self.host = shared.host
        self.training = TrainHandlers(shared.host, shared.controls, shared.runner, shared.first.runs)

    def build(self, w: Widgets) -> None:
        """Make its widgets."""
        w["train_rest"] = gr.State({})
        self.values = form.defaults()
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=420):
                w.add("train_ready", gr.Radio, choices=[], label="Ready runs", visible=False)
                with gr.Row():
                    w.add("train_file", gr.UploadButton, "Load run.json", size="sm", file_types=[".json"])
                    w.add("train_lora", gr.Button, "From the chosen LoRA", size="sm")
                w.html("train_loaded")
                self._group(w, "dataset")
                with gr.Row():
                    w.add("train_look", gr.Button, "Look what is there", size="sm")
                    w.add("train_probe", gr.Button, "Probe them", size="sm")
                w.html("train_dataset")
                self._weights(w)
                with gr.Row():
                    self._group(w, "name")
                    w.add("train_start", gr.Button, "Start", variant="primary", min_width=110)
                w.html("train_message")
            with gr.Column(scale=6, min_width=420):
                for group in ("network", MAIN, "samples"):
                    with gr.Group(elem_classes="blocktrain-panel"):
                        self._group(w, group)
                for group in GROUPS:
                    if group not in UNFOLDED:
                        with gr.Accordion(group, open=False):
                            self._group(w, group)

    def _weights(self, w: Widgets) -> None:
        with gr.Group(elem_classes="blocktrain-panel"):
            self._group(w, "weights")
            with gr.Row():
                w.add("train_preset", gr.Dropdown, choices=[], label="Preset", min_width=140)
                w.add("train_sliders", gr.Button, "Take the sliders of Preview", size="sm", min_width=180)
        w.html("train_understood")
        w.html("train_estimate")

    def _group(self, w: Widgets, group: str) -> None:
        """The widgets of a group, some in a row; texts of several lines have a row of their own."""
        row: list[Field] = []
        for field in (*GROUPS[group], None):
            if field is None or field.kind in (LINES, PAIRS) or field.path == form.WEIGHTS or len(row) == A_ROW:
                if row:
                    with gr.Row():
                        for beside in row:
                            self._widget(w, beside)
                row = []
            if field is not None and (field.kind in (LINES, PAIRS) or field.path == form.WEIGHTS):
                self._widget(w, field)
            elif field is not None:
                row.append(field)

    def _widget(self, w: Widgets, field: Field) -> None:
        options = {"label": field.label, "value": self.values[field.name], "min_width": 120}
        if field.path == "samples.sampler":
            w.add(
                field.name, gr.Dropdown, choices=list(self.host.samplers), **{**options, "value": self.host.samplers[0]}
            )
        elif field.kind == CHOICE:
            free = field.path in OPEN_CHOICES
            w.add(field.name, gr.Dropdown, choices=list(field.choices), allow_custom_value=free, **options)
        elif field.kind == SWITCH:
            w.add(field.name, gr.Checkbox, **options)
        elif field.kind in (LINES, PAIRS):
            w.add(field.name, gr.Textbox, lines=2, max_lines=6, placeholder=field.info, **options)
        elif field.kind in (TEXT, form.OPTIONAL):
            lines = 4 if field.path == form.WEIGHTS else 1
            w.add(field.name, gr.Textbox, lines=1, max_lines=lines, placeholder=field.info, **options)
        else:
            w.add(field.name, gr.Number, **options)

    def wire(self, w: Widgets) -> None:
        """Tie its events."""
        training, asked = self.training, w.pick(*FORM)
        estimated = w.pick("train_understood", "train_estimate")
        for path in COSTLY:
            on(w[Field(path, "", "").name].input, training.weigh, asked, estimated, latest=True)
        filled = w.pick(*FORM, "train_dataset", "train_loaded")
        loads = [
            on(w["train_ready"].input, training.load_ready, w.pick("train_ready"), filled),
            on(w["train_file"].upload, training.load_file, w.pick("train_file"), filled),
            on(w["train_lora"].click, training.load_lora, w.pick(*SELECTION), filled),
            on(
                w["train_sliders"].click, training.from_sliders, w.pick(*SELECTION), w.pick(WEIGHTS, "train_understood")
            ),
            on(
                w["train_preset"].input,
                training.use_preset,
                w.pick("train_preset"),
                w.pick(WEIGHTS, "train_understood"),
            ),
        ]
        for loaded in loads:
            on(loaded.then, training.weigh, asked, estimated)
        found = w.pick("train_dataset", "train_name")
        on(w["train_look"].click, training.look, asked, found, queued=True)
        on(
            w["train_probe"].click,
            training.to_probe,
            w.pick(FOLDERS),
            w.pick("probe_folder", "tabs", "train_message"),
        )
        started = w.pick("train_message", "runs_chosen", "tabs")
        on(w["train_start"].click, training.start, asked, started, queued=True)

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        """Fill the menus, then say what the form as it stands would cost."""
        looked = on(blocks.load, self.training.open, {}, w.pick(*NAMES, "train_ready", "train_preset", "train_message"))
        on(looked.then, self.training.weigh, w.pick(*FORM), w.pick("train_understood", "train_estimate"))
