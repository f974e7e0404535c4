"""The sets of pictures: own ones below the host's output, and folders or sd-scripts' `.toml` files that were opened.

An own set is a folder in sd-scripts' layout, `datasets/NAME/N_NAME/`. The opened ones are listed in
`datasets/opened.json`. Everything is read from the disk each time, so that nothing can be out of date.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from lib_blocktrain.files import atomic_write, checked_name, error_text
from lib_blocktrain.hosts.host import Host
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig
from lib_blocktrain.training.folder_contents import place, repeats_of
from lib_blocktrain.training.found_pictures import FoundPicture, Search
from lib_blocktrain.training.kohya_toml import read_toml
from lib_blocktrain.training.picture_files import DatasetError
from lib_blocktrain.workspace.dataset_roots import Roots, allowed, sets_folder, with_own_sets

log = logging.getLogger(__name__)

MAX_REPEATS = 10_000
MAX_OPENED = 200
OPENED = "~"  # begins the key of an opened set; own names do not
_KEY = re.compile(r"~[0-9a-f]{12}", re.ASCII)

Kind = Literal["own", "folder", "toml"]


@dataclass(frozen=True)
class Entry:
    """A picture of a set. `key` is its name in the set, `LABEL/FILE`, which no change of the repeats alters."""

    key: str
    label: str
    found: FoundPicture

    @property
    def path(self) -> Path:
        return self.found.path


@dataclass(frozen=True)
class Contents:
    """What is in a set: its image folders by label, with their repeats, the pictures, and what is left out."""

    folders: dict[str, Path]
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class PictureSet:
    """A set of pictures; `problem` says why it cannot be read, `notices` what of a `.toml` is not understood."""

    key: str
    name: str
    path: Path
    kind: Kind
    config: DatasetConfig | None = None
    notices: tuple[str, ...] = ()
    problem: str = ""
    roots: tuple[Path, ...] | None = None  # where links in it may lead, None for anywhere

    def check(self) -> DatasetConfig:
        """Return what its pictures are; raise DatasetError for a set that cannot be read, or not any more."""
        if self.config is None:
            raise DatasetError(self.problem)
        return self.config

    def contents(self) -> Contents:
        """Look into the folders; raises DatasetError, a ValueError, for a set that cannot be read."""
        config = self.check()
        search = Search(config)
        places = {place(path): path for folder in config.folders for path, _, _ in search.image_folders(folder)}
        for path in places.values():
            if self._leads_out(path):
                raise DatasetError(f"{path}: leads to a folder that the settings do not allow")
        labels = labels_of(list(places.values()))
        found = [picture for folder in config.folders for picture in search.pictures(folder)]
        entries, outside = [], []
        for picture in found:
            files = filter(None, (picture.path, picture.caption_file, picture.mask))
            if self.roots is not None and any(os.path.islink(file) and self._leads_out(file) for file in files):
                outside.append(f"{picture.path}: leads to a file that the settings do not allow")
                continue
            label = labels[place(picture.path.parent)]
            entries.append(Entry(f"{label}/{picture.path.name}", label, picture))
        folders = {labels[at]: path for at, path in places.items()}
        return Contents(folders, tuple(entries), (*outside, *search.all_left_out()))

    def _leads_out(self, path: Path) -> bool:
        """Whether the real place of a path is outside the roots."""
        if self.roots is None:
            return False
        real = path.resolve()
        return not any(real.is_relative_to(root.resolve()) for root in self.roots)

    def to_json(self, contents: Contents | None = None) -> dict[str, Any]:
        """The set as plain values; its folders are looked into unless the contents are given."""
        problem = self.problem
        try:
            contents = contents or self.contents()
        except (OSError, ValueError) as error:
            problem = problem or error_text(error)
        entries = contents.entries if contents else ()
        repeats = {entry.found.repeats for entry in entries}
        if contents and not entries:
            repeats = {found[0] for path in contents.folders.values() if (found := repeats_of(path))}
        return {
            "set": self.key,
            "name": self.name,
            "folder": str(self.path),
            "kind": self.kind,
            "pictures": len(entries),
            "repeats": repeats.pop() if len(repeats) == 1 else None,
            "cover": entries[0].key if entries else None,
            "notices": list(self.notices),
            "problem": problem,
        }


def labels_of(folders: Sequence[Path]) -> dict[str, str]:
    """Return a label for each folder, by `place`: its name without `N_`, or with it where that is not unique."""
    short = [found[1] if (found := repeats_of(folder)) else folder.name for folder in folders]
    labels: dict[str, str] = {}
    for folder, name in zip(folders, short, strict=True):
        label = base = name if short.count(name) == 1 else folder.name
        number = 2
        while label in labels.values():
            number, label = number + 1, f"{base} {number}"
        labels[place(folder)] = label
    return labels


class SetFolders:
    """The sets of a host; `roots` are where opened ones may be."""

    def __init__(self, host: Host, roots: Roots):
        self._host, self._roots = host, roots
        self._lock = threading.Lock()  # of the list of those opened

    @property
    def folder(self) -> Path:
        """The folder of own sets."""
        return sets_folder(self._host)

    def all(self) -> list[PictureSet]:
        """Return the own sets by name, then the opened ones as they were opened."""
        names = []
        if self.folder.is_dir():
            with os.scandir(self.folder) as entries:
                names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
        own = [self._own(name) for name in sorted(names, key=str.casefold) if not _KEY.fullmatch(name)]
        return [*own, *(self._opened_at(path) for path in self._opened())]

    def get(self, key: str) -> PictureSet:
        """Return the set with this key; raises FileNotFoundError. A key is looked up, never used as a path."""
        if _KEY.fullmatch(key):
            found = next((path for path in self._opened() if key_of(path) == key), None)
            if found is not None:
                return self._opened_at(found)
        elif self.folder.is_dir():
            with os.scandir(self.folder) as entries:
                if any(e.name == key and e.is_dir(follow_symlinks=False) and key[0] != "." for e in entries):
                    return self._own(key)
        raise FileNotFoundError(f"there is no set {key[:120]!r}")

    def create(self, name: str, repeats: int) -> PictureSet:
        """Make an empty set; raises ValueError for what cannot be a name, FileExistsError for one that is taken."""
        name = checked_name(name)
        if name.startswith(OPENED):
            raise ValueError(f"{name!r} cannot name a set: expected another beginning than {OPENED}")
        check_repeats(repeats)
        with self._lock:
            taken = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
            if name.casefold() in map(str.casefold, taken):
                raise FileExistsError(f"there is a set {name!r} already: choose another name, or add to that one")
            (self.folder / name / f"{repeats}_{name}").mkdir(parents=True)
        return self._own(name)

    def at(self, path: str) -> PictureSet:
        """Return the set at a path, which need not be open; raises ValueError for a path that is not allowed."""
        given = path.strip().strip('"')
        if not given:
            raise ValueError("there is no path: expected a folder of pictures, or a .toml of sd-scripts")
        resolved = Path(allowed("folder", given, self._roots()))
        return self.get(resolved.name) if resolved.parent == self.folder.resolve() else self._opened_at(resolved)

    def open(self, path: str) -> PictureSet:
        """Add a folder or a `.toml` to the list; raises ValueError for one that is not allowed or has no pictures."""
        found = self.at(path)
        if found.kind == "own":
            return found
        contents = found.contents()
        if not contents.entries:
            raise ValueError(
                f"{found.path}: expected pictures in it, or in N_concept folders in it, but there are none"
            )
        with self._lock:
            listed = [known for known in self._opened() if known != found.path]
            if len(listed) >= MAX_OPENED:
                raise ValueError(f"{MAX_OPENED} folders are open: close one that is not needed")
            self._write_opened([*listed, found.path])
        return found

    def close(self, key: str) -> None:
        """Take an opened set off the list; raises FileNotFoundError, and ValueError for an own set."""
        if self.get(key).kind == "own":
            raise ValueError(f"the set {key!r} is in {self.folder}: only a folder that was opened can be closed")
        with self._lock:
            self._write_opened([path for path in self._opened() if key_of(path) != key])

    def set_repeats(self, key: str, repeats: int, label: str | None = None) -> PictureSet:
        """Rename the `N_concept` folders of a set, or the one of a label.

        Raises ValueError where a number in a folder's name does not say the repeats, FileExistsError for a taken name.
        """
        check_repeats(repeats)
        found = self.get(key)
        folders = found.contents().folders
        if label is not None and label not in folders:
            raise FileNotFoundError(f"there is no folder {label[:120]!r} in the set {found.name!r}")
        chosen = [path for name, path in folders.items() if label in (None, name)]
        plain = [path for path in chosen if not repeats_of(path) or path == found.path]
        if found.kind == "toml" or plain:
            where = f"num_repeats in {found.path}" if found.kind == "toml" else f"the name of {plain[0]}"
            raise ValueError(f"the repeats are in {where}: change them there; N_concept folders in a set are renamed")

        renamed = [(path, path.with_name(f"{repeats}_{(repeats_of(path) or (0, ''))[1]}")) for path in chosen]
        changed = [(old, new) for old, new in renamed if old != new]
        targets = [new for _, new in renamed]
        taken = [new for _, new in changed if new.exists() or targets.count(new) > 1]
        if taken:
            raise FileExistsError(f"{taken[0]}: there is such a folder already")
        for old, new in changed:
            old.rename(new)
        return self.get(key)

    def _own(self, name: str) -> PictureSet:
        path = self.folder / name
        return PictureSet(name, name, path, "own", DatasetConfig((FolderConfig(str(path)),)), roots=self._within())

    def _opened_at(self, path: Path) -> PictureSet:
        """The set of an opened path; what is wrong with it is its problem."""
        is_toml = path.suffix.lower() == ".toml"
        name = path.stem if is_toml else path.name
        kind: Kind = "toml" if is_toml else "folder"
        found = PictureSet(key_of(path), name or str(path), path, kind, roots=self._within())
        try:
            allowed("folder", str(path), self._roots())
            if is_toml:
                config, notices = read_toml(DatasetConfig(toml=str(path)))
                for folder in config.folders:
                    for inner in filter(None, (folder.path, folder.mask_folder)):
                        allowed("image_dir", inner, self._roots())
                return replace(found, config=config, notices=tuple(notices))
            if not path.is_dir():
                return replace(found, problem=f"{path}: expected a folder of pictures, or a .toml of sd-scripts")
        except (OSError, ValueError) as error:
            return replace(found, problem=error_text(error))
        return replace(found, config=DatasetConfig((FolderConfig(str(path)),)))

    def _within(self) -> tuple[Path, ...] | None:
        roots = with_own_sets(self._roots(), self._host)
        return None if roots is None else tuple(roots)

    def _opened(self) -> list[Path]:
        try:
            data = json.loads((self.folder / "opened.json").read_bytes())
            return [Path(path) for path in data["opened"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("%s cannot be used (%s): no folder is open", self.folder / "opened.json", error)
            return []

    def _write_opened(self, paths: Sequence[Path]) -> None:
        with atomic_write(self.folder / "opened.json") as temporary:
            temporary.write_text(json.dumps({"format": 1, "opened": list(map(str, paths))}), "utf-8")


def key_of(path: Path) -> str:
    """The key of an opened path."""
    return OPENED + hashlib.blake2b(place(path).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def check_repeats(repeats: int) -> None:
    """Raise ValueError for a number of repeats that makes no sense."""
    if not 1 <= repeats <= MAX_REPEATS:
        raise ValueError(f"repeats {repeats}: expected 1 to {MAX_REPEATS}")


def missing(key: str, picture: str) -> NoReturn:
    """Raise FileNotFoundError: the set has no such picture."""
    raise FileNotFoundError(f"there is no picture {picture[:200]!r} in the set {key!r}")
