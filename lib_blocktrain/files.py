"""Files: replaced, never overwritten in place; names from outside checked before they become paths."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the checkout
INSTALLED = not (ROOT / "scripts" / "blocktrain.py").is_file()  # from a wheel: ROOT is site-packages
DATA = Path(__file__).resolve().parent / "data" if INSTALLED else ROOT  # style.css, javascript/, demo/ (setup.py)
MAX_NAME_BYTES = 255  # of a file, on most file systems
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # Pillow has 40 more readers, EPS by Ghostscript among them
_TEMPORARY = re.compile(r"\..+\.\d+-\d+\.tmp", re.DOTALL)  # as `_temporary_name` makes it
_LEFT_ALONE = 24 * 3600.0  # seconds after its last change, since its writer may still live, here or on another machine
_tidied: set[str] = set()  # the folders that this process has looked into
# The escapes of ASCII and of Latin-1, marks that turn the direction of a line, and halves of pairs (no UTF-8 has them).
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³]|conin\$|conout\$) *(\.|$)", re.IGNORECASE)
TRIES, BETWEEN_TRIES = 10, 0.1  # seconds
LINE_END = re.compile("\r\n|[\r\n]")


def lines_of(text: str) -> list[str]:
    """Return the lines of a text as a file read by Python has them, as in sd-scripts: they end with LF, CRLF or CR.

    `str.splitlines` ends a line at U+2028, U+0085 or a vertical tab, too, which captions from other tools contain.
    """
    lines = LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on exit without an error the file is flushed and renamed to ``path``.

    So a reader sees the old file or the new one, whole. An OSError (a full disk, a read-only folder) names ``path``,
    and the old file stays. Temporary files that a killed process left in the folder a day ago are removed.
    """
    temporary = path.with_name(_temporary_name(path.name))
    try:
        with path_in_errors(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_old_leftovers(path.parent)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            _replace(temporary, path)
    finally:
        with suppress(OSError):  # it is mostly gone; and an error on its way says more than this one would
            temporary.unlink()


def _replace(temporary: Path, path: Path) -> None:
    """Rename a file over another. On Windows that fails while another program, such as a virus scanner, reads one."""
    for _ in range(TRIES if os.name == "nt" else 0):
        with suppress(PermissionError):
            os.replace(temporary, path)
            return
        time.sleep(BETWEEN_TRIES)
    os.replace(temporary, path)


def _temporary_name(name: str) -> str:
    """A name of this process and thread for the file's contents; shortened where the file system would refuse it."""
    ending = f".{os.getpid()}-{threading.get_ident()}.tmp"
    if len(os.fsencode(name)) + len(ending) + 1 > MAX_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}{ending}"


@contextmanager
def path_in_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Make an OSError that names no file (a full disk), or the temporary file, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove_old_leftovers(folder: Path) -> None:
    """Remove what `atomic_write` has left in a folder, once in a process; another process may be writing there now."""
    place = str(folder)
    if place in _tidied:
        return
    _tidied.add(place)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _LEFT_ALONE:
                os.unlink(entry.path)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a killed process from a folder; no other process may be writing there."""
    for leftover in folder.glob(".*.tmp"):
        with suppress(OSError):
            leftover.unlink()


def files_below(folder: Path, suffix: str) -> list[Path]:
    """Return the files with a suffix in a folder and its subfolders, by name; follows links, but no cycles."""
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
    """Whether Windows takes this file name for a device, in every folder: CON, nul.txt, COM1."""
    return _DEVICE.match(name) is not None


def error_text(error: BaseException) -> str:
    """An error as a sentence; an OSError's has the file first and no error number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def one_of(words: Sequence[str]) -> str:
    """The words as a choice: `a`, `a or b`, `a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


LONGEST_NAME = 120  # characters; file systems take 255 bytes, suffix and temporary name included
_REFUSED = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')


def checked_name(name: object) -> str:
    """Return the name of a file without its suffix; raise ValueError for one that is a path or cannot be a name."""
    text = str(name or "").strip().removesuffix(".safetensors")
    refused = _REFUSED.search(text)
    if refused:
        raise ValueError(f"{text!r} cannot name a file: {refused[0]!r} is not allowed")
    if not text or text.startswith(".") or text.endswith((".", " ")) or is_device_name(text):
        raise ValueError(f"{text!r} cannot name a file: expected a name such as robot-outs")
    if len(text) > LONGEST_NAME or len(text.encode()) > 200:
        raise ValueError(f"a name of {len(text)} characters cannot name a file: expected up to {LONGEST_NAME}")
    return text


def visible(text: str) -> str:
    """Return the text with its control characters as ``\\u001b``, for a terminal; line ends and tabs are kept."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
