"""Handlers of the LoRA list, the sliders and the presets, as plain functions of named values."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from markupsafe import Markup

from lib_blocktrain.blocks import ARCHITECTURES, BASE, BLOCK_IDS, spans
from lib_blocktrain.hosts.host import Host, NoModel
from lib_blocktrain.ui import html, lora_data, preset_cards
from lib_blocktrain.ui.u_map import UMap
from lib_blocktrain.ui.values import Changes, NamedValues, PreviewValues, Properties, SelectionValues
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.preset_files import LineProblem
from lib_blocktrain.weights.preset_strings import Parsed, PresetStringError
from lib_blocktrain.workspace.lora_files import LoraFile
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS, LoraEntry, LoraSelection, fits, unavailable
from lib_blocktrain.workspace.preset_store import PresetStore

H = TypeVar("H")
V = TypeVar("V")


def weight_name(block_id: str) -> str:
    """The name of a block's slider; its id in the page, by which `u_map.js` finds it, is made from it."""
    return f"w_{block_id}"


def error_to(name: str) -> Callable[[Callable[[H, V], Changes]], Callable[[H, V], Changes]]:
    """Decorate a handler whose errors are shown as text in the widget of this name; nothing else changes then."""

    def decorate(handler: Callable[[H, V], Changes]) -> Callable[[H, V], Changes]:
        @functools.wraps(handler)
        def call(handlers: H, values: V) -> Changes:
            try:
                return handler(handlers, values)
            except (ValueError, OSError, RuntimeError) as error:
                return {name: html.failure(str(error))}

        return call

    return decorate


class Origin(NamedTuple):
    """Where the weights on the sliders come from: the name that stands for them, and their area share."""

    name: str | None
    area_share: float | None


@dataclass(frozen=True)
class InitialState:
    """What a new page shows: a LoRA under a preset string; ``runs`` is a folder of ready runs."""

    prompt: str = ""
    negative: str = ""
    lora: str | None = None
    weights: str = "ALL"
    seed: int = 0
    runs: Path | None = None


def selection_of(values: SelectionValues) -> LoraSelection:
    """Return the selection, updated with the present values of the sliders and the page's list.

    The list overrides the State, since the responses to two quick events may arrive out of order.
    """
    return _before_list(values).with_list(values["loras"])


def _before_list(values: SelectionValues) -> LoraSelection:
    selection = values["selection"]
    entry = LoraEntry.checked(selection.shown.strength, values["weights"])
    changes = values.get("weight_changes", selection.shown.changes) or ""
    return selection.with_shown(replace(selection.shown, weights=entry.weights, changes=changes.strip()))


