"""Presets between people: what is copied, pasted, exported and imported; from named values to named changes."""

from __future__ import annotations

import json

from lib_blocktrain.ui import html
from lib_blocktrain.ui.lora_controls import RANDOM_SEED_TEXT, LoraControls, error_to, selection_of
from lib_blocktrain.ui.preset_cards import card_map
from lib_blocktrain.ui.values import Changes, PreviewValues, Properties
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_files import read_line
from lib_blocktrain.weights.preset_strings import PresetStringError
from lib_blocktrain.weights.presets import from_link, to_link

_, LINK, KOHYA, JSON = FORMS = ("line", "link", "kohya", "JSON")


COPIED = "It stands in “To share”, and is on the clipboard where the browser lets it"


def written(weights: BlockWeights, name: str | None, form: str, canvas: float | None = None) -> str:
    """Return the weights in one of FORMS; raises ValueError for a name or weights that the form cannot hold."""
    line = weights.to_line(name, with_architecture=True, canvas=canvas)
    if name and read_line(line).name != name:
        raise ValueError(f"{name!r} cannot name a preset: choose another name")
    if form == LINK:
        return to_link(line)
    if form == KOHYA:
        return " ".join(f'"{argument}"' for argument in weights.to_kohya())
    return json.dumps(weights.to_json()) if form == JSON else line


class ShareHandlers:
    """What Copy, Use these weights, Export and Import do."""

    def __init__(self, controls: LoraControls):
        self.controls = controls

    def explain(self, values: PreviewValues) -> Changes:
        """Something was typed or pasted: say at once what it is understood as."""
        text = from_link(values["paste"] or "")
        if not text.strip():
            return {"understood": "", "apply": Properties(interactive=False)}
        try:
            parsed = self.controls.parse(text, values["selection"])
            self.controls.check_range(parsed)
        except PresetStringError as error:
            return {"understood": html.not_understood(text, error), "apply": Properties(interactive=False)}
        except ValueError as error:
            return {"understood": html.failure(str(error)), "apply": Properties(interactive=False)}
        seen = card_map(parsed.weights, parsed.name or "these weights")
        body = f'<div class="blocktrain-seen">{seen}{html.understood(parsed)}</div>'
        return {"understood": body, "apply": Properties(interactive=True)}

    @error_to("understood")
    def apply(self, values: PreviewValues) -> Changes:
        """Put what was pasted on the sliders."""
        selection = selection_of(values)
        parsed = self.controls.parse(from_link(values["paste"] or ""), selection)
        return {**self.controls.weighed(selection, parsed), "preset_name": parsed.name or values["preset_name"] or ""}

    @error_to("preset_message")
    def copy(self, values: PreviewValues) -> Changes:
        """The weights on the sliders as a text that others can paste."""
        if values["form"] not in FORMS:
            raise ValueError(f"form {values['form']!r}: expected one of {', '.join(FORMS)}")
        selection = selection_of(values)
        weights = selection.shown.block_weights(self.controls.architecture(selection))
        origin = self.controls.origin_of(values, weights)
        name, said = str(values["preset_name"] or "").strip(), COPIED
        if name and self._is_another(name, weights):
            name, said = "", f"{COPIED}; without a name, since the preset {name} has other weights"
        line = written(
            weights, name or (origin.name if origin else None), values["form"], origin.canvas if origin else None
        )
        return {"line": line, "preset_message": html.note(said)}

    def _is_another(self, name: str, weights: BlockWeights) -> bool:
        """Whether a preset of this name has other weights."""
        presets, of = self.controls.presets, weights.architecture
        texts_of = {preset.name: preset.text for preset in presets.fitting(of)}
        return name in texts_of and presets.parse(texts_of[name], of, seed=RANDOM_SEED_TEXT).weights != weights

    @error_to("preset_message")
    def export(self, values: PreviewValues) -> Changes:
        """The person's own presets as the text of a file."""
        text, count = self.controls.presets.exported()
        said = f"{count} preset{'s' if count > 1 else ''} of your own in blocktrain-presets.txt, among your downloads"
        return {"export": text, "preset_message": html.note(said)}

    @error_to("preset_message")
    def take_file(self, values: PreviewValues) -> Changes:
        """Take over the presets of a file: an exported one, or LoRA Block Weight's."""
        if values["preset_file"] is None:
            return {}
        count, problems = self.controls.presets.take(values["preset_file"])
        changes = self.controls.changed_presets(selection_of(values), None, f"{count} presets added")
        return {**changes, "preset_message": changes["preset_message"] + html.problems(problems)}
