"""The files of a run that may be read from outside: what it wrote, listed; a name from outside is compared with these.

Its state is not among them (nobody's business but the run's own), and neither is `run.json` (it names folders of this
machine).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib_blocktrain.api.errors import ApiError, not_found
from lib_blocktrain.files import is_device_name

if TYPE_CHECKING:
    from lib_blocktrain.training.runs import Run

KINDS = {".png": "image/png", ".safetensors": "application/octet-stream", ".jsonl": "text/plain; charset=utf-8"}
PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class RunFile:
    """A file of a run by its name there, such as ``samples/000100-00.png``."""

    name: str
    path: Path
    size: int

    @property
    def kind(self) -> str:
        return KINDS[self.path.suffix]


def files_of(run: Run) -> dict[str, RunFile]:
    """What the run wrote: its result, checkpoints, samples and metrics; links are not followed."""
    wanted = [run.result, run.metrics_path, *_inside(run.folder / "checkpoints"), *_inside(run.folder / "samples")]
    folder, found = run.folder.resolve(), {}
    for path in wanted:
        name = path.relative_to(run.folder).as_posix()
        if path.suffix in KINDS and path.is_file() and path.resolve() == folder / name:
            with suppress(FileNotFoundError):  # a run removes old checkpoints
                found[name] = RunFile(name, path, path.stat().st_size)
    return found


def file_of(run: Run, name: str) -> RunFile:
    """The file of this name; raise Refused for a name that is none (400), and for one that the run did not write."""
    for part in name.split("/"):
        if part in ("", ".", "..") or is_device_name(part) or re.search(r'[\\:*?"<>|\x00-\x1f]', part):
            raise ApiError(400, "bad request", f"{name!r} names no file of a run: expected such as metrics.jsonl")
    found = files_of(run).get(name)
    if found is None:
        raise not_found(f"run {run.folder.name} wrote no file {name!r}")
    return found


def opened(file: RunFile) -> tuple[Iterator[bytes], int]:
    """The file's bytes, in pieces, and how many there are: as many as there were when it was opened, should it grow."""
    number = _open(file)
    size = os.fstat(number).st_size
    return _pieces(number, size), size


def _open(file: RunFile) -> int:
    """Open a file, and follow no link that came into its way since it was listed."""
    *folders, name = file.name.split("/")
    if os.open not in os.supports_dir_fd:
        return os.open(file.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    place = os.open(file.path.parents[len(folders)], os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = inner
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=place)
    finally:
        os.close(place)


def _pieces(number: int, size: int) -> Iterator[bytes]:
    with open(number, "rb") as stream:
        while size and (piece := stream.read(min(PIECE, size))):
            size -= len(piece)
            yield piece


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
