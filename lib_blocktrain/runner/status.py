"""The status of runs: of the active one from its trainer's reports, of the others from their metrics."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from typing import Any

from lib_blocktrain.files import error_text
from lib_blocktrain.runner.about import read_about
from lib_blocktrain.training.control import TrainerControl
from lib_blocktrain.training.monitor import worse_than_none
from lib_blocktrain.training.records import MetricsTail
from lib_blocktrain.training.runs import Run
from lib_blocktrain.training.status import Status

log = logging.getLogger(__name__)

_SHOWN = (
    "step",
    "reason",
    "published",
    "loss",
    "smoothed",
    "lr",
    "seconds_a_step",
    "memory_mib",
    "compared",
    "steps",
    "early",
)


class ActiveRun:
    """The run in training, with its control and the trainer's latest reports."""

    def __init__(self, run: Run):
        self.run, self.control = run, TrainerControl()
        self.row: dict[str, Any] = {}
        self.notices: list[str] = []
        self.pausing: str | None = None  # the reason of a pause

    def update(self, row: Mapping[str, Any]) -> None:
        """Store a report of the trainer."""
        if "notice" in row:
            self.notices.append(row["notice"])
        else:
            self.row = {**self.row, **row}

    @property
    def steps(self) -> int:
        """The steps of the run, which those of epochs are only once the pictures are known: 0 before."""
        return _steps(self.run, self.row)

    @property
    def state(self) -> str:
        """One of ACTIVE_STATES."""
        if self.control.stopping:
            return "stopping" if self.pausing is None else "pausing"
        return "training" if "loss" in self.row else "preparing"


class LatestMetrics:
    """The latest values in a run's metrics; each call of `values` reads only the new rows."""

    def __init__(self, run: Run):
        self._rows, self._lock = MetricsTail(run.metrics_path), threading.Lock()
        self._values: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        """Return the latest values by name."""
        with self._lock:
            rows, replaced = self._rows.read_new()
            if replaced:
                self._values.clear()
            for row in rows:
                if row.get("state_saved") or "compared" in row:  # runs of earlier versions have the latter alone
                    self._values["saved_step"] = row.get("step")
                self._values.update((name, row[name]) for name in _SHOWN if name in row)
            return dict(self._values)


def status_of(
    run: Run,
    latest: Mapping[str, Any],
    state: str,
    active: ActiveRun | None = None,
    reason: str = "",
    place: int | None = None,
) -> Status:
    """Return the status of a run from its latest metrics and, if it is active, from the trainer's reports."""
    if state in ("failed", "diverged") and not reason:
        reason = str(latest.get("reason", ""))
    row = active.row if active else {}
    about = read_about(run.folder)
    saved_step = _number(latest.get("saved_step")) if run.state_path.exists() else None
    live, worse = {**latest, **row}, worse_than_none(latest.get("compared"))
    return Status(
        run.folder.name,
        state,
        int(_number(live.get("step")) or 0),
        _steps(run, live),
        loss=_number(live.get("loss")),
        smoothed=_number(live.get("smoothed")),
        lr=_number(live.get("lr")),
        seconds_a_step=_number(live.get("seconds_a_step")),
        memory_mib=_number(live.get("memory_mib")),
        encoded=(row["encoded"], row["of"]) if "encoded" in row else None,
        reason=reason,
        notices=tuple(active.notices) if active else (worse,) if worse else (),
        published=latest["published"] if isinstance(latest.get("published"), str) else None,
        title=about.title or run.config.name,
        notes=about.notes,
        place=place,
        saved_step=None if saved_step is None else int(saved_step),
        early=live["early"] if state == "finished" and isinstance(live.get("early"), str) else "",
    )


def _steps(run: Run, row: Mapping[str, Any]) -> int:
    return int(_number(row.get("steps")) or 0) if run.config.epochs else run.config.steps


def describe_error(error: BaseException) -> str:
    """Return an error's message for the user; unexpected errors are also logged with their traceback."""
    if isinstance(error, (ValueError, OSError, RuntimeError, MemoryError)):
        log.info("failed", exc_info=error)
        return error_text(error) or type(error).__name__
    log.error("failed", exc_info=error)
    return f"unexpected {type(error).__name__}: {error} (the console has the details; please report it)"


def _number(value: object) -> float | None:
    """Return a finite number of the metrics, None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)
