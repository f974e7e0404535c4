"""The weights of Preview: the map with its table of sliders, the menus of presets and of copying, cards, baking."""

from __future__ import annotations

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.blocks import BASE, BLOCK_IDS
from lib_blocktrain.ui import u_map
from lib_blocktrain.ui.frame import menu, section
from lib_blocktrain.ui.icons import icon
from lib_blocktrain.ui.lora_controls import weight_name
from lib_blocktrain.ui.preset_cards import FORMS
from lib_blocktrain.ui.widgets import Widgets
from lib_blocktrain.workspace.lora_selection import WEIGHT_MAX, WEIGHT_MIN

IN_ROWS = (*(block_id for block_id in BLOCK_IDS if block_id.startswith("IN")), "M00")
OUT_ROWS = (*reversed([block_id for block_id in BLOCK_IDS if block_id.startswith("OUT")]), BASE)
PRESET_BUTTON = Markup(
    '<span class="blocktrain-preset-name blocktrain-cut">Presets</span><em class="blocktrain-preset-changed"></em>{}'
).format(icon("open"))
PRESET_LIST = Markup(
    '<div class="blocktrain-preset-list"><label class="blocktrain-search">{}<input type="search"'
    ' aria-label="Search the presets"></label><div></div><p role="status"></p></div>'
    '<div class="blocktrain-menu-actions"><button type="button" class="blocktrain-mi" data-preset-do="back" disabled>'
    "Back to the preset</button></div>"
).format(icon("search"))
SHARE_TEXT = Markup(
    '<div class="blocktrain-share-text" hidden><p role="alert">This browser allows no copying by a button: press Ctrl+C'
    '</p><textarea readonly rows="3" aria-label="Text to copy"></textarea></div>'
)


def weights_editor(w: Widgets) -> None:
    """The section under the LoRAs: everything about the weights of the active one."""
    with section("", "weights", name="section_weights"):
        with gr.Row(elem_classes="blocktrain-weights-head"):
            gr.HTML(Markup('<h2>Weights <small>of <span id="blocktrain_weights_of"></span></small></h2>'))
            _presets(w)
            _sharing(w)
        w.html("u_map", u_map.UMap("weights", "sd1", weight_name("")).html())
        _table(w)
        gr.HTML(u_map.legend())
        with gr.Accordion("Kinds of layers, steps", open=False, elem_id="blocktrain_changing"):
            placeholder = "OUT03.attn2=0.5,*.ff=0 or OUT=1@0-0.4,0.3@0.4-1"
            w.add("weight_changes", gr.Textbox, label="In place of the sliders", placeholder=placeholder, max_lines=2)
            w.html("weight_changes_said")
        with gr.Accordion("All presets as cards", open=False, elem_id="blocktrain_carding"):
            w.html("preset_problems")
            w.html("preset_cards")
        _bake(w)


def _table(w: Widgets) -> None:
    """The sliders in the map's order, so that skip partners face each other."""
    ticks = Markup('<b>{}</b><span class="blocktrain-ticks" aria-hidden="true">{}</span>')
    scale = Markup("").join(Markup("<i>{}</i>").format(tick) for tick in ("−1", "0", "1", "2"))
    with gr.Row(elem_id="blocktrain_weights", equal_height=False):
        for side, block_ids in (("IN", IN_ROWS), ("OUT", OUT_ROWS)):
            with gr.Column(min_width=0, elem_classes="blocktrain-rows"):
                gr.HTML(ticks.format(side, scale), elem_classes="blocktrain-rows-head")
                for block_id in block_ids:
                    _weight(w, block_id)


def _weight(w: Widgets, block_id: str) -> None:
    w.add(weight_name(block_id), gr.Slider, WEIGHT_MIN, WEIGHT_MAX, 1.0, step=0.01, label=block_id, interactive=False)


def _presets(w: Widgets) -> None:
    with menu("presets", "Presets", PRESET_BUTTON, right=True):
        gr.HTML(PRESET_LIST)
        # which preset the weights came from: set by the page's script and by the server
        w.add("preset", gr.Textbox, label="Preset", elem_classes="blocktrain-unseen")
        w.add("preset_over", gr.Button, "Save over", size="sm", elem_classes="blocktrain-mi")
        with gr.Row(elem_classes="blocktrain-menu-row"):
            w.add("preset_name", gr.Textbox, label="Name", placeholder="a new name", max_lines=1, min_width=0)
            w.add("preset_save", gr.Button, "Save", size="sm", min_width=0)
            w.add("preset_rename", gr.Button, "Rename", size="sm", min_width=0)
        with gr.Row(elem_classes="blocktrain-menu-row"):
            w.add("preset_replace", gr.Checkbox, label="replace", min_width=0)
            w.add("preset_delete", gr.Button, "Delete", size="sm", min_width=0)
            w.add("preset_file", gr.UploadButton, "Import", size="sm", min_width=0, file_types=[".txt"])
            w.add("preset_export", gr.Button, "Export", size="sm", min_width=0)
        w.html("preset_message")
        gr.HTML(_unfold("blocktrain_carding", "All as cards…"))
        # the page's script turns this text into a download
        w.add("export", gr.Textbox, label="Exported presets", elem_classes="blocktrain-unseen")


def _sharing(w: Widgets) -> None:
    """Copying and pasting of weights."""
    with menu("share", "Copy, paste, bake", icon("more"), right=True):
        for form in FORMS:
            w.add(f"copy_{form}", gr.Button, f"Copy {FORMS[form].item}", size="sm", elem_classes="blocktrain-mi")
        w.add("recommend", gr.Button, "Recommend these weights", size="sm", elem_classes="blocktrain-mi")
        # what was copied; the page's script takes it from here to the clipboard
        w.add("line", gr.Textbox, label="To share", elem_classes="blocktrain-unseen")
        # what "Edit in the tab" sends, as JSON
        w.add("edited", gr.Textbox, label="From the WebUI", elem_classes="blocktrain-unseen")
        w.html("share_message")
        gr.HTML(SHARE_TEXT)
        placeholder = "NAME:1,0,0,… or OUT=1,IN=0 or a link"
        w.add("paste", gr.Textbox, label="Paste block weights", placeholder=placeholder, lines=1, max_lines=4)
        w.html("understood")
        w.add("apply", gr.Button, "Use these weights", size="sm", interactive=False)
        gr.HTML(_unfold("blocktrain_baking", "Bake into a new LoRA file…"))


def _unfold(part: str, words: str) -> Markup:
    """A line of a menu that opens a folded part of the pane."""
    return Markup(
        '<div class="blocktrain-menu-actions"><button type="button" class="blocktrain-mi" data-unfold="{}">{}</button>'
        "</div>"
    ).format(part, words)


def _bake(w: Widgets) -> None:
    with gr.Accordion("Bake the weights into a new LoRA file", open=False, elem_id="blocktrain_baking"):
        with gr.Row():
            w.add("bake_name", gr.Textbox, label="Name of the new file", scale=4, max_lines=1)
            w.add("bake_replace", gr.Checkbox, label="replace", scale=1, min_width=100)
            w.add("bake", gr.Button, "Bake", scale=1, min_width=90)
            w.add("bake_cancel", gr.Button, "Cancel", variant="stop", scale=1, min_width=90, interactive=False)
        w.html("bake_status")
