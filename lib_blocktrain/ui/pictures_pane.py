"""The right side of Preview: the prompt, the settings and the pictures."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.ui import html
from lib_blocktrain.ui.frame import section
from lib_blocktrain.ui.lora_controls import InitialState
from lib_blocktrain.ui.widgets import Widgets
from lib_blocktrain.workspace.drawing import SEED_MAX, SIDE_MAX, SIDE_MIN, SIDE_STEP, comparison
from lib_blocktrain.workspace.lora_selection import LoraSelection


def prompt_fields(w: Widgets, host: Host, initial: InitialState) -> None:
    with section("", "prompt", name="section_prompt"):
        _prompts(w, initial)
        _settings(w, host, initial)


def pictures_pane(w: Widgets) -> None:
    with section("Pictures", "pictures", name="section_pictures"):
        # empty frames for the first comparison, so that the layout does not shift
        w.html("pictures", html.pictures(comparison(LoraSelection().choose(["a LoRA"]), "sd1"), {}, (1, 1)))
        _grid(w)


def _prompts(w: Widgets, initial: InitialState) -> None:
    w.add("prompt", gr.Textbox, label="Prompt", value=initial.prompt, lines=2)
    w.add("negative", gr.Textbox, label="Negative prompt", value=initial.negative, lines=1)


def _settings(w: Widgets, host: Host, initial: InitialState) -> None:
    with gr.Row(elem_classes="blocktrain-fields blocktrain-fields-6"):
        samplers = list(host.samplers)
        w.add("sampler", gr.Dropdown, choices=samplers, value=samplers[0], label="Sampler", min_width=0)
        w.add("steps", gr.Number, value=20, label="Steps", precision=0, minimum=1, maximum=150, min_width=0)
        w.add("cfg", gr.Number, value=6.0, label="CFG", minimum=0, maximum=30, step=0.5, min_width=0)
        sides = {"precision": 0, "minimum": SIDE_MIN, "maximum": SIDE_MAX, "step": SIDE_STEP, "min_width": 0}
        w.add("width", gr.Number, value=512, label="Width", **sides)
        w.add("height", gr.Number, value=512, label="Height", **sides)
        limits = {"precision": 0, "minimum": -1, "maximum": SEED_MAX, "min_width": 0}
        w.add("seed", gr.Number, value=initial.seed, label="Seed (-1: random)", **limits)


def _grid(w: Widgets) -> None:
    with gr.Accordion("Grid over presets", open=False, elem_id="blocktrain_gridding"):
        w.add("grid_presets", gr.Dropdown, choices=[], multiselect=True, label="Presets, one picture each")
        w.add("draw_grid", gr.Button, "Draw the grid")
