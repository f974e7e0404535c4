"""Presets: named block weights, those that come with the extension, and links to them."""

import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

GRADES = {
    "A": "a paper with code",
    "C": "what the community reports",
    "-": "no claim: the name says which blocks",
}


@dataclass(frozen=True)
class Preset:
    """A preset string with a name; `architectures` are those for which it can be read.

    `grade` is a key of GRADES, `source` a citation. `others` are the presets of this name whose text, purpose, grade
    and source are for other architectures; use `on` to get the one for an architecture.
    """

    name: str
    architectures: tuple[str, ...]
    text: str
    purpose: str = ""
    grade: str = "-"
    source: str = ""
    others: tuple["Preset", ...] = ()

    def on(self, architecture_id: str) -> "Preset":
        """Return the preset of this name for an architecture, which must be one of `architectures`."""
        return next((other for other in self.others if architecture_id in other.architectures), self)

    @property
    def each(self) -> tuple["Preset", ...]:
        """The presets of this name, each with the architectures that its text is for."""
        elsewhere = {architecture_id for other in self.others for architecture_id in other.architectures}
        own = tuple(architecture_id for architecture_id in self.architectures if architecture_id not in elsewhere)
        return (replace(self, architectures=own, others=()), *self.others)


@cache
def shipped_presets() -> tuple[Preset, ...]:
    """Return the presets of presets.json, in its order; entries of one name are one preset, with `others`."""
    path = Path(__file__).with_name("presets.json")
    found: dict[str, Preset] = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        preset = Preset(**{**entry, "architectures": tuple(entry["architectures"])})
        first = found.setdefault(preset.name, preset)
        if first is not preset:
            architectures = (*first.architectures, *preset.architectures)
            found[preset.name] = replace(first, architectures=architectures, others=(*first.others, preset))
    return tuple(found.values())


MARK = "#blocktrain="
_LINK = re.compile(re.escape(MARK) + r"(\S*)")


def to_link(line: str) -> str:
    """Return the link text of a preset string."""
    return MARK + quote(line, safe=",:=.-*")


def from_link(text: str) -> str:
    """Return the preset string in a link, with or without an address before it; other texts unchanged."""
    found = _LINK.search(text)
    return unquote(found[1]) if found else text