class LoraControls:
    """Handlers of the left side of Preview: which LoRAs are used, and under which weights."""

    def __init__(self, host: Host, lora_index: LoraIndex, presets: PresetStore, initial: InitialState) -> None:
        self.host = host
        self.lora_index = lora_index
        self.presets = presets
        self.initial = initial

    def architecture(self, selection: LoraSelection) -> str:
        """The loaded model's architecture; without a model the active LoRA's, else SD1."""
        try:
            return self.host.model().architecture
        except NoModel:
            return self._file_architecture(selection)

    def _file_architecture(self, selection: LoraSelection) -> str:
        file = self._active_file(selection)
        return file.architecture if file and not file.problem else "sd1"

    # --- opening, the list ----------------------------------------------------------------------------------------

    @error_to("lora_message")
    def open(self, values: PreviewValues) -> Changes:
        """Fill a page that was just loaded: list the folders, and select the initial LoRA if it is there."""
        self.lora_index.refresh()
        selection = LoraSelection()
        for file in self._initial():  # the model is not loaded yet: use the file's architecture
            parsed = self.presets.parse(self.initial.weights, file.architecture, layers=True)
            selection = selection.choose([file.key]).with_shown(LoraEntry().with_weights(parsed.acting))
        return {
            "lora_data": self.data(),
            "loras": selection.to_json(),
            "selection": selection,
            "weights": selection.shown.weights,
            "weight_changes": selection.shown.changes,
        }

    def _initial(self) -> list[LoraFile]:
        """The initial LoRA, if it is in the folders and can be used."""
        keys = [file.key for file in self.lora_index.files() if file.key == self.initial.lora]
        return [file for key in keys if not (file := self.lora_index.file(key)).problem]

    @error_to("lora_message")
    def show_model(self, values: PreviewValues) -> Changes:
        """Show which model is loaded. It may be loaded here, which takes long: what is chosen may change meanwhile.

        The size becomes the model's where that differs from the last one's, or from what the browser remembers.
        """
        try:
            model = self.host.model()
        except NoModel as error:
            said = html.failure(f"No model: {error}")
            return {"lora_message": said, "model_line": html.failure("No model"), "lora_model": lora_data.model(None)}
        architecture, side = ARCHITECTURES[model.architecture], model.native_size
        message = f"{model.name} · {architecture.title}, {len(architecture.blocks)} blocks"
        message += "" if model.prediction == "epsilon" else f" · {model.prediction}-prediction"
        before = values["shown_side"] or (side if values["restored"] else 0)
        return {
            "model_line": html.note(message, f"loaded in {self.host.name}"),
            "lora_model": lora_data.model(model.architecture),
            "shown_side": side,
            **({} if before == side else {"width": side, "height": side}),
        }

    @error_to("lora_message")
    def follow_model(self, values: PreviewValues) -> Changes:
        """Show what depends on the model and on the folders, for what is chosen now."""
        before = selection_of(values)
        keys = {file.key for file in self.lora_index.files()}
        selection = before.choose([key for key in before.entries if key in keys])
        shown = {**self._shown(selection, before), **self.preset_menus(selection)}
        if not values["bake_name"]:  # as on a page that was just loaded
            shown |= self._bake_name(self._active_file(selection))
        if not shown["lora_message"]:
            del shown["lora_message"]  # keep the messages about the files and the model
        if selection != before:
            return {**shown, "loras": selection.to_json()}
        del shown["selection"]  # another may have been chosen while this is under way
        return shown

    @error_to("lora_message")
    def refresh(self, values: PreviewValues) -> Changes:
        """Read the LoRA folders again, and name what is chosen and no longer there; `follow_model` takes it out."""
        self.lora_index.refresh()
        keys = {file.key for file in self.lora_index.files()}
        gone = [key for key in selection_of(values).entries if key not in keys]
        message = f"{len(keys)} LoRA files" + (f"; {', '.join(gone)} no longer in the folders" if gone else "")
        return {"lora_message": html.note(message), "lora_data": self.data()}

    @error_to("lora_message")
    def answer(self, values: PreviewValues) -> Changes:
        """Answer the page's script: {"since": revision} for what is known of the files, {"card": key} for a card."""
        try:
            asked = json.loads(values["lora_ask"] or "{}")
            since, key = asked.get("since"), asked.get("card")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{values['lora_ask']!r}: expected a question of this page") from error
        changes: dict[str, object] = {}
        if isinstance(since, int):
            changes["lora_data"] = self.data(since)
        if isinstance(key, str):
            try:
                card = self._card(self.lora_index.file(key), self.architecture(selection_of(values)))
            except (
                ValueError,
                OSError,
            ) as error:  # an answer, too: without one the page asks for this card again and again
                card = lora_data.no_card(key, str(error))
            changes["lora_card"] = lora_data.answered(card)
        return changes

    def choose(self, values: PreviewValues) -> Changes:
        """Update the selection after the page's list has changed; a list that cannot be used is put back."""
        before, turn = values["selection"], lora_data.turn(values["loras"])
        try:
            before = _before_list(values)
            selection = before.with_list(values["loras"], changed=True)
            for key in selection.entries:
                if key not in before.entries and (problem := self.lora_index.file(key).problem):
                    raise ValueError(f"{key} cannot be used: {problem}")
            return {**self._shown(selection, before), "lora_turn": turn}
        except (ValueError, OSError) as error:
            return {"loras": before.to_json(), "lora_message": html.failure(str(error)), "lora_turn": turn}

    # --- weights --------------------------------------------------------------------------------------------------

    @error_to("weight_changes_said")
    def explain_changes(self, values: PreviewValues) -> Changes:
        """Say how the weights for kinds of layers and over the steps were understood, or what is wrong with them."""
        selection = selection_of(values)
        if not selection.shown.changes:
            return {"weight_changes_said": ""}
        layers = LayerWeights.of(selection.shown.acting(self.architecture(selection)))
        moved = [id_ for id_, weight in layers.blocks.with_base.items() if weight != selection.shown.weights[id_]]
        constant = [id_ for id_ in moved if not any(id_ in rule.blocks and not rule.element for rule in layers.rules)]
        said = f"in place of the sliders: {layers.changes}" if layers.changes else "no weight by kind of layer or step"
        said += f"; {spans(constant)} from here, too" if constant else ""
        return {"weight_changes_said": html.note(said)}

    @error_to("preset_message")
    def save(self, values: PreviewValues) -> Changes:
        """Save the weights on the sliders under a name."""
        return self._save(values, (values["preset_name"] or "").strip(), replace=bool(values["preset_replace"]))

    @error_to("preset_message")
    def save_over(self, values: PreviewValues) -> Changes:
        """Save the weights on the sliders in the preset that they came from."""
        return self._save(values, self.presets.own_name(values["preset"]), replace=True)

    def _save(self, values: PreviewValues, name: str, *, replace: bool) -> Changes:
        selection = selection_of(values)
        weights = selection.shown.acting(self.architecture(selection))
        area_share = self.origin_of(values, weights).area_share
        lost = self.presets.save(name, weights, area_share=area_share, replace=replace)
        gone = f"; no longer for {', '.join(ARCHITECTURES[each].title for each in lost)}" if lost else ""
        return self.changed_presets(selection, name, f"Saved {name} in {self.presets.own.path}{gone}")

    @error_to("preset_message")
    def rename(self, values: PreviewValues) -> Changes:
        """Rename the selected preset to the name that was typed."""
        old, new = values["preset"], (values["preset_name"] or "").strip()
        self.presets.rename(old, new)
        return self.changed_presets(selection_of(values), new, f"{old} renamed to {new}")

    @error_to("preset_message")
    def delete(self, values: PreviewValues) -> Changes:
        """Delete the chosen preset."""
        line = self.presets.delete(values["preset"])
        return self.changed_presets(selection_of(values), "", f"Deleted; to restore it, paste {line}")

    # --- from pictures --------------------------------------------------------------------------------------------

    def use_exactly(self, entries: Mapping[str, LoraEntry]) -> Changes:
        """Replace the LoRAs in use by these."""
        return self.show(LoraSelection(dict(entries), next(iter(entries), None)))

    def show(self, selection: LoraSelection, *, before_model: bool = False) -> Changes:
        """Replace the selection by this one; ``before_model``: as its file says, without loading the model for it."""
        architecture_id = self._file_architecture(selection) if before_model else None
        shown = self._shown(selection, architecture_id=architecture_id)
        return {**shown, "loras": selection.to_json(), "lora_data": self.data()}

    def entry(self, text: str, strength: float) -> LoraEntry:
        """The entry for a preset string and a strength; raises ValueError for values outside the sliders' range."""
        weights = self.parse(text, LoraSelection()).acting
        return LoraEntry.checked(strength, LoraEntry().weights).with_weights(weights)

    # --- what is shown --------------------------------------------------------------------------------------------

    def parse(self, text: str, selection: LoraSelection) -> Parsed:
        """Read a preset string for `architecture(selection)`; raises PresetStringError."""
        return self.presets.parse(text, self.architecture(selection), layers=True)

    def use_text(self, values: PreviewValues, text: str) -> tuple[Changes, Parsed]:
        """Set the sliders to the weights of a preset string or link; return the changes and the parsed string."""
        selection = selection_of(values)
        parsed = self.parse(text, selection)
        selection = selection.with_shown(selection.shown.with_weights(parsed.acting))
        shown = selection.shown
        return {"selection": selection, "weights": shown.weights, "weight_changes": shown.changes}, parsed

    def origin_of(self, values: NamedValues, weights: BlockWeights | LayerWeights) -> Origin:
        """The name and area share of the pasted text and the selected preset, where they have exactly these weights."""
        read = [self._read(text, weights.architecture) for text in (values["paste"], values["preset"])]
        found = [parsed for parsed in read if parsed is not None and parsed.acting == weights]
        names = [parsed.name for parsed in found if parsed.name and not self.is_another(parsed.name, weights)]
        shares = [parsed.area_share for parsed in found if parsed.area_share is not None]
        return Origin(next(iter(names), None), next(iter(shares), None))

    def is_another(self, name: str, weights: BlockWeights | LayerWeights) -> bool:
        """Whether there is a preset of this name with other weights."""
        texts = {preset.name: preset.text for preset in self.presets.fitting(weights.architecture)}
        return name in texts and self.presets.parse(texts[name], weights.architecture, layers=True).acting != weights

    def is_pasted(self, name: str, values: NamedValues, weights: BlockWeights | LayerWeights) -> bool:
        """Whether the name is that of the pasted text, which has other weights."""
        parsed = self._read(values["paste"], weights.architecture)
        return parsed is not None and parsed.name == name and parsed.acting != weights

    def _read(self, text: str | None, architecture_id: str) -> Parsed | None:
        try:
            return self.presets.parse(text, architecture_id, layers=True) if text else None
        except PresetStringError:
            return None

    def _active_file(self, selection: LoraSelection) -> LoraFile | None:
        return self.lora_index.file(selection.active) if selection.active is not None else None

    def data(self, since: int = 0) -> Markup:
        """What is known of the files and has changed since a revision, as data in the page."""
        return lora_data.data(self.lora_index, self.host.lora_dirs, since)

    def _card(self, file: LoraFile, architecture_id: str) -> Markup:
        recommended = file.recommended
        if recommended is None:
            return lora_data.card(file)
        try:
            layers = self.presets.parse(recommended.text, architecture_id, layers=True).layers
        except PresetStringError as error:
            return lora_data.card(file, problem=str(error))
        return lora_data.card(file, json.dumps({"weights": layers.blocks.with_base, "changes": layers.changes}))

    def facts_of(self, selection: LoraSelection) -> Changes:
        """The card of the active LoRA."""
        return self._facts(self._active_file(selection), self.architecture(selection))

    def _facts(self, file: LoraFile | None, architecture_id: str) -> Changes:
        return {"facts": self._card(file, architecture_id) if file else html.facts(None)}

    def _shown(
        self, selection: LoraSelection, before: LoraSelection | None = None, architecture_id: str | None = None
    ) -> Changes:
        """Everything that depends on the selection: the active LoRA, its facts, the sliders and why some are off.

        Sliders that show the weights of the same LoRA as ``before`` are not moved: they may have been in the meantime.
        Analyse and the name of a baked file follow when another LoRA becomes the active one; what is chosen and typed
        there stays otherwise.
        """
        file = self._active_file(selection)
        architecture_id = architecture_id or self.architecture(selection)
        reasons = unavailable(architecture_id, self.lacks(file, architecture_id))
        another = before is None or before.active != selection.active
        sliders = {}
        for block_id in WEIGHT_IDS:
            sliders[block_id] = Properties(interactive=reasons.get(block_id) is None)
            if another:
                sliders[block_id]["value"] = selection.shown.weights[block_id]
        follows = Properties(choices=self.lora_index.usable(), value=selection.active)
        return {
            "selection": selection,
            **({"weight_changes": selection.shown.changes, "weight_changes_said": ""} if another else {}),
            **(self._bake_name(file) if another else {}),
            **({"analyse_lora": follows} if another and selection.active else {}),
            **self._facts(file, architecture_id),
            "u_map": UMap("weights", architecture_id, weight_name(""), reasons, selection.active or "").html(),
            "lora_message": self._warning(file, architecture_id),
            "weights": sliders,
        }

    @staticmethod
    def _bake_name(file: LoraFile | None) -> Changes:
        return {"bake_name": f"{file.path.stem}-weighted" if file else ""}

    @staticmethod
    def lacks(file: LoraFile | None, architecture_id: str) -> dict[str, str]:
        """The blocks in which a file of this architecture has no layers, with these words."""
        if file is None or not fits(file.architecture, architecture_id):
            return {}
        return {block_id: "no layers in this LoRA" for block_id in (BASE, *BLOCK_IDS) if file.lacks(block_id)}

    @staticmethod
    def _warning(file: LoraFile | None, architecture_id: str) -> Markup:
        if file is None or file.architecture == architecture_id:
            return Markup("")
        theirs, ours = ARCHITECTURES[file.architecture].title, ARCHITECTURES[architecture_id].title
        return html.failure(f"{file.key} is for {theirs}, and the loaded model is {ours}: it has no effect here")

    def preset_menus(self, selection: LoraSelection, chosen: str | None = None) -> Changes:
        """The menus and cards after the presets have changed; ``chosen`` is the one to show as chosen."""
        architecture_id = self.architecture(selection)
        names = self.presets.names(architecture_id)
        return {
            **({} if chosen is None else {"preset": chosen}),
            "grid_presets": Properties(choices=names),
            "train_preset": Properties(choices=self.presets.names_in_training(architecture_id)),
            "preset_problems": html.problems(self.presets.problems()),
            "preset_cards": preset_cards.html(self.presets, architecture_id, "weights"),
        }

    def changed_presets(
        self, selection: LoraSelection, chosen: str | None, text: str, problems: Iterable[LineProblem] = ()
    ) -> Changes:
        """The menus and cards after a change, with a message and unreadable lines.

        The weights come from the preset ``chosen`` now, from none if it is empty; None leaves this as it is.
        """
        message = html.note(text) + html.problems(problems)
        emptied = {"preset_name": "", "preset_replace": False}
        return {**self.preset_menus(selection, chosen), "preset_message": message, **emptied}
