"""What the parts find: sent by the worker as lines of JSON, gathered here into `results.json` and `tables.md`.

Both files are replaced after every line, so that they are whole whenever the benchmark is stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from benchmarks.gpu.parts import BY_NAME
from lib_blocktrain.files import atomic_write

MARK = "\x1f"  # begins a line of the worker's that is an event; what libraries print has none
PASSED = "passed"


class Reporter:
    """Sends what a part finds, each row at once."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stdout

    def send(self, event: str, **values: Any) -> None:
        self._stream.write(MARK + json.dumps({"event": event, **values}, default=str) + "\n")
        self._stream.flush()

    def row(self, table: str, **cells: Any) -> None:
        """Add a row to a table; its columns are the names of the cells."""
        self.send("row", table=table, cells=cells)

    def check(self, table: str, passed: bool, **cells: Any) -> None:
        """Add a row that says whether something holds."""
        self.row(table, **cells, **{PASSED: bool(passed)})

    def text(self, table: str, markdown: str, **data: Any) -> None:
        """Put a table in the place of the earlier one of this title; `data` are the numbers behind it, for JSON."""
        self.send("text", table=table, markdown=markdown, data=data)

    def note(self, text: str) -> None:
        self.send("note", text=text)


def read_event(line: str) -> dict[str, Any] | None:
    """Return the event of a line of the worker's, None for any other line."""
    if not line.startswith(MARK):
        return None
    try:
        return json.loads(line[1:])
    except ValueError:  # it was killed while it wrote
        return None


class Results:
    """All that is known so far; `state` of a part is waiting, running, done, skipped, failed or stopped."""

    def __init__(self, names: list[str], about: Mapping[str, Any]):
        self.about = dict(about)
        self.parts: dict[str, dict[str, Any]] = {
            name: {"title": BY_NAME[name].title, "state": "waiting", "tables": {}, "notes": []} for name in names
        }

    def take(self, name: str | None, event: Mapping[str, Any]) -> None:
        """Take one event of a part, or of the worker (None)."""
        if name is None:
            self.about.update(event.get("about", {}))
            return
        part, kind = self.parts[name], event["event"]
        if kind == "row":
            part["tables"].setdefault(event["table"], {"rows": []})["rows"].append(event["cells"])
        elif kind == "text":
            part["tables"][event["table"]] = {"markdown": event["markdown"], **event["data"]}
        elif kind == "note":
            part["notes"].append(event["text"])
        elif kind in ("begin", "end"):
            part.update({key: value for key, value in event.items() if key not in ("event", "part")})

    @property
    def failures(self) -> list[str]:
        """The parts that failed, and the rows that did not pass."""
        found = [f"{name}: {part.get('reason', '')}" for name, part in self.parts.items() if part["state"] == "failed"]
        return found + [
            f"{name}, {title}: {cells_text(row)}"
            for name, part in self.parts.items()
            for title, table in part["tables"].items()
            for row in table.get("rows", ())
            if row.get(PASSED) is False
        ]

    def to_json(self) -> dict[str, Any]:
        return {"about": self.about, "parts": self.parts, "failures": self.failures}

    def to_markdown(self) -> str:
        """Return the tables as docs/benchmarks.md has them."""
        device = self.about.get("device", "unknown device")
        lines = [f"## {device}", "", ", ".join(f"{k} {v}" for k, v in self.about.items() if k != "device") + "."]
        for part in self.parts.values():
            lines += ["", f"### {part['title']}", "", *part_lines(part)]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        texts = {"results.json": json.dumps(self.to_json(), indent=1), "tables.md": self.to_markdown()}
        for name, text in texts.items():
            with atomic_write(folder / name) as temporary:
                temporary.write_text(text, "utf-8")


def part_lines(part: Mapping[str, Any]) -> Iterator[str]:
    """Yield a part's notes and tables in Markdown."""
    if part["state"] != "done":
        yield " ".join(filter(None, [f"({part['state']})", part.get("reason")]))
        yield ""
    for note in part["notes"]:
        yield from (note, "")
    for title, table in part["tables"].items():
        yield from (f"{title}:", "", table["markdown"] if "markdown" in table else markdown(table["rows"]), "")


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows as a table in Markdown; its columns are all names of cells, in order."""
    head = list(dict.fromkeys(name for row in rows for name in row))
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[text(row.get(name)) for name in head] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells_text(cells: Mapping[str, Any]) -> str:
    """Return a row in one line."""
    return ", ".join(f"{name} {text(value)}" for name, value in cells.items())


def text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "-" if value is None else str(value)
