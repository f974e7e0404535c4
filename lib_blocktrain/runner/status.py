"""How a run stands, and what went wrong with it, in words."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lib_blocktrain.files import said
from lib_blocktrain.training.control import Control
from lib_blocktrain.training.records import Follower
from lib_blocktrain.training.runs import Run

log = logging.getLogger(__name__)

GOING_ON = ("preparing", "training", "pausing", "stopping")
_NUMBERS = ("loss", "smoothed", "lr", "seconds_a_step", "memory_mib")
_SHOWN = ("step", "reason", "published", *_NUMBERS)
AGAIN = ("paused", "stopped", "failed", "diverged", "broken off", "waiting")  # states from which a run can go on


@dataclass(frozen=True)
class Status:
    """How a run stands.

    `state` is "waiting", "preparing", "training", "pausing", "stopping", "paused", "stopped", "finished", "diverged",
    "failed", "broken off" (by the end of the program) or "running elsewhere" (in another process). `encoded` is
    (pictures, of); `reason` says why it failed or paused; `published` is the network file in the LoRA folder.
    """

    name: str
    state: str
    step: int
    steps: int
    loss: float | None = None
    smoothed: float | None = None
    lr: float | None = None
    seconds_a_step: float | None = None
    memory_mib: float | None = None
    encoded: tuple[int, int] | None = None
    reason: str = ""
    notices: tuple[str, ...] = ()
    published: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether it is being trained now."""
        return self.state in GOING_ON

    @property
    def seconds_left(self) -> float | None:
        """What is left at the speed so far."""
        return None if self.seconds_a_step is None else (self.steps - self.step) * self.seconds_a_step

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds_left": self.seconds_left}


class Current:
    """The run that is being trained: what it was told, and what it said last."""

    def __init__(self, run: Run):
        self.run, self.control = run, Control()
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
        if self.control.stopping:
            return "stopping" if self.pausing is None else "pausing"
        return "training" if "loss" in self.row else "preparing"


class Last:
    """What a run's metrics said last, by name; what is new in them is read when it is asked for, and no more."""

    def __init__(self, run: Run):
        self._rows, self._said, self._lock = Follower(run.metrics_path), {}, threading.Lock()

    def said(self) -> dict[str, Any]:
        with self._lock:
            rows, of_another = self._rows.new()
            if of_another:
                self._said.clear()
            for row in rows:
                self._said.update((name, row[name]) for name in _SHOWN if name in row)
            return dict(self._said)


def status_of(
    run: Run, last: Mapping[str, Any], state: str, current: Current | None = None, reason: str = ""
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


def explained(error: BaseException) -> str:
    """What went wrong, for the person who asked for it; what is no fault of theirs goes to the log whole."""
    if isinstance(error, (ValueError, OSError, RuntimeError, MemoryError)):
        log.info("failed", exc_info=error)
        return said(error) or type(error).__name__
    log.error("failed", exc_info=error)
    return f"unexpected {type(error).__name__}: {error} (the console has the details; please report it)"


def _number(value: object) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return float(value) if known else None
