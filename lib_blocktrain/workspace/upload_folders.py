"""Which folder of a set uploaded files go to: dropped folders bring their labels, as sd-scripts reads them."""

from __future__ import annotations

from pathlib import Path

from lib_blocktrain.files import checked_name
from lib_blocktrain.training.folder_contents import repeats_of
from lib_blocktrain.workspace.set_folders import MAX_REPEATS, PictureSet

DEFAULT_REPEATS = 10


class UploadFolders:
    """The folders of a set, found by the names of dropped folders, and made where the set is an own one."""

    def __init__(self, found: PictureSet):
        self._set, self._folders = found, found.contents().folders
        self.notices: list[str] = []

    def labelled(self, label: str) -> Path:
        """The folder with a label; raises FileNotFoundError."""
        if label not in self._folders:
            raise FileNotFoundError(f"there is no folder {label[:120]!r} in the set {self._set.key!r}")
        return self._folders[label]

    def of(self, name: str | None) -> Path:
        """The folder for a dropped one: `N_concept`, or a concept with the set's repeats; None: for single files.

        Raises ValueError for a name that cannot be a folder's, and where a set that was opened has no such folder.
        """
        if name is None:
            return self._default()
        same = [path for path in self._folders.values() if path.name == name]
        if same:
            return same[0]
        number, concept = repeats_of(Path(name)) or (None, name)
        if number is not None and number > MAX_REPEATS:
            self.notices.append(f"{name}: {number} repeats: expected up to {MAX_REPEATS}; they are those of the set")
            number, concept = None, name
        known = self._folders.get(concept)
        if known is not None:
            return self._with_repeats(name, concept, known, number)
        if self._set.kind != "own":
            raise ValueError(f"{name}: there is no such folder in {self._set.name}, and it was opened: make it there")
        return self._made(concept, number)

    def remove_unused(self) -> None:
        """Remove the folder that an own set was made with, where it stayed empty beside others."""
        path = self._folders.get(self._set.name)
        if self._set.kind == "own" and path is not None and len(self._folders) > 1 and not any(path.iterdir()):
            path.rmdir()

    def _default(self) -> Path:
        """Where single files go: the folder named as the set, the only one, or of an opened set the first."""
        if self._set.name in self._folders:
            return self._folders[self._set.name]
        if len(self._folders) == 1 or self._set.kind != "own":
            return next(iter(self._folders.values()))
        return self._made(self._set.name, None)

    def _made(self, concept: str, number: int | None) -> Path:
        path = self._set.path / f"{number or self._repeats()}_{checked_name(concept)}"
        path.mkdir(exist_ok=True)
        self._folders[concept] = path
        return path

    def _repeats(self) -> int:
        """The repeats of the set's folders, if they have the same."""
        found = {repeats[0] for path in self._folders.values() if (repeats := repeats_of(path))}
        return found.pop() if len(found) == 1 else DEFAULT_REPEATS

    def _with_repeats(self, name: str, concept: str, known: Path, number: int | None) -> Path:
        """The folder of this label; an empty one of an own set takes the dropped folder's repeats."""
        own = repeats_of(known)
        if number is None or own is None or own[0] == number:
            return known
        if self._set.kind == "own" and not any(known.iterdir()):
            renamed = known.rename(known.with_name(f"{number}_{concept}"))
            self._folders[concept] = renamed
            return renamed
        self.notices.append(f"{name}: its pictures are added to {known.name}, which has {own[0]} repeats")
        return known
