"""What a run's metrics tell, as curves: from the rows of `metrics.jsonl` to points over the steps."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_blocktrain.training.records import Follower
from lib_blocktrain.training.runs import Run

Points = list[tuple[int, float]]  # step, value

_SAMPLE = re.compile(r"\d{6,}-\d{2,}\.png")  # as `Run.sample` names them; anything else is no file of a run
MOST_POINTS = 1000  # of a curve: more than can be told apart, and a long run holds no more memory than a short one
_CURVES = ("loss", "smoothed", "lr", "validation")
_BY_BLOCK = ("norms", "gradients", "shares")


@dataclass(frozen=True)
class Sample:
    """A picture that was drawn on the way; `file` is a name in the run's folder of samples."""

    step: int
    file: str
    prompt: str


@dataclass(frozen=True)
class History:
    """Curves by name, curves by block, samples, and what happened, in order."""

    curves: Mapping[str, Points]
    by_block: Mapping[str, dict[str, Points]]
    samples: tuple[Sample, ...] = ()
    events: tuple[tuple[int, str], ...] = field(default=())

    @property
    def shares(self) -> dict[str, float]:
        """The last share of the change, by block."""
        return {block: points[-1][1] for block, points in self.by_block["shares"].items() if points}

    def copy(self) -> History:
        """The same history, whose curves are its own."""
        curves = {name: list(points) for name, points in self.curves.items()}
        by_block = {name: {b: list(points) for b, points in blocks.items()} for name, blocks in self.by_block.items()}
        return History(curves, by_block, self.samples, self.events)


def read_history(rows: Iterable[Mapping[str, Any]]) -> History:
    """Return the curves of these rows, long ones thinned; what is no finite number is left out."""
    return _longer(History({name: [] for name in _CURVES}, {name: {} for name in _BY_BLOCK}), rows)


class Growing:
    """The history of a run as it grows; what is new in its metrics is read when it is asked for, and no more."""

    def __init__(self, run: Run):
        self._rows, self._history, self._lock = Follower(run.metrics_path), read_history(()), threading.Lock()

    def now(self) -> History:
        with self._lock:  # two pages may ask
            rows, of_another = self._rows.new()
            self._history = _longer(read_history(()) if of_another else self._history, rows)
            return self._history.copy()  # what is shown now must not grow while it is drawn


def _longer(history: History, rows: Iterable[Mapping[str, Any]]) -> History:
    """The history with these rows behind it; its curves grow where they are."""
    curves, by_block = history.curves, history.by_block
    samples, events = list(history.samples), list(history.events)
    for row in rows:
        step = row.get("step")
        if not isinstance(step, int):
            continue
        for name in _CURVES:
            if _is_number(row.get(name)):
                curves[name].append((step, float(row[name])))
        for name in _BY_BLOCK:
            blocks = row.get(name)
            for block, value in blocks.items() if isinstance(blocks, Mapping) else ():
                if _is_number(value):
                    by_block[name].setdefault(block, []).append((step, float(value)))
        if isinstance(row.get("sample"), str) and _SAMPLE.fullmatch(row["sample"]):
            samples.append(Sample(step, row["sample"], str(row.get("prompt", ""))))
        if (said := _event(row)) is not None:
            events.append((step, said))
    for points in (*curves.values(), *(points for blocks in by_block.values() for points in blocks.values())):
        if len(points) > MOST_POINTS:
            points[:] = thinned(points, MOST_POINTS // 2)
    return History(curves, by_block, tuple(samples), tuple(events))


def thinned(points: Points, most: int = 300) -> Points:
    """Return at most about `most` points: the mean of each stretch, at its last step."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in stretches]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _event(row: Mapping[str, Any]) -> str | None:
    """What a row says that a person should know, None for numbers."""
    if "published" in row:
        return f"saved as {row['published']} among the LoRAs"
    event = row.get("event")
    if event in ("diverged", "failed"):
        return f"{event}: {row.get('reason', '')}"
    if event == "weights refused":
        return f"the new weights were refused: {row.get('reason', '')}"
    if event == "weights":
        return "the block weights were changed"
    if "sample" in row and row["sample"] is None:
        return "a sample could not be drawn"
    return str(event) if isinstance(event, str) else None
