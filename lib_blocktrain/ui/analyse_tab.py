"""The place Analyse: what is asked on the left, what was found on the right."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.ui.analyse_handlers import (
    AGAINST,
    BOX,
    DRAWN,
    FILE,
    KINDS,
    NOTHING,
    RULE_LABELS,
    USES,
    WHOLE,
    WORD,
    AnalyseHandlers,
)
from lib_blocktrain.ui.preview_tab import SELECTION, SHOWN
from lib_blocktrain.ui.probe_handlers import ProbeHandlers
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.ui.train_tab import FORM
from lib_blocktrain.ui.values import Changes, Properties, Values
from lib_blocktrain.ui.widgets import Shared, Widgets
from lib_blocktrain.workspace.analyses import ALL_METHODS

ASKED = (
    *("analyse_lora", "analyse_prompts", "analyse_negative", "analyse_seeds", "analyse_cfg", "analyse_strength"),
    *("analyse_method", "analyse_kind", "analyse_word", "analyse_box", "analyse_mask", "analyse_painted"),
    *("analyse_against", "analyse_against_word", "analyse_against_box", "analyse_against_mask"),
)
FOUND = ("analyse_job", "analyse_found", "analyse_status", "analyse_cancel")
RESULT = ("analyse_head", "analyse_map", "analyse_bars", "analyse_table", *USES)
RULE = ("analyse_found", "analyse_rule", "analyse_amount")
BEFORE = '<p class="blocktrain-reading">Press Analyse: the map shows what each block does; weights follow from it.</p>'
DESCRIBED = "\n".join(f"- **{name}**: {text}" for name, text in ALL_METHODS.items())


class AnalyseTab:
    """Which blocks of a LoRA carry a feature, and weights made of the answer."""

    title = "Analyse"

    def __init__(self, shared: Shared):
        self.first = shared.first
        self.analysing = AnalyseHandlers(shared.host, shared.controls, shared.lora_index, shared.jobs)
        self.probing = ProbeHandlers(self.analysing)
        self.training = TrainHandlers(shared.host, shared.controls, shared.runner)

    def build(self, w: Widgets) -> None:
        """Make its widgets."""
        w["analyse_job"], w["analyse_found"], w["probe_job"] = gr.State(""), gr.State(""), gr.State("")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=420):
                self._asking(w)
                _feature(w)
                _against(w)
                with gr.Row():
                    w.add("analyse", gr.Button, "Analyse", variant="primary", scale=3)
                    w.add("analyse_cancel", gr.Button, "Cancel", variant="stop", min_width=90, interactive=False)
                w.html("analyse_status")
                _probe(w)
            with gr.Column(scale=6, min_width=420):
                w.html("analyse_head", BEFORE)
                w.html("analyse_map")
                _using(w)
                w.html("analyse_bars")
                _alike(w)
                with gr.Accordion("Table and sheets", open=False, elem_id="blocktrain_analyse_details"):
                    w.html("analyse_table")

    def wire(self, w: Widgets) -> None:
        """Tie its events."""
        analysing = self.analysing
        asked = w.pick(*ASKED)
        weighed = w.pick("analyse_map", "analyse_weights")
        answered = on(w["analyse"].click, analysing.start, asked, w.pick(*FOUND, *RESULT), queued=True)
        on(answered.then, analysing.weigh, w.pick(*RULE), weighed)
        drawn = w.pick("analyse_job", "analyse_status", "analyse_cancel", "analyse_drawing", "analyse_kind")
        painting = on(w["analyse_draw"].click, analysing.draw, asked, drawn, queued=True)
        kinds = w.pick("analyse_word", "analyse_box", "analyse_mask", "analyse_drawn")
        on(painting.then, _kind_shown, w.pick("analyse_kind"), kinds)
        on(w["analyse_kind"].input, _kind_shown, w.pick("analyse_kind"), kinds, latest=True)
        other = w.pick("analyse_against_word", "analyse_against_box", "analyse_against_mask")
        on(w["analyse_against"].input, _against_shown, w.pick("analyse_against"), other, latest=True)
        on(w["analyse_cancel"].click, analysing.cancel, w.pick("analyse_job"), {})
        on(w["analyse_refresh"].click, analysing.refresh, w.pick("analyse_lora"), w.pick("analyse_lora"))
        asked = w.pick("probe_folder", "probe_class", "probe_pictures", "probe_convolutions")
        found = w.pick("probe_job", "probe_status", "probe_cancel", "analyse_found", *RESULT, "analyse_rule")
        probed = on(w["probe"].click, self.probing.start, asked, found, queued=True)
        on(probed.then, analysing.weigh, w.pick(*RULE), weighed)
        for event in (w["analyse_rule"].input, w["analyse_amount"].input):
            on(event, analysing.weigh, w.pick(*RULE), weighed, latest=True)
        on(w["probe_cancel"].click, self.probing.cancel, w.pick("probe_job"), {})
        self._wire_using(w)

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        """Fill the menu of LoRAs, and lay the map out."""
        on(blocks.load, self.analysing.open, w.pick("analyse_lora"), w.pick("analyse_lora", "analyse_map"))

    def _wire_using(self, w: Widgets) -> None:
        analysing, ruled = self.analysing, w.pick(*RULE)
        sliders = w.pick(*SHOWN, "search", "tabs", "status", "analyse_message")
        on(w["analyse_sliders"].click, analysing.to_sliders, w.pick(*RULE, *SELECTION), sliders)
        named = w.pick(*RULE, "analyse_preset", "analyse_replace")
        menus = w.pick("analyse_message", "analyse_replace", "preset", "grid_presets", "train_preset")
        on(w["analyse_save_preset"].click, analysing.to_preset, named, menus)
        form = w.pick("train_network_weights", "tabs", "analyse_message")
        filled = on(w["analyse_train"].click, analysing.to_training, ruled, form)
        on(filled.then, self.training.weigh, w.pick(*FORM), w.pick("train_understood", "train_estimate"))
        on(w["analyse_save"].click, analysing.save, w.pick("analyse_found"), w.pick("analyse_message"))
        similar = w.pick("analyse_similar", "analyse_message")
        on(w["analyse_find"].click, analysing.similar, w.pick("analyse_lora"), similar, queued=True)

    def _asking(self, w: Widgets) -> None:
        with gr.Row():
            w.add("analyse_lora", gr.Dropdown, choices=[], label="LoRA", scale=3, min_width=150)
            w.add("analyse_strength", gr.Slider, -2.0, 2.0, 1.0, step=0.05, label="Strength", scale=3, min_width=150)
            w.add("analyse_refresh", gr.Button, "Refresh", min_width=90)
        w.add(
            "analyse_prompts",
            gr.Textbox,
            label="Prompts, one a line",
            value=self.first.prompt,
            lines=2,
            max_lines=8,
        )
        w.add("analyse_negative", gr.Textbox, label="Negative prompt", value=self.first.negative, lines=1)
        with gr.Row():
            w.add("analyse_seeds", gr.Textbox, label="Seeds", value="0, 1, 2", max_lines=1, min_width=110)
            w.add("analyse_cfg", gr.Slider, 0, 30, 5.0, step=0.5, label="CFG scale", min_width=110)
            w.add(
                "analyse_method", gr.Dropdown, choices=list(ALL_METHODS), value="exact", label="Method", min_width=130
            )
        with gr.Accordion("What the methods do", open=False, elem_id="blocktrain_analyse_methods"):
            gr.Markdown(DESCRIBED)


def _feature(w: Widgets) -> None:
    with gr.Group(elem_classes="blocktrain-panel"):
        w.add("analyse_kind", gr.Radio, choices=list(KINDS), value=WHOLE, label="Feature: what the blocks are to make")
        w.add("analyse_word", gr.Textbox, label="Word of the prompt", max_lines=1, visible=False)
        w.add("analyse_box", gr.Textbox, label="Box: left,top,right,bottom, each 0 to 1", max_lines=1, visible=False)
        w.add("analyse_mask", gr.File, label="Mask: white where the feature is", file_types=["image"], visible=False)
        with gr.Column(visible=False, elem_id="blocktrain_analyse_drawn") as w["analyse_drawn"]:
            w.add("analyse_draw", gr.Button, "Draw the picture", size="sm")
            w.html("analyse_drawing")
            # what the page paints; an ImageEditor's WebGL canvas is drawn 60 times a second even where it is hidden
            w.add("analyse_painted", gr.Textbox, label="Strokes", elem_classes="blocktrain-unseen")


def _against(w: Widgets) -> None:
    with gr.Accordion("A second feature, B, to compare with", open=False, elem_id="blocktrain_analyse_second"):
        w.add("analyse_against", gr.Radio, choices=list(AGAINST), value=NOTHING, label="B: what is not wanted")
        w.add("analyse_against_word", gr.Textbox, label="Word of the prompt", max_lines=1, visible=False)
        w.add("analyse_against_box", gr.Textbox, label="Box of B, each 0 to 1", max_lines=1, visible=False)
        w.add("analyse_against_mask", gr.File, label="Mask of B", file_types=["image"], visible=False)


def _probe(w: Widgets) -> None:
    with gr.Accordion("Before there is a LoRA: what would pictures move?", open=False, elem_id="blocktrain_probing"):
        w.add("probe_folder", gr.Textbox, label="Folder of pictures", lines=1, max_lines=4)
        with gr.Row():
            w.add("probe_class", gr.Textbox, label="Against the class", placeholder="a photo of a dog", scale=3)
            w.add("probe_pictures", gr.Number, value=16, label="Pictures", precision=0, min_width=90)
            w.add("probe_convolutions", gr.Checkbox, label="convolutions", min_width=120)
        with gr.Row():
            w.add("probe", gr.Button, "Probe", scale=3)
            w.add("probe_cancel", gr.Button, "Cancel", variant="stop", min_width=90, interactive=False)
        w.html("probe_status")


def _using(w: Widgets) -> None:
    with gr.Group(elem_classes="blocktrain-panel"):
        with gr.Row():
            rules = {"choices": list(RULE_LABELS.values()), "value": RULE_LABELS["down-to"]}
            w.add("analyse_rule", gr.Dropdown, **rules, label="Block weights from it", scale=4, min_width=260)
            w.add("analyse_amount", gr.Number, value=80, label="Number", min_width=90)
        w.html("analyse_weights")
        with gr.Row():
            small = {"size": "sm", "interactive": False}  # until there is an answer
            w.add("analyse_sliders", gr.Button, "To the sliders", **small, min_width=110)
            w.add("analyse_train", gr.Button, "To the training form", **small, min_width=130)
            w.add("analyse_save", gr.Button, "Save JSON and CSV", **small, min_width=130)
        with gr.Row():
            w.add("analyse_preset", gr.Textbox, label="Name of a preset", max_lines=1, scale=3, min_width=120)
            w.add("analyse_replace", gr.Checkbox, label="replace", min_width=120)
            w.add("analyse_save_preset", gr.Button, "Save as preset", **small, min_width=110)
    w.html("analyse_message")


def _alike(w: Widgets) -> None:
    with gr.Accordion("LoRAs like this one", open=False, elem_id="blocktrain_analyse_alike"):
        w.add("analyse_find", gr.Button, "Find similar LoRAs", size="sm")
        w.html("analyse_similar")


def _kind_shown(values: Values) -> Changes:
    places = {WORD: "analyse_word", BOX: "analyse_box", FILE: "analyse_mask", DRAWN: "analyse_drawn"}
    return {name: Properties(visible=kind == values["analyse_kind"]) for kind, name in places.items()}


def _against_shown(values: Values) -> Changes:
    places = {WORD: "analyse_against_word", BOX: "analyse_against_box", FILE: "analyse_against_mask"}
    return {name: Properties(visible=kind == values["analyse_against"]) for kind, name in places.items()}
