"""The right side of Preview: the prompt, the settings and the pictures."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.ui import pictures_html
from lib_blocktrain.ui.frame import section
from lib_blocktrain.ui.lora_controls import InitialState
from lib_blocktrain.ui.picture_sheets import GRIDS
from lib_blocktrain.ui.widgets import Widgets
from lib_blocktrain.workspace.drawing import SIDE_STEP
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS


def prompt_fields(w: Widgets, host: Host, initial: InitialState) -> None:
    with section("", "prompt", name="section_prompt"):
        _prompts(w, initial)
        _settings(w, host, initial)


def pictures_pane(w: Widgets) -> None:
    with section("", "pictures", name="section_pictures"):
        gr.HTML(pictures_html.heading(), elem_id="blocktrain_views")
        with gr.Column(elem_id="blocktrain_view_pair", min_width=0):
            w.html("pictures", pictures_html.first_steps())
        with gr.Column(elem_id="blocktrain_view_grid", elem_classes="blocktrain-stack", min_width=0):
            _grid(w)
        w.add("live", gr.HTML, "", elem_classes="blocktrain-unseen")
        gr.HTML(pictures_html.TAG_LINE, elem_id="blocktrain_tag_line")
        gr.HTML(pictures_html.HISTORY, elem_id="blocktrain_history")
        # what the page's scripts ask for, as JSON
        w.add("pictures_ask", gr.Textbox, label="Asked", elem_classes="blocktrain-unseen")
        w.add("pictures_answer", gr.Button, "Answer", elem_classes="blocktrain-unseen")
        w.html("pictures_answered")


def _prompts(w: Widgets, initial: InitialState) -> None:
    w.add("prompt", gr.Textbox, label="Prompt", value=initial.prompt, lines=2)
    gr.HTML(pictures_html.FROM_TXT2IMG, elem_id="blocktrain_from_txt2img")
    with gr.Accordion("Negative prompt", open=False, elem_id="blocktrain_negative_fold"):
        w.add("negative", gr.Textbox, label="Negative prompt", show_label=False, value=initial.negative, lines=2)


def _settings(w: Widgets, host: Host, initial: InitialState) -> None:
    # without limits: gradio would answer each event with a value outside them by itself, naming no field
    with gr.Row(elem_classes="blocktrain-fields blocktrain-fields-6"):
        samplers = list(host.samplers)
        w.add("sampler", gr.Dropdown, choices=samplers, value=samplers[0], label="Sampler", min_width=0)
        w.add("steps", gr.Number, value=20, label="Steps", precision=0, min_width=0)
        w.add("cfg", gr.Number, value=6.0, label="CFG", step=0.5, min_width=0)
        sides = {"precision": 0, "step": SIDE_STEP, "min_width": 0}
        w.add("width", gr.Number, value=512, label="Width", **sides)
        w.add("height", gr.Number, value=512, label="Height", **sides)
        w.add("seed", gr.Number, value=initial.seed, label="Seed", precision=0, min_width=0)


def _grid(w: Widgets) -> None:
    with gr.Row(elem_classes="blocktrain-line-up", elem_id="blocktrain_gridding"):
        w.add("grid_over", gr.Radio, choices=list(GRIDS), value=GRIDS[0], label="Grid over", min_width=120, scale=4)
        w.add("grid_presets", gr.Dropdown, choices=[], multiselect=True, label="Presets", min_width=160, scale=5)
        w.add("grid_block", gr.Dropdown, choices=list(WEIGHT_IDS), value="OUT05", label="Block", min_width=90, scale=2)
        w.add("grid_values", gr.Textbox, label="Values", value="0, 0.25, 0.5, 0.75, 1", min_width=120, scale=3)
        w.add("draw_grid", gr.Button, "Draw the grid", min_width=110, scale=2)
    w.html("grid_pictures", pictures_html.NO_GRID)
