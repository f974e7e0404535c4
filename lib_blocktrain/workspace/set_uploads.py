"""Adds uploaded files to a folder of pictures: pictures, captions and masks, checked, and never over another file."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lib_blocktrain.files import atomic_write, checked_name, error_text, one_of
from lib_blocktrain.training.folder_contents import EXTENSIONS, repeats_of
from lib_blocktrain.training.picture_files import MAX_FILE_BYTES, opened, upright
from lib_blocktrain.workspace.caption_files import Caption, read
from lib_blocktrain.workspace.set_folders import PictureSet
from lib_blocktrain.workspace.upload_folders import UploadFolders

CAPTIONS = (".txt", ".caption")
MAX_FILES = 2000  # added at once
MAX_SET = 20_000  # files of a folder


@dataclass(frozen=True)
class Upload:
    """A file that was uploaded, and the name that the browser gave: of one in a dropped folder its path in there."""

    path: Path
    name: str


@dataclass(frozen=True)
class Added:
    """The names that were added, and those that were refused, each with the reason as a sentence.

    `notices` say where a folder's name was not followed.
    """

    added: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        refused = [list(pair) for pair in self.refused]
        return {"added": list(self.added), "refused": refused, "notices": list(self.notices)}


def add_uploads(found: PictureSet, uploads: Iterable[Upload], label: str | None = None) -> Added:
    """Copy uploaded files into a set: those of a dropped folder by `folder_of`, the others into one with the `label`.

    Raises ValueError for too many files, and OSError (a full disk).
    """
    given = list(uploads)
    if len(given) > MAX_FILES:
        raise ValueError(f"{len(given)} files at once: expected up to {MAX_FILES}")
    folders, by_folder = UploadFolders(found), dict[str | None, list[Upload]]()
    for upload in given:
        by_folder.setdefault(None if label is not None else folder_of(upload.name), []).append(upload)
    added, refused = list[str](), list[tuple[str, str]]()
    for name, files in by_folder.items():
        try:
            folder = folders.of(name) if label is None else folders.labelled(label)
        except ValueError as error:
            refused += [(shown_name(upload.name), str(error)) for upload in files]
            continue
        some = _add_files(folder, files)
        added += [f"{folder.name}/{one}" if name is not None else one for one in some.added]
        refused += some.refused
    folders.remove_unused()
    return Added(tuple(added), tuple(refused), tuple(folders.notices))


def parts_of(name: str) -> tuple[str, ...]:
    """The folders and the file of a browser's name, of whichever system, without `.` and `..`."""
    return tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".", ".."))


def shown_name(name: str) -> str:
    return parts_of(name)[-1] if parts_of(name) else name


def folder_of(name: str) -> str | None:
    """The dropped folder that says what a picture shows, None for a file by itself.

    That is the `N_concept` folder that it is in, or a folder inside the one that was dropped.
    """
    folders = parts_of(name)[:-1]
    return folders[-1] if folders and (len(folders) > 1 or repeats_of(Path(folders[-1]))) else None


def _add_files(folder: Path, given: Sequence[Upload]) -> Added:
    """Copy what can be used into the folder."""
    there = {path.name.casefold(): path.name for path in folder.iterdir()}
    if len(there) + len(given) > MAX_SET:
        raise ValueError(f"{folder}: {len(there)} files, and {len(given)} more: expected up to {MAX_SET}")
    added, refused = list[str](), list[tuple[str, str]]()
    for upload in given:
        shown = shown_name(upload.name)
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
