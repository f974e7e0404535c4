"""Thumbnails of a set's pictures, on the disk by the stamp of each file, and what they tell of duplicates.

Duplicates are found by a difference hash (9x8 grey values, 64 bits, each whether its right neighbour is brighter)
and by the mean colours of 4x4 parts: the hash alone takes the same drawing on another background for the same picture.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lib_blocktrain.files import atomic_write
from lib_blocktrain.training.picture_files import eight_bits, has_alpha, opened, rgb
from lib_blocktrain.workspace.recent import Recent

log = logging.getLogger(__name__)

SIDES = (256, 1024)  # pixels of the longer side; those of the first are kept on the disk
KEPT_ON_DISK = 8000  # of some 12 kB
_PRUNE_EVERY = 250  # files written
_QUALITY = 84
_YIELD = 0.2  # seconds for which those that a user waits for come first
_COMPARED = 1000  # pictures with all others at a time: the memory of 20,000 with 20,000 is 1.6 GB
SAME_BITS, SAME_COLOUR = 5, 20  # differences up to which two pictures are the same; the second of 255

Stamp = tuple[str, int, int]  # path, mtime in ns, size


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as JPEG; ``tag`` changes with the file that it was made from."""

    content: bytes
    tag: str


@dataclass(frozen=True)
class Look:
    """What tells whether two pictures are the same: `bits` of the hash as bytes, and `colours`, 4x4x3."""

    bits: bytes
    colours: bytes


UNREADABLE = Look(b"", b"")


class Thumbnails:
    """Thumbnails in a folder; ``folder`` is asked for each time, since a setting can change it."""

    def __init__(self, folder: Callable[[], Path]):
        self._folder = folder
        self._kept: Recent[str, Thumbnail] = Recent(400)
        self._looks: Recent[Stamp, Look] = Recent(50_000)
        self._lock = threading.Lock()
        self._waiting: list[Stamp] = []
        self._reader: threading.Thread | None = None
        self._closed, self._written = False, 0
        self._asked = 0.0  # when the last thumbnail was asked for

    def thumbnail(self, path: Path, side: int) -> Thumbnail:
        """The thumbnail of a picture; raises DatasetError for one that cannot be read, ValueError for another side."""
        self._asked = time.monotonic()
        return self._made(path, side)

    def _made(self, path: Path, side: int) -> Thumbnail:
        if side not in SIDES:
            raise ValueError(f"side {side}: expected {' or '.join(map(str, SIDES))}")
        stamp = stamp_of(path)
        tag = tag_of(stamp, side)
        found = self._kept.get(tag) or self._on_disk(tag, side)
        if found is None:
            found = Thumbnail(_small(path, side), tag)
            if side == SIDES[0]:
                self._write(found)
        self._kept[tag] = found
        if side == SIDES[0] and self._looks.get(stamp) is None:
            self._looks[stamp] = look_of(found.content)
        return found

    def look(self, stamp: Stamp) -> Look | None:
        """The look of a file with this stamp; None if it was not looked at yet, or cannot be read."""
        found = self._looks.get(stamp)
        return None if found is UNREADABLE else found

    def was_looked_at(self, stamp: Stamp) -> bool:
        """Whether a file with this stamp was looked at."""
        return self._looks.get(stamp) is not None

    def look_at(self, stamps: Iterable[Stamp]) -> None:
        """Make the thumbnails of files that were not looked at yet, in the background."""
        with self._lock:
            fresh = [stamp for stamp in stamps if self._looks.get(stamp) is None]
            self._waiting = list(dict.fromkeys([*fresh, *self._waiting]))
            if self._waiting and self._reader is None and not self._closed:
                self._reader = threading.Thread(target=self._read_all, name="blocktrain-thumbnails", daemon=True)
                self._reader.start()

    def close(self) -> None:
        """End the work in the background."""
        with self._lock:
            self._closed, reader = True, self._reader
        if reader is not None:
            reader.join()

    def _read_all(self) -> None:
        while True:
            with self._lock:
                if self._closed or not self._waiting:
                    self._reader = None
                    return
                stamp = self._waiting.pop(0)
            while time.monotonic() - self._asked < _YIELD and not self._closed:
                time.sleep(_YIELD / 4)
            try:
                self._made(Path(stamp[0]), SIDES[0])
            except (OSError, ValueError) as error:
                log.info("%s: no thumbnail: %s", stamp[0], error)
            if self._looks.get(stamp) is None:
                self._looks[stamp] = UNREADABLE

    def _on_disk(self, tag: str, side: int) -> Thumbnail | None:
        if side != SIDES[0]:
            return None
        try:
            return Thumbnail(self._path(tag).read_bytes(), tag)
        except OSError:
            return None

    def _write(self, thumbnail: Thumbnail) -> None:
        """Keep a thumbnail on the disk; one that cannot be kept is made again next time."""
        try:
            with atomic_write(self._path(thumbnail.tag)) as temporary:
                temporary.write_bytes(thumbnail.content)
        except OSError as error:
            log.warning("a thumbnail cannot be kept: %s", error)
            return
        with self._lock:
            self._written += 1
            due = self._written % _PRUNE_EVERY == 1
        if due:
            self._prune()

    def _path(self, tag: str) -> Path:
        return self._folder() / tag[:2] / f"{tag}.jpg"

    def _prune(self) -> None:
        found: list[tuple[float, Path]] = []
        for path in self._folder().glob("??/*.jpg"):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path))
        for _, path in sorted(found, reverse=True)[KEPT_ON_DISK:]:
            with suppress(OSError):
                path.unlink()


