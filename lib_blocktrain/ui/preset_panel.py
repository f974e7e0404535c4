"""The presets in the place Preview: the menu, what is shared and pasted, and all of them as cards."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.ui.share_handlers import FORMS
from lib_blocktrain.ui.widgets import Widgets


def build(w: Widgets) -> None:
    """Make the widgets."""
    with gr.Group(elem_classes="blocktrain-panel"):
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
    with gr.Group(elem_classes="blocktrain-panel"):
        with gr.Row():
            w.add("form", gr.Radio, choices=list(FORMS), value=FORMS[0], label="Share as", scale=4, min_width=200)
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
        # what is to be downloaded: the page makes a file of it
        w.add("export", gr.Textbox, label="Exported presets", elem_classes="blocktrain-unseen")
    w.html("understood")
    with gr.Accordion("All presets as cards", open=True, elem_id="blocktrain_carding"):
        w.html("preset_cards")
