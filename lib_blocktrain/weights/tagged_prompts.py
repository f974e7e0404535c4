"""Prompts with LoRAs' tags: finding and changing them, and their block weights' record in a picture's parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.weights.preset_strings import PresetStringError, has_name, has_random_values, parse
from lib_blocktrain.weights.presets import Preset
from lib_blocktrain.weights.prompt_tags import TAG, PageWeights, Resolved, Tag, holds_weights, read_tag, whole_items
from lib_blocktrain.weights.tag_steps import TagError

INFOTEXT = "Block weights"  # the name of the pair in a picture's parameters
INFOTEXT_HIRES = "Hires block weights"
INFOTEXT_PROBLEM = "Block weights problem"

_INFOTEXT_PAIR = re.compile(rf'\b{INFOTEXT}: ("(?:[^"\\]|\\.)*"|[^,\n]*)')


def infotext_of(resolved: Iterable[Resolved]) -> str | None:
    """The value of `INFOTEXT` in a picture's parameters, `NAME: values; NAME: values`; None if no LoRA has weights."""
    entries = {r.tag.name: r.weights.to_line() for r in resolved if r.weights is not None}
    return "; ".join(f"{name}: {line}" for name, line in entries.items()) or None


def read_infotext_value(value: str) -> dict[str, str]:
    """Return the values that `infotext_of` wrote, by LoRA."""
    name, *others = value.split(": ")
    found = {}
    for other in others:
        line, _, following = other.partition(";")
        if name and ":" not in name + line:
            found[name] = line.strip()
        name = following[1:] if following.startswith(" ") else ""
    return found


def pasted(prompt: str, value: str, presets: Mapping[str, Preset] | None = None) -> str:
    """Return a pasted prompt whose tags give the weights that the picture was made with.

    A tag that still means the same stays. A tag with random values, with a preset that has changed since, or with
    weights from the accordion gets the values.
    """
    made_with = read_infotext_value(value)

    def change(items: list[str]) -> list[str] | None:
        line = made_with.get(items[0])
        if line is None:
            return None
        try:
            tag = read_tag(items)
        except TagError:
            return None
        if tag.weights is not None and line in _meanings(tag, presets):
            return None
        return replace(tag, weights=line, x=None).items

    return _with_tags(prompt, change)


def accordion_of(prompt: str, value: str) -> str:
    """Return the accordion's text for a picture with this prompt: the weights of the LoRAs whose tags have none.

    `value` is what `infotext_of` returned for the picture.
    """
    tags = TAG.findall(prompt, 0, _end_of_tags(prompt))
    weighted = {items[0] for items in (tag.split(":") for _, tag in tags) if any(map(holds_weights, items))}
    lines = {name: line for name, line in read_infotext_value(value).items() if name not in weighted}
    return "\n".join(f"<lora:{name}>: {line}" for name, line in lines.items())


def write_weights(prompt: str, text: str) -> str:
    """Return the prompt with the accordion's weights written into its tags.

    `text` is a preset string for every LoRA, or lines `NAME: preset string`. A tag stays where there is none for it,
    and where its weights hold a colon or `>` (JSON), which a tag cannot.
    """
    weights_of = PageWeights(text).for_loras(lora_names(prompt))

    def change(items: list[str]) -> list[str] | None:
        weights = weights_of[items[0]]
        if weights and has_name(weights):
            weights = weights.partition(":")[2].strip()
        if not weights or re.search("[:>]", weights):
            return None
        return [*(item for item in items if not holds_weights(item)), f"{_spelling(items)}={weights}"]

    return _with_tags(prompt, change)


def fix_random_weights(prompt: str, infotext: str) -> str:
    """Return the prompt with the values that a picture was made with in place of weights that hold R or U.

    `infotext` is a text with the picture's parameters as the WebUI writes them. Another seed would draw other values.
    """
    made_with = read_infotext_value(_infotext_value(infotext))

    def change(items: list[str]) -> list[str] | None:
        index = next((i for i, item in enumerate(items) if holds_weights(item)), None)
        if items[0] not in made_with or index is None or not has_random_values(items[index]):
            return None
        return [*items[:index], f"{_spelling(items)}={made_with[items[0]]}", *items[index + 1 :]]

    return _with_tags(prompt, change)


