"""Pictures, captions and masks of a folder in sd-scripts' layout, so that one made for it works unchanged."""

from __future__ import annotations

import hashlib
import logging
import random
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lib_blocktrain.files import error_text
from lib_blocktrain.training.buckets import Fit, Size, fitting
from lib_blocktrain.training.config import DatasetConfig, FolderConfig

log = logging.getLogger(__name__)

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
MOST_PIXELS = 128_000_000  # of a picture; more than any camera's, and decoded in less than a GiB
LARGEST_FILE = 512 * 2**20  # bytes of a picture
LONGEST_CAPTION = 16_384  # characters, and four times as many bytes of its file
MOST_REPEATS = 10_000_000  # of all pictures together: an epoch's order is held in memory
_COUNTED = re.compile(r"(\d+)_(.+)")
_MASK_ENDINGS = (".mask", "-masklabel", "_mask")  # behind the picture's name: ours, OneTrainer's, a common one


# What Pillow raises for files that are no pictures, or damaged ones.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class DatasetError(ValueError):
    """A dataset that cannot be trained on; the message says which folder and why."""


@dataclass(frozen=True)
class DatasetImage:
    """One picture of the dataset. `mask` is a file of its own, or the picture itself where its alpha is the mask."""

    path: Path
    caption: str
    fit: Fit
    repeats: int = 1
    regularisation: bool = False
    mask: Path | None = None

    def open(self) -> Image.Image:
        """Return the picture in its bucket's size, RGB; what is transparent becomes white, unless that is the mask."""
        picture = _upright(self.path)
        return self.fit.cut(picture.convert("RGB") if self.mask == self.path else _rgb(_eight_bits(picture)))

    def open_mask(self) -> Image.Image | None:
        """Return the mask in the bucket's size, "L", 255 where the loss counts."""
        if self.mask is None:
            return None
        source = _upright(self.mask)
        grey = source.getchannel("A") if self.mask == self.path else _eight_bits(source).convert("L")
        if grey.size != self.fit.original:
            grey = grey.resize(self.fit.original, Image.Resampling.NEAREST)
        return self.fit.cut(grey)


