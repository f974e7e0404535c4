"""The types of events: a TypedDict of widget values for each tab, and the changes that a handler returns.

`tests/ui/test_values.py` compares these keys with the widgets that the tabs connect to their handlers. The types are
those that gradio's own page sends; a browser may send anything, so that a handler checks a value where it uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from lib_blocktrain.workspace.lora_selection import LoraSelection

Values = dict[str, object]
Changes = Mapping[str, object]
"""Widget name to its new value or `Properties`; for a group of widgets, a mapping of its own."""

Number = float | int | None
"""The value of a slider or number field; None where a number field is empty."""


class Properties(dict[str, object]):
    """Properties of a widget to change: ``Properties(value=1, interactive=False)``."""


class SelectionValues(TypedDict):
    """The LoRAs in use, as the server and as the page's script have them, and the weights that the sliders show."""

    selection: LoraSelection
    loras: str | None
    weights: dict[str, Number]
    weight_changes: str | None


class NamedValues(SelectionValues):
    """Besides, where the weights may have come from."""

    preset: str | None
    paste: str | None


class PreviewValues(NamedValues):
    lora_ask: str | None
    preset_name: str | None
    preset_replace: bool
    preset_file: Path | None
    edited: str | None
    prompt: str | None
    negative: str | None
    sampler: str | None
    steps: Number
    cfg: Number
    width: Number
    height: Number
    seed: Number
    grid_over: str | None
    grid_presets: list[str] | None
    grid_block: str | None
    grid_values: str | None
    pictures_ask: str | None
    """What the page's scripts ask for, as JSON: see `picture_requests`."""
    job: str | None
    """Whose pictures are shown."""
    drawing: str | None
    """The drawings that this page has started, in the order of their start, with spaces between their ids."""
    png_file: Path | None
    bake_name: str | None
    bake_replace: bool
    bake_job: str | None
    restored: bool
    shown_side: int
    """The native size of the model that the page shows, 0 before the first."""


class AnalyseValues(SelectionValues):
    width: Number
    height: Number
    analyse_lora: str | None
    analyse_prompts: str | None
    analyse_negative: str | None
    analyse_seeds: str | None
    analyse_cfg: Number
    analyse_strength: Number
    analyse_method: str | None
    analyse_pairs: bool
    analyse_kind: str | None
    analyse_word: str | None
    analyse_box: str | None
    analyse_mask: Path | None
    analyse_painted: str | None
    analyse_against: str | None
    analyse_against_word: str | None
    analyse_against_box: str | None
    analyse_against_mask: Path | None
    analyse_job: str | None
    analyse_found: str | None
    analyse_rule: str | None
    analyse_amount: Number
    analyse_preset: str | None
    analyse_replace: bool
    solve_pictures: Number
    solve_budget: Number
    solve_kind: str | None
    solve_job: str | None
    solve_found: str | None
    solve_place: Number
    solve_preset: str | None
    solve_replace: bool
    probe_folder: str | None
    probe_class: str | None
    probe_pictures: Number
    probe_convolutions: bool
    probe_job: str | None
    collide_with: str | None
    collide_effects: bool
    collide_job: str | None
    collide_found: str | None


class TrainValues(NamedValues):
    train_form: dict[str, object]
    """The values of the fields in `form.FIELDS`, by their names."""
    train_rest: str | None
    """The run that was loaded, as the JSON of a run.json."""
    train_shown: str
    """The architecture of the map in the page."""
    train_weights: dict[str, float]
    """The sliders behind the map, by block."""
    train_ready: str | None
    train_file: Path | None
    train_preset: str | None


class DatasetValues(TypedDict):
    dataset_ask: str | None
    """What the page's scripts ask for, as JSON: see `dataset_handlers`."""
    dataset_files: list[Path] | None
    train_form: dict[str, object]


class RunsValues(SelectionValues):
    runs_chosen: str | None
    runs_shown: dict[str, str]
    """Digests of what the page shows, by widget."""
    runs_ask: str | None
    """What else the page asks for, as JSON: see `runs_handlers`."""
    runs_weights: str | None
