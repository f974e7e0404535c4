"""The Train tab: a path of cards (pictures, blocks, settings, samples), and beside it what the run costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_blocktrain.ui import form, html, train_html
from lib_blocktrain.ui.form import CHOICE, FOLDED, GROUPS, LINES, MAIN, NAMES, PAIRS, SWITCH, TEXT, Field
from lib_blocktrain.ui.frame import actions, aside, bar, card, menu, messages, pane, panes, section
from lib_blocktrain.ui.preview_tab import SELECTION
from lib_blocktrain.ui.remembered import Memory, add_widgets
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.train_handlers import FOLDERS, NAME, SLIDERS, WEIGHTS, TrainHandlers, train_map
from lib_blocktrain.ui.values import Changes
from lib_blocktrain.ui.widgets import Shared, Widgets
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS, WEIGHT_MAX, WEIGHT_MIN

OPEN_CHOICES = ("optimizer.name",)  # the dotted name of a class may be typed instead
ROW_LENGTH = 3  # widgets
FORM = ("train_form", "train_rest")
COSTED = (*FORM, "train_preset")  # of which the estimate is made
# What depends on the form: the estimate, how the weights are understood, and what is said before the start.
COST = ("train_estimate", "train_cost", "train_checks", "train_path")
ESTIMATE = ("train_understood", *COST, "train_folds", "train_preset")
FOLLOWED = (*COSTED, "train_shown")  # of which the map is made, too
SHOWN_OF_FORM = ("train_map", "train_shown", "train_weights", *ESTIMATE)


class TrainTab:
    """Train a LoRA under block weights, on the loaded model."""

    title = "Train"

    def __init__(self, shared: Shared):
        self.host = shared.host
        self.memory = Memory("train", shared.host.name, ("train_form",))
        self.handlers = TrainHandlers(shared.host, shared.controls, shared.runner, shared.initial.runs)

    def build(self, w: Widgets) -> None:
        # in the page, as a State is lost with the server
        w.add("train_rest", gr.Textbox, label="The run that was loaded", elem_classes="blocktrain-unseen")
        w["train_shown"] = gr.State("")
        add_widgets(w, "train")
        self.values = form.defaults()
        with bar("train"):
            with actions():
                trains = not self.host.no_training
                w.add("train_start", gr.Button, "Start", variant="primary", interactive=trains)
            with messages():
                w.html("train_message", None if trains else html.failure(self.host.no_training))
            with aside():
                w.html("train_cost")
                with menu("train_from", "Fill the form from another run", "Start from …", right=True):
                    w.add("train_lora", gr.Button, "The chosen LoRA")
                    w.add("train_file", gr.UploadButton, "A run.json", file_types=[".json"])
        w.html("train_path", train_html.steps([]))
        with panes("train"):
            with pane("canvas"), gr.Row(elem_classes="blocktrain-run-cards"):
                with gr.Column(elem_classes="blocktrain-cardcol", min_width=0):
                    with card("Pictures", 1):
                        self._pictures(w)
                    with card("Settings", 3):
                        for group in ("name", "network", MAIN):
                            self._group(w, group)
                    with card("More settings"):
                        w.add("train_folds", gr.HTML, "", elem_classes="blocktrain-unseen")
                        for number, group in enumerate(FOLDED):
                            with gr.Accordion(group, open=False, elem_id=f"blocktrain_train_fold_{number}"):
                                self._group(w, group)
                with gr.Column(elem_classes="blocktrain-cardcol", min_width=0):
                    with card("Blocks", 2):
                        self._weights(w)
                    with card("Samples on the way"):
                        self._group(w, "samples")
            with pane("right"):
                with section("Estimate"):
                    w.html("train_estimate")
                with section("Before the start"):
                    w.html("train_checks")
        w.groups["train_form"] = {name: w[name] for name in NAMES}
        w.groups["train_weights"] = {block_id: w[f"train_w_{block_id}"] for block_id in WEIGHT_IDS}

    def _pictures(self, w: Widgets) -> None:
        w.add("train_ready", gr.Dropdown, choices=[], label="Ready runs", visible=False)
        w.html("train_set", train_html.SET)
        self._group(w, "dataset")
        with gr.Row(elem_classes="blocktrain-line-up"):
            w.add("train_look", gr.Button, "Check the pictures", min_width=0)
            w.add("train_probe", gr.Button, "Probe the pictures", min_width=0)
        w.html("train_dataset")

    def _weights(self, w: Widgets) -> None:
        with gr.Row(elem_classes="blocktrain-line-up"):
            w.add("train_preset", gr.Dropdown, choices=[], label="Preset", min_width=140)
            w.add("train_sliders", gr.Button, "Use the sliders of Preview", min_width=180)
        w.html("train_map", train_map("sd1").html())
        with gr.Column(elem_classes="blocktrain-unseen", min_width=0):  # what the map moves
            for block_id in WEIGHT_IDS:
                w.add(f"{SLIDERS}{block_id}", gr.Slider, WEIGHT_MIN, WEIGHT_MAX, 1.0, step=0.01, label=block_id)
        self._group(w, "weights")
        w.html("train_understood")

    def _group(self, w: Widgets, group: str) -> None:
        """Make the widgets of a group, several to a row; multi-line ones get a row each."""
        row: list[Field] = []
        for field in (*GROUPS[group], None):
            if field is None or field.kind in (LINES, PAIRS) or field.path == form.WEIGHTS or len(row) == ROW_LENGTH:
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
        elif field.kind in (TEXT, form.NUMBERS, form.OPTIONAL):
            lines = 4 if field.path == form.WEIGHTS else 1
            w.add(field.name, gr.Textbox, lines=1, max_lines=lines, placeholder=field.info, **options)
        else:
            w.add(field.name, gr.Number, **options)

    def wire(self, w: Widgets) -> None:
        handlers, form_values, estimate = self.handlers, w.pick(*FORM), w.pick(*ESTIMATE)
        asked = w.pick(*COSTED)
        for name in NAMES:
            on(w[name].input, handlers.estimate, asked, estimate, latest=True)
        on(w[WEIGHTS].input, handlers.to_map, form_values, w.pick("train_weights"), latest=True)
        # gradio drops the second of two events that follow each other: the estimate comes with the weights
        weights = form_fields(w, WEIGHTS)
        for slider in w.groups["train_weights"].values():
            moved = {**w.pick("train_weights"), **asked}
            on(slider.release, handlers.from_map, moved, {**weights, **estimate}, latest=True)
        asked, shown = w.pick(*FOLLOWED), w.pick(*SHOWN_OF_FORM)
        on(w["train_preset"].input, handlers.use_preset, asked, {**weights, **shown}, latest=True)
        sliders = w.pick(*SELECTION, "paste", "preset")
        on(w["train_sliders"].click, handlers.from_sliders, {**sliders, **asked}, {**weights, **shown})
        filled = {**w.pick(*FORM, "train_dataset", "train_message"), **shown}
        on(w["train_ready"].input, handlers.load_ready, {**w.pick("train_ready"), **asked}, filled, latest=True)
        on(w["train_file"].upload, handlers.load_file, {**w.pick("train_file"), **asked}, filled)
        on(w["train_lora"].click, handlers.load_lora, {**w.pick(*SELECTION), **asked}, filled)
        on(w["refresh"].click, handlers.follow, asked, shown)
        inspected = {**form_fields(w, NAME), **w.pick("train_dataset")}
        on(w["train_look"].click, handlers.inspect_dataset, form_values, inspected, queued=True)
        probe = w.pick("probe_folder", "tabs", "train_message")
        on(w["train_probe"].click, handlers.to_probe, form_fields(w, FOLDERS), probe)
        started = w.pick("train_message", "runs_chosen", "tabs")
        on(w["train_start"].click, handlers.start, form_values, started, queued=True)

        self.memory.wire(w, lambda values: {name: values[name] for name in FORM}, FORM)

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        menus = w.pick("train_form", "train_ready", "train_preset", "train_map", "train_shown", "train_message")
        loaded = on(blocks.load, self.handlers.open, {}, menus)

        def restore(stored: dict[str, Any]) -> tuple[Changes, list[str]]:
            changes, wrong = self.memory.fitting(w, stored)
            rest = stored.get("train_rest")
            text = json.dumps(rest) if isinstance(rest, dict) else rest  # an object in pages of earlier versions
            return {**changes, "train_rest": text if isinstance(text, str) else ""}, wrong

        restored = self.memory.on_load(loaded.then, w, restore, FORM)
        follow(restored.then, self.handlers, w)


def follow(event: Callable[..., gr.events.Dependency], handlers: TrainHandlers, w: Widgets) -> None:
    """Show on the map, and in the estimate, what an event has put into the form."""
    on(event, handlers.follow, w.pick(*FOLLOWED), w.pick(*SHOWN_OF_FORM))


def form_fields(w: Widgets, *names: str) -> dict[str, dict[str, gr.components.Component]]:
    """Some widgets of the form, for an event that needs only these."""
    return {"train_form": {name: w[name] for name in names}}