def stamp_of(path: Path) -> Stamp:
    """The present stamp of a file; raises OSError."""
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


def tag_of(stamp: Stamp, side: int = SIDES[0]) -> str:
    """A text that changes with the file."""
    text = "\0".join(map(str, (*stamp, side)))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def duplicates(looks: Mapping[str, Look]) -> dict[str, list[str]]:
    """Return, for each name that has any, the names of the pictures that look the same."""
    names = list(looks)
    if len(names) < 2:
        return {}
    bits = np.unpackbits(np.array([np.frombuffer(look.bits, np.uint8) for look in looks.values()]), axis=1)
    colours = np.array([np.frombuffer(look.colours, np.uint8) for look in looks.values()]).astype(np.int16)
    signs = bits.astype(np.float32) * 2 - 1
    found: dict[str, list[str]] = {}
    for begin in range(0, len(names), _COMPARED):
        different = (signs.shape[1] - signs[begin : begin + _COMPARED] @ signs[begin:].T) / 2  # bits
        for first, second in np.argwhere(np.triu(different <= SAME_BITS, 1)) + begin:
            if np.abs(colours[first] - colours[second]).max() <= SAME_COLOUR:
                found.setdefault(names[first], []).append(names[second])
                found.setdefault(names[second], []).append(names[first])
    return found


def look_of(content: bytes) -> Look:
    """The look of a thumbnail."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        picture = image.convert("RGB")
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits((grey[:, 1:] > grey[:, :-1]).ravel()).tobytes()
    return Look(bits, picture.resize((4, 4), Image.Resampling.BOX).tobytes())


def jpeg(image: Image.Image) -> bytes:
    """The bytes of a JPEG of an RGB image."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()


def _small(path: Path, side: int) -> bytes:
    with opened(path) as image:
        image.draft("RGB", (2 * side, 2 * side))
        image.load()
        plain = not (has_alpha(image) or image.mode.startswith("I"))
        small: Image.Image = image if plain else rgb(eight_bits(_turned(image)))
        small = small if small.mode in ("L", "RGB") else small.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        return jpeg((_turned(small) if plain else small).convert("RGB"))


def _turned(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) or image
