"""The header of a safetensors file, read with the standard library alone.

Eight bytes give the header's length (little endian), then comes JSON: {name: {"dtype", "shape", "data_offsets"}} and
under "__metadata__" a table of strings; the tensors follow. https://github.com/huggingface/safetensors#format
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
MAX_VALUES = 1_000_000  # in its JSON, about: a limit on memory; the largest networks have a tenth
MAX_TENSORS = 50_000
MAX_NAME = 1000  # characters of a tensor's name
_METADATA_FIRST = re.compile(r'\{\s*"__metadata__"\s*:\s*')
_DECODER = json.JSONDecoder()
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


class NetworkFileError(ValueError):
    """A file that cannot be read as a network or checkpoint; the message names it."""


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file; `start` is the offset of its first tensor, `length` that of all, in bytes."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]
    start: int
    length: int


@dataclass(frozen=True)
class HeaderText:
    """The JSON of a header; `start` is the offset of the first tensor, `available` the bytes from there on."""

    text: str
    start: int
    available: int

    def split(self) -> tuple[dict[str, str], str] | None:
        """Return the metadata and the rest of the text, which has no others, without the spaces at its end.

        None where the metadata are not in front, or not valid, or where a name may be spelled in another way.
        """
        metadata: object = {}
        rest = self.text
        if found := _METADATA_FIRST.match(self.text):
            try:
                metadata, end = _DECODER.raw_decode(self.text, found.end())
            except (ValueError, RecursionError):
                return None
            rest = self.text[end:]
        if not _is_strings(metadata) or "\\" in rest or "__metadata__" in rest:
            return None
        return metadata, rest.rstrip(" ")


def read_header(path: str | Path) -> Header:
    """Read the names, dtypes, shapes and metadata of a safetensors file, or raise NetworkFileError."""
    path = Path(path)
    return parse_header(path, read_header_text(path))


def read_header_text(path: Path) -> HeaderText:
    """Read a header without looking into it, or raise NetworkFileError for a file that can have none."""
    refuse_pickle(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MAX_HEADER:
            raise NetworkFileError(
                f"{path}: not a safetensors file: its header would be {length} bytes long, expected 2 to {MAX_HEADER}"
            )
        if 8 + length > size:
            raise NetworkFileError(f"{path}: cut short: a header of {length} bytes in a file of {size}")
        content = file.read(length)
    if content.count(b",") > MAX_VALUES:
        raise NetworkFileError(f"{path}: a header of {content.count(b',')} values: expected up to {MAX_VALUES}")
    try:
        text = content.decode(json.detect_encoding(content), "surrogatepass")
    except ValueError as error:
        raise NetworkFileError(f"{path}: not a safetensors file: its header is not JSON ({error})") from error
    return HeaderText(text, 8 + length, size - 8 - length)


def parse_header(path: Path, found: HeaderText) -> Header:
    """Return the header that a text holds; raise NetworkFileError, which names the file."""
    try:
        entries = json.loads(found.text)
    except (ValueError, RecursionError) as error:
        raise NetworkFileError(f"{path}: not a safetensors file: its header is not JSON ({error})") from error
    if not isinstance(entries, dict):
        raise NetworkFileError(f"{path}: not a safetensors file: its header is not a table of tensors")
    metadata = entries.pop("__metadata__", None) or {}
    if not _is_strings(metadata):
        raise NetworkFileError(f"{path}: its metadata is not a table of strings")
    if len(entries) > MAX_TENSORS:
        raise NetworkFileError(f"{path}: {len(entries)} tensors: expected up to {MAX_TENSORS}")
    for name, entry in entries.items():
        _check_entry(path, name, entry, found.available)
    return Header(
        shapes={name: tuple(entry["shape"]) for name, entry in entries.items()},
        dtypes={name: entry["dtype"] for name, entry in entries.items()},
        metadata=metadata,
        start=found.start,
        length=max((entry["data_offsets"][1] for entry in entries.values()), default=0),
    )


def refuse_pickle(path: Path) -> None:
    """Raise NetworkFileError for a name of torch's pickle format: loading such a file runs the code in it."""
    if path.suffix.lower() in _PICKLES:
        raise NetworkFileError(
            f"{path}: {path.suffix} files are Python pickles, and reading one runs whatever code is inside."
            " Only .safetensors is read; convert it with a tool that you trust."
        )


def _check_entry(path: Path, name: str, entry: object, available: int) -> None:
    """Raise NetworkFileError unless a tensor's entry is complete and its bytes lie within the file."""
    if len(name) > MAX_NAME:
        raise NetworkFileError(f"{path}: a tensor's name of {len(name)} characters: {name[:60]!r}...")
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise NetworkFileError(f"{path}: the entry of tensor {name!r} is damaged: {str(entry)[:80]}")
    offsets = entry.get("data_offsets")
    if not _is_counts(entry.get("shape")) or not _is_counts(offsets) or len(offsets) != 2:
        raise NetworkFileError(f"{path}: the entry of tensor {name!r} is damaged: {str(entry)[:80]}")
    if not offsets[0] <= offsets[1] <= available:
        raise NetworkFileError(
            f"{path}: cut short: tensor {name!r} ends at byte {offsets[1]} of the data, of which there are {available}"
        )


def _is_strings(value: object) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a text holds, {} for any other text."""
    try:
        data = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def tag_counts(text: str) -> dict[str, float]:
    """Return the number of captions with each tag over all folders, from sd-scripts' ``ss_tag_frequency``."""
    counts: dict[str, float] = {}
    for folder in json_object(text).values():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            if isinstance(count, (int, float)) and not isinstance(count, bool) and count > 0 and tag.strip():
                counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    return counts
