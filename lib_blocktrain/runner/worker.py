"""The runner: trains the queued runs in its own thread."""

from __future__ import annotations

import gc
import logging
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib_blocktrain.hosts.host import Host, NoModel
from lib_blocktrain.runner.about import read_about, write_about
from lib_blocktrain.runner.catalog import Catalog, stamp_of
from lib_blocktrain.runner.on_host import publish_result, record, sampler
from lib_blocktrain.runner.queue import Queue
from lib_blocktrain.runner.status import ActiveRun, LatestMetrics, describe_error, status_of
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.control import Diverged, Outcome
from lib_blocktrain.training.runs import Run, RunInUse, create, delete, new_folder
from lib_blocktrain.training.status import RESUMABLE_STATES, Status
from lib_blocktrain.training.trainer import Trainer
from lib_blocktrain.weights.block_weights import BlockWeights

log = logging.getLogger(__name__)


class Runner:
    """Trains the queued runs; see the package. `version` grows with every change in the state of any run."""

    def __init__(self, host: Host):
        self.host, self.version = host, 0
        self._lock = threading.RLock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="blocktrain-runs")
        self._active: ActiveRun | None = None
        self._catalog = Catalog(lambda: self.root)
        self._queues: dict[Path, Queue] = {}  # by folder, which the host's settings may change
        self._held = bool(self._queue.runs())  # runs queued by an earlier process wait for `begin()`
        self._reasons: dict[str, str] = {}  # by the run's name, as all that follow: why it waits or failed
        self._unwritten: dict[str, tuple[int, int]] = {}  # the stamp of metrics that lack the run's failure
        self._statuses: dict[str, tuple[tuple[int, ...], Status]] = {}  # with their stamp
        self._metrics: dict[str, LatestMetrics] = {}

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
        """The run in training."""
        with self._lock:
            return None if self._active is None else self._active.run

    # --- queries ----------------------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """All runs of the host, newest first."""
        return self._catalog.runs()

    def damaged(self) -> dict[str, str]:
        """Why runs cannot be read, by name: those that `runs` leaves out."""
        return self._catalog.damaged()

    def queue(self) -> list[Run]:
        """The queued runs, in order; the first may be in training, or paused."""
        with self._lock:
            return self._queue.runs()

    def find(self, name: str) -> Run:
        """The run in the folder of this name; raises ValueError for anything else, including paths."""
        return self._catalog.find(name)

    def status(self, run: Run) -> Status:
        """The status of a run; for an inactive run it is cached until its metrics or any run's state change."""
        stamp = (self.version, *stamp_of(run.metrics_path))
        known = self._statuses.get(run.folder.name)
        if known is not None and known[0] == stamp and self._active_run(run) is None:
            return known[1]
        with self._lock:
            active = self._active_run(run)
            state = active.state if active else self._inactive_state(run)
            reason = (active.pausing or "") if active else self._reasons.get(run.folder.name, "")
            place = self._place_of(run) if active is None else None
            left = self._queue.left.get(run.folder.name)
        latest = self._metrics.setdefault(run.folder.name, LatestMetrics(run)).values()
        status = status_of(run, latest, state, active, reason, place)
        if left is not None:
            status = replace(status, notices=(*status.notices, left))
        if active is None and state != "running elsewhere":  # that run may end without a change of its metrics
            self._statuses[run.folder.name] = stamp, status
        return status

    # --- requests ---------------------------------------------------------------------------------------------------

    def check_trains(self) -> None:
        """Raise NoModel where the host cannot train."""
        if self.host.no_training:
            raise NoModel(self.host.no_training)

    def add(self, config: RunConfig) -> Run:
        """Create a run, append it to the queue, and start the queue; raises NoModel where the host cannot train."""
        self.check_trains()
        with self._lock:
            run = create(config, new_folder(self.root, config.name))
            self._queue.add(run)
        self.begin()
        return run

    def resume(self, run: Run, earlier_state: bool = False) -> None:
        """Append an unfinished run to the queue, and start the queue; `earlier_state`: the last one is damaged.

        Raises NoModel where the host cannot train.
        """
        self.check_trains()
        with self._lock:
            state = self.status(run).state
            if state not in RESUMABLE_STATES:
                raise ValueError(f"{run.folder.name} is {state}: expected a run that was stopped, or broke off")
            if earlier_state:
                with run.locked():
                    run.use_earlier_state()
            self._forget_end(run)
            self._queue.add(run)
        self.begin()

    def begin(self) -> None:
        """Start the queue."""
        with self._lock:
            self._held = False
            if self._active is None and (run := self._queue.next()) is not None:
                self._active = ActiveRun(run)
                self._worker.submit(self._train, self._active).add_done_callback(partial(self._on_end, self._active))
            self.version += 1

    def pause(self, reason: str = "") -> None:
        """Save and interrupt the active run, and hold the queue; `reason` is shown in the run's status."""
        with self._lock:
            self._held = True
            if self._active is not None and not self._active.control.stopping:
                self._active.pausing = reason
                self._active.control.stop()
            self.version += 1

    def stop(self, run: Run, save: bool = True) -> None:
        """End a run after this step, or remove it from the queue; with `save` False only earlier saves are kept."""
        with self._lock:
            active = self._active_run(run)
            if active is not None:
                active.pausing = None
                active.control.stop(save)
            elif run.folder in [waiting.folder for waiting in self._queue.runs()]:
                self._queue.remove(run)
            else:
                raise ValueError(f"{run.folder.name} is {self.status(run).state}: there is nothing to stop")
            self.version += 1

    def move(self, run: Run, place: int) -> None:
        """Put a waiting run at this place of those that wait, 1 for the next one; the run in training stays first."""
        with self._lock:
            waiting = [other.folder for other in self._queue.runs() if self._active_run(other) is None]
            if run.folder not in waiting:
                raise ValueError(f"{run.folder.name} is {self.status(run).state}: expected a run that waits")
            if not 1 <= place <= len(waiting):
                raise ValueError(f"place {place} of the queue: expected 1 to {len(waiting)}")
            self._queue.move(run, place - 1 + (self._active is not None))
            self.version += 1

    def set_about(self, run: Run, *, title: str | None = None, notes: str | None = None) -> None:
        """Change a run's title or its notes; None leaves it as it is, and "" takes it away."""
        with self._lock:
            given = {"title": title, "notes": notes}
            about = replace(read_about(run.folder), **{name: text for name, text in given.items() if text is not None})
            write_about(run.folder, about)
            self.version += 1

    def delete(self, run: Run) -> None:
        """Delete a run's folder with all that is in it; its LoRA in the host's folder stays. ValueError in training."""
        with self._lock:
            if self._active_run(run) is not None or run.is_held():
                raise ValueError(f"{run.folder.name} is being trained: stop it first")
            self._queue.remove(run)
            delete(run)
            self._statuses.pop(run.folder.name, None)
            self._metrics.pop(run.folder.name, None)
            self._forget_end(run)
            self._catalog.forget(run.folder)
            self.version += 1

    def set_weights(self, run: Run, weights: BlockWeights) -> None:
        """Change the block weights of the active run, from its next step on."""
        with self._lock:
            active = self._active_run(run)
            if active is None:
                raise ValueError(f"{run.folder.name} is not being trained: weights can be changed only during training")
            active.control.set_weights(weights)

    def close(self) -> None:
        """Pause, and wait for the worker to end; called when the program exits."""
        self.pause()
        self._worker.shutdown()

    # --- the worker -----------------------------------------------------------------------------------------------

    def _train(self, active: ActiveRun) -> Outcome | None:
        run, control = active.run, active.control
        with self.host.queued():  # not re-entrant: samples are drawn under it without acquiring it again
            if control.stopping:
                if not run.is_held():  # another process may write its metrics
                    record(run, {"event": "stopped", "saved": False})
                return None
            model = self.host.model()
            self._check_model_name(run, model.name)
            say = partial(self._on_notice, active)
            draw = sampler(self.host, run.config.samples, lambda: control.stopping, say)
            trainer = Trainer(model, run, control=control, draw=draw, report=partial(self._on_report, active))
            outcome = trainer.run_loop()
            # A run that a pause came too late for is over: there is nothing that would resume it.
            if outcome.result is not None and (active.pausing is None or outcome.ended == "finished"):
                publish_result(trainer, self.host)
                self.host.refresh_loras()
            return outcome

    def _on_report(self, active: ActiveRun, row: Mapping[str, Any]) -> None:
        state = active.state
        active.update(row)
        if active.state != state:
            self.version += 1
        if "loss" in row:
            self.host.progress(f"training {active.run.config.name}", row["step"], active.steps)
        if self.host.interrupted:
            self.pause(f"{self.host.name}'s Interrupt was pressed")

    def _on_notice(self, active: ActiveRun, text: str) -> None:
        log.warning("%s: %s", active.run.folder.name, text)
        self._on_report(active, {"notice": text})

    def _on_end(self, active: ActiveRun, future: Future[Outcome | None]) -> None:
        error = future.exception()
        outcome = None if error is not None else future.result()
        finished = outcome is not None and outcome.ended == "finished"
        try:
            if error is not None:
                self._record_failure(active.run, error)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        finally:  # whatever is raised, as by a GPU that does not recover, the next run can begin
            with self._lock:
                self._active = None
                self.version += 1
                if active.pausing is not None and not finished and error is None:
                    self._reasons[active.run.folder.name] = active.pausing
                else:
                    self._queue.end(active.run)
                if not self._held:
                    self.begin()

    def _forget_end(self, run: Run) -> None:
        self._reasons.pop(run.folder.name, None)
        self._unwritten.pop(run.folder.name, None)

    def _record_failure(self, run: Run, error: BaseException) -> None:
        reason = describe_error(error)
        traceback.clear_frames(error.__traceback__)  # they hold the run's tensors
        if isinstance(error, RunInUse):  # another process writes its metrics
            self._reasons[run.folder.name] = reason
        elif not isinstance(error, Diverged) and not record(run, {"event": "failed", "reason": reason}):
            self._reasons[run.folder.name] = reason  # else it would be told as interrupted by the program's end
            self._unwritten[run.folder.name] = stamp_of(run.metrics_path)

    def _check_model_name(self, run: Run, name: str) -> None:
        """Record the model that a run starts on; raise ConfigError if it names, or was started on, another one."""
        wanted = run.config.checkpoint
        if wanted is not None and Path(wanted).stem not in name:
            raise ConfigError(
                f"this run is for {Path(wanted).name!r}, and {name!r} is loaded: expected no checkpoint, or it"
            )
        before = run.first("model")
        if before is None:
            record(run, {"model": name})
        elif before != name:
            raise ConfigError(f"this run was started on {before!r}, and {name!r} is loaded: load {before!r}")

    # --- helpers ----------------------------------------------------------------------------------------------------

    @property
    def _queue(self) -> Queue:
        return self._queues.setdefault(self.root, Queue(self.root, self._catalog.read))

    def _active_run(self, run: Run) -> ActiveRun | None:
        """Return the active run if it is this one."""
        active = self._active
        return active if active is not None and active.run.folder == run.folder else None

    def _place_of(self, run: Run) -> int | None:
        """Return a run's place among those that wait, 1 for the next one; None if it is not in the queue."""
        training = self._active.run.folder.name if self._active is not None else None
        waiting = [name for name in self._queue.names() if name != training]
        return waiting.index(run.folder.name) + 1 if run.folder.name in waiting else None

    def _inactive_state(self, run: Run) -> str:
        """Return the state of a run that this runner is not training."""
        state = run.status
        waits = run.folder.name in self._queue.names()
        if state == "running":
            return "running elsewhere"
        if self._unwritten.get(run.folder.name) == stamp_of(run.metrics_path):  # nobody has gone on with it since
            return "failed"
        if waits and state == "stopped":
            return "paused"
        if waits and state in ("failed", "diverged", "broken off"):
            return "waiting"
        return "stopped" if state == "waiting" and not waits else state
