"""The tab: the widgets' wiring. Where they stand is in ``widgets``; what they do is in ``desk`` and ``preview``."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.ui import widgets
from lib_blocktrain.ui.desk import Desk, First, weight_name
from lib_blocktrain.ui.drawing import Studio
from lib_blocktrain.ui.jobs import Jobs
from lib_blocktrain.ui.library import Library
from lib_blocktrain.ui.mix import WEIGHT_IDS
from lib_blocktrain.ui.preview import Preview
from lib_blocktrain.ui.properties import Changes, Values
from lib_blocktrain.ui.shelf import Shelf
from lib_blocktrain.ui.shim import on, uploaded

WEIGHTS = tuple(weight_name(block_id) for block_id in WEIGHT_IDS)
MIX = ("mix", "loras", "strength", *WEIGHTS)
SHOWN = (*MIX, "active", "facts", "bake_name", "lora_message")
SETTINGS = ("prompt", "negative", "sampler", "steps", "cfg", "width", "height", "seed")
PRESETS = ("preset", "grid_presets", "preset_problems", "preset_message", "preset_replace")
DRAWN = ("job", "pictures", "status", "cancel")
COPY = "(line) => { window.blocktrain && window.blocktrain.copy(line); }"


class Tab:
    """The tab on a host. Build it inside ``with gr.Blocks() as blocks``, then ``blocks.load`` what ``opening`` says."""

    def __init__(self, host: Host, first: First | None = None):
        self.jobs = Jobs(host)
        library, shelf = Library(lambda: host.lora_dirs), Shelf(lambda: host.presets_path)
        self.desk = Desk(host, library, shelf, first or First())
        self.preview = Preview(host, self.desk, Studio(host, library), self.jobs)
        self.widgets = widgets.place(host, self.desk.first)
        self._wire_desk()
        self._wire_preview()

    def close(self) -> None:
        """Cancel what is being drawn."""
        self.jobs.close()

    def opened_by(self, blocks: gr.Blocks) -> None:
        """Fill the tab whenever the page is loaded: the lists at once, then the model, which may have to be read."""
        w = self.widgets
        looked = on(blocks.load, self.desk.open, {}, w.some(*SHOWN, *PRESETS))
        on(looked.then, self.desk.meet_model, {}, w.some("model_line", "width", "height"))

    def _wire_desk(self) -> None:
        w, desk = self.widgets, self.desk
        listed = ("loras", "lora_message")
        found = w.some(*MIX, "search")
        on(w["search"].input, desk.find, found, w.some(*listed))
        looked = on(w["refresh"].click, desk.refresh, found, w.some(*SHOWN, *PRESETS))
        on(looked.then, desk.meet_model, {}, w.some("model_line", "width", "height"))
        on(w["loras"].input, desk.choose, found, w.some(*SHOWN))
        on(w["active"].input, desk.activate, w.some(*MIX, "active"), w.some(*SHOWN))

        weighed = w.some(*MIX, "preset_message", "preset_name", "understood")
        on(w["preset"].input, desk.use_preset, w.some(*MIX, "preset"), weighed)
        on(w["paste"].input, desk.explain, w.some("paste", "mix"), w.some("understood", "apply"))
        on(w["apply"].click, desk.apply, w.some(*MIX, "paste", "preset_name"), weighed)

        named = w.some(*MIX, "preset", "preset_name", "preset_replace")
        copied = on(w["copy"].click, desk.copy, named, w.some("line", "preset_message"))
        on(copied.then, None, w.some("line"), {}, js=COPY)
        for button, function in (("save", desk.save), ("rename", desk.rename), ("delete", desk.delete)):
            on(w[f"preset_{button}"].click, function, named, w.some(*PRESETS))
        self._on_upload("lbw_file", desk.import_lbw, MIX, PRESETS)

    def _wire_preview(self) -> None:
        w, preview = self.widgets, self.preview
        asked = w.some(*MIX, *SETTINGS)
        on(w["draw"].click, preview.compare, asked, w.some(*DRAWN), queued=True)
        asked = w.some(*MIX, *SETTINGS, "grid_presets")
        on(w["draw_grid"].click, preview.compare_presets, asked, w.some(*DRAWN), queued=True)
        on(w["cancel"].click, preview.cancel, w.some("job"), w.some("status"))
        on(w["save_pictures"].click, preview.save, w.some("job"), w.some("status"))
        self._on_upload("png_file", preview.load, (), (*SHOWN, *SETTINGS, "search", "status"))
        baked = w.some("loras", "search", "bake_message", "bake_replace", "lora_message")
        on(w["bake"].click, preview.bake, w.some(*MIX, "bake_name", "bake_replace"), baked, queued=True)

    def _on_upload(
        self, name: str, function: Callable[[Values], Changes], inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> None:
        """Tie a function to an upload; it is given the file's path."""

        def with_path(values: Values) -> Changes:
            return function({**values, name: uploaded(values[name])})

        widget = self.widgets[name]
        on(widget.upload, with_path, {name: widget, **self.widgets.some(*inputs)}, self.widgets.some(*outputs))
