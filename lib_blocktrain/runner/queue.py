"""The queue of runs, stored as a file beside their folders."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from lib_blocktrain.files import atomic_write, error_text
from lib_blocktrain.runner.catalog import is_folder_name
from lib_blocktrain.training.runs import Run, open_run

log = logging.getLogger(__name__)


class Queue:
    """The runs of a folder that are still to be trained, in order. A run is removed when it has ended."""

    def __init__(self, root: Path, read: Callable[[Path], Run] = open_run):
        self._root, self._path, self._read = root, root / "queue.json", read
        self._said = ""  # the last warning of a damaged file
        self.left: dict[str, str] = {}  # by name, why a run that has ended is still in the file

    def runs(self) -> list[Run]:
        """Return the runs in the queue, without those whose folder is missing or cannot be read."""
        found = []
        for name in self.names():
            try:
                found.append(self._read(self._root / name))
            except (OSError, ValueError):
                continue
        return found

    def add(self, run: Run) -> None:
        """Append a run of this folder, unless it is in the queue already."""
        if run.folder.resolve().parent != self._root.resolve():
            raise ValueError(f"{run.folder}: expected a run in {self._root}")
        names = self.names()
        if run.folder.name not in names:
            self._write([*names, run.folder.name])  # behind the others, also if it had ended

    def remove(self, run: Run) -> None:
        """Remove a run from the queue."""
        self._write([name for name in self.names() if name != run.folder.name])

    def end(self, run: Run) -> None:
        """Remove a run that has ended; it is not trained again, even where the file cannot be written: see `left`."""
        try:
            self.remove(run)
        except OSError as error:
            text = f"it is still in the queue's file, and waits there again after a restart: {error_text(error)}"
            log.warning("%s: %s", run.folder.name, text)
            self.left[run.folder.name] = text

    def move(self, run: Run, place: int) -> None:
        """Put a run of the queue at this place, from 0; behind the last one if there are fewer."""
        names = self.names()
        if run.folder.name not in names:
            raise ValueError(f"{run.folder.name} is not in the queue")
        names.remove(run.folder.name)
        names.insert(max(0, place), run.folder.name)
        self._write(names)

    def next(self) -> Run | None:
        """Return the first run that is not finished; finished ones are removed."""
        for run in self.runs():
            if run.status != "finished":
                return run
            self.end(run)
        return None

    def names(self) -> list[str]:
        """Return the names of the folders in the queue, in order, whether or not a run is there."""
        try:
            names = json.loads(self._path.read_text("utf-8"))
            if not isinstance(names, list):
                raise ValueError("expected a list of names")
        except FileNotFoundError:
            return []
        except (ValueError, RecursionError) as error:
            self._put_aside(str(error))
            return []
        # Names, not paths: the file may have been edited.
        return [name for name in names if is_folder_name(name) and name not in self.left]

    def _put_aside(self, why: str) -> None:
        """Keep a file that cannot be read under another name, since the next change of the queue writes a new one."""
        kept = self._path.with_name(f"{self._path.name}.damaged")
        try:
            os.replace(self._path, kept)
        except OSError as error:  # nor can it be overwritten then
            why = f"{why}; {error_text(error)}"
        else:
            why = f"{why}; it is kept as {kept.name}"
        if why != self._said:
            log.warning("%s cannot be read, and the queue is empty: %s", self._path, why)
        self._said = why

    def _write(self, names: list[str]) -> None:
        with atomic_write(self._path) as temporary:
            temporary.write_text(json.dumps(names, indent=2) + "\n", "utf-8")
        self.left.clear()
