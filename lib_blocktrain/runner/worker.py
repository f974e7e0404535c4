"""The worker that trains what is in the queue; the package says how it is asked."""

from __future__ import annotations

import gc
import logging
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib_blocktrain.files import error_text
from lib_blocktrain.hosts.host import Host
from lib_blocktrain.runner.on_host import publish_result, sampler
from lib_blocktrain.runner.queue import Queue
from lib_blocktrain.runner.status import ActiveRun, LatestMetrics, describe_error, status_of
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.control import Diverged, Outcome
from lib_blocktrain.training.runs import Run, RunInUse, create, new_folder, open_run
from lib_blocktrain.training.status import RESUMABLE_STATES, Status
from lib_blocktrain.training.trainer import Trainer
from lib_blocktrain.weights.block_weights import BlockWeights

log = logging.getLogger(__name__)


class Runner:
    """Trains what is in the queue; see the module. `version` grows with every change of any run's state."""

    def __init__(self, host: Host):
        self.host, self.version = host, 0
        self._lock = threading.RLock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="blocktrain-runs")
        self._current: ActiveRun | None = None
        self._held = bool(self._queue.runs())  # left by an earlier session: begins when somebody says so
        self._reasons: dict[str, str] = {}
        self._known: dict[str, tuple[tuple[int, ...], Status]] = {}  # by the run's name
        self._last: dict[str, LatestMetrics] = {}  # by the run's name
        self._opened: dict[Path, tuple[tuple[int, ...], Run]] = {}

    @property
    def root(self) -> Path:
        """The folder of all runs."""
        return self.host.output_dir / "runs"

    @property
    def held(self) -> bool:
        """Whether the queue waits for `begin()`."""
        return self._held

    @property
    def current(self) -> Run | None:
        """The run that is being trained."""
        with self._lock:  # between two runs it is neither
            return None if self._current is None else self._current.run

    # --- asking ---------------------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """All runs of the host, the newest first."""
        found = []
        for path in self.root.glob("*/run.json"):
            try:
                found.append((path.stat().st_mtime_ns, self._open(path.parent)))
            except (OSError, ValueError):
                continue  # a folder of someone else's, or one that is being deleted
        return [run for _, run in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def queue(self) -> list[Run]:
        """The runs that wait, in order; the one that is being trained, or is paused, is the first."""
        with self._lock:
            return self._queue.runs()

    def find(self, name: str) -> Run:
        """The run in the folder of this name; raises ValueError for any other text, so that none becomes a path."""
        plain = isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name
        if not plain or not (self.root / name / "run.json").is_file():
            raise ValueError(f"there is no run {name!r} in {self.root}")
        return self._open(self.root / name)

    def status(self, run: Run) -> Status:
        """How a run stands now; of runs that rest it is made anew only where something has changed."""
        stamp = (self.version, *_stamp(run.metrics_path))
        known = self._known.get(run.folder.name)
        if known is not None and known[0] == stamp and not self._is_current(run):
            return known[1]
        with self._lock:
            current = self._current if self._is_current(run) else None
            state = current.state if current else self._resting(run)
            reason = (current.pausing or "") if current else self._reasons.get(run.folder.name, "")
        last = self._last.setdefault(run.folder.name, LatestMetrics(run)).said()
        status = status_of(run, last, state, current, reason)
        if current is None and state != "running elsewhere":  # that one may end without a word
            self._known[run.folder.name] = stamp, status
        return status

    # --- telling --------------------------------------------------------------------------------------------------

    def add(self, config: RunConfig) -> Run:
        """Make a new run and put it at the end of the queue; the queue begins."""
        with self._lock:
            run = create(config, new_folder(self.root, config.name))
            self._queue.add(run)
        self.begin()
        return run

    def resume(self, run: Run) -> None:
        """Put a run that is not finished at the end of the queue; the queue begins."""
        with self._lock:
            state = self.status(run).state
            if state not in RESUMABLE_STATES:
                raise ValueError(f"{run.folder.name} is {state}: expected a run that was stopped, or broke off")
            self._reasons.pop(run.folder.name, None)
            self._queue.add(run)
        self.begin()

    def begin(self) -> None:
        """Go on with what waits."""
        with self._lock:
            self._held = False
            if self._current is None and (run := self._queue.next()) is not None:
                self._current = ActiveRun(run)
                self._worker.submit(self._train, self._current).add_done_callback(partial(self._ended, self._current))
            self.version += 1

    def pause(self, reason: str = "") -> None:
        """Save the run that is being trained, put the model back, and hold the queue; `reason` is for who looks."""
        with self._lock:
            self._held = True
            if self._current is not None and not self._current.control.stopping:
                self._current.pausing = reason
                self._current.control.stop()
            self.version += 1

    def stop(self, run: Run, save: bool = True) -> None:
        """End a run after this step, or take it out of the queue; without `save` what was saved last stays."""
        with self._lock:
            if self._is_current(run):
                self._current.pausing = None
                self._current.control.stop(save)
            elif run.folder in [waiting.folder for waiting in self._queue.runs()]:
                self._queue.remove(run)
            else:
                raise ValueError(f"{run.folder.name} is {self.status(run).state}: there is nothing to stop")
            self.version += 1

    def set_weights(self, run: Run, weights: BlockWeights) -> None:
        """Change the block weights of the run that is being trained, from its next step on."""
        with self._lock:
            if not self._is_current(run):
                raise ValueError(f"{run.folder.name} is not being trained: its weights can change while it is")
            self._current.control.set_weights(weights)

    def close(self) -> None:
        """Save and leave the run that is being trained: the program ends, and the queue waits for the next one."""
        self.pause()
        self._worker.shutdown()

    # --- the worker -----------------------------------------------------------------------------------------------

    def _train(self, current: ActiveRun) -> Outcome | None:
        run, control = current.run, current.control
        with self.host.queued():  # not re-entrant: samples are drawn inside, without taking it again
            if control.stopping:
                if not run.is_held():  # else its metrics are someone else's
                    self._note(run, {"event": "stopped", "saved": False})
                return None
            model = self.host.model()
            self._note_model(run, getattr(model, "name", "unknown"))
            draw = sampler(self.host, run.config.samples, lambda: control.stopping)
            trainer = Trainer(model, run, control=control, draw=draw, report=partial(self._heard, current))
            outcome = trainer.run_loop()
            if outcome.result is not None and current.pausing is None:
                self._note_published(run, publish_result(trainer, self.host))
            return outcome

    def _heard(self, current: ActiveRun, row: Mapping[str, Any]) -> None:
        began = current.state
        current.hear(row)
        if current.state != began:
            self.version += 1
        if "loss" in row:
            self.host.progress(f"training {current.run.config.name}", row["step"], current.run.config.steps)
        if self.host.interrupted:
            self.pause(f"{self.host.name}'s Interrupt was pressed")

    def _ended(self, current: ActiveRun, future: Future) -> None:
        error = future.exception()
        finished = error is None and future.result() is not None and future.result().ended == "finished"
        if error is not None:
            self._failed(current.run, error)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with self._lock:
            if current.pausing is not None and not finished and error is None:
                self._reasons[current.run.folder.name] = current.pausing
            else:
                self._queue.remove(current.run)
            self._current = None
            self.version += 1
            if not self._held:
                self.begin()

    def _failed(self, run: Run, error: BaseException) -> None:
        reason = describe_error(error)
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the run
        if isinstance(error, RunInUse):  # its metrics are someone else's now
            self._reasons[run.folder.name] = reason
        elif not isinstance(error, Diverged):  # that one is in the metrics already
            self._note(run, {"event": "failed", "reason": reason})

    def _note_model(self, run: Run, name: str) -> None:
        """Record on which model a run begins; refuse one that names another, or was begun on another."""
        asked = run.config.checkpoint
        if asked is not None and Path(asked).stem not in name:
            raise ConfigError(
                f"this run is for {Path(asked).name!r}, and {name!r} is loaded: expected no checkpoint, or it"
            )
        before = run.first("model")
        if before is None:
            self._note(run, {"model": name})
        elif before != name:
            raise ConfigError(f"this run was begun on {before!r}, and {name!r} is loaded: load {before!r} to go on")

    def _note(self, run: Run, row: Mapping[str, Any]) -> None:
        try:
            run.add_metrics({"step": run.latest("step") or 0, **row})
        except OSError as error:
            log.warning("%s: %s", run.metrics_path, error_text(error))

    def _note_published(self, run: Run, path: Path) -> None:
        self._note(run, {"published": path.name})
        self.host.refresh_loras()

    # --- small things ---------------------------------------------------------------------------------------------

    @property
    def _queue(self) -> Queue:
        return Queue(self.root)

    def _open(self, folder: Path) -> Run:
        """The run of a folder; its file is read anew only where it has changed."""
        stamp = _stamp(folder / "run.json")
        known = self._opened.get(folder)
        if known is None or known[0] != stamp:
            known = self._opened[folder] = stamp, open_run(folder)
        return known[1]

    def _is_current(self, run: Run) -> bool:
        current = self._current
        return current is not None and current.run.folder == run.folder

    def _resting(self, run: Run) -> str:
        """The state of a run that this runner does not train now."""
        found = run.status
        waits = run.folder in [waiting.folder for waiting in self._queue.runs()]
        if found == "running":
            return "running elsewhere"
        if waits and found == "stopped":
            return "paused"
        if waits and found in ("failed", "diverged", "broken off"):
            return "waiting"
        return "stopped" if found == "waiting" and not waits else found


def _stamp(path: Path) -> tuple[int, int]:
    """What tells a file as it is from what it was: time of its last change in ns, and size."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
