"""What the page remembers in the browser, so that a reload loses nothing.

`javascript/remember.js` keeps one JSON text for a page, by the host's name and the page's path. A place that has values
to keep gets three widgets: a hidden button, which the script clicks after a change; a hidden element with the values as
JSON, which the handler returns and the script stores; and an input, which is read from the browser when the page loads.
Stored values may be outdated or anything else: what does not fit is left out, and named in the browser's console.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.files import error_text
from lib_blocktrain.ui.lora_controls import LoraControls, selection_of
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.values import Changes, SelectionValues
from lib_blocktrain.ui.widgets import Widgets
from lib_blocktrain.workspace.lora_selection import LoraEntry, LoraSelection

log = logging.getLogger(__name__)
VERSION = 1  # of the stored values; others are ignored
MAX_TEXT = 20_000  # characters of one value
_READ = "() => {{ try {{ const key = {key}; return sessionStorage.getItem(key) || localStorage.getItem(key) || ''; }} "
_READ += "catch {{ return ''; }} }}"

Restore = Callable[[dict[str, Any]], tuple[Changes, list[str]]]
"""From the stored values to changes, and what is wrong with those that were left out."""


def read_script(host_name: str) -> str:
    """The function that reads what the browser has stored, as an event's input; `remember.js` has the same key."""
    return _READ.format(key=f"{json.dumps(f'blocktrain {host_name} ')} + location.pathname")


def add_widgets(w: Widgets, place: str) -> None:
    """The widgets with which a place is remembered, inside the open gradio container."""
    w.add(f"remembered_{place}", gr.Textbox, elem_classes="blocktrain-unseen", label="Remembered")
    w.add(f"keep_{place}", gr.Button, "Keep", elem_classes="blocktrain-unseen")
    w.html(f"kept_{place}")


