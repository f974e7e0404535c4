"""What is done with block weights that an analysis or a search has found: sliders, a preset, the training form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_blocktrain.ui import html
from lib_blocktrain.ui.lora_controls import LoraControls, selection_of
from lib_blocktrain.ui.train_handlers import WEIGHTS
from lib_blocktrain.ui.values import AnalyseValues, Changes, Properties
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.weights.presets import Preset
from lib_blocktrain.workspace.lora_selection import LoraSelection

PRESET_MENUS = ("grid_presets", "preset_cards", "preset_problems", "train_preset")  # of all tabs


def on_sliders(
    controls: LoraControls,
    values: AnalyseValues,
    lora: str,
    weights: BlockWeights,
    area_share: float | None,
    strength: float | None,
) -> Changes:
    """Set the sliders of Preview to the weights: for this LoRA or, where there is none (""), for the active one.

    ``strength`` is that of the LoRA when they were found, None where it had none; see `in_use`. The line is in the
    field for pasted weights, too: what is saved or copied from the sliders has its area share.
    """
    selection = selection_of(values)
    line = weights.to_line(with_architecture=True, area_share=area_share)
    if lora:
        changes = in_use(controls, selection, {lora: line}, 1.0 if strength is None else strength)
    else:
        changes = controls.show(selection.with_shown(controls.entry(line, selection.shown.strength)))
    pasted = {"paste": line, "understood": html.understood(controls.parse(line, selection))}
    note = html.changed_elsewhere(lora or selection.active)
    if strength is not None and lora in selection.entries and selection.entries[lora].strength != strength:
        here = number(selection.entries[lora].strength)
        note += html.note(f"{lora} is at strength {here} here; the weights were found at {number(strength)}")
    shown = {"apply": Properties(interactive=True), "tabs": Properties(selected="Preview"), "status": note}
    return {**changes, **pasted, **shown}


def in_use(controls: LoraControls, selection: LoraSelection, lines: Mapping[str, str], strength: float) -> Changes:
    """Use LoRAs under these lines in Preview. All others stay, and those in use keep their strength."""
    before = selection.entries
    found = {
        key: controls.entry(line, before[key].strength if key in before else strength) for key, line in lines.items()
    }
    return controls.use_exactly({**found, **{key: entry for key, entry in before.items() if key not in found}})


def as_preset(
    controls: LoraControls, values: AnalyseValues, preset: Preset, replace: bool
) -> tuple[Mapping[str, Any], str]:
    """Save a preset; return the changes of all menus of presets, and what to say. Raises ValueError."""
    controls.presets.put(preset, replace=replace)
    return controls.preset_menus(selection_of(values)), html.note(f"Saved {preset.name}: {preset.text}")


def in_training(line: str) -> Changes:
    """Put a preset line into the training form."""
    return {"train_form": {WEIGHTS: line}, "tabs": Properties(selected="Train")}
