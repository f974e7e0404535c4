"""Runs that wait for their turn; the list is a file beside them, so that it survives a restart."""

from __future__ import annotations

import json
from pathlib import Path

from lib_blocktrain.files import atomic_write
from lib_blocktrain.training.runs import Run, open_run


class Queue:
    """The runs under a folder that are still to be trained, in order. A run stays in it until it is done."""

    def __init__(self, root: Path):
        self._root, self._path = root, root / "queue.json"

    def runs(self) -> list[Run]:
        """Return the runs that wait; those whose folder is gone, or is none, are passed over."""
        found = []
        for name in self._names():
            try:
                found.append(open_run(self._root / name))
            except (OSError, ValueError):
                continue
        return found

    def add(self, run: Run) -> None:
        """Put a run of this folder at the end, once."""
        if run.folder.resolve().parent != self._root.resolve():
            raise ValueError(f"{run.folder}: expected a run in {self._root}")
        names = self._names()
        if run.folder.name not in names:
            self._write([*names, run.folder.name])

    def remove(self, run: Run) -> None:
        """Take a run out, wherever it stands."""
        self._write([name for name in self._names() if name != run.folder.name])

    def next(self) -> Run | None:
        """Return the first run that is not finished; what is finished leaves the list."""
        for run in self.runs():
            if run.status != "finished":
                return run
            self.remove(run)
        return None

    def _names(self) -> list[str]:
        try:
            names = json.loads(self._path.read_text("utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return []
        names = names if isinstance(names, list) else []
        # A name is a folder's in here and nothing else, whatever the file says.
        return [
            name for name in names if isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name
        ]

    def _write(self, names: list[str]) -> None:
        with atomic_write(self._path) as temporary:
            temporary.write_text(json.dumps(names, indent=2) + "\n", "utf-8")
