"""Drawn pictures as PNG, and those of the last comparisons on disk, below the host's output folder.

A file is found by its name alone: the comparison's id and the picture's number. Beside a picture that is to stay lies
an empty file ``NAME.pinned``.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lib_blocktrain.files import atomic_write
from lib_blocktrain.hosts.host import Host
from lib_blocktrain.workspace.drawing import Rendered
from lib_blocktrain.workspace.images import png_of, to_png

KEPT = 120  # pictures on disk, pinned ones apart
LARGE = 512  # pixels; in a grid larger pictures are shown at this size
THUMBNAIL = 176  # pixels, twice the size in the page
_NAME = re.compile(r"[0-9a-f]{16}-[0-9]{1,2}\.png", re.ASCII)


@dataclass(frozen=True)
class DrawnPicture:
    """A picture of a comparison: the number and name of its variant, and a PNG with its parameters."""

    number: int
    name: str
    title: str
    png: bytes
    alt: str
    seed: int
    reused: bool = False

    @classmethod
    def of(cls, rendered: Rendered) -> DrawnPicture:
        variant, request = rendered.variant, rendered.request
        png = to_png(rendered.image, request, rendered.model)
        alt = f"{variant.title}: {request.prompt}, seed {request.seed}"
        return cls(rendered.number, variant.name, variant.title, png, alt, request.seed, rendered.reused)

    def reduced(self) -> DrawnPicture:
        """The same of at most `LARGE` pixels."""
        with Image.open(io.BytesIO(self.png), formats=["PNG"]) as image:
            if max(image.size) <= LARGE:
                return self
            small = image.convert("RGB")
        small.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
        return replace(self, png=png_of(small))


class PictureFolder:
    """The pictures of the last comparisons; ``folder`` is asked for each time, since a setting can change it."""

    def __init__(self, folder: Callable[[], Path]):
        self._folder = folder
        self._lock = threading.Lock()

    @classmethod
    def of_host(cls, host: Host) -> PictureFolder:
        """The pictures below the host's output folder."""
        return cls(lambda: host.output_dir / "blocktrain" / "history")

    def save(self, comparison_id: str, picture: DrawnPicture) -> str:
        """Write a picture, remove the oldest beyond `KEPT`, and return the file's name; raises OSError."""
        path = self._path(f"{comparison_id}-{picture.number}.png")
        with self._lock:
            with atomic_write(path) as temporary:
                temporary.write_bytes(picture.png)
            self._clean()
        return path.name

    def read(self, name: str) -> bytes:
        """The PNG of this name. Raises ValueError for what is no such name, FileNotFoundError where it is gone."""
        path = self._path(name)
        if path.is_symlink() or not path.is_file():
            raise FileNotFoundError(f"the picture {name} is no longer there")
        return path.read_bytes()

    def thumbnail(self, name: str) -> bytes:
        """The picture as JPEG of at most `THUMBNAIL` pixels; raises as `read` does."""
        with Image.open(io.BytesIO(self.read(name)), formats=["PNG"]) as image:
            small = image.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        small.save(content, format="JPEG", quality=88)
        return content.getvalue()

    def pin(self, names: Iterable[str], pinned: bool) -> None:
        """Let pictures stay however many are drawn after them, or no longer; raises ValueError for other names."""
        with self._lock:
            for path in [self._path(name) for name in names]:
                mark = path.with_suffix(".pinned")
                if pinned and path.is_file():
                    mark.touch()
                elif not pinned:
                    mark.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"picture {name[:60]!r}: expected a name such as 0123456789abcdef-0.png")
        return self._folder() / name

    def _clean(self) -> None:
        found = [path for path in self._folder().glob("*.png") if _NAME.fullmatch(path.name)]
        ages = {path: path.stat().st_mtime_ns for path in found if not path.with_suffix(".pinned").exists()}
        for path in sorted(ages, key=lambda path: ages[path], reverse=True)[KEPT:]:
            with suppress(OSError):
                path.unlink()
