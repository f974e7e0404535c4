"""The runs of a folder: read again only where `run.json` has changed, and which of them cannot be read, and why."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from lib_blocktrain.files import error_text
from lib_blocktrain.training.runs import Run, open_run

log = logging.getLogger(__name__)

Stamp = tuple[int, int]


class Catalog:
    """The runs in the folder that `root` returns, which may be another one the next time."""

    def __init__(self, root: Callable[[], Path]):
        self._root = root
        self._runs: dict[Path, tuple[Stamp, Run]] = {}  # by folder, with the stamp of run.json
        self._damaged: dict[Path, tuple[Stamp, str]] = {}  # likewise, and why it cannot be read
        self._lock = threading.Lock()  # so that each state of a damaged file is logged once

    def runs(self) -> list[Run]:
        """Return the runs that can be read, newest first; see `damaged` for the others."""
        found = []
        for path in self._root().glob("*/run.json"):
            try:
                found.append((path.stat().st_mtime_ns, self.read(path.parent)))
            except (OSError, ValueError):
                continue  # `read` has said why, or it is being deleted
        return [run for _, run in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def find(self, name: str) -> Run:
        """Return the run in the folder of this name; raise ValueError for anything else, including paths."""
        if not is_folder_name(name) or not (self._root() / name / "run.json").is_file():
            raise ValueError(f"there is no run {name!r} in {self._root()}")
        return self.read(self._root() / name)

    def read(self, folder: Path) -> Run:
        """Return the run of a folder; raise ValueError or OSError, and log it once, where it cannot be read."""
        path = folder / "run.json"
        stamp = stamp_of(path)
        known = self._runs.get(folder)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            run = open_run(folder)
        except FileNotFoundError:  # deleted
            self.forget(folder)
            raise
        except (OSError, ValueError) as error:
            self._note_damage(folder, stamp, error_text(error))
            raise
        self._damaged.pop(folder, None)
        self._runs[folder] = stamp, run
        return run

    def damaged(self) -> dict[str, str]:
        """Return why runs cannot be read, by name; of those that were read since the program began."""
        root, damaged = self._root(), list(self._damaged.items())
        there = [(folder, why) for folder, (_, why) in damaged if folder.parent == root]
        return {folder.name: why for folder, why in there if (folder / "run.json").is_file()}

    def forget(self, folder: Path) -> None:
        """Forget a run that was deleted."""
        self._runs.pop(folder, None)
        self._damaged.pop(folder, None)

    def _note_damage(self, folder: Path, stamp: Stamp, why: str) -> None:
        with self._lock:
            said = self._damaged.get(folder) == (stamp, why)
            self._damaged[folder] = stamp, why
        if not said:
            log.warning("the run %s cannot be read, and is left out: %s", folder.name, why)


def is_folder_name(name: object) -> bool:
    """Whether this is a plain name, and no path."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def stamp_of(path: Path) -> Stamp:
    """Return the time of a file's last change, in ns, and its size; zeros if it does not exist."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return 0, 0
    return info.st_mtime_ns, info.st_size
