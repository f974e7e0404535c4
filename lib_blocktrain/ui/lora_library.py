"""The LoRAs of Preview: those in use, the library of all files, and the card of the active one.

`javascript/lora_rows.js` and `lora_library.js` draw them from the data that the handlers put into the page. The text
box ``loras`` carries the selection in both directions, as `LoraSelection.to_json` writes it; ``lora_ask`` carries what
the scripts ask for, as `LoraControls.answer` reads it.
"""

from __future__ import annotations

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.ui import html
from lib_blocktrain.ui.frame import section
from lib_blocktrain.ui.widgets import Widgets

PICKER = Markup('<div class="blocktrain-picker" data-first="{}"></div>')


def lora_library(w: Widgets, first: str | None) -> None:
    """The section of the LoRAs; ``first`` is the one that a new page starts with."""
    with section("", "loras", name="section_loras"):
        w.html("lora_picker", PICKER.format(first or ""))
        w.html("lora_message")
        with gr.Accordion("What this LoRA contains", open=False, elem_id="blocktrain_contents"):
            w.html("facts", html.facts(None))
        hidden = {"elem_classes": "blocktrain-unseen"}
        w.add("loras", gr.Textbox, label="LoRAs in use", **hidden)
        w.add("lora_ask", gr.Textbox, label="Question about the LoRAs", **hidden)
        w.add("refresh", gr.Button, "Refresh", **hidden)
        with gr.Column(min_width=0, **hidden):
            w.html("lora_data")
            w.html("lora_card")
            w.html("lora_model")
            w.html("lora_turn")
