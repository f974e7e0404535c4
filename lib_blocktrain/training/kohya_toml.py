"""Reads sd-scripts' dataset file (`--dataset_config`), with Python 3.11 or the package tomli."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from lib_blocktrain.training.config_json import ConfigError, check, read, read_text, write
from lib_blocktrain.training.dataset_config import SIZES, DatasetConfig, FolderConfig

# sd-scripts' name -> ours: of a dataset, and of a folder.
_SIZE_OPTIONS = {
    "enable_bucket": "buckets",
    "bucket_reso_steps": "bucket_step",
    "min_bucket_reso": "bucket_least",
    "max_bucket_reso": "bucket_most",
}
_FOLDER_OPTIONS = {
    "num_repeats": "repeats",
    "is_reg": "regularisation",
    "class_tokens": "class_caption",
    "conditioning_data_dir": "mask_folder",
    "caption_separator": "separator",
    "keep_tokens": "keep_tags",
    "shuffle_caption": "shuffle_tags",
    "caption_tag_dropout_rate": "tag_dropout",
    "caption_dropout_rate": "caption_dropout",
    "caption_prefix": "prefix",
    "caption_suffix": "suffix",
    "keep_tokens_separator": "keep_separator",
    "secondary_separator": "secondary_separator",
    "enable_wildcard": "wildcards",
    "token_warmup_step": "tag_warmup",
    "token_warmup_min": "tag_warmup_least",
    "flip_aug": "flip",
    "random_crop": "random_crop",
    "color_aug": "color",
    "alpha_mask": "alpha_mask",
    "batch_size": "batch",
}
_READ = {
    *_SIZE_OPTIONS,
    *_FOLDER_OPTIONS,
    "resolution",
    "bucket_no_upscale",
    "caption_extension",
    "image_dir",
    "batch_size",
}


def read_toml(config: DatasetConfig) -> tuple[DatasetConfig, list[str]]:
    """Return the configuration with the folders and options of its `toml`, and notices of what was not taken over.

    As in sd-scripts a subset's option counts before its dataset's and that before the general one; an option that the
    file does not have is the configuration's own, as there the command line's. Each dataset has its own sizes, buckets
    and batch, which its folders state where they differ. Raises ConfigError.
    """
    if config.toml is None:
        raise ConfigError("dataset.toml is missing")
    path = Path(config.toml)
    reader, text = toml_reader(path), read_text(path)
    try:
        data = reader.loads(text)
    except (reader.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    general = data.get("general", {})
    check(isinstance(general, Mapping), f"{path}: general", general, "a table")
    own = write(config)
    options: list[dict[str, Any]] = []
    folders: list[FolderConfig] = []
    notices: list[str] = []
    for dataset in _tables(data, "datasets", path):
        for subset in _tables(dataset, "subsets", path):
            merged = {**general, **_plain(dataset), **_plain(subset)}
            folders.append(_folder(merged, path))
            options.append({**{name: own[name] for name in SIZES}, **_size_options(merged, path)})
            unknown = sorted(set(merged) - _READ)
            notices += [f"{path.name}: {', '.join(unknown)} not known here: ignored"] if unknown else []
    if not folders:
        raise ConfigError(f"{path}: expected [[datasets]] with [[datasets.subsets]]")
    shared = _shared_sizes(options, own)
    with _naming(path):
        stated = [{**write(folder), **_own_sizes(sizes, shared)} for folder, sizes in zip(folders, options)]
        found = {**own, **shared, "toml": None, "folders": stated}
        return read(DatasetConfig, found, str(path)), list(dict.fromkeys(notices))


def _shared_sizes(options: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes and buckets that the run has, from which folders may differ.

    They are those of the first folder, but what is left to the model by any folder is left so: a folder cannot.
    """
    sides = [(found["size"], found["height"]) for found in options]
    size, height = next((pair for pair in sides if pair[0] is None), sides[0])
    others = {name: [found[name] for found in options] for name in SIZES if name not in ("size", "height")}
    return {
        "size": size,
        "height": height,
        **{name: own[name] if own[name] in values else values[0] for name, values in others.items()},
    }


def _own_sizes(sizes: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a folder states of its sizes: what differs from the run's."""
    own = {name: None if sizes[name] == shared[name] else sizes[name] for name in SIZES}
    if (sizes["size"], sizes["height"]) != (shared["size"], shared["height"]):
        own |= {"size": sizes["size"], "height": sizes["height"]}
    return own


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file to a ConfigError that does not name it."""
    try:
        yield
    except ConfigError as error:
        if str(path) in str(error):
            raise
        raise ConfigError(f"{path}: {error}") from error


def toml_reader(path: Path) -> ModuleType:
    """Return a module that reads TOML; raise ConfigError, for the file that is to be read, where there is none."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ConfigError(f"{path}: no TOML reader here: expected Python 3.11, or pip install tomli")


def _tables(data: Mapping[str, Any], name: str, path: Path) -> list[Mapping[str, Any]]:
    tables = data.get(name, [])
    tables_only = isinstance(tables, list) and all(isinstance(table, Mapping) for table in tables)
    check(tables_only, f"{path}: {name}", tables, f"tables, as [[{name}]]")
    return tables


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "subsets"}


def _folder(options: Mapping[str, Any], path: Path) -> FolderConfig:
    if "image_dir" not in options:
        raise ConfigError(f"{path}: a subset without image_dir: expected one (metadata files are not read)")
    values = {ours: options[theirs] for theirs, ours in _FOLDER_OPTIONS.items() if theirs in options}
    if "caption_extension" in options:
        extension = options["caption_extension"]
        check(isinstance(extension, str), f"{path}: caption_extension", extension, 'text, such as ".txt"')
        values["caption_extensions"] = (extension if extension.startswith(".") else f".{extension}",)
    with _naming(path):
        folder = read(FolderConfig, {**values, "path": options["image_dir"], "numbered": False}, f"{path}: subset")
    masks = folder.mask_folder and str((path.parent / folder.mask_folder).resolve())
    return replace(folder, path=str((path.parent / folder.path).resolve()), mask_folder=masks)


def _size_options(options: Mapping[str, Any], path: Path) -> dict[str, Any]:
    values = {ours: options[theirs] for theirs, ours in _SIZE_OPTIONS.items() if theirs in options}
    if "resolution" in options:
        side = options["resolution"]
        sides = side if isinstance(side, list) else [side]
        check(len(sides) in (1, 2), f"{path}: resolution", side, "a number, or [width, height]")
        values["size"], values["height"] = sides if len(sides) == 2 else (sides[0], None)
    if "bucket_no_upscale" in options:
        value = options["bucket_no_upscale"]
        check(isinstance(value, bool), f"{path}: bucket_no_upscale", value, "true or false")
        values["upscale"] = not value
    return values
