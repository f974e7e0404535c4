"""Files are replaced, never overwritten in place: a reader sees the old file or the new one, whole."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the checkout
INSTALLED = not (ROOT / "scripts" / "blocktrain.py").is_file()  # from a wheel: ROOT is site-packages
DATA = Path(__file__).resolve().parent / "data" if INSTALLED else ROOT  # style.css, javascript/, demo/ (setup.py)
_DEVICE = re.compile(r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³]|conin\$|conout\$) *(\.|$)", re.IGNORECASE)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on leaving without an error it is flushed and becomes ``path``.

    An OSError on the way (a full disk, a folder made read-only) names ``path``, whose old contents stay.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with path_in_errors(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # mostly it is gone; and what is being raised says more than that it cannot be removed
            temporary.unlink()


@contextmanager
def path_in_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let an OSError that names no file (a full disk does not), or the temporary one, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic_write` left in a folder when its process was killed; nobody else may be writing there."""
    for leftover in folder.glob(".*.tmp"):
        with suppress(OSError):
            leftover.unlink()


def files_below(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a suffix in a folder and below, by name; links are followed, but none in a circle."""
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [path for name in names if (path := Path(root) / name).suffix == suffix and path.is_file()]
    return sorted(found, key=lambda path: path.as_posix().casefold())


def is_device_name(name: str) -> bool:
    """Whether Windows opens a device by this file name, in whatever folder: CON, nul.txt, COM1."""
    return _DEVICE.match(name) is not None


def error_text(error: BaseException) -> str:
    """An error as a sentence; the system's own say the file first, and not their number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


LONGEST_NAME = 120  # characters; file systems take 255 bytes, suffix and temporary name included
_REFUSED = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')


def checked_name(name: object) -> str:
    """The name of a file without its suffix; raises ValueError for one that could be a path or no file."""
    text = str(name or "").strip().removesuffix(".safetensors")
    refused = _REFUSED.search(text)
    if refused:
        raise ValueError(f"{text!r} cannot name a file: {refused[0]!r} is not allowed")
    if not text or text.startswith(".") or text.endswith((".", " ")) or is_device_name(text):
        raise ValueError(f"{text!r} cannot name a file: expected a name such as robot-outs")
    if len(text) > LONGEST_NAME or len(text.encode()) > 200:
        raise ValueError(f"a name of {len(text)} characters cannot name a file: expected up to {LONGEST_NAME}")
    return text