@dataclass(frozen=True)
class Dataset:
    """What was found: pictures to train on, pictures held out, and what had to be left aside with the reason."""

    pictures: tuple[DatasetImage, ...]
    held_out: tuple[DatasetImage, ...] = ()
    broken: tuple[str, ...] = ()
    notices: tuple[str, ...] = field(default=())

    @property
    def buckets(self) -> Counter[Size]:
        """Number of pictures, repeats counted, by bucket."""
        counts: Counter[Size] = Counter()
        for picture in self.pictures:
            counts[picture.fit.bucket] += picture.repeats
        return counts

    @cached_property
    def canvas(self) -> float | None:
        """The mean share of a picture, 0 to 1, that the masks let through; None without masks."""
        shares = [canvas_share(picture) for picture in self.pictures if picture.mask is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def mark(self) -> str:
        """A text that changes when other pictures are trained on, or other captions."""
        seen = [(p.path.name, p.caption, p.repeats, p.fit.bucket) for p in self.pictures]
        return hashlib.sha256(repr(seen).encode("utf-8", "surrogatepass")).hexdigest()

    def tag_frequency(self, separator: str = ",") -> dict[str, dict[str, int]]:
        """Number of pictures by tag, by folder: `ss_tag_frequency`."""
        found: dict[str, Counter[str]] = {}
        for picture in self.pictures:
            tags = (tag.strip() for tag in picture.caption.split(separator))
            found.setdefault(picture.path.parent.name, Counter()).update(tag for tag in tags if tag)
        return {folder: dict(counts) for folder, counts in found.items()}

    def common_tags(self, separator: str = ",") -> list[str]:
        """Return the tags that every picture's caption has: what calls the subject up."""
        captions = [picture.caption.split(separator) for picture in self.pictures if not picture.regularisation]
        tags = [{tag.strip() for tag in caption if tag.strip()} for caption in captions]
        return [tag for tag in map(str.strip, captions[0]) if tag and all(tag in others for others in tags)]

    def describe(self, separator: str = ",") -> dict[str, object]:
        """Return the table of what was found, for JSON: shown before the start."""
        tags: Counter[str] = Counter()
        for counts in self.tag_frequency(separator).values():
            tags.update(counts)
        return {
            "pictures": sum(not p.regularisation for p in self.pictures),
            "with_repeats": sum(p.repeats for p in self.pictures if not p.regularisation),
            "regularisation": sum(p.regularisation for p in self.pictures),
            "held_out": len(self.held_out),
            "folders": sorted({str(picture.path.parent) for picture in self.pictures}),
            "buckets": {f"{w}x{h}": count for (w, h), count in sorted(self.buckets.items())},
            "without_caption": sum(not picture.caption for picture in self.pictures),
            "tags": dict(tags.most_common(50)),
            "masks": sum(picture.mask is not None for picture in self.pictures),
            "canvas_share": self.canvas,
            "broken": list(self.broken),
            "notices": list(self.notices),
        }


def find(config: DatasetConfig, native: int) -> Dataset:
    """Find the dataset's pictures; broken ones are named and skipped. Raises DatasetError if none is left."""
    notices: list[str] = []
    if config.toml is not None:
        from lib_blocktrain.training.kohya_toml import read_toml

        config, notices = read_toml(config)
    broken: list[str] = []
    size_to_fit = fitting(config, native)
    pictures = [p for folder in config.folders for p in _pictures(folder, config, size_to_fit, broken)]
    held_out = [p for folder in config.validation for p in _pictures(folder, config, size_to_fit, broken)]
    if not config.validation and config.validation_share:
        pictures, held_out = _split(pictures, config.validation_share)
    for line in broken:
        log.warning("left out: %s", line)
    trained = [picture for picture in pictures if not picture.regularisation]
    if sum(picture.repeats for picture in pictures) > MOST_REPEATS:
        most = max(pictures, key=lambda picture: picture.repeats)
        raise DatasetError(
            f"{most.path.parent}: each picture is repeated {most.repeats} times (the number at the beginning of the"
            f" folder's name counts): expected up to {MOST_REPEATS} pictures with repeats in all"
        )
    if not trained:
        where = ", ".join(folder.path for folder in config.folders)
        found = f"none of {len(broken)} can be read, e.g. {broken[0]}" if broken else "there is none"
        raise DatasetError(f"{where}: expected pictures ({', '.join(sorted(EXTENSIONS))}), but {found}")
    return Dataset(tuple(pictures), tuple(held_out), tuple(broken), tuple(notices))


def canvas_share(picture: DatasetImage) -> float:
    """Return the part of the picture, 0 to 1, that its mask lets through."""
    return float(np.asarray(picture.open_mask(), dtype=np.float32).mean() / 255)


def _pictures(
    folder: FolderConfig, config: DatasetConfig, size_to_fit: Callable[[Size], Fit], broken: list[str]
) -> Iterator[DatasetImage]:
    for place, repeats, concept in _places(folder):
        for path in sorted(place.iterdir()):
            if path.suffix.lower() not in EXTENSIONS or path.stem.endswith(_MASK_ENDINGS):
                continue
            try:
                with _opened(path) as image:
                    image.verify()
                picture = _upright(path)
                fit = _fit(path, picture.size, size_to_fit)
                caption = _caption(path, config)
                mask = _mask(path, folder, config.alpha_mask and picture.mode == "RGBA")
                if mask not in (None, path):
                    _upright(mask)
            except DatasetError as error:
                broken.append(str(error))
                continue
            caption = (folder.class_caption or concept or "") if caption is None else caption
            yield DatasetImage(path, caption, fit, repeats, folder.regularisation, mask)


def _fit(path: Path, size: Size, size_to_fit: Callable[[Size], Fit]) -> Fit:
    """Return how a picture comes to its bucket; raise DatasetError for one of a shape that no bucket has."""
    try:
        fit = size_to_fit(size)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    if fit.resized[0] * fit.resized[1] > MOST_PIXELS:
        raise DatasetError(f"{path}: {size[0]}x{size[1]} pixels, too long and narrow for the bucket {fit.bucket}")
    return fit


def _places(folder: FolderConfig) -> Iterator[tuple[Path, int, str | None]]:
    """Return the folders that hold pictures, with repeats and concept: its `N_concept` folders, or itself."""
    path = Path(folder.path)
    if not path.is_dir():
        raise DatasetError(f"{path}: no such folder")
    counted = [(child, found) for child in sorted(path.iterdir()) if child.is_dir() and (found := _counted(child))]
    for child, found in counted:
        yield child, int(found[1]) * folder.repeats, found[2]
    if not counted:
        found = _counted(path)  # the N_concept folder itself, given by its own path
        yield path, folder.repeats * (int(found[1]) if found else 1), found[2] if found else None


def _counted(path: Path) -> re.Match[str] | None:
    found = _COUNTED.fullmatch(path.name)
    return found if found and int(found[1]) > 0 else None


def _caption(path: Path, config: DatasetConfig) -> str | None:
    """Return the first line of the caption file beside the picture, None without one; may raise DatasetError."""
    for extension in config.caption_extensions:
        file = path.with_suffix(extension)
        if file.is_file():
            return _first_line(file)
    return None


def _first_line(file: Path) -> str:
    try:
        with open(file, "rb") as stream:
            content = stream.read(4 * LONGEST_CAPTION + 1)
        lines = content.decode("utf-8-sig").strip().splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not UTF-8 at byte {error.start}: save the caption as UTF-8") from error
    except OSError as error:
        raise DatasetError(error_text(error)) from error
    if len(content) > 4 * LONGEST_CAPTION or (lines and len(lines[0]) > LONGEST_CAPTION):
        raise DatasetError(f"{file}: a caption of more than {LONGEST_CAPTION} characters: expected a line of text")
    return lines[0].strip() if lines else ""


def _mask(path: Path, folder: FolderConfig, alpha: bool) -> Path | None:
    places = [path.with_name(f"{path.stem}{ending}.png") for ending in _MASK_ENDINGS]
    if folder.mask_folder is not None:
        places += [Path(folder.mask_folder) / f"{path.stem}{extension}" for extension in sorted(EXTENSIONS)]
    return next((place for place in places if place.is_file()), path if alpha else None)


def _split(pictures: list[DatasetImage], share: float) -> tuple[list[DatasetImage], list[DatasetImage]]:
    """Hold out a share of the pictures, the same ones every time; at least one, and never the last one."""
    candidates = [picture for picture in pictures if not picture.regularisation]
    count = min(len(candidates) - 1, max(1, round(share * len(candidates))))
    held_out = set(map(id, random.Random("held out").sample(candidates, max(0, count))))
    return [p for p in pictures if id(p) not in held_out], [p for p in candidates if id(p) in held_out]


def _upright(path: Path) -> Image.Image:
    """Return a picture turned as its camera held it, the first of an animation; may raise DatasetError."""
    with _opened(path) as image:
        image.load()
        return ImageOps.exif_transpose(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture; whatever goes wrong with it while the context is open becomes a DatasetError that names it."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DatasetError(f"{path}: larger than {LARGEST_FILE // 2**20} MiB: expected a picture")
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DatasetError(f"{path}: {image.width}x{image.height} pixels: expected up to {MOST_PIXELS}")
            yield image
    except DatasetError:
        raise
    except _UNREADABLE as error:
        said_so = error_text(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise DatasetError(said_so if str(path) in said_so else f"{path}: {said_so}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey picture of 16 bits with 8: Pillow would cut off what is above 255."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
