"""Safetensors files that carry a checksum of all their bytes: one flipped bit is noticed when the file is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from lib_blocktrain.files import atomic_write

CHECKSUM = "checksum"  # its key in the metadata
_UNKNOWN = "0" * 64  # stands in its place while it is computed
_BLOCK = 2**20  # bytes read at once


class DamagedFile(ValueError):
    """A file whose contents are not those that were written; the message names it."""


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the tensors and the metadata, and the checksum of the file with zeros in the checksum's place."""
    content = memoryview(safetensors.torch.save(dict(tensors)))
    end = 8 + int.from_bytes(content[:8], "little")
    rest = content[end:]
    # Made here, since safetensors writes metadata in an order that differs from call to call.
    header = {"__metadata__": {**metadata, CHECKSUM: _UNKNOWN}, **json.loads(bytes(content[8:end]))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(start)
    digest.update(rest)
    start = start.replace(_entry(_UNKNOWN), _entry(digest.hexdigest()), 1)
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"".join((start, rest)))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata; raise DamagedFile unless the file is whole and its checksum, if any, is right.

    The checksum stays in the metadata, so that the caller sees whether there was one.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # cloned: what is mapped from the file would change with it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no mapping
            metadata = dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise DamagedFile(f"{path}: {error}") from error
    written = metadata.get(CHECKSUM)
    if written is not None and written != _checksum(path, written):
        raise DamagedFile(f"{path}: damaged: its contents do not match its checksum")
    return tensors, metadata


def _checksum(path: Path, written: str) -> str:
    """Return the checksum of a file that says it is `written`."""
    with open(path, "rb") as file:
        start = file.read(8)
        header = file.read(int.from_bytes(start, "little"))
        digest = hashlib.sha256(start + header.replace(_entry(written), _entry(_UNKNOWN), 1))
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _entry(checksum: str) -> bytes:
    """The checksum as it stands in the header. Within another text of it the quotes would have backslashes."""
    return f'"{CHECKSUM}":"{checksum}"'.encode()
