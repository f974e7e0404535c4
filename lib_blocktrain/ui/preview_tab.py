"""The Preview tab: LoRAs and weights on the left, pictures on the right."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.blocks import BASE, BLOCK_IDS
from lib_blocktrain.hosts.host import Host
from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui import html
from lib_blocktrain.ui.lora_controls import InitialState, weight_name
from lib_blocktrain.ui.preset_cards import JSON, KOHYA, LINE, LINK
from lib_blocktrain.ui.preview_handlers import PreviewHandlers
from lib_blocktrain.ui.share_handlers import ShareHandlers
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.u_map import UMap
from lib_blocktrain.ui.widgets import Shared, Widgets
from lib_blocktrain.workspace.drawing import SEED_MAX, SIDE_MAX, SIDE_MIN, SIDE_STEP, PreviewRenderer, comparison
from lib_blocktrain.workspace.lora_selection import (
    STRENGTH_MAX,
    STRENGTH_MIN,
    WEIGHT_IDS,
    WEIGHT_MAX,
    WEIGHT_MIN,
    LoraSelection,
)

SELECTION = ("selection", "loras", "strength", "weights")
SHOWN = (*SELECTION, "u_map", "active", "facts", "bake_name", "lora_message")
SETTINGS = ("prompt", "negative", "sampler", "steps", "cfg", "width", "height", "seed")
PRESETS = ("preset", "grid_presets", "preset_cards", "preset_problems", "preset_message", "preset_replace")
PICTURES = ("job", "pictures", "status", "cancel")
MODEL = ("model_line", "width", "height")
COPY = "(line) => { window.blocktrain && window.blocktrain.share(line); }"
DOWNLOAD = "(text) => { text && window.blocktrain && window.blocktrain.download(text, 'blocktrain-presets.txt'); }"
IN_IDS = tuple(block_id for block_id in BLOCK_IDS if block_id.startswith("IN"))
OUT_IDS = tuple(block_id for block_id in BLOCK_IDS if block_id.startswith("OUT"))


class PreviewTab:
    """Pictures with any LoRA under any block weights, drawn by the host."""

    title = "Preview"

    def __init__(self, shared: Shared) -> None:
        self.host, self.initial, self.controls = shared.host, shared.initial, shared.controls
        renderer, runner = PreviewRenderer(shared.host, shared.lora_index), shared.runner
        self.preview = PreviewHandlers(
            shared.host, shared.controls, renderer, shared.jobs, lambda: _name_of(runner.current)
        )

    def build(self, w: Widgets) -> None:
        w["selection"] = gr.State(LoraSelection())
        w["job"], w["bake_job"] = gr.State(""), gr.State("")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=420):
                _loras(w)
                _map(w)
            with gr.Column(scale=6, min_width=420):
                _prompts(w, self.initial)
                _pictures(w)
                _settings(w, self.host, self.initial)
                _grid(w)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=420):
                _sliders(w)
            with gr.Column(scale=6, min_width=420):
                _presets(w)
                _sharing(w)
                _bake(w)
        w.groups["weights"] = {block_id: w[weight_name(block_id)] for block_id in WEIGHT_IDS}

    def wire(self, w: Widgets) -> None:
        self._wire_controls(w)
        self._wire_preview(w)

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        """Fill the lists at once, then load the model, which can take a while."""
        listed = on(
            blocks.load, self.controls.open, {}, w.pick("selection", "loras", "lora_message", "lora_folders", "weights")
        )
        on(listed.then, self.controls.show_model, w.pick(*SELECTION), w.pick(*SHOWN, *PRESETS, *MODEL))

    def _wire_controls(self, w: Widgets) -> None:
        controls, sharing = self.controls, ShareHandlers(self.controls)
        found = w.pick(*SELECTION, "search")
        on(w["search"].input, controls.find, found, w.pick("loras", "lora_message"), latest=True)
        listed = on(w["refresh"].click, controls.refresh, found, w.pick(*SHOWN, *PRESETS))
        on(listed.then, controls.show_model, w.pick(*SELECTION), w.pick(*SHOWN, *PRESETS, *MODEL))
        on(w["loras"].input, controls.choose, found, w.pick(*SHOWN))
        on(w["active"].input, controls.activate, w.pick(*SELECTION, "active"), w.pick(*SHOWN))

        weights_changed = w.pick(*SELECTION, "preset_message", "preset_name", "understood")
        on(w["preset"].input, controls.use_preset, w.pick(*SELECTION, "preset"), weights_changed)
        on(w["paste"].input, sharing.explain, w.pick("paste", "selection"), w.pick("understood", "apply"), latest=True)
        on(w["apply"].click, sharing.apply, w.pick(*SELECTION, "paste", "preset_name"), weights_changed)

        named = w.pick(*SELECTION, "preset", "preset_name", "preset_replace", "paste")
        copied = on(w["copy"].click, sharing.copy, {**named, "form": w["form"]}, w.pick("line", "preset_message"))
        on(copied.then, None, w.pick("line"), {}, js=COPY)
        for button, function in (("save", controls.save), ("rename", controls.rename), ("delete", controls.delete)):
            on(w[f"preset_{button}"].click, function, named, w.pick(*PRESETS))
        exported = on(w["preset_export"].click, sharing.export, {}, w.pick("export", "preset_message"))
        on(exported.then, None, w.pick("export"), {}, js=DOWNLOAD)
        on(w["preset_file"].upload, sharing.import_file, w.pick("preset_file", *SELECTION), w.pick(*PRESETS))

    def _wire_preview(self, w: Widgets) -> None:
        preview = self.preview
        inputs = w.pick(*SELECTION, *SETTINGS)
        on(w["draw"].click, preview.compare, inputs, w.pick(*PICTURES), queued=True)
        inputs = w.pick(*SELECTION, *SETTINGS, "grid_presets")
        on(w["draw_grid"].click, preview.compare_presets, inputs, w.pick(*PICTURES), queued=True)
        on(w["cancel"].click, preview.cancel, w.pick("job"), {})
        on(w["save_pictures"].click, preview.save, w.pick("job"), w.pick("status"))
        loaded = w.pick(*SHOWN, *SETTINGS, "search", "status")
        on(w["png_file"].upload, preview.load, w.pick("png_file"), loaded)
        baked = w.pick("loras", "search", "bake_status", "bake_replace", "bake_job", "bake_cancel")
        on(w["bake"].click, preview.bake, w.pick(*SELECTION, "bake_name", "bake_replace"), baked, queued=True)
        on(w["bake_cancel"].click, preview.cancel_bake, w.pick("bake_job"), {})


def _loras(w: Widgets) -> None:
    with gr.Group(elem_classes="blocktrain-panel"):
        with gr.Row():
            w.add("search", gr.Textbox, label="LoRA files", placeholder="name, tag, algorithm", scale=5, max_lines=1)
            w.add("refresh", gr.Button, "Refresh", scale=1, min_width=90)
        w.add("loras", gr.CheckboxGroup, choices=[], label="Tick the LoRAs to use", show_label=False)
        w.html("lora_folders")
    w.html("lora_message")
    w.add("active", gr.Radio, choices=[], label="Edit the weights of", visible=False)
    with gr.Accordion("What this LoRA contains", open=False, elem_id="blocktrain_contents"):
        w.html("facts", html.facts(None))


def _map(w: Widgets) -> None:
    with gr.Row():
        w.add("strength", gr.Slider, STRENGTH_MIN, STRENGTH_MAX, 1.0, step=0.05, label="Strength", interactive=False)
        _weight(w, BASE)
    w.html("u_map", UMap("weights", "sd1", weight_name("")).html())


def _sliders(w: Widgets) -> None:
    """The sliders in the shape of the U: IN on the left, M00 below, OUT on the right, skip partners side by side."""
    with gr.Row(elem_id="blocktrain_weights", equal_height=False):
        with gr.Column(min_width=120, elem_classes="blocktrain-in"):
            for block_id in IN_IDS:
                _weight(w, block_id)
        with gr.Column(min_width=120, elem_classes="blocktrain-mid"):
            _weight(w, "M00")
        with gr.Column(min_width=120, elem_classes="blocktrain-out"):
            for block_id in OUT_IDS:
                _weight(w, block_id)


def _weight(w: Widgets, block_id: str) -> None:
    w.add(weight_name(block_id), gr.Slider, WEIGHT_MIN, WEIGHT_MAX, 1.0, step=0.01, label=block_id, interactive=False)


def _presets(w: Widgets) -> None:
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


def _sharing(w: Widgets) -> None:
    """Copying and pasting of weights, and all presets as cards."""
    with gr.Group(elem_classes="blocktrain-panel"):
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


def _prompts(w: Widgets, initial: InitialState) -> None:
    w.add("prompt", gr.Textbox, label="Prompt", value=initial.prompt, lines=2)
    w.add("negative", gr.Textbox, label="Negative prompt", value=initial.negative, lines=1)


def _settings(w: Widgets, host: Host, initial: InitialState) -> None:
    with gr.Row():
        w.add(
            "sampler", gr.Dropdown, choices=list(host.samplers), value=host.samplers[0], label="Sampler", min_width=110
        )
        w.add("steps", gr.Slider, 1, 150, 20, step=1, label="Steps", min_width=110)
        w.add("cfg", gr.Slider, 0, 30, 6.0, step=0.5, label="CFG scale", min_width=110)
    with gr.Row():
        w.add("width", gr.Slider, SIDE_MIN, SIDE_MAX, 512, step=SIDE_STEP, label="Width", min_width=110)
        w.add("height", gr.Slider, SIDE_MIN, SIDE_MAX, 512, step=SIDE_STEP, label="Height", min_width=110)
        w.add(
            "seed",
            gr.Number,
            value=initial.seed,
            label="Seed (-1: random)",
            precision=0,
            minimum=-1,
            maximum=SEED_MAX,
            min_width=110,
        )


def _pictures(w: Widgets) -> None:
    with gr.Row():
        w.add("draw", gr.Button, "Preview", variant="primary", scale=3)
        w.add("cancel", gr.Button, "Cancel", variant="stop", scale=1, min_width=90, interactive=False)
        w.add("save_pictures", gr.Button, "Save", scale=1, min_width=90)
        w.add("png_file", gr.UploadButton, "Load PNG", scale=1, min_width=110, file_types=[".png"])
    w.html("status")
    # empty frames for the first comparison, so that the layout does not shift
    w.html("pictures", html.pictures(comparison(LoraSelection().choose(["a LoRA"]), "sd1"), {}, (1, 1)))


def _grid(w: Widgets) -> None:
    with gr.Accordion("Grid over presets", open=False, elem_id="blocktrain_gridding"):
        w.add("grid_presets", gr.Dropdown, choices=[], multiselect=True, label="Presets, one picture each")
        w.add("draw_grid", gr.Button, "Draw the grid")


def _name_of(run: Run | None) -> str | None:
    return None if run is None else run.config.name
