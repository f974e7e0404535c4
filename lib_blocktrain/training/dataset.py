"""Images, captions and masks of a folder in sd-scripts' layout."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from lib_blocktrain.files import error_text, lines_of
from lib_blocktrain.training.buckets import Fit, Size, fitting
from lib_blocktrain.training.caption_length import cut_off
from lib_blocktrain.training.captions import plain_caption
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig, ImageOptions, SizeOptions
from lib_blocktrain.training.folder_contents import EXTENSIONS
from lib_blocktrain.training.found_pictures import FoundPicture, Search
from lib_blocktrain.training.picture_files import (
    DatasetError,
    alpha_of,
    eight_bits,
    has_alpha,
    opened,
    rgb,
    upright,
)

log = logging.getLogger(__name__)

MAX_CAPTION = 16_384  # characters, and four times as many bytes of its file
MAX_REPEATS = 10_000_000  # of all images together: the order of an epoch is in memory


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
    group: int = 0  # of all images with one size, set of buckets and batch: they are together in batches
    batch: int | None = None  # images per process; None: the run's

    @property
    def plain_caption(self) -> str:
        """The caption with nothing left to chance."""
        return plain_caption(self.caption, self.options)

    @property
    def tags(self) -> list[str]:
        """The caption's parts between separators, without those that are empty."""
        return [tag for part in self.plain_caption.split(self.options.separator) if (tag := part.strip())]

    def open(self) -> Image.Image:
        """Return the image in its bucket's size, RGB; transparent pixels become white, unless alpha is the mask."""
        image = upright(self.path)
        return self.fit.crop(image.convert("RGB") if self.mask == self.path else rgb(eight_bits(image)))

    def open_mask(self) -> Image.Image | None:
        """Return the mask in the bucket's size, "L", 255 where the loss counts."""
        if self.mask is None:
            return None
        source = upright(self.mask)
        grey = alpha_of(source) if self.mask == self.path else eight_bits(source).convert("L")
        if grey.size != self.fit.original:
            grey = grey.resize(self.fit.original, Image.Resampling.NEAREST)
        return self.fit.crop(grey)


@dataclass(frozen=True)
class Dataset:
    """Images to train on, images held out for validation, and what was left out, by name and with the reason.

    `broken` are images that cannot be used, `left_out` the files and folders that are no images.
    """

    images: tuple[DatasetImage, ...]
    held_out: tuple[DatasetImage, ...] = ()
    broken: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

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
        """A text that is another one for other images, captions or crops."""
        seen = [(p.path.name, p.caption, p.repeats, p.fit.bucket, *p.fit.off_centre) for p in self.images]
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
            "without_caption": sum(not image.plain_caption for image in self.images),
            "tags": dict(tags.most_common(50)),
            "masks": sum(image.mask is not None for image in self.images),
            "canvas_share": self.area_share,
            "broken": list(self.broken),
            "left_out": list(self.left_out),
            "notices": list(self.notices),
        }


def find(config: DatasetConfig, native_size: int, max_tokens: int | None = None) -> Dataset:
    """Find the dataset's images; `native_size` is the model's, in pixels. Raises DatasetError if none can be read.

    Images that cannot be read are left out, with a line in `broken`; other files and folders with one in `left_out`.
    With `max_tokens` a notice names the captions that are longer.
    """
    if config.toml is not None:
        raise DatasetError(f"{config.toml}: this file is read where a run is loaded, and was not: expected its folders")
    search, broken = Search(config), list[str]()
    groups: dict[tuple[SizeOptions, int | None], int] = {}

    def images_in(folder: FolderConfig) -> Iterator[DatasetImage]:
        options = config.options_of(folder)
        fits = {
            groups.setdefault((sizes, folder.batch), len(groups)): fitting(sizes, native_size, options.random_crop)
            for sizes in config.sizes_of(folder)
        }
        for found in search.pictures(folder):
            try:
                size, image = _usable(found)
                for group, fit_for in fits.items():
                    yield replace(image, fit=found.fit(size, fit_for), group=group, batch=folder.batch)
            except DatasetError as error:
                broken.append(str(error))

    images = [image for folder in config.folders for image in images_in(folder)]
    held_out = [image for folder in config.validation for image in images_in(folder)]
    left_out = search.all_left_out()
    if not config.validation and config.validation_share:
        images, held_out = _split(images, config.validation_share)
    for line in (*broken, *left_out):
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
    captions = ((f"{i.path.parent.name}/{i.path.name}", i.plain_caption) for i in (*images, *held_out))
    cut = () if max_tokens is None else cut_off(captions, max_tokens)
    return Dataset(tuple(images), tuple(held_out), tuple(broken), (*config.notices, *cut), tuple(left_out))


def mask_share(image: DatasetImage) -> float:
    """Return the share of the image, 0 to 1, that its mask lets through."""
    return float(np.asarray(image.open_mask(), dtype=np.float32).mean() / 255)


def _usable(found: FoundPicture) -> tuple[Size, DatasetImage]:
    """Return the size of an image and the image, as large as it is, of which all was read once, of its mask too.

    Raises DatasetError for what cannot be used.
    """
    with opened(found.path) as image:
        image.verify()
    image, mask = upright(found.path), found.mask
    if mask is not None:
        upright(mask)
    elif found.options.alpha_mask and has_alpha(image):
        mask = found.path
    text = None
    if found.options.caption_source == "caption file" and found.caption_file is not None:
        text = caption_text(found.caption_file, found.options.wildcards)
    caption = found.caption_for(text)
    whole = Fit(image.size, image.size, image.size)
    return image.size, DatasetImage(
        found.path, caption, whole, found.repeats, found.regularisation, mask, found.options
    )


def caption_text(file: Path, all_lines: bool = False) -> str:
    """Return the line of a caption file that is trained on, or all that are not empty; raise DatasetError.

    Its message names the file.
    """
    try:
        with open(file, "rb") as stream:
            content = stream.read(4 * MAX_CAPTION + 1)
        lines = lines_of(content.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not UTF-8 at byte {error.start}: save the caption as UTF-8") from error
    except OSError as error:
        raise DatasetError(error_text(error)) from error
    if len(content) > 4 * MAX_CAPTION or (lines and len(lines[0]) > MAX_CAPTION):
        raise DatasetError(f"{file}: a caption of more than {MAX_CAPTION} characters: expected a line of text")
    return "\n".join(filter(None, map(str.strip, lines if all_lines else lines[:1])))


def _split(images: list[DatasetImage], share: float) -> tuple[list[DatasetImage], list[DatasetImage]]:
    """Return the images without a held-out share, and that share: always the same, at least one, never all.

    A picture is held out at all its sizes.
    """
    candidates = [image for image in images if not image.regularisation]
    paths = list(dict.fromkeys(image.path for image in candidates))
    count = min(len(paths) - 1, max(1, round(share * len(paths))))
    held_out = set(random.Random("held out").sample(paths, max(0, count)))
    return [p for p in images if p.regularisation or p.path not in held_out], [
        p for p in candidates if p.path in held_out
    ]
