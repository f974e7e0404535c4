"""A run as a folder: everything that is needed to show it again, to go on with it, or to repeat it.

run.json            what was asked for, with absolute paths
metrics.jsonl       a line an event
state.safetensors   the whole state at the last save: network, optimizer, loss scale, step
checkpoints/        network files saved on the way
samples/            pictures drawn on the way
NAME.safetensors    the result
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from lib_blocktrain.files import naming, remove_leftovers, written
from lib_blocktrain.training import config as configs
from lib_blocktrain.training import packing
from lib_blocktrain.training.config import RunConfig

_EVENTS = ("started", "resumed", "finished", "stopped", "diverged", "failed")


class RunInUse(RuntimeError):
    """Another process, or another thread, is at this run."""


@dataclass(frozen=True)
class Run:
    """A run's folder and what it was asked to do."""

    folder: Path
    config: RunConfig

    @property
    def result(self) -> Path:
        return self.folder / f"{self.config.name}.safetensors"

    @property
    def state_path(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    def checkpoint(self, step: int) -> Path:
        """Return the path of the network file of a step."""
        return self.folder / "checkpoints" / f"{self.config.name}-{step:06}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Return the network files saved on the way, the oldest first."""
        return sorted((self.folder / "checkpoints").glob("*.safetensors"))

    def sample(self, step: int, number: int) -> Path:
        """Return the path of a picture of a step."""
        return self.folder / "samples" / f"{step:06}-{number:02}.png"

    def remove_leftovers(self) -> None:
        """Remove what a killed process left half written; the caller holds the run."""
        for folder in (self.folder, self.folder / "checkpoints", self.folder / "samples"):
            remove_leftovers(folder)

    def load_state(self) -> dict[str, Any] | None:
        """Return the state of the last save, None before the first."""
        return packing.load(self.state_path) if self.state_path.exists() else None

    def save_state(self, state: Mapping[str, Any]) -> None:
        packing.save(self.state_path, state)

    def metrics(self) -> list[dict[str, Any]]:
        """Return all rows of the metrics; a last line that a killed process left unfinished is passed over."""
        return list(_rows(self.metrics_path))

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row; what is not a finite number is written as text, so that any reader can read it."""
        text = json.dumps(_readable(row), ensure_ascii=False, allow_nan=False)
        with naming(self.metrics_path), open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def forget_after(self, step: int) -> None:
        """Take rows of later steps out of the metrics: a resumed run makes them again."""
        if not self.metrics_path.exists():
            return
        rows = [row for row in _rows(self.metrics_path) if _step_of(row) <= step]
        with written(self.metrics_path) as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")

    @property
    def status(self) -> str:
        """How the run stands: "waiting", "running", "broken off" (killed), or by its last event."""
        try:
            with self.locked():
                pass
        except RunInUse:
            return "running"
        except OSError:
            pass  # a folder that can only be read: nobody trains there
        ends = [row["event"] for row in self.metrics() if row.get("event") in _EVENTS]
        last = ends[-1] if ends else "waiting"
        return "broken off" if last in ("started", "resumed") else last

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run while the context is open; raise RunInUse if another does. A killed process holds nothing."""
        with open(self.folder / ".lock", "a+", encoding="utf-8") as file:
            try:
                _lock(file)
            except OSError as error:
                raise RunInUse(f"{self.folder}: another process trains this run") from error
            yield


def create(config: RunConfig, folder: Path) -> Run:
    """Make the folder of a new run; raise FileExistsError if there is one already."""
    if (folder / "run.json").exists():
        raise FileExistsError(f"{folder} holds a run already: resume it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / "run.json") as temporary:
        temporary.write_text(configs.dumps(config), "utf-8")
    return Run(folder, config)


def open_run(folder: Path) -> Run:
    """Return the run of this folder."""
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"{folder}: no run.json there, so that there is nothing to resume")
    return Run(folder, configs.load(folder / "run.json"))


def list_runs(root: Path) -> list[Run]:
    """Return all runs under a folder that can be read, the newest first."""
    found = []
    for path in sorted(root.glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            found.append(Run(path.parent, configs.load(path)))
        except ValueError:
            continue  # a folder of someone else's
    return found


def new_folder(root: Path, name: str) -> Path:
    """Return a folder for a new run of this name: with the time, and a number if two begin in one second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = root / f"{name}-{stamp}", 1
    while folder.exists():
        folder, number = root / f"{name}-{stamp}-{number}", number + 1
    return folder


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text("utf-8", errors="replace").split("\n"):  # a prompt may hold other ends of lines
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _step_of(row: Mapping[str, Any]) -> float:
    step = row.get("step", 0)
    return step if isinstance(step, int | float) else 0


def _readable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return str(value) if isinstance(value, float) else value


def _lock(file: IO[str]) -> None:
    """Lock an open file without waiting; raises OSError where it is locked."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