def _infotext_value(infotext: str) -> str:
    """Return the value of INFOTEXT in a picture's parameters, "" if there is none; the WebUI quotes it as JSON."""
    found = _INFOTEXT_PAIR.search(infotext)
    if found is None or not found[1].startswith('"'):
        return found[1] if found else ""
    try:
        return json.loads(found[1])
    except ValueError:
        return ""


def _spelling(items: Sequence[str]) -> str:
    """Return "lbw" for a tag that is spelt so and acts in some steps, which `bw=` counts otherwise; else "bw"."""
    names = {item.partition("=")[0].strip().casefold() for item in items if "=" in item}
    return "lbw" if "lbw" in names and names & {"start", "stop", "step"} else "bw"


def lora_names(prompt: str) -> list[str]:
    """Return the names of the LoRAs of a prompt, in order."""
    return list(dict.fromkeys(found[2].split(":")[0] for found in TAG.finditer(prompt, 0, _end_of_tags(prompt))))


def tag_items(prompt: str) -> dict[str, list[str]]:
    """Return the items of the tags of a prompt's LoRAs by name, in order, the last tag of each."""
    found = (match[2].split(":") for match in TAG.finditer(prompt, 0, _end_of_tags(prompt)))
    return {items[0]: items for items in found}


class FoundTag(NamedTuple):
    """A tag's place in a prompt, its kind (`lora` or `lyco`) and its items."""

    start: int
    end: int
    kind: str
    items: list[str]


def tag_at(prompt: str, position: int) -> FoundTag | None:
    """Return the tag of a LoRA that a cursor at this position is in or touches, None without one."""
    for found in TAG.finditer(prompt, 0, _end_of_tags(prompt)):
        if found.start() <= position <= found.end():
            return FoundTag(*found.span(), found[1], whole_items(found[2].split(":")))
    return None


def renamed(prompt: str, old: Collection[str], new: str) -> str:
    """Return the prompt with another LoRA in place of these; multipliers and weights stay."""
    return _with_tags(prompt, lambda items: [new, *items[1:]] if items[0] in old else None)


def without(prompt: str, names: Collection[str]) -> tuple[str, list[str]]:
    """Return the prompt without the tags of these LoRAs, and the names of those that it had."""
    dropped = [name for name in lora_names(prompt) if name in names]
    rest = _with_tags(prompt, lambda items: [] if items[0] in dropped else None)
    return re.sub(" {2,}", " ", rest).strip() if dropped else prompt, dropped


def _with_tags(prompt: str, change: Callable[[list[str]], list[str] | None]) -> str:
    """Return the prompt with changed tags; `change` returns a tag's new items, [] for no tag, None for the same."""

    def new_tag(found: re.Match[str]) -> str:
        items = change(whole_items(found[2].split(":")))
        if items is None:
            return found[0]
        return f"<{found[1]}:{':'.join(items)}>" if items else ""

    end = _end_of_tags(prompt)
    return TAG.sub(new_tag, prompt[:end]) + prompt[end:]


def _end_of_tags(prompt: str) -> int:
    """No tag ends after this. To search the rest, for each `<` in it, would take a minute for a long prompt."""
    return prompt.rfind(">") + 1


def _meanings(tag: Tag, presets: Mapping[str, Preset] | None) -> set[str]:
    """Return the values that a tag stands for now, for each architecture: the picture's is not known here.

    Random values stand for none.
    """
    meanings = set()
    for architecture in ARCHITECTURES:
        try:
            parsed = parse(tag.weights or "", architecture, x=tag.x, presets=presets, layers=True)
            meanings.add(parsed.layers.to_line())
        except PresetStringError:
            continue
    return meanings
