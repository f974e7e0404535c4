"""The index of the LoRA files in the host's folders, and the most recently used networks in memory."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib_blocktrain.files import files_below
from lib_blocktrain.networks.contents import describe
from lib_blocktrain.networks.files import Network, read_network
from lib_blocktrain.networks.header import json_object, tag_counts
from lib_blocktrain.networks.peft_config import CONFIG
from lib_blocktrain.weights.kohya_arguments import BLOCK_ARGUMENTS

log = logging.getLogger(__name__)

Stamp = tuple[str, int, int]  # path, mtime in ns, size: equal if the file has not changed
KEPT_NETWORKS = 8
SHOWN_TAGS = 24


@dataclass(frozen=True)
class LoraFile:
    """A network file and what its header says. ``key`` is its unique name; ``problem`` says why it cannot be used."""

    key: str
    path: Path
    stamp: Stamp
    architecture: str = ""
    algorithms: tuple[str, ...] = ()
    rank: int | tuple[int, ...] | None = None
    blocks: dict[str, int] = field(default_factory=dict)  # number of modules, for every block of its architecture
    metadata: dict[str, str] = field(default_factory=dict)
    unread: int = 0
    notices: tuple[str, ...] = ()
    problem: str = ""

    @property
    def tags(self) -> list[tuple[str, float]]:
        """The tags of its training captions with their counts, most frequent first."""
        counts = tag_counts(self.metadata.get("ss_tag_frequency", ""))
        return sorted(counts.items(), key=lambda item: -item[1])

    @property
    def block_arguments(self) -> dict[str, str]:
        """The block arguments that it was trained with, from its metadata."""
        arguments = json_object(self.metadata.get("ss_network_args", ""))
        return {name: str(arguments[name]) for name in BLOCK_ARGUMENTS if name in arguments}

    def lacks(self, block_id: str) -> bool:
        """Whether it has no module in this block."""
        return not self.blocks.get(block_id)


class LoraIndex:
    """The LoRA files in some folders. A header is read again only when its file has changed."""

    def __init__(self, folders: Callable[[], Sequence[Path]]) -> None:
        self._folders = folders
        self._files: dict[str, LoraFile] = {}
        self._network = functools.lru_cache(maxsize=KEPT_NETWORKS)(_network)
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read the folders again."""
        known = {file.stamp: file for file in self._files.values()}
        files: dict[str, LoraFile] = {}
        for folder in self._folders():
            for path in files_below(folder, ".safetensors"):
                stamp = _stamp(path)
                key = _unique(path.relative_to(folder).with_suffix("").as_posix(), folder, files)
                old = known.get(stamp)
                files[key] = old if old and old.key == key else _read(key, path, stamp)
        self._files = files

    def files(self, sought: str = "") -> list[LoraFile]:
        """The files that have all of these words in key, algorithm, architecture, trigger words or frequent tags."""
        words = sought.casefold().split()
        return [file for file in self._files.values() if all(word in _haystack(file) for word in words)]

    def file(self, key: str) -> LoraFile:
        """The file with this key; raises ValueError for any other text, so that no text from outside becomes a path."""
        if key not in self._files:
            self.refresh()  # the page may have been open since before a restart of the server
        if key not in self._files:
            raise ValueError(f"there is no LoRA {key!r} in the folders: press Refresh")
        return self._files[key]

    def stamp(self, key: str) -> Stamp:
        """The present stamp of the file."""
        return _stamp(self.file(key).path)

    def network(self, key: str) -> Network:
        """The network, from memory unless its file has changed."""
        stamp = self.stamp(key)
        with self._lock:  # so that two threads do not read the same network twice
            return self._network(stamp, _config_time(stamp[0]))


def _network(stamp: Stamp, config: int) -> Network:
    """The network of a file; ``config`` is when PEFT's configuration beside it was changed, 0 if there is none."""
    return read_network(Path(stamp[0]))


def _config_time(path: str) -> int:
    try:
        return Path(path).with_name(CONFIG).stat().st_mtime_ns
    except OSError:
        return 0


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


def _unique(name: str, folder: Path, taken: dict[str, LoraFile]) -> str:
    if name in taken:
        name = f"{name} ({folder.name})"
    number, key = 2, name
    while key in taken:
        number, key = number + 1, f"{name} {number}"
    return key


def _read(key: str, path: Path, stamp: Stamp) -> LoraFile:
    try:
        found = describe(path)
    except (OSError, ValueError) as error:
        log.info("%s: %s", path, error)
        return LoraFile(key, path, stamp, problem=str(error))
    rank = found["rank"]
    return LoraFile(
        key,
        path,
        stamp,
        architecture=found["architecture"],
        algorithms=tuple(found["algorithms"]),
        rank=tuple(rank) if isinstance(rank, list) else rank,
        blocks=dict(found["blocks"]),
        metadata=dict(found["metadata"]),
        unread=len(found["unread"]),
        notices=tuple(found["notices"]),
    )


def _haystack(file: LoraFile) -> str:
    words = [file.key, file.architecture, *file.algorithms]
    words += [file.metadata.get(key, "") for key in ("ss_output_name", "modelspec.trigger_phrase")]
    return " ".join([*words, *(tag for tag, _ in file.tags[:SHOWN_TAGS])]).casefold()
