"""A set as it is listed: every picture with its size, bucket, crop, caption and what is odd about it, from headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_blocktrain.files import error_text, lines_of
from lib_blocktrain.model.clip_tokens import TokenCounter
from lib_blocktrain.training.buckets import Fit, Size
from lib_blocktrain.training.dataset import DatasetImage, mask_share
from lib_blocktrain.training.picture_files import has_alpha, opened
from lib_blocktrain.workspace.caption_files import Caption, read
from lib_blocktrain.workspace.caption_operations import Captioned
from lib_blocktrain.workspace.picture_thumbnails import Stamp, Thumbnails, duplicates, stamp_of, tag_of
from lib_blocktrain.workspace.recent import Recent
from lib_blocktrain.workspace.set_folders import Contents, Entry, PictureSet

ODD_ASPECT = 2.0  # the longer side over the shorter one
FLAGS = ("no caption", "small", "odd aspect", "duplicate", "problem")
_ORIENTATION = 0x0112  # of EXIF; from 5 on width and height are exchanged
_TURNING = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}  # what in a PNG may say how it is turned


@dataclass(frozen=True)
class Header:
    """What a picture's header says: its upright size in pixels, and whether it may have transparent parts."""

    size: Size
    alpha: bool


@dataclass
class Listed:
    """A picture of a listing; without `header` and `fit` it cannot be used, and `problem` says why."""

    entry: Entry
    stamp: Stamp
    caption: Caption
    caption_problem: str = ""
    header: Header | None = None
    fit: Fit | None = None
    problem: str = ""
    share: float | None = None  # of its mask
    same: list[str] = field(default_factory=list)

    @property
    def line(self) -> str | None:
        """The first line of its caption file, None without one that can be read."""
        return None if self.caption.content is None or self.caption_problem else self.caption.first_line

    @property
    def captioned(self) -> Captioned:
        found = self.entry.found
        return Captioned(self.line, found.path.stem, found.caption, found.options.separator)

    @property
    def has_mask(self) -> bool:
        found = self.entry.found
        alpha = self.header is not None and self.header.alpha and found.options.alpha_mask
        return found.mask is not None or alpha

    @property
    def image(self) -> DatasetImage | None:
        """The picture as training has it, None where it leaves it out."""
        if self.fit is None or self.caption_problem:
            return None
        found = self.entry.found
        mask = found.mask or (found.path if self.has_mask else None)
        text = self.line
        if text is not None and found.options.wildcards:
            text = "\n".join(filter(None, map(str.strip, lines_of(self.caption.text))))
        caption = found.caption_for(text)
        return DatasetImage(found.path, caption, self.fit, found.repeats, found.regularisation, mask, found.options)

    @property
    def flags(self) -> list[str]:
        flags = []
        if not self.line:
            flags.append("no caption")
        if self.fit is not None:
            width, height = self.fit.original
            if self.fit.resized[0] > width or self.fit.resized[1] > height:
                flags.append("small")
            if max(width, height) >= ODD_ASPECT * min(width, height):
                flags.append("odd aspect")
        if self.same:
            flags.append("duplicate")
        if self.problem or self.caption_problem:
            flags.append("problem")
        return flags

    def to_json(self, tokens: TokenCounter) -> dict[str, Any]:
        found, fit, image = self.entry.found, self.fit, self.image
        counted = tokens.count(image.plain_caption) if image else None
        width, height = self.header.size if self.header else (0, 0)
        mask = found.mask.name if found.mask is not None else "alpha" if self.has_mask else None
        return {
            "picture": self.entry.key,
            "name": found.path.name,
            "folder": found.path.parent.name,
            "label": self.entry.label,
            "repeats": found.repeats,
            "width": width,
            "height": height,
            "bytes": self.stamp[2],
            "version": tag_of(self.stamp),
            "bucket": list(fit.bucket) if fit else None,
            "resized": list(fit.resized) if fit else None,
            "crop": _crop(fit) if fit else None,
            "cut": _cut(fit) if fit else None,
            "focus": list(found.focus) if found.focus else None,
            "caption": None if self.caption.content is None or self.caption_problem else self.caption.text,
            "caption_used": image.plain_caption if image else "",
            "caption_file": found.caption_file.name if found.caption_file else None,
            "stamp": self.caption.stamp,
            "tags": self.captioned.tags,
            "tokens": counted.count if counted else None,
            "chunks": list(counted.chunks) if counted else [],
            "mask": mask,
            "share": None if self.share is None else round(self.share, 4),
            "flags": self.flags,
            "duplicates": self.same,
            "problem": self.problem or self.caption_problem,
        }


