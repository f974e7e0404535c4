"""How a run stands, and what went wrong with it, in words."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from typing import Any

from lib_blocktrain.files import error_text
from lib_blocktrain.training.control import TrainerControl
from lib_blocktrain.training.records import MetricsTail
from lib_blocktrain.training.runs import Run
from lib_blocktrain.training.status import Status

log = logging.getLogger(__name__)

_NUMBERS = ("loss", "smoothed", "lr", "seconds_a_step", "memory_mib")
_SHOWN = ("step", "reason", "published", *_NUMBERS)


class ActiveRun:
    """The run that is being trained: what it was told, and what it said last."""

    def __init__(self, run: Run):
        self.run, self.control = run, TrainerControl()
        self.row: dict[str, Any] = {}
        self.notices: list[str] = []
        self.pausing: str | None = None  # why

    def hear(self, row: Mapping[str, Any]) -> None:
        """Keep what the trainer says."""
        if "notice" in row:
            self.notices.append(row["notice"])
        else:
            self.row = {**self.row, **row}

    @property
    def state(self) -> str:
        """One of GOING_ON."""
        if self.control.stopping:
            return "stopping" if self.pausing is None else "pausing"
        return "training" if "loss" in self.row else "preparing"


class LatestMetrics:
    """What a run's metrics said last, by name; what is new in them is read when it is asked for, and no more."""

    def __init__(self, run: Run):
        self._rows, self._said, self._lock = MetricsTail(run.metrics_path), {}, threading.Lock()

    def said(self) -> dict[str, Any]:
        """What was said last of everything that is shown, by name."""
        with self._lock:
            rows, of_another = self._rows.new()
            if of_another:
                self._said.clear()
            for row in rows:
                self._said.update((name, row[name]) for name in _SHOWN if name in row)
            return dict(self._said)


def status_of(
    run: Run, last: Mapping[str, Any], state: str, current: ActiveRun | None = None, reason: str = ""
) -> Status:
    """Return how a run stands, by its metrics and by what it said last if it is being trained."""
    if state in ("failed", "diverged") and not reason:
        reason = str(last.get("reason", ""))
    row = current.row if current else {}
    live = {**last, **row}
    return Status(
        run.folder.name,
        state,
        int(_number(live.get("step")) or 0),
        run.config.steps,
        *(_number(live.get(name)) for name in _NUMBERS),
        encoded=(row["encoded"], row["of"]) if "encoded" in row else None,
        reason=reason,
        notices=tuple(current.notices) if current else (),
        published=last["published"] if isinstance(last.get("published"), str) else None,
    )


def describe_error(error: BaseException) -> str:
    """What went wrong, for the person who asked for it; what is no fault of theirs goes to the log whole."""
    if isinstance(error, (ValueError, OSError, RuntimeError, MemoryError)):
        log.info("failed", exc_info=error)
        return error_text(error) or type(error).__name__
    log.error("failed", exc_info=error)
    return f"unexpected {type(error).__name__}: {error} (the console has the details; please report it)"


def _number(value: object) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return float(value) if known else None
