"""Handlers for sharing presets: copy, paste, export and import."""

from __future__ import annotations

import json
from collections.abc import Callable

from markupsafe import Markup

from lib_blocktrain.networks.cards import recommend
from lib_blocktrain.ui import html
from lib_blocktrain.ui.lora_controls import LoraControls, error_to, selection_of
from lib_blocktrain.ui.preset_cards import TAG, card_map, shared_text
from lib_blocktrain.ui.prompt_loras import loras_of_prompt
from lib_blocktrain.ui.values import Changes, PreviewValues, Properties
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.preset_files import read_line
from lib_blocktrain.weights.preset_strings import PresetStringError
from lib_blocktrain.weights.presets import from_link
from lib_blocktrain.workspace.lora_selection import LoraEntry, LoraSelection


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
            LoraEntry().with_weights(parsed.acting)  # raises ValueError for a weight that no slider can show
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
        known = parsed.name is not None and parsed.name in self.controls.presets.all()
        names = {"preset": parsed.name} if known else {"preset_name": parsed.name or values["preset_name"] or ""}
        return {**changes, **names, "understood": html.understood(parsed)}

    def copier(self, form: str) -> Callable[[PreviewValues], Changes]:
        """The handler that writes the weights on the sliders in one of FORMS, for others to paste."""

        def copy(values: PreviewValues) -> Changes:
            try:
                return self._copy(values, form)
            except (ValueError, OSError, RuntimeError) as error:
                return {"line": "", "share_message": html.failure(str(error))}

        return copy

    def _copy(self, values: PreviewValues, form: str) -> Changes:
        selection = selection_of(values)
        weights = selection.shown.acting(self.controls.architecture(selection))
        origin = self.controls.origin_of(values, weights)
        if form == TAG:
            return {"line": self._tag(values, selection, weights), "share_message": ""}
        name, message = (values["preset_name"] or "").strip(), ""
        if name and self.controls.is_another(name, weights):
            name, message = "", f"without the name {name}: the preset {name} has other weights"
        elif name and self.controls.is_pasted(name, values, weights):
            name, message = "", f"without the name {name}: what was pasted has other weights"
        if name and read_line(weights.to_line(name)).name != name:
            raise ValueError(f"{name!r} is not a valid name for a preset: choose another")
        line = shared_text(weights, name or origin.name, form, origin.area_share)
        return {"line": line, "share_message": html.note(message)}

    @error_to("share_message")
    def recommend(self, values: PreviewValues) -> Changes:
        """Write the weights on the sliders into the card of the active LoRA."""
        selection, controls = selection_of(values), self.controls
        if selection.active is None:
            raise ValueError("no LoRA is chosen: its card would hold the weights")
        file = controls.lora_index.file(selection.active)
        weights = selection.shown.blocks_alone(file.architecture)
        origin, before = controls.origin_of(values, weights), file.recommended
        source = f"preset {origin.name}" if origin.name else "set by hand in Block weights"
        path = recommend(file.path, weights, source, origin.area_share)
        controls.host.card_changed(file.path)
        controls.lora_index.refresh()
        words = f"{path.name} recommends these weights: bw=card in a prompt uses them"
        words += f"; before: {before.text[:120]}" if before and before.file == path.name else ""
        return {"share_message": html.note(words), "lora_data": controls.data(), **controls.facts_of(selection)}

    def _tag(self, values: PreviewValues, selection: LoraSelection, weights: BlockWeights | LayerWeights) -> str:
        """The prompt tag of the active LoRA; the weights as a preset with changes where that is shorter."""
        if selection.active is None:
            raise ValueError("no LoRA is chosen: a prompt tag names one")
        name = self.controls.lora_index.file(selection.active).path.stem
        text = self.controls.presets.shortest(weights, values["preset"] or "")
        return ":".join(["<lora", name, number(selection.shown.strength), f"bw={text}>"])

    @error_to("status")
    def edit(self, values: PreviewValues) -> Changes:
        """Take over the LoRAs of a WebUI's prompt with their weights, and the prompt: "Edit in the tab" sends them."""
        if not values["edited"]:
            return {}
        sent = json.loads(values["edited"])
        prompt, negative, text = (str(sent.get(name) or "") for name in ("prompt", "negative", "weights"))
        found = loras_of_prompt(self.controls, prompt, text)
        if found.problems:
            raise ValueError(found.problems[0])
        changes: Changes = {}
        if found.entries:
            changes = self.controls.use_exactly(found.entries)
        elif text.strip():  # for the LoRA that is here
            changes = self.controls.use_text(values, text.strip().split("\n")[0])[0]
        words = [f"From the WebUI: {', '.join(found.entries) or 'the prompt'}", *found.words]
        return {**changes, "prompt": found.prompt, "negative": negative, "status": html.note("; ".join(words))}

    def export(self, values: PreviewValues) -> Changes:
        """Send the user's own presets to the page, which offers them as a download; "" is none."""
        try:
            text, count = self.controls.presets.exported()
        except (ValueError, OSError) as error:
            return {"export": "", "preset_message": html.failure(str(error))}
        message = f"{count} preset{'s' if count > 1 else ''} of your own in your downloads, as blocktrain-presets.txt"
        return {"export": text, "preset_message": html.note(message)}

    @error_to("preset_message")
    def import_file(self, values: PreviewValues) -> Changes:
        """Add the presets of an uploaded file: an exported one, or LoRA Block Weight's."""
        if values["preset_file"] is None:
            return {}
        count, problems = self.controls.presets.import_file(values["preset_file"])
        return self.controls.changed_presets(selection_of(values), None, f"{count} presets added", problems)