@dataclass(frozen=True)
class Listing:
    """A set and its pictures. `hashed`: how many were looked at for duplicates by now."""

    found: PictureSet
    size: int
    size_known: bool
    pictures: tuple[Listed, ...]
    contents: Contents
    hashed: int
    tokens: TokenCounter

    @property
    def tags(self) -> Counter[str]:
        """Number of pictures by tag."""
        counts: Counter[str] = Counter()
        for picture in self.pictures:
            counts.update(set(picture.captioned.tags))
        return counts

    def to_json(self) -> dict[str, Any]:
        counts = Counter(flag for picture in self.pictures for flag in picture.flags)
        separators = {picture.entry.found.options.separator for picture in self.pictures}
        return {
            "set": self.found.to_json(self.contents),
            "size": self.size,
            "size_known": self.size_known,
            "pictures": [picture.to_json(self.tokens) for picture in self.pictures],
            "tags": [[tag, count] for tag, count in sorted(self.tags.items(), key=lambda item: (-item[1], item[0]))],
            "counts": {
                **{flag: counts[flag] for flag in FLAGS},
                "masked": sum(picture.has_mask for picture in self.pictures),
            },
            "hashed": self.hashed,
            "left_out": list(self.contents.left_out),
            "separator": separators.pop() if len(separators) == 1 else ",",
        }


class Lister:
    """Lists sets; what it has read of a file is kept by its stamp."""

    def __init__(self, thumbnails: Thumbnails):
        self._thumbnails = thumbnails
        self._headers: Recent[Stamp, Header] = Recent(50_000)
        self._shares: Recent[tuple[Stamp, Stamp, Fit], float] = Recent(20_000)
        self.tokens = TokenCounter()

    def pictures(self, entries: tuple[Entry, ...], fit_for: Callable[[Size], Fit]) -> list[Listed]:
        """Return the pictures, whatever is wrong with each."""
        return [self._listed(entry, fit_for) for entry in entries]

    def mark_duplicates(self, listed: Sequence[Listed]) -> None:
        """Mark the duplicates among the pictures looked at by now; the others are looked at in the background."""
        usable = {picture.entry.key: picture for picture in listed if picture.header is not None}
        self._thumbnails.look_at(picture.stamp for picture in usable.values())
        looks = {key: look for key, one in usable.items() if (look := self._thumbnails.look(one.stamp)) is not None}
        for key, same in duplicates(looks).items():
            usable[key].same = same

    def hashed(self, listed: list[Listed]) -> int:
        """How many of them were looked at."""
        return sum(self._thumbnails.was_looked_at(picture.stamp) for picture in listed)

    def measure(self, listed: list[Listed]) -> None:
        """Find the shares of masks that are not known yet; each is opened. One that cannot be read is a problem."""
        for picture in listed:
            image = picture.image
            if image is None or image.mask is None or picture.share is not None:
                continue
            try:
                key = (picture.stamp, stamp_of(image.mask), image.fit)
                picture.share = self._shares[key] = mask_share(image)
            except (OSError, ValueError) as error:
                picture.problem = error_text(error)

    def _listed(self, entry: Entry, fit_for: Callable[[Size], Fit]) -> Listed:
        path, problem = entry.path, ""
        try:
            stamp = stamp_of(path)
        except OSError as error:
            return Listed(entry, (str(path), 0, 0), Caption(None), problem=error_text(error))
        caption, caption_problem = _caption(entry.found.caption_file)
        header, fit, share = None, None, None
        try:
            header = self._header(stamp)
            fit = entry.found.fit(header.size, fit_for)
            if entry.found.mask is not None:
                share = self._shares.get((stamp, stamp_of(entry.found.mask), fit))
        except (OSError, ValueError) as error:
            problem = error_text(error)
        return Listed(entry, stamp, caption, caption_problem, header, fit, problem, share)

    def _header(self, stamp: Stamp) -> Header:
        found = self._headers.get(stamp)
        if found is None:
            found = self._headers[stamp] = header_of(Path(stamp[0]))
        return found


def header_of(path: Path) -> Header:
    """Read a picture's header; raises DatasetError. The pixels are not read."""
    with opened(path) as image:
        turned = image.format != "PNG" or not _TURNING.isdisjoint(image.info)  # else Pillow would read all of a PNG
        width, height = image.size
        exchanged = turned and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return Header((height, width) if exchanged else (width, height), has_alpha(image))


def _caption(path: Path | None) -> tuple[Caption, str]:
    """The caption in a file, and why it cannot be used."""
    if path is None:
        return Caption(None), ""
    try:
        caption = Caption(read(path))
    except (OSError, ValueError) as error:
        return Caption(b""), error_text(error)
    try:
        _ = caption.raw
    except ValueError as error:
        return caption, f"{path.name}: {error}"
    return caption, ""


def _crop(fit: Fit) -> list[float]:
    """Left, top, right, bottom of what is kept, 0 to 1 of the upright picture."""
    width, height = fit.resized
    sides = (
        *(fit.left / width, fit.top / height),
        *((fit.left + fit.bucket[0]) / width, (fit.top + fit.bucket[1]) / height),
    )
    return [round(side, 4) for side in sides]


def _cut(fit: Fit) -> float:
    """The share of the picture that is cut off."""
    return round(1 - fit.bucket[0] * fit.bucket[1] / (fit.resized[0] * fit.resized[1]), 4)
