"""Handlers for sharing presets: copy, paste, export and import."""

from __future__ import annotations

from markupsafe import Markup

from lib_blocktrain.ui import html
from lib_blocktrain.ui.lora_controls import LoraControls, error_to, selection_of
from lib_blocktrain.ui.preset_cards import FORMS, card_map, shared_text
from lib_blocktrain.ui.values import Changes, PreviewValues, Properties
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_files import read_line
from lib_blocktrain.weights.preset_strings import PresetStringError
from lib_blocktrain.weights.presets import from_link
from lib_blocktrain.workspace.lora_selection import LoraEntry

COPIED = "Written to “To share”, and to the clipboard if the browser allows it"


class ShareHandlers:
    """Handlers of Copy, Use these weights, Export and Import."""

    def __init__(self, controls: LoraControls) -> None:
        self.controls = controls

    def explain(self, values: PreviewValues) -> Changes:
        """Show how the pasted text is understood, while it is typed."""
        text = from_link(values["paste"] or "")
        if not text.strip():
            return {"understood": "", "apply": Properties(interactive=False)}
        try:
            parsed = self.controls.parse(text, values["selection"])
            LoraEntry().with_weights(parsed.weights)  # raises ValueError for a weight that no slider can show
        except PresetStringError as error:
            return {"understood": html.not_understood(text, error), "apply": Properties(interactive=False)}
        except ValueError as error:
            return {"understood": html.failure(str(error)), "apply": Properties(interactive=False)}
        seen = card_map(parsed.weights, parsed.name or "these weights")
        body = Markup('<div class="blocktrain-seen">{}{}</div>').format(seen, html.understood(parsed))
        return {"understood": body, "apply": Properties(interactive=True)}

    @error_to("understood")
    def apply(self, values: PreviewValues) -> Changes:
        """Set the sliders to the pasted weights."""
        changes, parsed = self.controls.use_text(values, values["paste"] or "")
        return {**changes, "preset_name": parsed.name or values["preset_name"] or ""}

    @error_to("preset_message")
    def copy(self, values: PreviewValues) -> Changes:
        """Write the weights on the sliders in the selected form, for others to paste."""
        form = values["form"]
        if form is None or form not in FORMS:
            raise ValueError(f"form {form!r}: expected one of {', '.join(FORMS)}")
        selection = selection_of(values)
        weights = selection.shown.block_weights(self.controls.architecture(selection))
        origin = self.controls.origin_of(values, weights)
        name, message = (values["preset_name"] or "").strip(), COPIED
        if name and self._is_another(name, weights):
            name, message = "", f"{COPIED}; without a name, since the preset {name} has other weights"
        if name and read_line(weights.to_line(name)).name != name:
            raise ValueError(f"{name!r} is not a valid name for a preset: choose another")
        known, area_share = (origin.name, origin.area_share) if origin else (None, None)
        return {"line": shared_text(weights, name or known, form, area_share), "preset_message": html.note(message)}

    def _is_another(self, name: str, weights: BlockWeights) -> bool:
        """Whether there is a preset of this name with other weights."""
        presets, architecture_id = self.controls.presets, weights.architecture
        texts = {preset.name: preset.text for preset in presets.fitting(architecture_id)}
        return name in texts and presets.parse(texts[name], architecture_id).weights != weights

    @error_to("preset_message")
    def export(self, values: PreviewValues) -> Changes:
        """Send the user's own presets to the page, which offers them as a download."""
        text, count = self.controls.presets.exported()
        message = f"{count} preset{'s' if count > 1 else ''} of your own in your downloads, as blocktrain-presets.txt"
        return {"export": text, "preset_message": html.note(message)}

    @error_to("preset_message")
    def import_file(self, values: PreviewValues) -> Changes:
        """Add the presets of an uploaded file: an exported one, or LoRA Block Weight's."""
        if values["preset_file"] is None:
            return {}
        count, problems = self.controls.presets.import_file(values["preset_file"])
        return self.controls.changed_presets(selection_of(values), None, f"{count} presets added", problems)
