"""What is known of LoRA files, on disk: one file that is replaced whole, and read once when the program starts.

Its first line has the format and the checksum of the second, which is JSON. A file that is damaged or of another format
counts as none: the headers are read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lib_blocktrain.files import atomic_write
from lib_blocktrain.workspace.lora_files import Facts, Sidecar, Stamp

log = logging.getLogger(__name__)

FORMAT = 2
MAX_FILES = 50_000  # the latest that were read
_FACTS = tuple(field.name for field in fields(Facts))
_SIDECAR = tuple(field.name for field in fields(Sidecar))


@dataclass
class Known:
    """What is known by the path of each file, with the stamp that the file had then; gone files included."""

    facts: dict[str, tuple[Stamp, Facts]] = field(default_factory=dict)
    sidecars: dict[str, tuple[Stamp, Sidecar]] = field(default_factory=dict)

    def facts_at(self, stamp: Stamp) -> Facts | None:
        """The facts of a file, None unless they were read when it had this stamp."""
        known = self.facts.get(stamp[0])
        return known[1] if known is not None and known[0] == stamp else None

    def sidecar_at(self, stamp: Stamp | None) -> Sidecar | None:
        """The contents of a sidecar, None unless they were read when it had this stamp."""
        known = self.sidecars.get(stamp[0]) if stamp is not None else None
        return known[1] if known is not None and known[0] == stamp else None


def load(path: Path) -> Known:
    """Return what was saved; nothing, with a line in the log, if it cannot be used."""
    try:
        return _read(path)
    except FileNotFoundError:
        return Known()
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        log.warning("%s cannot be used (%s): the headers of all LoRA files are read again", path, error)
        return Known()


def save(path: Path, known: Known) -> None:
    """Replace the file; raise OSError, which names it."""
    blocks: dict[str, int] = {}  # as JSON, to its place in a table: most files share one of a few
    facts = []
    for stamp, one in list(known.facts.values())[-MAX_FILES:]:
        place = blocks.setdefault(json.dumps(one.blocks), len(blocks))
        facts.append([*stamp, *(place if name == "blocks" else getattr(one, name) for name in _FACTS)])
    sidecars = [
        [*stamp, *(getattr(one, name) for name in _SIDECAR)]
        for stamp, one in list(known.sidecars.values())[-MAX_FILES:]
    ]
    table = [json.loads(text) for text in blocks]
    content = json.dumps({"blocks": table, "facts": facts, "sidecars": sidecars}, separators=(",", ":")).encode()
    head = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(json.dumps(head).encode() + b"\n" + content)


def _read(path: Path) -> Known:
    head, _, content = path.read_bytes().partition(b"\n")
    said = json.loads(head)
    if said["format"] != FORMAT:
        raise ValueError(f"format {said['format']!r}, expected {FORMAT}")
    if said["sha256"] != hashlib.sha256(content).hexdigest():
        raise ValueError("its contents do not match its checksum")
    data = json.loads(content)
    return Known(
        {row[0]: (_stamp(row), _facts(row[3:], data["blocks"])) for row in data["facts"]},
        {row[0]: (_stamp(row), Sidecar(*row[3:])) for row in data["sidecars"]},
    )


def _stamp(row: list[Any]) -> Stamp:
    return row[0], row[1], row[2]


def _facts(row: list[Any], blocks: list[dict[str, int]]) -> Facts:
    values: dict[str, Any] = dict(zip(_FACTS, row, strict=True))
    values["blocks"] = blocks[values["blocks"]]
    for name in ("algorithms", "notices"):
        values[name] = tuple(values[name])
    if isinstance(values["rank"], list):
        values["rank"] = tuple(values["rank"])
    values["tags"] = tuple((tag, count) for tag, count in values["tags"])
    return Facts(**values)
