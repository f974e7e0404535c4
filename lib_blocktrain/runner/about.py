"""What a person says of a run, beside its configuration: a title and notes, in `about.json` of its folder.

The title is for lists alone: the folder's name stays what the run is called by.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lib_blocktrain.files import atomic_write

LONGEST_TITLE, LONGEST_NOTES = 100, 10_000  # characters
_LARGEST = 1 << 17  # bytes of the file: more is none of ours
_FILE = "about.json"


@dataclass(frozen=True)
class About:
    """A title, "" for the name in the run's configuration, and notes."""

    title: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if len(self.title) > LONGEST_TITLE or not self.title.isprintable():
            shown = repr(self.title[:40])
            raise ValueError(f"the title {shown}: expected one line of up to {LONGEST_TITLE} characters")
        if len(self.notes) > LONGEST_NOTES:
            raise ValueError(f"notes of {len(self.notes):,} characters: expected up to {LONGEST_NOTES:,}")


def read_about(folder: Path) -> About:
    """Return what is said of the run in this folder; nothing where the file is missing or cannot be used."""
    try:
        if (folder / _FILE).stat().st_size > _LARGEST:
            return About()
        found = json.loads((folder / _FILE).read_text("utf-8"))
        return About(str(found.get("title", "")), str(found.get("notes", "")))
    except (OSError, ValueError, RecursionError, AttributeError):
        return About()


def write_about(folder: Path, about: About) -> None:
    """Store it; raises OSError."""
    with atomic_write(folder / _FILE) as temporary:
        temporary.write_text(json.dumps(asdict(about), ensure_ascii=True, indent=2) + "\n", "utf-8")
