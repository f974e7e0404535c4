"""Changes of the small files beside pictures (captions, masks, the focus of crops), each with what it replaced.

The record of a change is written before the files: whatever moment the process is killed at, it can be taken back.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_blocktrain.files import atomic_write
from lib_blocktrain.workspace.caption_files import stamp_of

log = logging.getLogger(__name__)

KEPT = 48  # changes of a set
FORMAT = 1
MAX_SIDE_FILE = 64 * 2**20  # bytes of a mask or another file that is kept


class ChangedMeanwhile(ValueError):
    """Files are not as they were when they were read; the message names them, and nothing was written."""


@dataclass(frozen=True)
class FileEdit:
    """New contents for a file; None is no file. `picture` is the key of the picture that it belongs to."""

    picture: str
    path: Path
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class Edit:
    """A caption before and after, as text; both None for a mask or a focus."""

    picture: str
    before: str | None
    after: str | None
    stamp: str
    new_stamp: str


@dataclass(frozen=True)
class Change:
    """What a change does, or has done. `id` is "" for a preview; `problems` are captions that it left out, and why."""

    id: str
    title: str
    edits: tuple[Edit, ...]
    unchanged: int = 0
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": self.title,
            "edits": [vars(edit) for edit in self.edits],
            "unchanged": self.unchanged,
            "problems": list(self.problems),
        }


class ChangeLog:
    """The last changes of one set, in a folder of its own; `resolve` finds the folder of a label, None if it is gone.

    A file is recorded by the label of its folder and its name, so that it is found after the repeats were changed.
    """

    def __init__(self, folder: Path, resolve: Callable[[str], Path | None]):
        self._folder, self._resolve = folder, resolve

    def do(self, title: str, edits: Sequence[FileEdit]) -> str:
        """Write the files, and return the change's id, "" if nothing is to be written.

        Raises ChangedMeanwhile where a file is not as the edit found it, and OSError; then nothing has changed.
        """
        _check_present({edit.path: [edit.before] for edit in edits})
        edits = [edit for edit in edits if edit.before != edit.after]
        if not edits:
            return ""
        change_id, files = secrets.token_hex(8), [_row(edit) for edit in edits]
        record = {"format": FORMAT, "id": change_id, "title": title, "time": time.time(), "files": files}
        path = self._folder / f"{self._next_number():08d}.json"
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record), "utf-8")
        try:
            _write_all(edits)
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise
        for old in self._paths()[:-KEPT]:
            with suppress(OSError):
                old.unlink()
        return change_id

    def entries(self) -> list[dict[str, Any]]:
        """The changes that can be taken back, the newest first."""
        return [
            {key: record[key] for key in ("id", "title", "time")} | {"pictures": len(_pictures(record))}
            for path in reversed(self._paths())
            if (record := _read(path)) is not None
        ]

    def undo(self) -> tuple[str, list[FileEdit]]:
        """Take back the newest change, and return its title and what was written.

        Raises ValueError if there is none, ChangedMeanwhile for files that others have changed since.
        """
        for path in reversed(self._paths()):
            record = _read(path)
            if record is None:
                path.unlink()  # damaged: nothing can be taken back by it
                continue
            edits, states = self._back(record)
            _check_present(states)
            _write_all([edit for edit in edits if edit.before != edit.after])
            path.unlink()
            return str(record["title"]), edits
        raise ValueError("there is no change to take back")

    def _back(self, record: Mapping[str, Any]) -> tuple[list[FileEdit], dict[Path, list[bytes | None]]]:
        """The edits that take a change back, and the contents that each file may have now."""
        edits, states, others = [], dict[Path, list[bytes | None]](), []
        for row in record["files"]:
            folder = self._resolve(row["picture"].rpartition("/")[0])
            if folder is None:
                raise ChangedMeanwhile(f"{row['picture']}: its folder is not in the set any more")
            path, before = folder / row["file"], _decoded(row["before"])
            present = _present(path)
            if stamp_of(present) not in (row["after"], stamp_of(before)):  # the latter: killed before it was written
                others.append(row["file"])
            edits.append(FileEdit(row["picture"], path, present, before))
            states[path] = [present]
        if others:
            raise _changed(others)
        return edits, states

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]*.json")) if self._folder.is_dir() else []

    def _next_number(self) -> int:
        paths = self._paths()
        return int(paths[-1].stem) + 1 if paths else 1


def log_folder(root: Path, key: str, path: Path) -> Path:
    """The folder of a set's changes."""
    name = f"{key}\0{path}".encode("utf-8", "surrogatepass")
    return root / hashlib.blake2b(name, digest_size=8).hexdigest()


def _row(edit: FileEdit) -> dict[str, Any]:
    before = None if edit.before is None else base64.b64encode(edit.before).decode("ascii")
    return {"picture": edit.picture, "file": edit.path.name, "before": before, "after": stamp_of(edit.after)}


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _read(path: Path) -> dict[str, Any] | None:
    """A record, None, with a line in the log, for one that cannot be used."""
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != FORMAT or not all(_is_row(row) for row in record["files"]):
            raise ValueError("another format")
        return {**record, "id": str(record["id"]), "title": str(record["title"]), "time": float(record["time"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("%s cannot be used: %s", path, error)
        return None


def _is_row(row: Mapping[str, Any]) -> bool:
    _decoded(row["before"])
    texts = [row["picture"], row["file"], row["after"]]
    return all(isinstance(text, str) for text in texts) and Path(row["file"]).name == row["file"] not in ("", "..")


def _pictures(record: Mapping[str, Any]) -> set[str]:
    return {row["picture"] for row in record["files"]}


def _present(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > MAX_SIDE_FILE:
            raise ValueError(f"{path}: larger than {MAX_SIDE_FILE // 2**20} MiB: expected a caption or a mask")
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _check_present(states: Mapping[Path, Sequence[bytes | None]]) -> None:
    others = [path.name for path, expected in states.items() if _present(path) not in expected]
    if others:
        raise _changed(others)


def _changed(names: Sequence[str]) -> ChangedMeanwhile:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    verb = "was" if len(names) == 1 else "were"
    return ChangedMeanwhile(f"{', '.join(names[:10])}{more} {verb} changed by another program meanwhile: read again")


def _write_all(edits: Sequence[FileEdit]) -> None:
    """Write the files; after an OSError those that were written are as before."""
    written: list[FileEdit] = []
    try:
        for edit in edits:
            written.append(edit)
            _write(edit.path, edit.after)
    except OSError:
        for edit in reversed(written):
            with suppress(OSError):
                _write(edit.path, edit.before)
        raise


def _write(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
