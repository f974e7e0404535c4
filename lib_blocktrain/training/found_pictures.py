"""The pictures of a dataset by its configuration, with the files that belong to each; no picture is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lib_blocktrain.training.buckets import Fit, Size
from lib_blocktrain.training.captions import as_words, framed_caption
from lib_blocktrain.training.crop_focus import FILE, Focus, read_focus
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig, ImageOptions
from lib_blocktrain.training.folder_contents import (
    EXTENSIONS,
    contents_of,
    in_folder,
    numbered_folders,
    place,
    repeats_of,
    unused_masks,
)
from lib_blocktrain.training.picture_files import MAX_PIXELS, DatasetError


@dataclass(frozen=True)
class FoundPicture:
    """A picture, the files of its caption and mask, and what its folder says."""

    path: Path
    repeats: int
    options: ImageOptions
    regularisation: bool = False
    caption_file: Path | None = None
    caption: str = ""  # of a picture without a caption file
    concept: str = ""  # what the folder's name says
    mask: Path | None = None
    focus: Focus | None = None

    def caption_for(self, text: str | None) -> str:
        """Return the caption to train on; `text` is what its caption file holds, None without one."""
        source = self.options.caption_source
        if source == "caption file":
            text = self.caption if text is None else text
        else:
            text = as_words(self.path.stem if source == "file name" else self.concept)
        return framed_caption(text, self.options)

    def fit(self, size: Size, fit_for: Callable[[Size], Fit]) -> Fit:
        """Return how the picture of this size is brought to its bucket; raise DatasetError if it cannot be."""
        try:
            fit = fit_for(size)
        except ValueError as error:
            raise DatasetError(f"{self.path}: {error}") from error
        if fit.resized[0] * fit.resized[1] > MAX_PIXELS:
            shape = f"{size[0]}x{size[1]}"
            raise DatasetError(f"{self.path}: {shape} pixels, too long and narrow for the bucket {fit.bucket}")
        return fit if self.focus is None else fit.focused(self.focus)


class Search:
    """What is found in the folders of a configuration, and what of them is not used."""

    def __init__(self, config: DatasetConfig):
        self._config = config
        folders = (*config.folders, *config.validation)
        self._mask_folders = [Path(name) for name in dict.fromkeys(f.mask_folder for f in folders) if name is not None]
        self._known = {place(path) for path in (*self._mask_folders, *(Path(folder.path) for folder in folders))}
        self._masks: set[Path] = set()
        self._left_out: list[str] = []

    def pictures(self, folder: FolderConfig) -> Iterator[FoundPicture]:
        """Yield the pictures of a folder, in order; raises DatasetError if it is not there."""
        options = self._config.options_of(folder)
        for path, repeats, concept in self.image_folders(folder):
            contents = contents_of(path, options.caption_extensions, {*self._known, place(path / FILE)})
            self._left_out += contents.left_out
            focus = read_focus(path)
            for picture in contents.pictures:
                mask = contents.masks.get(picture) or _in_mask_folder(picture, folder)
                if mask is not None:
                    self._masks.add(mask)
                yield FoundPicture(
                    picture,
                    repeats,
                    options,
                    folder.regularisation,
                    contents.captions.get(picture),
                    folder.class_caption or concept or "",
                    concept or path.name,
                    mask,
                    focus.get(picture.name),
                )

    def all_left_out(self) -> list[str]:
        """Return a line for each folder and reason, of masks that no picture has as well."""
        masks = [line for folder in self._mask_folders for line in unused_masks(folder, self._masks)]
        return list(dict.fromkeys([*self._left_out, *masks]))

    def image_folders(self, folder: FolderConfig) -> Iterator[tuple[Path, int, str | None]]:
        """Yield the folders with images, their repeats and concept: the `N_concept` folders in it, or itself.

        See FolderConfig for `numbered`.
        """
        path = Path(folder.path)
        for needed in (path, *([Path(folder.mask_folder)] if folder.mask_folder is not None else [])):
            if not needed.is_dir():
                raise DatasetError(f"{needed}: no such folder")
        if not folder.numbered:
            yield path, folder.repeats, None
            return
        counted, beside = numbered_folders(path, self._known)
        self._left_out += beside
        for child, number, concept in counted:
            yield child, number * folder.repeats, concept
        if not counted:  # it may be an N_concept folder itself
            own_number, own_concept = repeats_of(path) or (1, None)
            yield path, folder.repeats * own_number, own_concept


def _in_mask_folder(picture: Path, folder: FolderConfig) -> Path | None:
    names = [f"{picture.stem}{extension}" for extension in sorted(EXTENSIONS)]
    return None if folder.mask_folder is None else in_folder(Path(folder.mask_folder), names)
