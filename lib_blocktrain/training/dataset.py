"""Images, captions and masks of a folder in sd-scripts' layout."""

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
from PIL import Image, ImageOps, UnidentifiedImageError

from lib_blocktrain.files import PICTURE_FORMATS, error_text, one_of
from lib_blocktrain.training.buckets import Fit, Size, fitting
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig, ImageOptions

log = logging.getLogger(__name__)

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
MAX_PIXELS = 128_000_000  # of an image: decoded it takes less than a GiB
MAX_FILE_BYTES = 512 * 2**20  # of an image
MAX_CAPTION = 16_384  # characters, and four times as many bytes of its file
MAX_REPEATS = 10_000_000  # of all images together: the order of an epoch is in memory
_REPEATED = re.compile(r"(\d+)_(.+)")
_MASK_ENDINGS = (".mask", "-masklabel", "_mask")  # after the image's name: ours, OneTrainer's, a common one

# What Pillow raises for damaged images and for other files.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class DatasetError(ValueError):
    """A dataset that cannot be trained on; the message says which folder and why."""


@dataclass(frozen=True)
class DatasetImage:
    """One image of the dataset. `mask` is a file of its own, or the image itself where its alpha is the mask."""

    path: Path
    caption: str
    fit: Fit
    repeats: int = 1
    regularisation: bool = False
    mask: Path | None = None
    options: ImageOptions = field(default_factory=ImageOptions)

    @property
    def tags(self) -> list[str]:
        """The caption's parts between separators, without those that are empty."""
        return [tag for part in self.caption.split(self.options.separator) if (tag := part.strip())]

    def open(self) -> Image.Image:
        """Return the image in its bucket's size, RGB; transparent pixels become white, unless alpha is the mask."""
        image = _upright(self.path)
        return self.fit.crop(image.convert("RGB") if self.mask == self.path else _rgb(_eight_bits(image)))

    def open_mask(self) -> Image.Image | None:
        """Return the mask in the bucket's size, "L", 255 where the loss counts."""
        if self.mask is None:
            return None
        source = _upright(self.mask)
        grey = source.getchannel("A") if self.mask == self.path else _eight_bits(source).convert("L")
        if grey.size != self.fit.original:
            grey = grey.resize(self.fit.original, Image.Resampling.NEAREST)
        return self.fit.crop(grey)


