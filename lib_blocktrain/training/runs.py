"""A run as a folder: all that is needed to show it, to resume it or to repeat it.

run.json            its configuration, with absolute paths
metrics.jsonl       a line a row
state.safetensors   the whole state at the last save: network, optimizer, loss scale, step
state-before.safetensors    an earlier one, in case that the run diverges or the last is damaged; until it is finished
checkpoints/        network files saved during the run
samples/            images drawn during the run
NAME.safetensors    the result
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib_blocktrain.files import atomic_write, path_in_errors, remove_leftovers
from lib_blocktrain.training import config as configs
from lib_blocktrain.training import records, state_file
from lib_blocktrain.training.checked_file import DamagedFile
from lib_blocktrain.training.config import RunConfig

_EVENTS = ("started", "resumed", "finished", "stopped", "diverged", "failed")
# Seconds. `is_held` takes the lock for an instant only: a trainer waits for that far longer than it can take, and
# `is_held` asks more than once, since two of them at a time keep each other out.
_TRAINER_WAITS, _LOOK_WAITS, _BETWEEN_TRIES = 2.0, 0.06, 0.005


class RunInUse(RuntimeError):
    """Another process or thread trains this run."""


@dataclass(frozen=True)
class Run:
    """A run's folder and configuration."""

    folder: Path
    config: RunConfig

    @property
    def result(self) -> Path:
        return self.folder / f"{self.config.name}.safetensors"

    @property
    def best(self) -> Path:
        """The network file of the lowest validation loss."""
        return self.folder / f"{self.config.name}-best.safetensors"

    @property
    def state_path(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def earlier_state_path(self) -> Path:
        return self.folder / "state-before.safetensors"

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    def checkpoint(self, step: int) -> Path:
        """Return the path of the network file of a step."""
        return self.folder / "checkpoints" / f"{self.config.name}-{step:06}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Return the network files saved during the run, by their steps."""
        return sorted((self.folder / "checkpoints").glob("*.safetensors"))

    def sample(self, step: int, number: int) -> Path:
        """Return the path of an image that was drawn at a step."""
        return self.folder / "samples" / f"{step:06}-{number:02}.png"

    def remove_leftovers(self) -> None:
        """Remove temporary files of a killed process; the caller holds the run."""
        for folder in (self.folder, self.folder / "checkpoints", self.folder / "samples"):
            remove_leftovers(folder)

    def load_state(self) -> dict[str, Any] | None:
        """Return the state of the last save, None before the first; DamagedFile says what can be used instead."""
        path = next((path for path in (self.state_path, self.earlier_state_path) if path.exists()), None)
        if path is None:
            return None
        try:
            return state_file.load(path)
        except DamagedFile as error:
            raise DamagedFile(f"{error}; {self._instead_of(path)}") from error

    def _instead_of(self, damaged: Path) -> str:
        """What can be used instead of a damaged state, as a sentence."""
        earlier = self.earlier_state_path
        if damaged != earlier and earlier.exists():
            try:
                step = state_file.load(earlier)["step"]
            except ValueError:
                return f"{earlier.name} is damaged, too; {self.saved_network}; without a state the run begins at step 0"
            return (
                f"{earlier.name}, of step {step}, is whole: to go on from there, resume with --earlier-state, or delete"
                f" {damaged.name} and resume; {self.saved_network}"
            )
        return f"{self.saved_network}; without its state the run begins at step 0"

    def keep_config(self) -> None:
        """Write a configuration that was changed for going on, so that the next session has it; the caller holds it."""
        if configs.load(self.folder / "run.json") != self.config:
            with atomic_write(self.folder / "run.json") as temporary:
                temporary.write_text(configs.dumps(self.config), "utf-8")

    def use_earlier_state(self) -> None:
        """Go back to the earlier state, where the last one is damaged or gone; raise ValueError where that cannot be.

        The caller holds the run.
        """
        if not self.earlier_state_path.exists():
            raise ValueError(f"{self.earlier_state_path} is not there: there is no earlier state of this run")
        if self.state_path.exists():
            with suppress(DamagedFile):
                step = state_file.load(self.state_path)["step"]
                raise ValueError(f"{self.state_path}, of step {step}, is whole: resume without --earlier-state")
        state_file.load(self.earlier_state_path)
        self.drop_state()

    @property
    def from_earlier_state(self) -> str | None:
        """What to say of a run that goes on from the earlier state, since the last is gone; None for any other."""
        if self.state_path.exists() or not self.earlier_state_path.exists():
            return None
        return f"{self.state_path} is gone: the run goes on from {self.earlier_state_path.name}"

    @property
    def begins_again(self) -> str | None:
        """What to say of a run that was trained and has no state; None for any other."""
        step = self.latest("step")
        if not isinstance(step, int | float) or step <= 0 or self.state_path.exists():
            return None
        return f"{self.state_path} is gone: the run was at step {step}, and begins at step 0; {self.saved_network}"

    @property
    def saved_network(self) -> str:
        """The newest network file of the run, as a sentence."""
        saved = [path for path in (*self.checkpoints(), self.result) if path.is_file()]
        if not saved:
            return "there is no network file of this run"
        return f"its newest network file is {max(saved, key=lambda path: (path.stat().st_mtime_ns, path.name))}"

    def save_state(self, state: Mapping[str, Any], keep: bool = False) -> None:
        """Save a state; `keep` the one before, for `drop_state`."""
        if keep and self.state_path.exists():
            os.replace(self.state_path, self.earlier_state_path)
        state_file.save(self.state_path, state)

    def drop_state(self) -> None:
        """Go back to the state that was kept; without one the run begins anew."""
        if self.earlier_state_path.exists():
            os.replace(self.earlier_state_path, self.state_path)
        else:
            self.state_path.unlink(missing_ok=True)

    def take_best(self) -> None:
        """Make the network of the lowest validation loss the result, if there is one."""
        if self.best.is_file():
            with atomic_write(self.result) as temporary:
                shutil.copyfile(self.best, temporary)

    def metrics(self) -> list[dict[str, Any]]:
        """Return all rows of the metrics; lines that are not valid are skipped."""
        return list(records.rows(self.metrics_path))

    def first(self, name: str) -> Any:
        """Return the first value of this name in the metrics, None if there is none."""
        return next((row[name] for row in records.rows(self.metrics_path) if row.get(name) is not None), None)

    def latest(self, name: str) -> Any:
        """Return the last value of this name in the metrics, None if there is none."""
        return next(
            (row[name] for row in records.rows_newest_first(self.metrics_path) if row.get(name) is not None), None
        )

    def metrics_after(self, step: float, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Return the first `limit` rows of later steps and the rest of the last step, and whether more follow."""
        return records.rows_after(self.metrics_path, step, limit)

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row; numbers that are not finite are written as text, since JSON has none."""
        text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False)
        with path_in_errors(self.metrics_path), open(self.metrics_path, "ab+") as file:
            if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                text = "\n" + text  # a killed process left half a line
            file.write(text.encode("utf-8", "replace") + b"\n")

    def drop_metrics_after(self, step: int) -> None:
        """Delete the rows of later steps, which a resumed run makes again."""
        if not self.metrics_path.exists():
            return
        kept = [row for row in records.rows(self.metrics_path) if records.step_of(row) <= step]
        with atomic_write(self.metrics_path) as temporary:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            temporary.write_bytes(text.encode("utf-8", "replace"))

    @property
    def status(self) -> str:
        """The run's status: "waiting", "running", "broken off" (killed), or by its last event."""
        if self.is_held():
            return "running"
        events = (row["event"] for row in records.rows_newest_first(self.metrics_path) if row.get("event") in _EVENTS)
        last = next(events, "waiting")
        return "broken off" if last in ("started", "resumed") else last

    def is_held(self) -> bool:
        """Whether a thread or process trains this run. Asking makes no file and keeps no trainer out."""
        if not self._lock_path.exists():
            return False
        try:
            with FileLock(self._lock_path).acquire(timeout=_LOOK_WAITS, poll_interval=_BETWEEN_TRIES):
                return False
        except Timeout:
            return True
        except OSError:
            return False  # in a folder that cannot be written to, nobody trains

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run; raise RunInUse if another does. The operating system frees the lock of a killed process."""
        try:
            lock = FileLock(self._lock_path).acquire(timeout=_TRAINER_WAITS, poll_interval=_BETWEEN_TRIES)
        except Timeout as error:
            raise RunInUse(f"{self.folder}: another process trains this run") from error
        with lock:
            yield

    @property
    def _lock_path(self) -> Path:
        return self.folder / ".lock"


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


def delete(run: Run) -> None:
    """Delete a run's folder; nobody may train it. Once `run.json` is gone it is no run, whatever else is left.

    A link is removed, and what it points to stays. Raises OSError where something cannot be deleted.
    """
    if run.folder.is_symlink():
        run.folder.unlink()
        return
    (run.folder / "run.json").unlink(missing_ok=True)
    shutil.rmtree(run.folder)


def new_folder(root: Path, name: str) -> Path:
    """Return a folder for a new run of this name: with the time, and a number if two begin in one second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = root / f"{name}-{stamp}", 1
    while folder.exists():
        folder, number = root / f"{name}-{stamp}-{number}", number + 1
    return folder


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return str(value) if isinstance(value, float) else value
