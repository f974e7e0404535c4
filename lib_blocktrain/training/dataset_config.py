"""What the pictures of a run are, as frozen dataclasses: the entry `dataset` of `run.json`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from lib_blocktrain.training.config_json import check

CaptionSource = Literal["caption file", "file name", "folder name"]


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What may differ from folder to folder: how captions and masks are found, and what is changed at random."""

    caption_extensions: tuple[str, ...] = (".txt", ".caption")
    separator: str = ","
    keep_tags: int = 0
    shuffle_tags: bool = False
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0
    caption_source: CaptionSource = "caption file"
    prefix: str = ""  # of every caption, such as a trigger word
    suffix: str = ""
    keep_separator: str = ""  # instead of keep_tags: the tags before it, and those after a second one, keep their place
    secondary_separator: str = ""  # of tags that stay together; the separator's place is taken when all is done
    wildcards: bool = False  # {a|b} is one of them, and a caption of several lines one of its lines
    tag_warmup: float = 0.0  # steps until all tags are there, below 1 a share of the run's; 0: all from the beginning
    tag_warmup_least: int = 1  # tags at the first step
    flip: bool = False
    random_crop: bool = False  # another part of a picture that is longer than its bucket, each time
    color: bool = False  # each time the hue or the gamma a little different, as sd-scripts' `color_aug`
    alpha_mask: bool = False

    def __post_init__(self) -> None:
        for name in ("tag_dropout", "caption_dropout"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 up to, not with, 1")
        for name in ("keep_tags", "tag_warmup", "tag_warmup_least"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        check(bool(self.separator), "separator", self.separator, "text, such as ,")


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """The size that pictures are trained at, and their buckets."""

    size: int | None = None  # the side of a square of the buckets' area; None: the model's own
    height: int | None = None  # with it, size is the width
    buckets: bool = True
    bucket_step: int = 64
    bucket_least: int | None = None  # None: half the size
    bucket_most: int | None = None  # None: twice the size
    upscale: bool = True  # whether images smaller than their bucket's area are enlarged

    def __post_init__(self) -> None:
        for name in ("size", "height", "bucket_least", "bucket_most"):
            check_side(name, getattr(self, name))
        check(self.bucket_step >= 8 and self.bucket_step % 8 == 0, "bucket_step", self.bucket_step, "a multiple of 8")


def check_side(name: str, value: int | None) -> None:
    """Raise ConfigError for a side in pixels that pictures cannot have; None can be."""
    check(value is None or (value >= 64 and value % 8 == 0), name, value, "a multiple of 8 from 64 on")


OPTIONS = tuple(field.name for field in fields(ImageOptions))
SIZES = tuple(field.name for field in fields(SizeOptions))


@dataclass(frozen=True)
class FolderConfig:
    """A folder of images; the options that are None are the dataset's.

    `numbered`: a folder in the layout of `--train_data_dir`. The `N_concept` folders in it are trained on if there are
    any, and the number N, of these or in its own name, multiplies `repeats`. Else its own images are trained on,
    `repeats` times, whatever it is called: the `image_dir` of a toml.
    """

    path: str
    repeats: int = 1
    regularisation: bool = False
    class_caption: str | None = None  # of images without a caption; None: the concept in the folder's name
    mask_folder: str | None = None
    numbered: bool = True
    caption_extensions: tuple[str, ...] | None = None
    separator: str | None = None
    keep_tags: int | None = None
    shuffle_tags: bool | None = None
    tag_dropout: float | None = None
    caption_dropout: float | None = None
    caption_source: CaptionSource | None = None
    prefix: str | None = None
    suffix: str | None = None
    keep_separator: str | None = None
    secondary_separator: str | None = None
    wildcards: bool | None = None
    tag_warmup: float | None = None
    tag_warmup_least: int | None = None
    flip: bool | None = None
    random_crop: bool | None = None
    color: bool | None = None
    alpha_mask: bool | None = None
    size: int | None = None
    height: int | None = None
    buckets: bool | None = None
    bucket_step: int | None = None
    bucket_least: int | None = None
    bucket_most: int | None = None
    upscale: bool | None = None
    batch: int | None = None  # None: the run's

    def __post_init__(self) -> None:
        check(self.repeats >= 1, "repeats", self.repeats, "1 or more")
        check(self.batch is None or self.batch >= 1, "batch", self.batch, "1 or more, or none: the run's")
        check(self.height is None or self.size is not None, "height", self.height, "a size, too, which is the width")
        ImageOptions(**self.stated)
        SizeOptions(**self.stated_sizes)

    @property
    def stated(self) -> dict[str, Any]:
        """The options that the folder has itself."""
        return {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}

    @property
    def stated_sizes(self) -> dict[str, Any]:
        """The size and buckets that the folder has itself; with a size of its own it is square unless it says more."""
        stated = {name: value for name in SIZES if (value := getattr(self, name)) is not None}
        return {"height": None, **stated} if self.size is not None else stated


@dataclass(frozen=True)
class DatasetConfig(ImageOptions, SizeOptions):
    """The images and their buckets; its options are those of folders that state no other.

    A folder without a size of its own is trained at `size` and at each of `more_sizes`, all its pictures at each.
    """

    folders: tuple[FolderConfig, ...] = ()
    toml: str | None = None  # sd-scripts' dataset file instead of folders; None once it has been read
    more_sizes: tuple[int, ...] = ()
    validation: tuple[FolderConfig, ...] = ()
    validation_share: float = 0.0  # of the images, held out where there is no folder for validation
    cache: str | None = None  # None: beside the runs
    notices: tuple[str, ...] = ()  # what the toml has that was not taken over

    def __post_init__(self) -> None:
        ImageOptions.__post_init__(self)
        SizeOptions.__post_init__(self)
        check(bool(self.folders) != bool(self.toml), "folders", list(self.folders), "folders or a toml, one of them")
        check(0 <= self.validation_share < 1, "validation_share", self.validation_share, "0 up to, not with, 1")
        for index, value in enumerate(self.more_sizes):
            check_side(f"more_sizes[{index}]", value)

    def options_of(self, folder: FolderConfig) -> ImageOptions:
        """Return the options of a folder's images: its own, and the dataset's for the others."""
        return ImageOptions(**{name: getattr(self, name) for name in OPTIONS} | folder.stated)

    def sizes_of(self, folder: FolderConfig) -> tuple[SizeOptions, ...]:
        """Return the sizes that a folder's images are trained at."""
        sizes = SizeOptions(**{name: getattr(self, name) for name in SIZES} | folder.stated_sizes)
        if folder.size is not None:
            return (sizes,)
        more = (replace(sizes, size=side, height=None) for side in self.more_sizes)
        return tuple(dict.fromkeys((sizes, *more)))

    def in_normal_form(self) -> DatasetConfig:
        """Return an equal dataset whose options are those of its first folder; the others state what differs.

        Of all the ways to write the same options it is one, so that the same run has the same record.
        """
        if not self.folders:
            return self
        first = self.options_of(self.folders[0])

        def differing(folder: FolderConfig) -> FolderConfig:
            own = self.options_of(folder)
            stated: dict[str, Any] = dict.fromkeys(OPTIONS)
            for name in OPTIONS:
                if getattr(own, name) != getattr(first, name):
                    stated[name] = getattr(own, name)
            return replace(folder, **stated)

        options = {name: getattr(first, name) for name in OPTIONS}
        folders, validation = (tuple(map(differing, items)) for items in (self.folders, self.validation))
        height = None if self.height == self.size else self.height
        return replace(self, folders=folders, validation=validation, height=height, **options)
