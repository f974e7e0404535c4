"""The LoRAs of Preview: the files, those in use, and what they contain."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.ui import html
from lib_blocktrain.ui.frame import section
from lib_blocktrain.ui.widgets import Widgets


def lora_library(w: Widgets) -> None:
    with section("LoRAs", "loras", name="section_loras"):
        with gr.Row(elem_classes="blocktrain-line-up"):
            w.add("search", gr.Textbox, label="LoRA files", placeholder="name, tag, algorithm", scale=5, max_lines=1)
            w.add("refresh", gr.Button, "Refresh", scale=1, min_width=90)
        w.add("loras", gr.CheckboxGroup, choices=[], label="Tick the LoRAs to use", show_label=False)
        w.html("lora_folders")
        w.html("lora_message")
        w.add("active", gr.Radio, choices=[], label="Edit the weights of", visible=False)
        with gr.Accordion("What this LoRA contains", open=False, elem_id="blocktrain_contents"):
            w.html("facts", html.facts(None))
