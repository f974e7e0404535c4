"""A run's history for the page: curves over the steps, samples and events, read from the rows of `metrics.jsonl`."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib_blocktrain.blocks import BLOCK_IDS, spans
from lib_blocktrain.training.records import MetricsTail

Points = list[tuple[int, float]]  # step, value

MAX_POINTS = 1000  # per curve: more cannot be seen, and the memory that a long run takes is bounded
MAX_EVENTS = 300  # the newest
_SAMPLE = re.compile(r"\d{6,}-\d{2,}\.png")  # the names that `Run.sample` gives
_CURVES = ("loss", "smoothed", "lr", "validation")
_BY_BLOCK = ("norms", "gradients")


@dataclass(frozen=True)
class Sample:
    """A picture drawn during the run; `file` is its name in the run's folder of samples."""

    step: int
    file: str
    prompt: str


@dataclass(frozen=True)
class Event:
    """What happened at a step; `time` in seconds since 1970, None for a run of an earlier version."""

    step: int
    text: str
    time: int | None = None


@dataclass(frozen=True)
class History:
    """Curves by name, curves by name and block, samples and events, oldest first; how many pictures the dataset has."""

    curves: Mapping[str, Points]
    by_block: Mapping[str, dict[str, Points]]
    samples: tuple[Sample, ...] = ()
    events: tuple[Event, ...] = ()
    pictures: int = 0
    frozen: Mapping[str, int] = field(default_factory=dict)  # the step from which a block was trained no more

    def copy(self) -> History:
        """A copy that later rows, which extend this history in place, do not change."""
        curves = {name: list(points) for name, points in self.curves.items()}
        by_block = {name: {b: list(points) for b, points in blocks.items()} for name, blocks in self.by_block.items()}
        return replace(self, curves=curves, by_block=by_block)


def read_history(rows: Iterable[Mapping[str, Any]]) -> History:
    """The history of these rows. Long curves are thinned; values that are not finite numbers are left out."""
    return _extended(History({name: [] for name in _CURVES}, {name: {} for name in _BY_BLOCK}), rows)


class HistoryReader:
    """The history of a run that may still grow: each `read` reads only the rows that were added since the last one."""

    def __init__(self, metrics_path: Path):
        self._rows, self._history, self._lock = MetricsTail(metrics_path), read_history(()), threading.Lock()

    def read(self) -> History:
        """The history up to now. May be called from any thread."""
        with self._lock:
            rows, replaced = self._rows.read_new()
            self._history = _extended(read_history(()) if replaced else self._history, rows)
            return self._history.copy()


def _extended(history: History, rows: Iterable[Mapping[str, Any]]) -> History:
    """The history with these rows added; its curves are extended in place."""
    curves, by_block = history.curves, history.by_block
    samples, events, pictures = list(history.samples), list(history.events), history.pictures
    frozen = dict(history.frozen)
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
        if (text := _event(row)) is not None:
            at = row["time"] if isinstance(row.get("time"), int) else None
            events += [Event(step, each, at) for each in (text, *_notices(row))]
        pictures = _pictures(row) or pictures
        frozen.update(dict.fromkeys(_frozen(row), step))
    for points in (*curves.values(), *(points for blocks in by_block.values() for points in blocks.values())):
        if len(points) > MAX_POINTS:
            points[:] = thinned(points, MAX_POINTS // 2)
    return History(curves, by_block, tuple(samples), tuple(events[-MAX_EVENTS:]), pictures, frozen)


def thinned(points: Points, limit: int = 300) -> Points:
    """At most about `limit` points: each is the mean of several, at the last step among them."""
    size = math.ceil(len(points) / limit)
    if size <= 1:
        return points
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in stretches]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _notices(row: Mapping[str, Any]) -> list[str]:
    """What was to be said of the dataset when the run began."""
    dataset = row.get("dataset")
    notices = dataset.get("notices") if isinstance(dataset, Mapping) else None
    return [notice for notice in notices if isinstance(notice, str)] if isinstance(notices, list) else []


def _pictures(row: Mapping[str, Any]) -> int:
    dataset = row.get("dataset")
    count = dataset.get("pictures") if isinstance(dataset, Mapping) else None
    return count if isinstance(count, int) else 0


def _event(row: Mapping[str, Any]) -> str | None:
    """The row's event in words; None if it only has numbers, or is one of several samples of a step."""
    event, reason = row.get("event"), row.get("reason", "")
    if "published" in row:
        return f"Saved as {row['published']} among the LoRAs"
    if isinstance(row.get("checkpoint"), str):
        return f"Checkpoint saved: {row['checkpoint'].removesuffix('.safetensors')}"
    if "sample" in row:
        drawn = isinstance(row["sample"], str)
        number = row["sample"].rpartition("-")[2] if drawn else ""
        return None if number not in ("", "00.png") else "Sample drawn" if drawn else "A sample could not be drawn"
    if event in ("started", "resumed"):
        return f"{event.capitalize()}{_modules(row)}"
    if event == "frozen" and _frozen(row):
        blocks = _frozen(row)
        known = [block for block in BLOCK_IDS if block in blocks]
        why = ", since validation got no better by it" if reason else ""
        return f"Frozen{why}: {spans([*known, *(block for block in blocks if block not in known)])}"
    if event == "finished" and isinstance(row.get("early"), str):
        return f"Finished early: {row['early']}"
    if event == "stopped":
        return "Stopped" if row.get("saved", True) else "Stopped without saving"
    if event in ("diverged", "failed"):
        return f"Failed: {reason}"
    if event == "weights refused":
        return f"The new weights were refused: {reason}"
    if event == "weights":
        return f"The block weights were changed{_weights(row)}"
    return event.capitalize() if isinstance(event, str) else None


def _modules(row: Mapping[str, Any]) -> str:
    modules = row.get("modules")
    if not isinstance(modules, Mapping) or not all(isinstance(count, int) for count in modules.values()):
        return ""
    return f": {len(modules)} blocks, {sum(modules.values())} modules"


def _frozen(row: Mapping[str, Any]) -> list[str]:
    blocks = row.get("blocks") if row.get("event") == "frozen" else None
    return [block for block in blocks if isinstance(block, str)] if isinstance(blocks, list) else []


def _weights(row: Mapping[str, Any]) -> str:
    weights = row.get("weights")
    values = weights.get("weights") if isinstance(weights, Mapping) else None
    by_value: dict[float, list[str]] = {}
    for block, value in values.items() if isinstance(values, Mapping) else ():
        if block in BLOCK_IDS and _is_number(value) and value:
            by_value.setdefault(value, []).append(block)
    return ": " + "; ".join(f"{spans(ids)} = {value:g}" for value, ids in by_value.items()) if by_value else ""
