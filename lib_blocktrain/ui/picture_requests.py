"""What the scripts of Preview ask for, as JSON in the hidden field ``pictures_ask``.

``do`` is one of: ``restore``, bring back weights, settings and pictures of an ``entry`` of the history; ``pictures``,
those alone; ``use``, set weights and settings to ``values``; ``pin``, let ``files`` stay if ``on``; ``take``, set the
settings to ``values`` from txt2img; ``lora``, choose the file of this ``name``, which was dropped; ``refuse``, say that
a file of this ``name`` cannot be used. A browser may send anything: each is checked, and what does not fit is named.
The answer names the request's ``number``: gradio drops an event while another one is handled, and the page asks again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from markupsafe import Markup
from PIL import Image

from lib_blocktrain.runner import describe_error
from lib_blocktrain.ui import html, pictures_html
from lib_blocktrain.ui.lora_controls import selection_of
from lib_blocktrain.ui.picture_sheets import Names
from lib_blocktrain.ui.preview_handlers import AUTOMATIC, PreviewHandlers
from lib_blocktrain.ui.prompt_loras import loras_of_prompt
from lib_blocktrain.ui.remembered import stored_selection
from lib_blocktrain.ui.values import Changes, PreviewValues
from lib_blocktrain.workspace.drawing import WEIGHTED, Variant
from lib_blocktrain.workspace.drawn_pictures import DrawnPicture
from lib_blocktrain.workspace.lora_selection import LoraSelection

MAX_LENGTH = 200_000  # characters
_ANSWERED = Markup('<div class="blocktrain-pictures-answered" data-number="{}"></div>')
Fitting = Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[str]]]
"""The settings that their widgets take, and what is wrong with the others."""


class PictureRequests:
    """Handler of the hidden button that answers the scripts."""

    def __init__(self, preview: PreviewHandlers, fitting: Fitting) -> None:
        self.preview, self.controls, self.fitting = preview, preview.controls, fitting

    def answer(self, values: PreviewValues) -> Changes:
        """Do what is asked for; an error is said in ``status``."""
        number: object = None
        try:
            asked = _read(values["pictures_ask"] or "")
            number = asked.get("number")
            changes = self._carry_out(asked, values)
        except Exception as error:  # noqa: BLE001 - without an answer the page would ask for nothing else
            changes = {"status": html.failure(describe_error(error))}
        return {**changes, "pictures_answered": _ANSWERED.format(number if isinstance(number, int) else "")}

    def _carry_out(self, asked: Mapping[str, Any], values: PreviewValues) -> Changes:
        """Do what is asked for; raises ValueError for anything that is not known."""
        do = asked.get("do")
        if do == "restore":
            return self._restore(_mapping(asked, "entry"))
        if do == "pictures":
            back = self._restore(_mapping(asked, "entry"))
            return {name: back[name] for name in ("pictures", "job") if name in back}
        if do == "refuse":
            name = str(asked.get("name"))[:80]
            raise ValueError(f"{name}: expected a .png with its parameters, a .txt of presets, or a .safetensors")
        if do == "use":
            changes, _, problems = self._values(_mapping(asked, "values"))
            return {**changes, "status": html.note("; ".join(["These weights are on the sliders", *problems]))}
        if do == "take":
            return self._take(_mapping(asked, "values"), str(asked.get("weights") or ""))
        if do == "lora":
            return self._choose(selection_of(values), str(asked.get("name")))
        if do == "pin":
            files = asked.get("files")
            self.preview.pictures.pin([str(file) for file in files or []], bool(asked.get("on")))
            return {}
        raise ValueError(f"request {str(do)[:40]!r}: expected restore, pictures, use, take, lora, pin or refuse")

    def _values(self, stored: Mapping[str, Any]) -> tuple[dict[str, object], LoraSelection | None, list[str]]:
        settings, wrong = self.fitting(stored)
        selection, missing = stored_selection(self.controls, stored)
        shown = self.controls.show(selection) if selection is not None else {}
        return {**settings, **shown}, selection, [*_unusable(wrong), *missing]

    def _restore(self, entry: Mapping[str, Any]) -> Changes:
        changes, selection, problems = self._values(_mapping(entry, "values"))
        drawn, variants = {}, []
        for number, one in enumerate(entry.get("pictures") or []):
            name, title, seed = str(one["name"]), str(one["title"]), entry.get("seed")
            variants.append(Variant(name, title, {}))
            try:
                png = self.preview.pictures.read(str(one["file"]))
            except FileNotFoundError as error:
                problems.append(str(error))
                continue
            alt = f"{title}, seed {seed}"
            drawn[number] = DrawnPicture(number, name, title, png, alt, seed if isinstance(seed, int) else 0)
        if not drawn:
            return {**changes, "status": html.note("; ".join(["The weights are back", *problems]))}
        key = str(entry.get("id"))
        self.preview.results[key] = drawn
        names = self.preview.names(selection) if selection is not None else Names(LoraSelection(), {}, {})
        values = dict(entry["values"])
        tags = names.data(str(values.get("prompt") or ""))
        data = {"values": values, **tags, "seed": str(entry.get("seed")), "restored": key}
        with Image.open(io.BytesIO(next(iter(drawn.values())).png), formats=["PNG"]) as image:
            size = image.size
        shown = pictures_html.comparison(variants, drawn, size, names={WEIGHTED: names.shown}, data=data)
        note = html.note("; ".join(["Weights and pictures are back", *problems]))
        return {**changes, "pictures": shown, "job": key, "status": note}

    def _take(self, values: Mapping[str, Any], text: str) -> Changes:
        """Take over the settings of txt2img, and the LoRAs of its prompt with their weights; `text` is its accordion's.

        Without a LoRA in the prompt those in use stay.
        """
        settings, problems = self.fitting(values)
        seed = max(0, int(settings.get("seed") or 0))
        found = loras_of_prompt(self.controls, settings.get("prompt") or "", text, seed)
        loras = self.controls.use_exactly(found.entries) if found.entries else {}
        loras_said = [f"LoRAs: {', '.join(found.entries)}"] if found.entries else []
        words = ["Taken from txt2img", *loras_said, *_unusable(problems), *found.words]
        schedule = str(values.get("scheduler") or AUTOMATIC)[:40]
        words += [] if schedule == AUTOMATIC else [f"not taken over: Schedule type {schedule}"]
        prompt = {"prompt": found.prompt} if "prompt" in settings else {}
        return {**settings, **prompt, **loras, "status": html.note("; ".join(words))}

    def _choose(self, selection: LoraSelection, name: str) -> Changes:
        """Use the LoRA of this name, the only one whose last part it is."""
        self.controls.lora_index.refresh()
        sought = name.removesuffix(".safetensors")
        keys = [file.key for file in self.controls.lora_index.files() if PurePath(file.key).name == sought]
        if not keys:
            folders = ", ".join(str(folder) for folder in self.preview.host.lora_dirs)
            raise ValueError(f"{name[:80]} is not in the LoRA folders: put it into one of {folders}, and drop it again")
        if len(keys) > 1:
            raise ValueError(f"{name[:80]} is in several folders: choose one of {', '.join(keys)} in the list")
        problem = self.controls.lora_index.file(keys[0]).problem
        if problem:
            raise ValueError(f"{keys[0]} cannot be used: {problem}")
        chosen = selection if keys[0] in selection.entries else selection.choose([*selection.entries, keys[0]])
        return {**self.controls.show(chosen.activate(keys[0])), "status": html.note(f"{keys[0]} is chosen")}


def _read(text: str) -> dict[str, Any]:
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a request of {len(text)} characters: expected up to {MAX_LENGTH}")
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"request {text[:40]!r}: expected JSON") from error
    if not isinstance(asked, dict):
        raise ValueError(f"request {text[:40]!r}: expected an object")
    return asked


def _mapping(asked: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = asked.get(name)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} {str(value)[:40]!r}: expected an object")
    return value


def _unusable(problems: list[str]) -> list[str]:
    return [f"{problem} cannot be used here" for problem in problems]
