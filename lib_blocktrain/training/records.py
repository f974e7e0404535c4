"""A run's records: JSON objects, one a line, appended. Nobody reads all of them to learn what came last.

Rows stand in the order of their steps. A line that cannot be read, such as the last one of a killed process, is passed
over; one that has no end yet is read when it has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

PIECE = 1 << 16  # bytes read at once

Row = dict[str, Any]


def rows(path: Path) -> Iterator[Row]:
    """All rows, the oldest first."""
    if path.exists():
        with open(path, "rb") as file:
            yield from _parsed(file)


def latest(path: Path) -> Iterator[Row]:
    """All rows, the newest first; as much of the file is read as is asked for."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        place, begun = file.seek(0, 2), b""  # `begun`: the lines' end whose beginning stands before `place`
        while place > 0:
            size = min(PIECE, place)
            place = file.seek(place - size)
            begun, *lines = (file.read(size) + begun).split(b"\n")
            yield from _parsed(reversed(lines))
        yield from _parsed([begun])


def behind(path: Path, step: float, most: int) -> tuple[list[Row], bool]:
    """The first rows of later steps, `most` and the rest of the last one's step; and whether there are more."""
    found: list[Row] = []
    if not path.exists():
        return found, False
    with open(path, "rb") as file:
        file.seek(_place_behind(file, step))
        for row in _parsed(file):
            if step_of(row) <= step:
                continue
            if len(found) >= most and step_of(row) != step_of(found[-1]):
                return found, True
            found.append(row)
    return found, False


def step_of(row: Mapping[str, Any]) -> float:
    """The step of a row; 0 where it has none."""
    step = row.get("step", 0)
    return step if isinstance(step, (int, float)) else 0


class MetricsTail:
    """Reads a file of rows as it grows; one thread at a time may ask."""

    def __init__(self, path: Path):
        self._path = path
        self._file: tuple[int, int] | None = None  # which one it is: a run that goes on puts another in its place
        self._place = 0

    def new(self) -> tuple[list[Row], bool]:
        """The rows since the last call, and whether they are of another file, so that those before do not count."""
        try:
            with open(self._path, "rb") as file:
                return self._read(file)
        except FileNotFoundError:
            other, self._file, self._place = self._file is not None, None, 0
            return [], other

    def _read(self, file: IO[bytes]) -> tuple[list[Row], bool]:
        status = os.fstat(file.fileno())
        other = self._file != (status.st_dev, status.st_ino) or status.st_size < self._place
        if other:
            self._file, self._place = (status.st_dev, status.st_ino), 0
        file.seek(self._place)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        self._place += whole
        return list(_parsed(content[:whole].split(b"\n"))), other


def _parsed(lines: Iterable[bytes]) -> Iterator[Row]:
    for line in lines:
        try:
            row = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _place_behind(file: IO[bytes], step: float) -> int:
    """Where a line begins before which nothing is of a later step; at most a piece before the first that is."""
    low, high = 0, file.seek(0, 2)
    while high - low > PIECE:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()  # it began before
        place, found = file.tell(), None
        while found is None and place < high:
            found = next((row for row in _parsed([file.readline()]) if isinstance(row.get("step"), (int, float))), None)
            begins, place = place, file.tell()
        if found is None or step_of(found) > step:
            high = middle
        else:
            low = begins
    return low
