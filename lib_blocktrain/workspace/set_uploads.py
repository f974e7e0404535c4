"""Adds uploaded files to a folder of pictures: pictures, captions and masks, checked, and never over another file."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lib_blocktrain.files import atomic_write, checked_name, error_text, one_of
from lib_blocktrain.training.folder_contents import EXTENSIONS
from lib_blocktrain.training.picture_files import MAX_FILE_BYTES, opened, upright
from lib_blocktrain.workspace.caption_files import Caption, read

CAPTIONS = (".txt", ".caption")
MAX_FILES = 2000  # added at once
MAX_SET = 20_000  # files of a folder


@dataclass(frozen=True)
class Upload:
    """A file that was uploaded, and the name that the browser gave; of a path the last part counts."""

    path: Path
    name: str


@dataclass(frozen=True)
class Added:
    """The names that were added, and those that were refused, each with the reason as a sentence."""

    added: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return {"added": list(self.added), "refused": [list(pair) for pair in self.refused]}


def add_files(folder: Path, uploads: Iterable[Upload]) -> Added:
    """Copy what can be used into the folder; raises ValueError for too many files, and OSError (a full disk)."""
    given = list(uploads)
    if len(given) > MAX_FILES:
        raise ValueError(f"{len(given)} files at once: expected up to {MAX_FILES}")
    there = {path.name.casefold(): path.name for path in folder.iterdir()}
    if len(there) + len(given) > MAX_SET:
        raise ValueError(f"{folder}: {len(there)} files, and {len(given)} more: expected up to {MAX_SET}")
    added, refused = list[str](), list[tuple[str, str]]()
    for upload in given:
        shown = PurePosixPath(upload.name.replace("\\", "/")).name or upload.name
        try:
            name = _checked(shown, upload.path, there)
        except (OSError, ValueError) as error:
            refused.append((shown, error_text(error).replace(str(upload.path), shown)))
            continue
        with atomic_write(folder / name) as temporary:
            shutil.copyfile(upload.path, temporary)
        there[name.casefold()] = name
        added.append(name)
    return Added(tuple(added), tuple(refused))


def _checked(name: str, path: Path, there: dict[str, str]) -> str:
    """Return the file's name in the folder; raise ValueError for a file that is not taken, with the reason."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in EXTENSIONS and suffix not in CAPTIONS:
        raise ValueError(
            f"{name}: expected a picture ({', '.join(sorted(EXTENSIONS))}) or a caption ({one_of(CAPTIONS)})"
        )
    stem = checked_name(name[: -len(suffix)])
    if (taken := there.get(f"{stem}{suffix}".casefold())) is not None:
        raise ValueError(f"{name}: there is a file {taken} already, and nothing is overwritten")
    same_stem = [known for known in there.values() if known.casefold().rpartition(".")[0] == stem.casefold()]
    kinds = CAPTIONS if suffix in CAPTIONS else EXTENSIONS
    other = [known for known in same_stem if Path(known).suffix.lower() in kinds]
    if other:
        what = "another caption of the same picture" if suffix in CAPTIONS else "a picture of the same name"
        raise ValueError(f"{name}: there is {what}, {other[0]}: expected another name")
    if suffix in CAPTIONS:
        caption = Caption(read(path))
        caption.with_first_line(caption.first_line)  # raises for what could not be written either
    else:
        _check_picture(path)
    return stem + suffix


def _check_picture(path: Path) -> None:
    """Read all of a picture as training will; raises DatasetError, a ValueError."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: larger than {MAX_FILE_BYTES // 2**20} MiB: expected a picture")
    with opened(path) as image:
        image.verify()
    upright(path)
