"""Named block weights, and those that come with the extension."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GRADES = {
    "A": "a paper with code",
    "C": "what the community reports",
    "-": "no claim: the name says which blocks",
}


@dataclass(frozen=True)
class Preset:
    """A preset string with a name; `architectures` are those for which the text has a meaning.

    `grade` is a key of GRADES, `source` says where it comes from.
    """

    name: str
    architectures: tuple[str, ...]
    text: str
    purpose: str = ""
    grade: str = "-"
    source: str = ""


@cache
def shipped_presets() -> tuple[Preset, ...]:
    """Return the presets of data/presets.json, in its order."""
    path = Path(__file__).parent / "data" / "presets.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Preset(**{**entry, "architectures": tuple(entry["architectures"])}) for entry in entries)
