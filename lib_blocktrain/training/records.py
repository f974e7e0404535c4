"""A run's metrics as JSON lines that are appended, read from either end or from a step on; TensorBoard beside them.

Rows are in the order of their steps. A line that is not valid, such as the last one of a killed process, is skipped; a
line without its end yet is read once it has one.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 16  # bytes

Row = dict[str, Any]


TIMED = frozenset({"event", "sample", "checkpoint", "published"})  # what a log shows with its time


def timed(row: Row) -> Row:
    """Return the row, with the time in seconds since 1970 if it says that something happened."""
    return {**row, "time": round(time.time())} if TIMED & row.keys() else row


def rows(path: Path) -> Iterator[Row]:
    """Yield all rows, the oldest first."""
    if path.exists():
        with open(path, "rb") as file:
            yield from _parsed(file)


def rows_newest_first(path: Path) -> Iterator[Row]:
    """Yield all rows, the newest first, reading the file from its end as far as needed."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        offset, rest = file.seek(0, 2), b""  # `rest`: a line that begins before `offset`
        while offset > 0:
            size = min(CHUNK, offset)
            offset = file.seek(offset - size)
            rest, *lines = (file.read(size) + rest).split(b"\n")
            yield from _parsed(reversed(lines))
        yield from _parsed([rest])


def rows_after(path: Path, step: float, limit: int) -> tuple[list[Row], bool]:
    """Return the first rows of later steps, `limit` and the rest of the last step, and whether there are more."""
    found: list[Row] = []
    if not path.exists():
        return found, False
    with open(path, "rb") as file:
        file.seek(_offset_after(file, step))
        for row in _parsed(file):
            if step_of(row) <= step:
                continue
            if len(found) >= limit and step_of(row) != step_of(found[-1]):
                return found, True
            found.append(row)
    return found, False


def step_of(row: Mapping[str, Any]) -> float:
    """Return the step of a row; 0 where it has none."""
    step = row.get("step", 0)
    return step if isinstance(step, (int, float)) else 0


class MetricsTail:
    """Reads the rows that a file has gained since the last time; for one thread at a time."""

    def __init__(self, path: Path):
        self._path = path
        self._file: tuple[int, int] | None = None  # device and inode: a resumed run replaces the file
        self._offset = 0

    def read_new(self) -> tuple[list[Row], bool]:
        """Return the rows since the last call, and whether the file was replaced, so that earlier rows are void."""
        try:
            with open(self._path, "rb") as file:
                return self._read(file)
        except FileNotFoundError:
            other, self._file, self._offset = self._file is not None, None, 0
            return [], other

    def _read(self, file: IO[bytes]) -> tuple[list[Row], bool]:
        status = os.fstat(file.fileno())
        other = self._file != (status.st_dev, status.st_ino) or status.st_size < self._offset
        if other:
            self._file, self._offset = (status.st_dev, status.st_ino), 0
        file.seek(self._offset)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        self._offset += whole
        return list(_parsed(content[:whole].split(b"\n"))), other


def _parsed(lines: Iterable[bytes]) -> Iterator[Row]:
    for line in lines:
        try:
            row = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _offset_after(file: IO[bytes], step: float) -> int:
    """Return the offset of a line at most a chunk before the first row of a later step, and not behind that."""
    low, high = 0, file.seek(0, 2)
    while high - low > CHUNK:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()  # it began before `middle`
        offset, found = file.tell(), None
        while found is None and offset < high:
            found = next((row for row in _parsed([file.readline()]) if isinstance(row.get("step"), (int, float))), None)
            begins, offset = offset, file.tell()
        if found is None or step_of(found) > step:
            high = middle
        else:
            low = begins
    return low


def event_writer(folder: Path) -> Callable[[Row], None]:
    """Return a function that writes the numbers of a row for TensorBoard; without that package it does nothing."""
    if importlib.util.find_spec("tensorboard") is None:
        return lambda row: None
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def write(row: Row) -> None:
        for name, value in numbers_of(row):
            writer.add_scalar(name, value, row["step"])

    return write


def numbers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a row of the metrics by name, those of blocks as `norms/OUT03`; not its step and time."""
    for name, value in row.items():
        entries = {f"{name}/{block}": one for block, one in value.items()} if isinstance(value, Mapping) else {}
        for path, number in entries.items() if isinstance(value, Mapping) else ((name, value),):
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if is_number and path not in ("step", "time"):
                yield path, number
