"""The weights of Preview: the map, the sliders, presets, copy and paste, and baking."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.blocks import BASE, BLOCK_IDS
from lib_blocktrain.ui.frame import section
from lib_blocktrain.ui.lora_controls import weight_name
from lib_blocktrain.ui.preset_cards import JSON, KOHYA, LINE, LINK
from lib_blocktrain.ui.u_map import UMap
from lib_blocktrain.ui.widgets import Widgets
from lib_blocktrain.workspace.lora_selection import WEIGHT_MAX, WEIGHT_MIN

IN_IDS = tuple(block_id for block_id in BLOCK_IDS if block_id.startswith("IN"))
OUT_IDS = tuple(block_id for block_id in BLOCK_IDS if block_id.startswith("OUT"))


def weights_editor(w: Widgets) -> None:
    with section("Weights", "weights", name="section_weights"):
        _map(w)
        _sliders(w)
        _presets(w)
        _sharing(w)
        _bake(w)


def _map(w: Widgets) -> None:
    _weight(w, BASE)
    w.html("u_map", UMap("weights", "sd1", weight_name("")).html())


def _sliders(w: Widgets) -> None:
    """The sliders in the shape of the U: IN on the left, M00 below, OUT on the right, skip partners side by side."""
    with gr.Row(elem_id="blocktrain_weights", equal_height=False):
        with gr.Column(min_width=120, elem_classes="blocktrain-column-in"):
            for block_id in IN_IDS:
                _weight(w, block_id)
        with gr.Column(min_width=120, elem_classes="blocktrain-column-mid"):
            _weight(w, "M00")
        with gr.Column(min_width=120, elem_classes="blocktrain-column-out"):
            for block_id in OUT_IDS:
                _weight(w, block_id)


def _weight(w: Widgets, block_id: str) -> None:
    w.add(weight_name(block_id), gr.Slider, WEIGHT_MIN, WEIGHT_MAX, 1.0, step=0.01, label=block_id, interactive=False)


def _presets(w: Widgets) -> None:
    with gr.Column(elem_classes="blocktrain-stack", min_width=0):
        with gr.Row():
            w.add("preset", gr.Dropdown, choices=[], label="Preset", scale=3, min_width=140)
            w.add("preset_name", gr.Textbox, label="Name", scale=3, min_width=140, max_lines=1)
            w.add("preset_replace", gr.Checkbox, label="replace", scale=1, min_width=120)
        with gr.Row():
            w.add("preset_save", gr.Button, "Save", size="sm", min_width=70)
            w.add("preset_rename", gr.Button, "Rename", size="sm", min_width=70)
            w.add("preset_delete", gr.Button, "Delete", size="sm", min_width=70)
            w.add("preset_file", gr.UploadButton, "Import", size="sm", min_width=70, file_types=[".txt"])
            w.add("preset_export", gr.Button, "Export", size="sm", min_width=70)
    w.html("preset_message")
    w.html("preset_problems")


def _sharing(w: Widgets) -> None:
    """Copying and pasting of weights, and all presets as cards."""
    with gr.Column(elem_classes="blocktrain-stack", min_width=0):
        with gr.Row():
            forms = [LINE, LINK, KOHYA, JSON]
            w.add("form", gr.Radio, choices=forms, value=LINE, label="Share as", scale=4, min_width=200)
            w.add("copy", gr.Button, "Copy", size="sm", min_width=70)
        w.add("line", gr.Textbox, label="To share", max_lines=2, interactive=False, show_copy_button=True)
        w.add(
            "paste",
            gr.Textbox,
            label="Paste block weights",
            placeholder="NAME:1,0,0,… or OUT=1,IN=0 or a link",
            lines=1,
            max_lines=4,
        )
        w.add("apply", gr.Button, "Use these weights", size="sm", interactive=False)
        # the page's script turns this text into a download
        w.add("export", gr.Textbox, label="Exported presets", elem_classes="blocktrain-unseen")
    w.html("understood")
    with gr.Accordion("All presets as cards", open=True, elem_id="blocktrain_carding"):
        w.html("preset_cards")


def _bake(w: Widgets) -> None:
    with gr.Accordion("Bake the weights into a new LoRA file", open=False, elem_id="blocktrain_baking"):
        with gr.Row():
            w.add("bake_name", gr.Textbox, label="Name of the new file", scale=4, max_lines=1)
            w.add("bake_replace", gr.Checkbox, label="replace", scale=1, min_width=100)
            w.add("bake", gr.Button, "Bake", scale=1, min_width=90)
            w.add("bake_cancel", gr.Button, "Cancel", variant="stop", scale=1, min_width=90, interactive=False)
        w.html("bake_status")
