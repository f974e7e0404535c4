"""A run as a folder: everything that is needed to show it again, to go on with it, or to repeat it.

run.json            what was asked for, with absolute paths
metrics.jsonl       a line an event
state.safetensors   the whole state at the last save: network, optimizer, loss scale, step
checkpoints/        network files saved on the way
samples/            pictures drawn on the way
NAME.safetensors    the result
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from lib_blocktrain.files import atomic_write, path_in_errors, remove_leftovers
from lib_blocktrain.training import config as configs
from lib_blocktrain.training import records, state_file
from lib_blocktrain.training.config import RunConfig

_EVENTS = ("started", "resumed", "finished", "stopped", "diverged", "failed")
_A_LOOK = 2.0  # seconds: far longer than anybody's look at a lock keeps it from the run's trainer
_PAUSE = 0.01  # seconds between two tries
_LOOKS = 3 if os.name == "nt" else 1  # where two looks keep each other out
_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)  # what a lock that is taken says


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
        return state_file.load(self.state_path) if self.state_path.exists() else None

    def save_state(self, state: Mapping[str, Any]) -> None:
        state_file.save(self.state_path, state)

    def metrics(self) -> list[dict[str, Any]]:
        """Return all rows of the metrics; a last line that a killed process left unfinished is passed over."""
        return list(records.rows(self.metrics_path))

    def first(self, name: str) -> Any:
        """Return what the first row of the metrics that has something of this name says; None where none has."""
        return next((row[name] for row in records.rows(self.metrics_path) if row.get(name) is not None), None)

    def latest(self, name: str) -> Any:
        """Return what the last row of the metrics that has something of this name says; None where none has."""
        return next((row[name] for row in records.latest(self.metrics_path) if row.get(name) is not None), None)

    def metrics_after(self, step: float, most: int) -> tuple[list[dict[str, Any]], bool]:
        """Return the first `most` rows of later steps and the rest of the last one's step, and whether more follow."""
        return records.behind(self.metrics_path, step, most)

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row; what is not a finite number is written as text, so that any reader can read it."""
        text = json.dumps(_readable(row), ensure_ascii=False, allow_nan=False)
        with path_in_errors(self.metrics_path), open(self.metrics_path, "ab+") as file:
            if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                text = "\n" + text  # a killed process left half a line: this one must not become its other half
            file.write(text.encode("utf-8", "replace") + b"\n")

    def drop_metrics_after(self, step: int) -> None:
        """Take rows of later steps out of the metrics: a resumed run makes them again."""
        if not self.metrics_path.exists():
            return
        kept = [row for row in records.rows(self.metrics_path) if records.step_of(row) <= step]
        with atomic_write(self.metrics_path) as temporary:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            temporary.write_bytes(text.encode("utf-8", "replace"))

    @property
    def status(self) -> str:
        """How the run stands: "waiting", "running", "broken off" (killed), or by its last event."""
        if self.is_held():
            return "running"
        events = (row["event"] for row in records.latest(self.metrics_path) if row.get("event") in _EVENTS)
        last = next(events, "waiting")
        return "broken off" if last in ("started", "resumed") else last

    def is_held(self) -> bool:
        """Whether somebody trains this run now. A look keeps nobody from it, and leaves nothing behind."""
        try:
            with open(self.folder / ".lock", "rb") as file:
                for _ in range(_LOOKS):
                    if self._took(file, shared=True):
                        return False
                    time.sleep(_PAUSE)
        except OSError:
            return False  # nobody ever trained it, or nobody can
        return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run while the context is open; raise RunInUse if another does. A killed process holds nothing."""
        with open(self.folder / ".lock", "a+", encoding="utf-8") as file:
            end = time.monotonic() + _A_LOOK
            while not self._took(file, shared=False):
                if time.monotonic() > end:
                    raise RunInUse(f"{self.folder}: another process trains this run")
                time.sleep(_PAUSE)  # it may be a look only
            yield

    @staticmethod
    def _took(file: IO[Any], shared: bool) -> bool:
        try:
            _lock(file, shared)
        except OSError as error:
            if error.errno not in _HELD:
                raise
            return False
        return True


def create(config: RunConfig, folder: Path) -> Run:
    """Make the folder of a new run; raise FileExistsError if there is one already."""
    if (folder / "run.json").exists():
        raise FileExistsError(f"{folder} holds a run already: resume it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "run.json") as temporary:
        temporary.write_text(configs.dumps(config), "utf-8")
    return Run(folder, config)


def open_run(folder: Path) -> Run:
    """Return the run of this folder."""
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"{folder}: no run.json there, so that there is nothing to resume")
    return Run(folder, configs.load(folder / "run.json"))


def new_folder(root: Path, name: str) -> Path:
    """Return a folder for a new run of this name: with the time, and a number if two begin in one second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = root / f"{name}-{stamp}", 1
    while folder.exists():
        folder, number = root / f"{name}-{stamp}-{number}", number + 1
    return folder


def _readable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return str(value) if isinstance(value, float) else value


def _lock(file: IO[Any], shared: bool) -> None:
    """Lock an open file without waiting, beside other shared locks or alone; raises OSError where that cannot be."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # it knows no shared locks
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