class Memory:
    """Keep the values of one place, and put them back; ``fields`` are names of widgets or of groups of them."""

    def __init__(self, place: str, host_name: str, fields: Sequence[str]):
        self.place, self.fields, self._script = place, tuple(fields), read_script(host_name)
        self._kept, self._remembered = f"kept_{place}", f"remembered_{place}"

    def wire(
        self,
        w: Widgets,
        keep: Callable[..., Mapping[str, object]],
        names: Sequence[str],
        after: Sequence[gr.events.Dependency] = (),
    ) -> None:
        """``keep`` returns what to store of the widgets of these names; ``after`` are events that change some."""

        def kept(values: Mapping[str, object]) -> Changes:
            return {self._kept: _kept(keep(values))}

        for event in (w[f"keep_{self.place}"].click, *(one.then for one in after)):
            on(event, kept, w.pick(*names), w.pick(self._kept))

    def on_load(
        self, event: Callable[..., gr.events.Dependency], w: Widgets, restore: Restore, names: Sequence[str]
    ) -> gr.events.Dependency:
        """Put the stored values back: ``restore`` returns changes of the widgets of these names."""

        def restored(values: Mapping[str, object]) -> Changes:
            stored, problems = read(str(values[self._remembered] or ""), self.place)
            changes: Changes = {}
            if stored is not None:
                try:
                    changes, more = restore(stored)
                except Exception as error:  # the page must know that it is open: its buttons wait for that
                    log.exception("what the page had kept of %s is not brought back", self.place)
                    changes, more = {}, [error_text(error)]
                problems += more
            return {**changes, self._kept: _ready(problems)}

        outputs = {**w.pick(*names), **w.pick(self._kept)}
        return on(event, restored, w.pick(self._remembered), outputs, js=self._script)

    def fitting(self, w: Widgets, stored: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The stored values of the fields that their widgets take, and what is wrong with the others."""
        changes: dict[str, Any] = {}
        problems: list[str] = []
        for name in self.fields:
            if name in w.groups:
                group = stored.get(name)
                known = group if isinstance(group, Mapping) else {}
                fits = {key: known[key] for key, widget in w.groups[name].items() if key in known}
                good = {key: value for key, value in fits.items() if takes(w.groups[name][key], value)}
                changes[name] = good
                problems += [f"{key} = {str(fits[key])[:40]!r}" for key in fits if key not in good]
            elif name in stored and takes(w[name], stored[name]):
                changes[name] = stored[name]
            elif name in stored:
                problems.append(f"{name} = {str(stored[name])[:40]!r}")
        return changes, problems


def read(text: str, place: str) -> tuple[dict[str, Any] | None, list[str]]:
    """The stored values of a place, None where there are none; and what is wrong with the text."""
    if not text:
        return None, []
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError):
        return None, ["it is not JSON"]
    if not isinstance(stored, dict) or stored.get("version") != VERSION:
        return None, [f"it is not of version {VERSION}"]
    values = stored.get("values")
    found = values.get(place) if isinstance(values, dict) else None
    if found is not None and not isinstance(found, dict):
        return None, [f"{place} is not an object"]
    return found, []


def takes(widget: gr.components.Component, value: object) -> bool:
    """Whether a widget can show a stored value."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if isinstance(widget, gr.Checkbox):
        return isinstance(value, bool)
    if isinstance(widget, gr.Slider):
        return number is not None and widget.minimum <= number <= widget.maximum
    if isinstance(widget, gr.Number):
        return value is None or (number is not None and abs(number) < 2**53)
    if isinstance(widget, (gr.Dropdown, gr.Radio)):
        choices = [choice[1] if isinstance(choice, (tuple, list)) else choice for choice in widget.choices]
        free = getattr(widget, "allow_custom_value", False) and isinstance(value, str)
        return value in choices or bool(free and len(str(value)) <= MAX_TEXT)
    return isinstance(value, str) and len(value) <= MAX_TEXT


def selection_values(values: SelectionValues) -> dict[str, object]:
    """The LoRAs in use, with their strengths and weights, as JSON."""
    return selection_json(selection_of(values))


def selection_json(selection: LoraSelection) -> dict[str, object]:
    """LoRAs with their strengths and weights as JSON, which `stored_selection` reads."""
    loras = [
        {
            "lora": key,
            "strength": entry.strength,
            "weights": dict(entry.weights),
            "muted": entry.muted,
            **_changes(entry),
        }
        for key, entry in selection.entries.items()
    ]
    spare = {
        "strength": selection.spare.strength,
        "weights": dict(selection.spare.weights),
        **_changes(selection.spare),
    }
    return {"loras": loras, "active": selection.active, "spare": spare}


def _changes(entry: LoraEntry) -> dict[str, object]:
    return {"changes": entry.changes} if entry.changes else {}


def stored_selection(controls: LoraControls, stored: Mapping[str, Any]) -> tuple[LoraSelection | None, list[str]]:
    """The LoRAs in use from what was stored, None where nothing was; those that are no longer there are named."""
    if "loras" not in stored:
        return None, []
    listed = {file.key for file in controls.lora_index.files()}
    entries: dict[str, LoraEntry] = {}
    problems: list[str] = []
    try:
        for one in stored["loras"]:
            if one["lora"] in listed and not controls.lora_index.file(one["lora"]).problem:
                entry = LoraEntry.checked(one["strength"], one["weights"])
                changes = str(one.get("changes") or "")[:MAX_TEXT]
                entries[one["lora"]] = replace(entry, muted=one.get("muted") is True, changes=changes)
            else:
                problems.append(f"{str(one['lora'])[:80]!r} is not in the LoRA folders")
        spare = LoraEntry.checked(stored["spare"]["strength"], stored["spare"]["weights"])
    except (ValueError, KeyError, TypeError) as error:
        return None, [f"the LoRAs: {error!r}"]
    active = stored.get("active")
    chosen = active if isinstance(active, str) and active in entries else next(iter(entries), None)
    return LoraSelection(entries, chosen, spare), problems


def _kept(values: Mapping[str, object]) -> Markup:
    """The number makes each answer a new one: the page does not notice the same text again."""
    kept = Markup('<div class="blocktrain-kept" data-kept="{}" data-number="{}"></div>')
    return kept.format(json.dumps(values), time.monotonic_ns())


def _ready(problems: Sequence[str]) -> Markup:
    """Marks that the stored values are back, from when on changes are kept."""
    return Markup('<div class="blocktrain-kept" data-problems="{}"></div>').format("; ".join(problems))
