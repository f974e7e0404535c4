"""What is in a folder of pictures: pictures, their masks and captions, and what is left out, with the reason."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_BY_PREFERENCE = sorted(EXTENSIONS, key=lambda extension: (extension != ".png", extension))  # of masks
_MASK_ENDINGS = (".mask", "-masklabel", "_mask")  # after the picture's name: ours, OneTrainer's, a common one
_TEXT_EXTENSIONS = {".txt", ".caption"}
_REPEATED = re.compile(r"(\d+)_(.+)")
SHOWN_NAMES = 10  # of one folder for one reason


@dataclass(frozen=True)
class FolderContents:
    """The pictures of a folder in order, the masks and caption files of those that have one, and a line a reason."""

    pictures: tuple[Path, ...]
    masks: Mapping[Path, Path]
    captions: Mapping[Path, Path]
    left_out: tuple[str, ...]


def contents_of(folder: Path, caption_extensions: Sequence[str], known: Collection[str] = ()) -> FolderContents:
    """Return the contents of a folder; `known` are folders that are used elsewhere, by `place`.

    A file is a mask only if the picture that it names is there: `gas_mask.jpg` alone is a picture.
    """
    paths = sorted(folder.iterdir())
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() in EXTENSIONS:
            by_stem.setdefault(path.stem, []).append(path)
    pictures = [path for path in paths if path.stem in by_stem and path in by_stem[path.stem]]
    mask_stems = {stem for stem in by_stem if _picture_of(stem, by_stem) is not None}
    pictures = [path for path in pictures if path.stem not in mask_stems]
    there = {path.name.casefold() for path in paths}  # so that the file system is asked for few names only
    masks = {path: mask for path in pictures if (mask := _beside(path, _mask_names(path.stem), there))}
    names = {path: [path.stem + extension for extension in caption_extensions] for path in pictures}
    texts = {path: text for path in pictures if (text := _beside(path, names[path], there))}
    used = {place(path) for path in (*pictures, *masks.values(), *texts.values())} | set(known)
    stems = {picture.stem for picture in pictures}
    reasons = {path: _reason(path, stems, mask_stems, caption_extensions) for path in paths if place(path) not in used}
    return FolderContents(tuple(pictures), masks, texts, tuple(_lines(folder, reasons)))


def numbered_folders(folder: Path, known: Collection[str] = ()) -> tuple[list[tuple[Path, int, str]], list[str]]:
    """Return the `N_concept` folders in a folder, with N and concept, and lines of what is left out beside them."""
    found = [
        (child, *numbers) for child in sorted(folder.iterdir()) if child.is_dir() and (numbers := repeats_of(child))
    ]
    used = {place(child) for child, _, _ in found} | set(known)
    beside = dict.fromkeys(
        (child for child in sorted(folder.iterdir()) if place(child) not in used),
        "beside N_concept folders, of which alone the pictures are used",
    )
    return found, list(_lines(folder, beside)) if found else []


def repeats_of(folder: Path) -> tuple[int, str] | None:
    """Return N and concept of an `N_concept` folder, None for another."""
    found = _REPEATED.fullmatch(folder.name)
    return (int(found[1]), found[2]) if found and int(found[1]) > 0 else None


def unused_masks(folder: Path, masks: Iterable[Path]) -> list[str]:
    """Return lines of what is in a folder of masks and is none of these."""
    used = {place(mask) for mask in masks}
    paths = [path for path in sorted(folder.iterdir()) if place(path) not in used]
    return list(_lines(folder, dict.fromkeys(paths, "a mask, but no picture has this name")))


def place(path: Path) -> str:
    """Return the path as a text that is the same for the same file."""
    return os.path.normcase(os.path.abspath(path))


def in_folder(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of these files that is there; a name too long for the file system is not."""
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)


def _beside(path: Path, names: Iterable[str], there: Collection[str]) -> Path | None:
    return in_folder(path.parent, [name for name in names if name.casefold() in there])


def _mask_names(stem: str) -> list[str]:
    return [f"{stem}{ending}{extension}" for ending in _MASK_ENDINGS for extension in _BY_PREFERENCE]


def _picture_of(stem: str, stems: Collection[str]) -> str | None:
    """Return the stem of the picture whose mask this is, None for a picture; a mask has no mask."""
    bases = [stem[: -len(ending)] for ending in _MASK_ENDINGS if stem.endswith(ending)]
    return next((base for base in bases if base in stems and _picture_of(base, stems) is None), None)


def _reason(path: Path, pictures: Collection[str], masks: Collection[str], caption_extensions: Sequence[str]) -> str:
    if path.is_dir():
        return "folders in a folder of pictures are not searched"
    if path.suffix.lower() in EXTENSIONS:
        return "masks of pictures that have another mask"
    if path.suffix in caption_extensions:
        here = path.stem in pictures
        return "captions of pictures that have another caption" if here else "captions without a picture"
    if path.suffix in _TEXT_EXTENSIONS:
        return f"not captions, which end in {', '.join(caption_extensions)} here"
    return f"not pictures ({', '.join(sorted(EXTENSIONS))})"


def _lines(folder: Path, reasons: Mapping[Path, str]) -> Iterable[str]:
    """Yield a line a reason, with the names."""
    for reason in dict.fromkeys(reasons.values()):
        names = [path.name for path, found in reasons.items() if found == reason]
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        yield f"{folder}: {', '.join(names[:SHOWN_NAMES])}{more}: {reason}"
