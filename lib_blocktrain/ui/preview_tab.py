"""The Preview tab: its layout and its events; the parts are in lora_library, weights_editor and pictures_pane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui.frame import actions, aside, bar, messages, pane, panes, segments
from lib_blocktrain.ui.lora_controls import weight_name
from lib_blocktrain.ui.lora_library import lora_library
from lib_blocktrain.ui.picture_requests import PictureRequests
from lib_blocktrain.ui.pictures_html import CHANGED
from lib_blocktrain.ui.pictures_pane import pictures_pane, prompt_fields
from lib_blocktrain.ui.preset_cards import FORMS
from lib_blocktrain.ui.preview_handlers import IDLE, SETTINGS, PreviewHandlers
from lib_blocktrain.ui.remembered import Memory, add_widgets, selection_values, stored_selection
from lib_blocktrain.ui.share_handlers import ShareHandlers
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.values import Changes, PreviewValues
from lib_blocktrain.ui.weights_editor import weights_editor
from lib_blocktrain.ui.widgets import Shared, Widgets
from lib_blocktrain.workspace.drawing import PreviewRenderer
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS, LoraSelection

SELECTION = ("selection", "loras", "weights", "weight_changes")
SHOWN = (
    *(*SELECTION, "weight_changes_said", "u_map", "facts", "bake_name", "lora_data", "lora_message", "analyse_lora"),
    *("paste", "understood", "apply"),
)
PRESETS = (
    "preset",
    "preset_name",
    "grid_presets",
    "train_preset",
    "preset_cards",
    "preset_problems",
    "preset_message",
    "preset_replace",
)
DRAWING = ("job", "drawing", "status", "live", "draw", "draw_grid", "cancel")
ANSWER = ("pictures", "job", "status", "pictures_answered")  # besides the selection and the settings
MODEL = ("lora_message", "model_line", "lora_model", "shown_side", "width", "height")
COPY = "(line) => {{ window.blocktrain && window.blocktrain.share(line, '{}'); }}"
PASTED = "() => { window.blocktrain && window.blocktrain.pasted(); }"
DOWNLOAD = "(text) => { text && window.blocktrain && window.blocktrain.download(text, 'blocktrain-presets.txt'); }"


class PreviewTab:
    """Pictures with any LoRA under any block weights, drawn by the host."""

    title = "Preview"

    def __init__(self, shared: Shared) -> None:
        self.host, self.initial, self.controls = shared.host, shared.initial, shared.controls
        renderer, runner = PreviewRenderer(shared.host, shared.lora_index), shared.runner
        self.memory = Memory("preview", shared.host.name, SETTINGS)
        self.preview = PreviewHandlers(
            shared.host, shared.controls, renderer, shared.jobs, lambda: _name_of(runner.current)
        )

    def build(self, w: Widgets) -> None:
        w["selection"] = gr.State(LoraSelection())
        w["job"] = gr.State("")  # whose pictures are shown
        w["drawing"] = gr.State("")  # the jobs that Cancel ends
        w["bake_job"], w["restored"], w["shown_side"] = gr.State(""), gr.State(False), gr.State(0)
        segments("preview", {"loras": "LoRAs", "weights": "Weights", "prompt": "Prompt", "pictures": "Pictures"})
        with bar("preview"):
            with actions():
                w.add("draw", gr.Button, "Draw", variant="primary")
                w.add("cancel", gr.Button, "Cancel", variant="stop", interactive=False)
            with messages():
                w.html("status")
                gr.HTML(CHANGED, elem_id="blocktrain_changed")
            with aside():
                w.add("auto", gr.Checkbox, label="Auto", container=False, min_width=0)
                w.add("save_pictures", gr.Button, "Save")
                w.add("png_file", gr.UploadButton, "Load PNG", file_types=[".png"])
        with panes("preview"):
            with pane("left", "loras", "weights"):
                lora_library(w, self.initial.lora)
                weights_editor(w)
            with pane("canvas", "prompt", "pictures"):
                prompt_fields(w, self.host, self.initial)
                pictures_pane(w)
        add_widgets(w, "preview")
        w.groups["weights"] = {block_id: w[weight_name(block_id)] for block_id in WEIGHT_IDS}

    def wire(self, w: Widgets) -> None:
        self._wire_controls(w)
        self._wire_preview(w)
        self.memory.wire(w, _remembered, (*SELECTION, *SETTINGS))

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        """Fill the lists, put back what the browser remembers, then load the model, which can take a while."""
        listed = on(blocks.load, self.controls.open, {}, w.pick(*SELECTION, "lora_data", "lora_message"))

        def restore(stored: dict[str, Any]) -> tuple[Changes, list[str]]:
            settings, wrong = self.memory.fitting(w, stored)
            selection, missing = stored_selection(self.controls, stored)
            shown = self.controls.show(selection, before_model=True) if selection is not None else {}
            kept = {name: change for name, change in shown.items() if name != "analyse_lora"}  # Analyse has its own
            return {**kept, **settings, "restored": bool(settings)}, wrong + missing

        restored = self.memory.on_load(listed.then, w, restore, (*SHOWN, *SETTINGS, "restored"))
        self._show_model(restored.then, w)

    def _show_model(self, event: Callable[..., gr.events.Dependency], w: Widgets) -> None:
        """In two events, so that the second begins with what is chosen while the model is loaded."""
        shown = on(event, self.controls.show_model, w.pick("restored", "shown_side"), w.pick(*MODEL))
        on(shown.then, self.controls.follow_model, w.pick(*SELECTION, "bake_name"), w.pick(*SHOWN, *PRESETS))

    def _wire_controls(self, w: Widgets) -> None:
        controls, sharing = self.controls, ShareHandlers(self.controls)
        listed = on(w["refresh"].click, controls.refresh, w.pick(*SELECTION), w.pick("lora_message", "lora_data"))
        self._show_model(listed.then, w)
        on(w["loras"].input, controls.choose, w.pick(*SELECTION), w.pick(*SHOWN, "lora_turn"), latest=True)
        asked = w.pick(*SELECTION, "lora_ask")
        on(w["lora_ask"].input, controls.answer, asked, w.pick("lora_data", "lora_card", "lora_message"), latest=True)

        on(w["paste"].input, sharing.explain, w.pick("paste", "selection"), w.pick("understood", "apply"), latest=True)
        said = w.pick("weight_changes_said")
        for event in (w["weight_changes"].blur, w["weight_changes"].submit):
            on(event, controls.explain_changes, w.pick(*SELECTION), said)
        pasted = w.pick(*SELECTION, "preset", "preset_name", "understood")
        applied = on(w["apply"].click, sharing.apply, w.pick(*SELECTION, "paste", "preset_name"), pasted)
        on(applied.then, None, {}, {}, js=PASTED)

        taken = w.pick(*SHOWN, "prompt", "negative", "status")
        on(w["edited"].input, sharing.edit, w.pick(*SELECTION, "edited"), taken, latest=True)

        named = w.pick(*SELECTION, "preset", "preset_name", "preset_replace", "paste")
        for form, words in FORMS.items():
            copied = on(w[f"copy_{form}"].click, sharing.copier(form), named, w.pick("line", "share_message"))
            on(copied.then, None, w.pick("line"), {}, js=COPY.format(words.button))
        recommended = w.pick("facts", "lora_data", "share_message")
        on(w["recommend"].click, sharing.recommend, named, recommended)
        for button, function in (
            ("save", controls.save),
            ("over", controls.save_over),
            ("rename", controls.rename),
            ("delete", controls.delete),
        ):
            on(w[f"preset_{button}"].click, function, named, w.pick(*PRESETS))
        exported = on(w["preset_export"].click, sharing.export, {}, w.pick("export", "preset_message"))
        on(exported.then, None, w.pick("export"), {}, js=DOWNLOAD)
        on(w["preset_file"].upload, sharing.import_file, w.pick("preset_file", *SELECTION), w.pick(*PRESETS))

    def _wire_preview(self, w: Widgets) -> None:
        preview = self.preview
        inputs = w.pick(*SELECTION, *SETTINGS)
        drawn = w.pick(*DRAWING, "pictures")
        compared = on(w["draw"].click, preview.compare, {**inputs, **w.pick("job", "drawing")}, drawn, queued=True)
        asked = ("grid_over", "grid_presets", "grid_block", "grid_values", "drawing")
        inputs = w.pick(*SELECTION, *SETTINGS, *asked)
        grid = w.pick(*DRAWING, "grid_pictures")
        gridded = on(w["draw_grid"].click, preview.compare_cells, inputs, grid, queued=True)
        for ended in (compared, gridded):
            on(ended.then, preview.idle, w.pick("drawing"), w.pick(*IDLE))
        requests = PictureRequests(preview, lambda stored: self.memory.fitting(w, stored))
        answers = w.pick(*SHOWN, *SETTINGS, *ANSWER)
        on(w["pictures_answer"].click, requests.answer, w.pick("pictures_ask", *SELECTION), answers)
        on(w["cancel"].click, preview.cancel, w.pick("drawing"), {})
        on(w["save_pictures"].click, preview.save, w.pick("job"), w.pick("status"))
        loaded = w.pick(*SHOWN, *SETTINGS, "status")
        on(w["png_file"].upload, preview.load, w.pick("png_file"), loaded)
        baked = w.pick("lora_data", "bake_status", "bake_replace", "bake_job", "bake_cancel")
        baking = w.pick(*SELECTION, "bake_name", "bake_replace", "bake_job")
        on(w["bake"].click, preview.bake, baking, baked, queued=True)
        on(w["bake_cancel"].click, preview.cancel_bake, w.pick("bake_job"), {})


def _remembered(values: PreviewValues) -> dict[str, object]:
    """What the browser keeps of the place: the LoRAs with their weights, and the settings."""
    return {**selection_values(values), **{name: values[name] for name in SETTINGS}}  # type: ignore[literal-required]


def _name_of(run: Run | None) -> str | None:
    return None if run is None else run.config.name
