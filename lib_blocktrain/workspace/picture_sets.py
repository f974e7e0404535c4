"""Sets of pictures for training, as the page and the API see them: listed, captioned, masked, and changed with undo."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_blocktrain.hosts.host import Host, NoModel, native_size
from lib_blocktrain.training.buckets import fitting
from lib_blocktrain.training.crop_focus import FILE, Focus, checked_focus, focus_file, read_focus
from lib_blocktrain.workspace import set_masks
from lib_blocktrain.workspace.caption_edits import as_text, caption_path, check_stamps, planned
from lib_blocktrain.workspace.caption_files import Caption, read
from lib_blocktrain.workspace.dataset_roots import Roots
from lib_blocktrain.workspace.picture_thumbnails import SIDES, Thumbnail, Thumbnails
from lib_blocktrain.workspace.recent import Recent
from lib_blocktrain.workspace.set_changes import Change, ChangeLog, FileEdit, log_folder
from lib_blocktrain.workspace.set_folders import Contents, Entry, PictureSet, SetFolders, missing
from lib_blocktrain.workspace.set_listing import Listed, Lister, Listing, header_of
from lib_blocktrain.workspace.set_uploads import Added, Upload, add_uploads
from lib_blocktrain.workspace.set_worth import Worth, worth

DEFAULT_REPEATS = 10


def anywhere() -> None:
    """The roots of a host that answers this machine alone: opened folders may be anywhere."""
    return


class PictureSets:
    """The sets of a host. `roots` are where opened folders may be, None for anywhere; own ones are always allowed.

    Unknown sets and pictures raise FileNotFoundError, what is refused ValueError (ChangedMeanwhile among them); an
    OSError names its file.
    """

    def __init__(self, host: Host, roots: Roots = anywhere):
        self._host, self._roots = host, roots
        self._folders = SetFolders(host, roots)
        self._thumbnails = Thumbnails(lambda: host.output_dir / "cache" / "thumbnails")
        self._lister = Lister(self._thumbnails)
        self._looked_up: Recent[str, dict[str, Entry]] = Recent(16)  # by set, for the pictures that a page asks for
        self._writing = threading.RLock()

    # --- sets -----------------------------------------------------------------------------------------------------

    def sets(self) -> list[PictureSet]:
        """Return the own sets by name, then the opened ones."""
        return self._folders.all()

    def get(self, key: str) -> PictureSet:
        """Return the set with this key."""
        return self._folders.get(key)

    def create(self, name: str, repeats: int = DEFAULT_REPEATS) -> PictureSet:
        """Make an empty set, `datasets/NAME/N_NAME/`; raises FileExistsError for a name that is taken."""
        return self._folders.create(name, repeats)

    def open(self, path: str) -> PictureSet:
        """Remember a folder of pictures, or a `.toml` of sd-scripts, below the roots."""
        return self._folders.open(path)

    def close_set(self, key: str) -> None:
        """Forget an opened set; nothing in its folder changes."""
        self._folders.close(key)

    def set_repeats(self, key: str, repeats: int, label: str | None = None) -> PictureSet:
        """Rename the `N_concept` folders of a set, or the one with a label."""
        with self._writing:
            return self._folders.set_repeats(key, repeats, label)

    def add(self, key: str, uploads: Iterable[Upload], label: str | None = None) -> Added:
        """Copy uploaded files into the set, as `set_uploads` says, or into the folder with a label.

        Never over another file.
        """
        with self._writing:
            return add_uploads(self.get(key), uploads, label)

    def folders_for_training(self, key: str) -> str:
        """Return what a run's folder of pictures has to be: the folder, or the `.toml`."""
        return str(self.get(key).path.resolve())

    # --- seeing ---------------------------------------------------------------------------------------------------

    def listing(self, key: str, size: int | None = None) -> Listing:
        """List the pictures for a training of this size in pixels, the model's own unless given."""
        found = self.get(key)
        contents = found.contents()
        self._looked_up[key] = {entry.key: entry for entry in contents.entries}
        side, known = (size, True) if size else native_size(self._host)
        pictures = self._listed(found, contents, side)
        self._lister.mark_duplicates(pictures)
        hashed = self._lister.hashed(pictures)
        return Listing(found, side, known, tuple(pictures), contents, hashed, self._lister.tokens)

    def listed(self, key: str, picture: str) -> Listed:
        """One picture as a listing has it."""
        found = self.get(key)
        return self._one(found, found.contents(), picture)

    def thumbnail(self, key: str, picture: str, side: int = 256) -> Thumbnail:
        """The upright picture as JPEG, its longer side 256 or 1024 pixels."""
        return self._thumbnails.thumbnail(self._entry(key, picture).path, side)

    def glance(self, path: str, shown: int) -> tuple[int, dict[str, Thumbnail]]:
        """How many pictures a folder or `.toml` has, open or not, and thumbnails of the first `shown` by name."""
        entries = self._folders.at(path).contents().entries
        thumbnails = {}
        for entry in entries[:shown]:
            with suppress(ValueError, OSError):  # what cannot be read is said when the pictures are checked
                thumbnails[entry.key] = self._thumbnails.thumbnail(entry.path, SIDES[0])
        return len(entries), thumbnails

    def mask(self, key: str, picture: str) -> bytes | None:
        """The picture's mask as PNG of at most 1024 pixels, None without one."""
        found = self._entry(key, picture).found
        if found.mask is not None:
            return set_masks.png(set_masks.of_file(found.mask, set_masks.SHOWN_SIDE))
        if found.options.alpha_mask and header_of(found.path).alpha:
            return set_masks.png(set_masks.of_alpha(found.path, set_masks.SHOWN_SIDE))
        return None

    def caption(self, key: str, picture: str) -> dict[str, Any]:
        """The caption of a picture, with the stamp that `write_caption` asks for."""
        entry = self._entry(key, picture, fresh=True)
        caption = Caption(read(entry.found.caption_file) if entry.found.caption_file else None)
        tokens = self._lister.tokens.count(caption.first_line)
        return {
            "picture": picture,
            "caption": None if caption.content is None else caption.text,
            "stamp": caption.stamp,
            "tokens": tokens.count if tokens else None,
            "chunks": list(tokens.chunks) if tokens else [],
        }

    def worth(self, key: str, size: int | None = None, batch: int = 1) -> Worth:
        """What the set gives to a training of this size and batch; masks that are not known yet are read."""
        listing = self.listing(key, size)
        pictures = list(listing.pictures)
        self._lister.measure(pictures)
        architecture = None
        with suppress(NoModel):
            architecture = self._host.model().architecture
        return worth(pictures, batch, listing.size, architecture)

    # --- captions -------------------------------------------------------------------------------------------------

    def write_caption(self, key: str, picture: str, text: str, stamp: str) -> Change:
        """Write a caption; `stamp` is that of the caption that the user has seen, "" for none."""
        with self._writing:
            found = self.get(key)
            contents = found.contents()
            listed = self._one(found, contents, picture)
            check_stamps([listed], {picture: stamp})
            new = text if text.strip() or listed.caption.content is not None else ""
            after = listed.caption.with_text(new) if new or listed.caption.content is not None else None
            edit = FileEdit(picture, caption_path(listed.entry, contents), listed.caption.content, after)
            return self._write(found, contents, f"caption of {listed.entry.path.name}", [edit])

    def preview(self, key: str, operation: object, pictures: Sequence[str] | None = None) -> Change:
        """Return what an operation (see `caption_operations`) would change; nothing is written."""
        found = self.get(key)
        contents = found.contents()
        plan = planned(key, contents, self._listed(found, contents), operation, pictures)
        return Change("", plan.title, tuple(map(as_text, plan.edits)), plan.unchanged, plan.problems)

    def apply(
        self,
        key: str,
        operation: object,
        pictures: Sequence[str] | None = None,
        stamps: Mapping[str, str] | None = None,
    ) -> Change:
        """Do an operation to these pictures, all unless given, as one change; `stamps` are what the user has seen."""
        with self._writing:
            found = self.get(key)
            contents = found.contents()
            plan = planned(key, contents, self._listed(found, contents), operation, pictures, stamps)
            change = self._write(found, contents, plan.title, plan.edits)
            return replace(change, unchanged=plan.unchanged, problems=plan.problems)

    # --- masks and crops ------------------------------------------------------------------------------------------

    def save_mask(
        self, key: str, picture: str, strokes: str | None = None, png: bytes | None = None, mode: str = "replace"
    ) -> Change:
        """Write `NAME.mask.png` from brush strokes or a PNG; `mode`: added to the mask there is, or taken off."""
        if (strokes is None) == (png is None):
            raise ValueError("strokes or a PNG: expected one of them")
        with self._writing:
            found = self.get(key)
            contents = found.contents()
            entry = _entry_of(contents, key, picture)
            size = header_of(entry.path).size
            new = set_masks.painted(strokes, size) if strokes is not None else set_masks.from_png(png or b"", size)
            old = entry.found.mask if mode != "replace" else None
            mask = set_masks.combined(new, None if old is None else set_masks.of_file(old), mode)
            path = entry.path.with_name(entry.path.stem + set_masks.SUFFIX)
            edit = FileEdit(picture, path, _content(path), set_masks.png(mask))
            return self._write(found, contents, f"mask of {entry.path.name}", [edit])

    def remove_mask(self, key: str, picture: str) -> Change:
        """Delete the file of a picture's mask, which undo brings back; raises ValueError for one in its alpha."""
        with self._writing:
            found = self.get(key)
            contents = found.contents()
            entry = _entry_of(contents, key, picture)
            mask = entry.found.mask
            if mask is None or mask.parent != entry.path.parent:
                raise ValueError(f"{entry.path.name} has no mask in a file beside it that could be removed")
            edit = FileEdit(picture, mask, _content(mask), None)
            return self._write(found, contents, f"mask of {entry.path.name} removed", [edit])

    def set_focus(self, key: str, picture: str, focus: Focus | None) -> Change:
        """Centre a picture's crop there (x, y, 0 to 1), or in the middle again, by the folder's `blocktrain.json`."""
        with self._writing:
            found = self.get(key)
            contents = found.contents()
            entry = _entry_of(contents, key, picture)
            path, known = entry.path.with_name(FILE), read_focus(entry.path.parent)
            known.pop(entry.path.name, None)
            if focus is not None:
                known[entry.path.name] = checked_focus(focus)
            edit = FileEdit(picture, path, _content(path), focus_file(known) if known else None)
            return self._write(found, contents, f"crop of {entry.path.name}", [edit])

    # --- undo -----------------------------------------------------------------------------------------------------

    def changes(self, key: str) -> list[dict[str, Any]]:
        """The changes that can be taken back, the newest first: id, title, time, number of pictures."""
        found = self.get(key)
        return self._log(found, found.contents()).entries()

    def undo(self, key: str) -> Change:
        """Take back the newest change."""
        with self._writing:
            found = self.get(key)
            title, edits = self._log(found, found.contents()).undo()
            return Change("", f"taken back: {title}", tuple(map(as_text, edits)))

    def close(self) -> None:
        """End the work in the background."""
        self._thumbnails.close()

    # --- within ---------------------------------------------------------------------------------------------------

    def _write(self, found: PictureSet, contents: Contents, title: str, edits: Sequence[FileEdit]) -> Change:
        change_id = self._log(found, contents).do(title, edits)
        self._looked_up[found.key] = {}
        changed = [edit for edit in edits if edit.before != edit.after]
        return Change(change_id, title, tuple(map(as_text, changed)), len(edits) - len(changed))

    def _log(self, found: PictureSet, contents: Contents) -> ChangeLog:
        root = self._host.output_dir / "blocktrain" / "dataset-changes"
        return ChangeLog(log_folder(root, found.key, found.path), contents.folders.get)

    def _listed(self, found: PictureSet, contents: Contents, side: int | None = None) -> list[Listed]:
        config, side = found.check(), side or native_size(self._host)[0]
        config = config if config.size else replace(config, size=side)
        return self._lister.pictures(contents.entries, fitting(config, side))

    def _one(self, found: PictureSet, contents: Contents, picture: str) -> Listed:
        alone = replace(contents, entries=(_entry_of(contents, found.key, picture),))
        return self._listed(found, alone)[0]

    def _entry(self, key: str, picture: str, fresh: bool = False) -> Entry:
        """The picture of a key; a listing of a moment ago is as good, if the file is there."""
        known = None if fresh else (self._looked_up.get(key) or {}).get(picture)
        if known is not None and known.path.is_file():
            self.get(key).check()
            return known
        contents = self.get(key).contents()
        self._looked_up[key] = {entry.key: entry for entry in contents.entries}
        return _entry_of(contents, key, picture)


def _entry_of(contents: Contents, key: str, picture: str) -> Entry:
    found = next((entry for entry in contents.entries if entry.key == picture), None)
    return found or missing(key, picture)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