@dataclass(frozen=True)
class Dataset:
    """Images to train on, images held out for validation, and what was left out (`broken`) with the reason."""

    images: tuple[DatasetImage, ...]
    held_out: tuple[DatasetImage, ...] = ()
    broken: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def buckets(self) -> Counter[Size]:
        """Number of images, repeats counted, by bucket."""
        counts: Counter[Size] = Counter()
        for image in self.images:
            counts[image.fit.bucket] += image.repeats
        return counts

    @cached_property
    def area_share(self) -> float | None:
        """The mean share of an image, 0 to 1, that its mask lets through; None without masks."""
        shares = [mask_share(image) for image in self.images if image.mask is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def fingerprint(self) -> str:
        """A text that is another one for other images or captions."""
        seen = [(p.path.name, p.caption, p.repeats, p.fit.bucket) for p in self.images]
        return hashlib.sha256(repr(seen).encode("utf-8", "surrogatepass")).hexdigest()

    def tag_frequency(self) -> dict[str, dict[str, int]]:
        """Number of images by tag, by folder: `ss_tag_frequency`."""
        found: dict[str, Counter[str]] = {}
        for image in self.images:
            found.setdefault(image.path.parent.name, Counter()).update(image.tags)
        return {folder: dict(counts) for folder, counts in found.items()}

    def common_tags(self) -> list[str]:
        """Return the tags that all captions have, which a prompt for the subject needs."""
        captions = [image.tags for image in self.images if not image.regularisation]
        return [tag for tag in captions[0] if all(tag in others for others in map(set, captions))]

    def describe(self) -> dict[str, object]:
        """Return a summary as plain values for JSON."""
        tags: Counter[str] = Counter()
        for counts in self.tag_frequency().values():
            tags.update(counts)
        return {
            "pictures": sum(not p.regularisation for p in self.images),
            "with_repeats": sum(p.repeats for p in self.images if not p.regularisation),
            "regularisation": sum(p.regularisation for p in self.images),
            "held_out": len(self.held_out),
            "folders": sorted({str(image.path.parent) for image in self.images}),
            "buckets": {f"{w}x{h}": count for (w, h), count in sorted(self.buckets.items())},
            "without_caption": sum(not image.caption for image in self.images),
            "tags": dict(tags.most_common(50)),
            "masks": sum(image.mask is not None for image in self.images),
            "canvas_share": self.area_share,
            "broken": list(self.broken),
            "notices": list(self.notices),
        }


def find(config: DatasetConfig, native_size: int) -> Dataset:
    """Find the dataset's images; `native_size` is the model's, in pixels. Raises DatasetError if none can be read.

    Images that cannot be read are left out, with a line in `broken`.
    """
    if config.toml is not None:
        raise DatasetError(f"{config.toml}: this file is read where a run is loaded, and was not: expected its folders")
    broken: list[str] = []
    fit_for = fitting(config, native_size)
    images = [p for folder in config.folders for p in _images(folder, config, fit_for, broken)]
    held_out = [p for folder in config.validation for p in _images(folder, config, fit_for, broken)]
    if not config.validation and config.validation_share:
        images, held_out = _split(images, config.validation_share)
    for line in broken:
        log.warning("left out: %s", line)
    trained = [image for image in images if not image.regularisation]
    if sum(image.repeats for image in images) > MAX_REPEATS:
        most = max(images, key=lambda image: image.repeats)
        raise DatasetError(
            f"{most.path.parent}: each picture is repeated {most.repeats} times (the number at the beginning of the"
            f" folder's name counts, except in a toml): expected up to {MAX_REPEATS} pictures with repeats in all"
        )
    if not trained:
        where = ", ".join(folder.path for folder in config.folders)
        found = f"none of {len(broken)} can be read, e.g. {broken[0]}" if broken else "there is none"
        raise DatasetError(f"{where}: expected pictures ({', '.join(sorted(EXTENSIONS))}), but {found}")
    return Dataset(tuple(images), tuple(held_out), tuple(broken), config.notices)


def mask_share(image: DatasetImage) -> float:
    """Return the share of the image, 0 to 1, that its mask lets through."""
    return float(np.asarray(image.open_mask(), dtype=np.float32).mean() / 255)


def _images(
    folder: FolderConfig, config: DatasetConfig, fit_for: Callable[[Size], Fit], broken: list[str]
) -> Iterator[DatasetImage]:
    options = config.options_of(folder)
    for folder_path, repeats, concept in _image_folders(folder):
        for path in sorted(folder_path.iterdir()):
            if path.suffix.lower() not in EXTENSIONS or path.stem.endswith(_MASK_ENDINGS):
                continue
            try:
                with _opened(path) as image:
                    image.verify()
                image = _upright(path)
                fit = _fit(path, image.size, fit_for)
                caption = _caption(path, options)
                mask = _mask(path, folder, options.alpha_mask and image.mode == "RGBA")
                if mask is not None and mask != path:
                    _upright(mask)
            except DatasetError as error:
                broken.append(str(error))
                continue
            caption = (folder.class_caption or concept or "") if caption is None else caption
            yield DatasetImage(path, caption, fit, repeats, folder.regularisation, mask, options)


def _fit(path: Path, size: Size, fit_for: Callable[[Size], Fit]) -> Fit:
    """Return how an image is brought to its bucket; raise DatasetError where no bucket can have its shape."""
    try:
        fit = fit_for(size)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    if fit.resized[0] * fit.resized[1] > MAX_PIXELS:
        raise DatasetError(f"{path}: {size[0]}x{size[1]} pixels, too long and narrow for the bucket {fit.bucket}")
    return fit


def _image_folders(folder: FolderConfig) -> Iterator[tuple[Path, int, str | None]]:
    """Yield the folders with images, their repeats and concept: the `N_concept` folders in it, or itself.

    See FolderConfig for `numbered`.
    """
    path = Path(folder.path)
    if not path.is_dir():
        raise DatasetError(f"{path}: no such folder")
    if not folder.numbered:
        yield path, folder.repeats, None
        return
    counted = [(child, found) for child in sorted(path.iterdir()) if child.is_dir() and (found := _repeated(child))]
    for child, found in counted:
        yield child, int(found[1]) * folder.repeats, found[2]
    if not counted:
        found = _repeated(path)  # it may be an N_concept folder itself
        yield path, folder.repeats * (int(found[1]) if found else 1), found[2] if found else None


def _repeated(path: Path) -> re.Match[str] | None:
    found = _REPEATED.fullmatch(path.name)
    return found if found and int(found[1]) > 0 else None


def _caption(path: Path, options: ImageOptions) -> str | None:
    """Return the first line of the caption file beside the image, None without one; may raise DatasetError."""
    for extension in options.caption_extensions:
        file = path.with_suffix(extension)
        if file.is_file():
            return _first_line(file)
    return None


def _first_line(file: Path) -> str:
    try:
        with open(file, "rb") as stream:
            content = stream.read(4 * MAX_CAPTION + 1)
        lines = content.decode("utf-8-sig").strip().splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not UTF-8 at byte {error.start}: save the caption as UTF-8") from error
    except OSError as error:
        raise DatasetError(error_text(error)) from error
    if len(content) > 4 * MAX_CAPTION or (lines and len(lines[0]) > MAX_CAPTION):
        raise DatasetError(f"{file}: a caption of more than {MAX_CAPTION} characters: expected a line of text")
    return lines[0].strip() if lines else ""


def _mask(path: Path, folder: FolderConfig, alpha: bool) -> Path | None:
    candidates = [path.with_name(f"{path.stem}{ending}.png") for ending in _MASK_ENDINGS]
    if folder.mask_folder is not None:
        candidates += [Path(folder.mask_folder) / f"{path.stem}{extension}" for extension in sorted(EXTENSIONS)]
    return next((mask for mask in candidates if mask.is_file()), path if alpha else None)


def _split(images: list[DatasetImage], share: float) -> tuple[list[DatasetImage], list[DatasetImage]]:
    """Return the images without a held-out share, and that share: always the same, at least one, never all."""
    candidates = [image for image in images if not image.regularisation]
    count = min(len(candidates) - 1, max(1, round(share * len(candidates))))
    held_out = set(map(id, random.Random("held out").sample(candidates, max(0, count))))
    return [p for p in images if id(p) not in held_out], [p for p in candidates if id(p) in held_out]


def _upright(path: Path) -> Image.Image:
    """Return an image with its EXIF orientation applied, the first frame of an animation; may raise DatasetError."""
    with _opened(path) as image:
        image.load()
        return ImageOps.exif_transpose(image) or image


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; an error that it causes while the context is open becomes a DatasetError that names it."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DatasetError(f"{path}: larger than {MAX_FILE_BYTES // 2**20} MiB: expected a picture")
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(f"{path}: {image.width}x{image.height} pixels: expected up to {MAX_PIXELS}")
            yield image
    except DatasetError:
        raise
    except UnidentifiedImageError as error:
        raise DatasetError(f"{path}: expected {one_of(PICTURE_FORMATS)}: it is damaged, or something else") from error
    except _UNREADABLE as error:
        message = error_text(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise DatasetError(message if str(path) in message else f"{path}: {message}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 bits with 8 bits; Pillow's own conversion clips values above 255."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
