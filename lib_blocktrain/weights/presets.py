"""Presets: named block weights, those that come with the extension, and links to them."""

import json
import re
from dataclasses import dataclass
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
    """A preset string with a name; `architectures` are those for which the text can be read.

    `grade` is a key of GRADES, `source` a citation.
    """

    name: str
    architectures: tuple[str, ...]
    text: str
    purpose: str = ""
    grade: str = "-"
    source: str = ""


@cache
def shipped_presets() -> tuple[Preset, ...]:
    """Return the presets of presets.json, in its order."""
    path = Path(__file__).with_name("presets.json")
    entries = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Preset(**{**entry, "architectures": tuple(entry["architectures"])}) for entry in entries)


MARK = "#blocktrain="
_LINK = re.compile(re.escape(MARK) + r"(\S*)")


def to_link(line: str) -> str:
    """Return the link text of a preset string."""
    return MARK + quote(line, safe=",:=.-*")


def from_link(text: str) -> str:
    """Return the preset string in a link, with or without an address before it; other texts unchanged."""
    found = _LINK.search(text)
    return unquote(found[1]) if found else text
