"""The Analyse tab: the request on the left, the result on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.analysis.request import METHODS
from lib_blocktrain.analysis.run import NOISE_METHODS
from lib_blocktrain.analysis.solve_result import BUDGET, SEEDS
from lib_blocktrain.ui import html
from lib_blocktrain.ui.analyse_handlers import RULE_LABELS, AnalyseHandlers
from lib_blocktrain.ui.collide_handlers import CollideHandlers
from lib_blocktrain.ui.feature_form import BOX, DRAWN, FILE, KINDS, NOTHING, SECOND_KINDS, WHOLE, WORD
from lib_blocktrain.ui.found_weights import PRESET_MENUS
from lib_blocktrain.ui.frame import actions, aside, bar, menu, messages, pane, panes, section, segments
from lib_blocktrain.ui.preview_tab import SELECTION, SHOWN
from lib_blocktrain.ui.probe_handlers import ProbeHandlers
from lib_blocktrain.ui.remembered import Memory, add_widgets
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.solve_handlers import KIND_LABELS, SolveHandlers
from lib_blocktrain.ui.train_handlers import WEIGHTS, TrainHandlers
from lib_blocktrain.ui.train_tab import follow, form_fields
from lib_blocktrain.ui.values import AnalyseValues, Changes, Properties
from lib_blocktrain.ui.widgets import Shared, Widgets

REQUEST = (
    *("analyse_lora", "analyse_prompts", "analyse_negative", "analyse_seeds", "analyse_cfg", "analyse_strength"),
    *("analyse_method", "analyse_kind", "analyse_word", "analyse_box", "analyse_mask", "analyse_painted"),
    "analyse_pairs",
    *("analyse_against", "analyse_against_word", "analyse_against_box", "analyse_against_mask"),
    *("width", "height"),  # of Preview's pictures
)
ASKED = ("solve_pictures", "solve_budget", "solve_kind")  # beside those of REQUEST
SOLVED = ("solve_found", "solve_place", "solve_front", "solve_weights", "analyse_map", "solve_using")
PLACE = ("solve_found", "solve_place")
PROBE = ("probe_folder", "probe_class", "probe_pictures", "probe_convolutions")
RESULT = (
    *("analyse_found", "analyse_amount", "analyse_head", "analyse_map", "analyse_bars", "analyse_table"),
    *("analyse_using", "analyse_save"),
)
RULE = ("analyse_found", "analyse_rule", "analyse_amount")
WEIGHED = ("analyse_map", "analyse_weights", "analyse_keep")
# What the browser remembers, beside the LoRA and the result.
KEPT = (
    *("analyse_prompts", "analyse_negative", "analyse_seeds", "analyse_cfg", "analyse_strength", "analyse_method"),
    *("analyse_kind", "analyse_word", "analyse_box", "analyse_against", "analyse_against_word", "analyse_against_box"),
    "analyse_pairs",
    *("analyse_rule", "analyse_amount", "probe_folder", "probe_class", *ASKED),
)
BEFORE = Markup(
    '<p class="blocktrain-reading">Press Analyse: the map shows what each block does; weights follow from it.</p>'
)
NO_BARS = Markup(
    '<div class="blocktrain-no-bars" aria-hidden="true"><i></i><i></i><i></i><i></i><i></i></div>'
    '<p class="blocktrain-foot">A bar for each block, the strongest first; lines across their ends show the noise.</p>'
)
SIZE = Markup("Width and height are those of Preview.")
SEARCH = Markup("Finds weights that keep A and drop B, or everything else, on the pictures that they draw.")
DRAW = "() => { window.blocktrain?.place() === 'preview' && document.querySelector('#blocktrain_draw').click(); }"
KIND_WIDGETS = {WORD: "analyse_word", BOX: "analyse_box", FILE: "analyse_mask", DRAWN: "analyse_drawn"}
SECOND_KIND_WIDGETS = {WORD: "analyse_against_word", BOX: "analyse_against_box", FILE: "analyse_against_mask"}


class AnalyseTab:
    """Which blocks of a LoRA carry a feature, and block weights computed from the answer."""

    title = "Analyse"

    def __init__(self, shared: Shared):
        self.initial, self.no_training = shared.initial, shared.host.no_training
        self.memory = Memory("analyse", shared.host.name, KEPT)
        self.handlers = AnalyseHandlers(shared.host, shared.controls, shared.lora_index, shared.jobs)
        self.probe_handlers, self.solve_handlers = ProbeHandlers(self.handlers), SolveHandlers(self.handlers)
        self.collide_handlers = CollideHandlers(self.handlers)
        self.train_handlers = TrainHandlers(shared.host, shared.controls, shared.runner)

    def build(self, w: Widgets) -> None:
        w["analyse_job"], w["analyse_found"], w["probe_job"] = gr.State(""), gr.State(""), gr.State("")
        w["collide_job"], w["collide_found"] = gr.State(""), gr.State("")
        w["solve_job"], w["solve_found"] = gr.State(""), gr.State("")
        add_widgets(w, "analyse")
        segments("analyse", {"question": "Question", "map": "Map", "blocks": "Blocks"})
        with bar("analyse"):
            with actions():
                w.add("analyse", gr.Button, "Analyse", variant="primary")
                w.add("analyse_cancel", gr.Button, "Cancel", variant="stop", interactive=False)
            with messages():
                w.html("analyse_status")
                w.html("analyse_message", html.note(self.no_training) if self.no_training else None)
            with aside():
                w.add("analyse_save", gr.Button, "Save JSON and CSV", interactive=False)
        with panes("analyse"):
            with pane("left", "question"):
                with section("LoRA"):
                    _lora(w)
                with section("What to look for"):
                    words = not self.no_training  # a word's region is made of the model's attention
                    _feature(w, tuple(kind for kind in KINDS if words or kind != WORD))
                    _second_feature(w, tuple(kind for kind in SECOND_KINDS if words or kind != WORD))
                with section("On which pictures"):
                    self._request(w)
                with section(""):
                    _probe(w, not self.no_training)
                    _similar(w)
                    _collide(w, not self.no_training)
            with pane("canvas", "map"):
                with section(""):
                    w.html("analyse_head", BEFORE)
                    w.html("analyse_map")
                with section("Keep these blocks", visible=False) as w["analyse_using"]:
                    _using(w)
                with section("Search: keep A, drop B"):
                    _solve(w, not self.no_training)
                with section(""), gr.Accordion("Table and sheets", open=False, elem_id="blocktrain_analyse_details"):
                    w.html("analyse_table")
            with pane("right", "blocks"), section("Blocks"):
                w.html("analyse_bars", NO_BARS)

    def wire(self, w: Widgets) -> None:
        found = self._wire_request(w)
        self._wire_feature(w)
        self._wire_result(w)
        self._wire_collide(w)
        found.append(self._wire_search(w))
        kept = (*KEPT, "analyse_lora", "analyse_found", "solve_found", "solve_place")
        # what is found is no field, whose change the page would see
        self.memory.wire(w, lambda values: {name: values[name] for name in kept}, kept, after=found)

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        handlers = self.handlers
        opened = on(blocks.load, handlers.open, w.pick("analyse_lora"), w.pick("analyse_lora", "analyse_map"))

        def restore(stored: dict[str, Any]) -> tuple[Changes, list[str]]:
            changes, wrong = self.memory.fitting(w, stored)
            lora = stored.get("analyse_lora")
            if handlers.is_readable(lora):
                changes["analyse_lora"] = lora
            elif lora:
                wrong.append(f"{str(lora)[:80]!r} is not in the LoRA folders")
            found = {
                **self.solve_handlers.show_again(stored.get("solve_found"), stored.get("solve_place")),
                **handlers.show_again(stored.get("analyse_found")),
            }
            return {**found, **changes}, wrong  # the amount that was chosen, not the one to begin with

        on(opened.then, self.collide_handlers.open, w.pick("collide_with"), w.pick("collide_with"))
        outputs = tuple(dict.fromkeys((*KEPT, "analyse_lora", "analyse_status", "solve_status", *SOLVED, *RESULT)))
        restored = self.memory.on_load(opened.then, w, restore, outputs)
        kinds = on(restored.then, _show_kind, w.pick("analyse_kind"), w.pick(*KIND_WIDGETS.values()))
        against = w.pick(*SECOND_KIND_WIDGETS.values())
        second = on(kinds.then, _show_second_kind, w.pick("analyse_against"), against)
        on(second.then, handlers.show_weights, w.pick(*RULE), w.pick(*WEIGHED))

    def _wire_request(self, w: Widgets) -> list[gr.events.Dependency]:
        """Return the events that find something."""
        handlers, probe, rule = self.handlers, self.probe_handlers, w.pick(*RULE)
        weights = w.pick(*WEIGHED)
        shown = w.pick("analyse_job", "analyse_status", "analyse_cancel", *RESULT)
        asked = w.pick(*REQUEST, "analyse_job")
        analysed = on(w["analyse"].click, handlers.start, asked, shown, queued=True)
        on(w["analyse_cancel"].click, handlers.cancel, w.pick("analyse_job"), {})
        for refresh in (w["analyse_refresh"], w["refresh"]):  # here, and in Preview
            refreshed = on(refresh.click, handlers.refresh, w.pick("analyse_lora"), w.pick("analyse_lora"))
            on(refreshed.then, self.collide_handlers.open, w.pick("collide_with"), w.pick("collide_with"))
        shown = w.pick("probe_job", "probe_status", "probe_cancel", "analyse_rule", *RESULT)
        probed = on(w["probe"].click, probe.start, w.pick(*PROBE, "probe_job"), shown, queued=True)
        on(w["probe_cancel"].click, probe.cancel, w.pick("probe_job"), {})
        for event in (analysed.then, probed.then):
            on(event, handlers.show_weights, rule, weights)
        for event in (w["analyse_rule"].input, w["analyse_amount"].input):
            on(event, handlers.show_weights, rule, weights, latest=True)
        similar = w.pick("analyse_similar", "analyse_message")
        on(w["analyse_find"].click, handlers.find_similar, w.pick("analyse_lora"), similar, queued=True)
        return [analysed, probed]

    def _wire_feature(self, w: Widgets) -> None:
        drawn = w.pick("analyse_job", "analyse_status", "analyse_cancel", "analyse_drawing", "analyse_kind")
        asked = w.pick(*REQUEST, "analyse_job")
        drawing = on(w["analyse_draw"].click, self.handlers.draw, asked, drawn, queued=True)
        kind, widgets = w.pick("analyse_kind"), w.pick(*KIND_WIDGETS.values())
        on(drawing.then, _show_kind, kind, widgets)
        on(w["analyse_kind"].input, _show_kind, kind, widgets, latest=True)
        kind, widgets = w.pick("analyse_against"), w.pick(*SECOND_KIND_WIDGETS.values())
        on(w["analyse_against"].input, _show_second_kind, kind, widgets, latest=True)

    def _wire_result(self, w: Widgets) -> None:
        handlers, rule = self.handlers, w.pick(*RULE)
        sliders = w.pick(*SHOWN, "tabs", "status", "analyse_message")
        used = on(w["analyse_sliders"].click, handlers.to_sliders, w.pick(*RULE, *SELECTION), sliders)
        on(used.then, None, {}, {}, js=DRAW)
        preset = w.pick(*RULE, *SELECTION, "analyse_preset", "analyse_replace")
        saved = w.pick("analyse_message", "analyse_replace", *PRESET_MENUS)
        on(w["analyse_save_preset"].click, handlers.to_preset, preset, saved)
        form = {**form_fields(w, WEIGHTS), **w.pick("tabs", "analyse_message")}
        filled = on(w["analyse_train"].click, handlers.to_training, rule, form)
        follow(filled.then, self.train_handlers, w)
        on(w["analyse_save"].click, handlers.save, w.pick("analyse_found"), w.pick("analyse_message"))

    def _wire_collide(self, w: Widgets) -> None:
        collide = self.collide_handlers
        asked = w.pick(*REQUEST, "collide_with", "collide_effects", "collide_job")
        shown = w.pick(
            "collide_job", "collide_status", "collide_cancel", "collide_found", "collide_table", "collide_use"
        )
        on(w["collide"].click, collide.start, asked, shown, queued=True)
        on(w["collide_cancel"].click, collide.cancel, w.pick("collide_job"), {})
        used = w.pick(*SHOWN, "tabs", "status", "collide_status")
        on(w["collide_use"].click, collide.to_preview, w.pick("collide_found", *SELECTION), used)

    def _wire_search(self, w: Widgets) -> gr.events.Dependency:
        """Return the event that finds something."""
        handlers, place = self.solve_handlers, w.pick(*PLACE)
        shown = w.pick("solve_job", "solve_status", "solve_cancel", *SOLVED)
        searched = on(w["solve"].click, handlers.start, w.pick(*REQUEST, *ASKED, "solve_job"), shown, queued=True)
        on(w["solve_cancel"].click, handlers.cancel, w.pick("solve_job"), {})
        on(w["solve_place"].input, handlers.show, place, w.pick("solve_weights", "analyse_map"), latest=True)
        sliders = w.pick(*SHOWN, "tabs", "status", "analyse_message")
        used = on(w["solve_sliders"].click, handlers.to_sliders, w.pick(*PLACE, *SELECTION), sliders)
        on(used.then, None, {}, {}, js=DRAW)
        preset = w.pick(*PLACE, *SELECTION, "solve_preset", "solve_replace")
        saved = w.pick("analyse_message", "solve_replace", *PRESET_MENUS)
        on(w["solve_save_preset"].click, handlers.to_preset, preset, saved)
        form = {**form_fields(w, WEIGHTS), **w.pick("tabs", "analyse_message", "train_message")}
        filled = on(w["solve_train"].click, handlers.to_training, place, form)
        follow(filled.then, self.train_handlers, w)
        return searched

    def _request(self, w: Widgets) -> None:
        prompts = {"label": "Prompts, one per line", "value": self.initial.prompt, "lines": 2, "max_lines": 8}
        w.add("analyse_prompts", gr.Textbox, **prompts)
        w.add("analyse_negative", gr.Textbox, label="Negative prompt", value=self.initial.negative, lines=1)
        with gr.Row(elem_classes="blocktrain-fields blocktrain-fields-3"):
            w.add("analyse_seeds", gr.Textbox, label="Seeds", value="0, 1, 2", max_lines=1, min_width=0)
            w.add("analyse_cfg", gr.Number, value=5.0, label="CFG", step=0.5, min_width=0)
            methods = [name for name in METHODS if not self.no_training or name not in NOISE_METHODS]
            w.add("analyse_method", gr.Dropdown, choices=methods, value=methods[0], label="Method", min_width=0)
        w.add("analyse_pairs", gr.Checkbox, value=False, label="Pairs of blocks, too")
        gr.HTML(SIZE, elem_classes="blocktrain-foot")
        with gr.Accordion("What the methods do", open=False, elem_id="blocktrain_analyse_methods"):
            gr.Markdown("\n".join(f"- **{name}**: {METHODS[name]}" for name in methods))


def _lora(w: Widgets) -> None:
    with gr.Row(elem_classes="blocktrain-line-up"):
        w.add("analyse_lora", gr.Dropdown, choices=[], label="File", scale=3, min_width=0)
        w.add("analyse_refresh", gr.Button, "Refresh", min_width=80, scale=0)
    w.add("analyse_strength", gr.Slider, -2.0, 2.0, 1.0, step=0.05, label="Strength")


def _feature(w: Widgets, kinds: Sequence[str]) -> None:
    with gr.Column(elem_classes="blocktrain-feature", min_width=0):
        choice = {"choices": list(kinds), "value": WHOLE, "elem_classes": "blocktrain-choice"}
        w.add("analyse_kind", gr.Radio, **choice, label="A, to keep")
        w.add("analyse_word", gr.Textbox, label="Word of the prompt", max_lines=1, visible=False)
        w.add("analyse_box", gr.Textbox, label="Left, top, right, bottom, each 0 to 1", max_lines=1, visible=False)
        w.add("analyse_mask", gr.File, label="Mask: white where the feature is", file_types=["image"], visible=False)
        with gr.Column(visible=False, elem_id="blocktrain_analyse_drawn", min_width=0) as w["analyse_drawn"]:
            w.add("analyse_draw", gr.Button, "Draw the picture", size="sm")
            w.html("analyse_drawing")
            # the brush strokes; gradio's own ImageEditor redraws a WebGL canvas 60 times a second, even while hidden
            w.add("analyse_painted", gr.Textbox, label="Strokes", elem_classes="blocktrain-unseen")


def _second_feature(w: Widgets, kinds: Sequence[str]) -> None:
    with gr.Column(elem_classes="blocktrain-feature blocktrain-feature-b", min_width=0):
        choice = {"choices": list(kinds), "value": NOTHING, "elem_classes": "blocktrain-choice"}
        w.add("analyse_against", gr.Radio, **choice, label="B, to drop")
        w.add("analyse_against_word", gr.Textbox, label="Word of the prompt", max_lines=1, visible=False)
        w.add("analyse_against_box", gr.Textbox, label="Left, top, right, bottom", max_lines=1, visible=False)
        w.add("analyse_against_mask", gr.File, label="Mask of B", file_types=["image"], visible=False)


def _probe(w: Widgets, enabled: bool) -> None:
    with gr.Accordion("Before training: which blocks would pictures change?", open=False, elem_id="blocktrain_probing"):
        w.add("probe_folder", gr.Textbox, label="Folder of pictures", lines=1, max_lines=4)
        with gr.Row():
            w.add("probe_class", gr.Textbox, label="Compared with", placeholder="a photo of a dog", scale=3)
            w.add("probe_pictures", gr.Number, value=16, label="Pictures", precision=0, min_width=90)
            w.add("probe_convolutions", gr.Checkbox, label="convolutions", min_width=120)
        with gr.Row():
            w.add("probe", gr.Button, "Probe", scale=3, interactive=enabled)
            w.add("probe_cancel", gr.Button, "Cancel", variant="stop", min_width=90, interactive=False)
        w.html("probe_status")


def _using(w: Widgets) -> None:
    rules = {"choices": list(RULE_LABELS.values()), "value": RULE_LABELS["strongest"]}
    w.add("analyse_rule", gr.Radio, **rules, label="Which", elem_classes="blocktrain-choice")
    w.html("analyse_keep")
    # the slider on the curve sets this number (javascript/analyse_keep.js)
    w.add("analyse_amount", gr.Number, value=1, label="Blocks to keep", precision=0, elem_classes="blocktrain-unseen")
    w.html("analyse_weights")
    _uses(w, "analyse")


def _solve(w: Widgets, enabled: bool) -> None:
    gr.HTML(SEARCH, elem_classes="blocktrain-foot")
    with gr.Row(elem_classes="blocktrain-fields blocktrain-fields-3"):
        w.add("solve_pictures", gr.Number, value=SEEDS, label="Pictures", precision=0, min_width=0)
        w.add("solve_budget", gr.Number, value=BUDGET, label="U-Net evaluations", precision=0, min_width=0)
        kinds = {"choices": list(KIND_LABELS.values()), "value": KIND_LABELS["free"]}
        w.add("solve_kind", gr.Dropdown, **kinds, label="Weights", min_width=0)
    with gr.Row(elem_classes="blocktrain-line-up"):
        w.add("solve", gr.Button, "Search", scale=2, min_width=120, interactive=enabled)
        w.add("solve_cancel", gr.Button, "End", variant="stop", scale=0, min_width=90, interactive=False)
    w.html("solve_status")
    # the slider on the front sets this number (javascript/analyse_front.js)
    w.add("solve_place", gr.Number, value=1, label="Place", precision=0, elem_classes="blocktrain-unseen")
    with gr.Column(visible=False, min_width=0) as w["solve_using"]:
        w.html("solve_front")
        w.html("solve_weights")
        _uses(w, "solve")


def _uses(w: Widgets, name: str) -> None:
    """What can be done with weights that were found."""
    with gr.Row(elem_classes="blocktrain-uses"):
        w.add(f"{name}_sliders", gr.Button, "Use in Preview", scale=0, min_width=120)
        w.add(f"{name}_train", gr.Button, "Use for training", scale=0, min_width=125)
        with menu(f"{name}_preset", "Save the weights as a preset", "Save as a preset"):
            w.add(f"{name}_preset", gr.Textbox, label="Name", max_lines=1)
            w.add(f"{name}_replace", gr.Checkbox, label="replace")
            w.add(f"{name}_save_preset", gr.Button, "Save")


def _similar(w: Widgets) -> None:
    with gr.Accordion("Similar LoRAs", open=False, elem_id="blocktrain_analyse_alike"):
        w.add("analyse_find", gr.Button, "Find similar LoRAs", size="sm")
        w.html("analyse_similar")


def _collide(w: Widgets, enabled: bool) -> None:
    with gr.Accordion("Two LoRAs: which blocks do both want?", open=False, elem_id="blocktrain_colliding"):
        w.add("collide_with", gr.Dropdown, choices=[], label="With")
        w.add("collide_effects", gr.Checkbox, label="effects on the model, too", interactive=enabled)
        with gr.Row():
            w.add("collide", gr.Button, "Compare", scale=3)
            w.add("collide_cancel", gr.Button, "Cancel", variant="stop", min_width=90, interactive=False)
        w.html("collide_status")
        w.html("collide_table")
        w.add("collide_use", gr.Button, "Use both in Preview", interactive=False)


def _show_kind(values: AnalyseValues) -> Changes:
    return {name: Properties(visible=kind == values["analyse_kind"]) for kind, name in KIND_WIDGETS.items()}


def _show_second_kind(values: AnalyseValues) -> Changes:
    return {name: Properties(visible=kind == values["analyse_against"]) for kind, name in SECOND_KIND_WIDGETS.items()}
