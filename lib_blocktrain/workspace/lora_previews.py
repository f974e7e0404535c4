"""The pictures beside LoRA files, small and square: made when they are asked for, the latest kept in memory."""

from __future__ import annotations

import hashlib
import io
import logging

from PIL import Image, ImageOps, UnidentifiedImageError

from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.picture_thumbnails import Thumbnail
from lib_blocktrain.workspace.recent import Recent

log = logging.getLogger(__name__)

SIDE = 72  # pixels: twice what the page shows, for fine screens
KEPT = 1000  # pictures of some 3 kB each
MAX_BYTES, MAX_PIXELS = 64_000_000, 100_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
_UPPER = 0.3  # of what is cut off an upright picture, the part above: faces are there
_BEHIND = (128, 128, 128)  # what is transparent


class LoraPreviews:
    """Thumbnails of the pictures beside the files of an index, and of nothing else."""

    def __init__(self, index: LoraIndex) -> None:
        self._index = index
        self._kept: Recent[str, Thumbnail] = Recent(KEPT)

    def thumbnail(self, key: str) -> Thumbnail | None:
        """The thumbnail of a LoRA, None without a picture that can be read; raises ValueError for an unknown key."""
        path = self._index.preview(key)
        try:
            if path is None or (status := path.stat()).st_size > MAX_BYTES:
                return None
            stamp = f"{path}\0{status.st_mtime_ns}\0{status.st_size}"
            tag = hashlib.blake2b(stamp.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
            kept = self._kept.get(tag)
            if kept is None:
                with open(path, "rb") as file:
                    kept = Thumbnail(_small(file), tag)
                self._kept[tag] = kept
            return kept
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            log.info("%s: no thumbnail: %s", path, error)
            return None


def _small(file: io.BufferedReader) -> bytes:
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height}: expected up to {MAX_PIXELS} pixels")
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        image.thumbnail((4 * SIDE, 4 * SIDE), reducing_gap=2.0)
        upright = ImageOps.exif_transpose(image) or image
        seen = upright.convert("RGBA")
        ground = Image.new("RGBA", seen.size, (*_BEHIND, 255))
        small = ImageOps.fit(Image.alpha_composite(ground, seen).convert("RGB"), (SIDE, SIDE), centering=(0.5, _UPPER))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return data.getvalue()
