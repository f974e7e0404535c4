"""LoRA files as they are listed: found in folders, described by their headers, with what lies beside them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from lib_blocktrain.networks.cards import (
    RECORD,
    CardError,
    Recommended,
    card_path,
    read_card,
    recommended_in_card,
    recommended_in_metadata,
)
from lib_blocktrain.networks.contents import Description
from lib_blocktrain.networks.header import json_object, tag_counts
from lib_blocktrain.weights.kohya_arguments import BLOCK_ARGUMENTS

log = logging.getLogger(__name__)

Stamp = tuple[str, int, int]  # path, mtime in ns, size: equal if the file has not changed
SUFFIX, SIDECAR = ".safetensors", ".json"
PREVIEWS = tuple(f"{infix}.{kind}" for kind in ("png", "jpg", "jpeg", "webp") for infix in ("", ".preview"))
SHOWN_TAGS = 24
SHOWN_TEXT = 200  # characters of a text from the metadata


@dataclass(frozen=True)
class Found:
    """A file as it lies in a folder, with the names of its preview ("" without one) and the stamp of its sidecar."""

    stamp: Stamp
    preview: str = ""
    sidecar: Stamp | None = None


@dataclass(frozen=True)
class Facts:
    """What a file's header says; ``problem`` says why the file cannot be used.

    ``blocks`` has the number of modules for every block of its architecture, ``tags`` the most frequent tags of its
    training captions with their counts, and ``tag_count`` how many different ones there are. ``recorded`` is whether
    this extension trained it, ``recommended`` the block weights in it, and
    ``recommended_from`` where they come from.
    """

    architecture: str = ""
    algorithms: tuple[str, ...] = ()
    rank: int | tuple[int, ...] | None = None
    blocks: dict[str, int] = field(default_factory=dict)
    unread: int = 0
    notices: tuple[str, ...] = ()
    problem: str = ""
    output_name: str = ""
    trained_on: str = ""
    trigger: str = ""
    tags: tuple[tuple[str, float], ...] = ()
    tag_count: int = 0
    block_arguments: dict[str, str] = field(default_factory=dict)
    recorded: bool = False
    recommended: str = ""
    recommended_from: str = ""


@dataclass(frozen=True)
class Sidecar:
    """What a user has written about a LoRA in the WebUI: ``NAME.json`` beside the file."""

    activation: str = ""
    negative: str = ""
    description: str = ""
    notes: str = ""
    weight: float = 0.0  # preferred strength, 0 for none
    block_weights: str = ""
    block_weights_from: str = ""


@dataclass(frozen=True)
class LoraFile:
    """A network file. ``key`` is its unique name; ``facts`` and ``sidecar`` are None until they have been read."""

    key: str
    found: Found
    facts: Facts | None = None
    sidecar: Sidecar | None = None

    @property
    def path(self) -> Path:
        return Path(self.found.stamp[0])

    @property
    def known(self) -> bool:
        """Whether its header, and its sidecar if there is one, have been read."""
        return self.facts is not None and (self.sidecar is not None or self.found.sidecar is None)

    @property
    def architecture(self) -> str:
        return self._facts.architecture

    @property
    def algorithms(self) -> tuple[str, ...]:
        return self._facts.algorithms

    @property
    def blocks(self) -> dict[str, int]:
        return self._facts.blocks

    @property
    def output_name(self) -> str:
        """The name that its metadata give it, by which a prompt may have it."""
        return self._facts.output_name

    @property
    def problem(self) -> str:
        return self._facts.problem

    @property
    def recommended(self) -> Recommended | None:
        """The recommended block weights: those of the sidecar, else those in the file; None without any."""
        beside, facts = self.sidecar, self._facts
        if beside is not None and beside.block_weights:
            return Recommended(beside.block_weights, beside.block_weights_from, card_path(self.path).name)
        return Recommended(facts.recommended, facts.recommended_from, self.path.name) if facts.recommended else None

    def lacks(self, block_id: str) -> bool:
        """Whether it has no module in this block."""
        return not self._facts.blocks.get(block_id)

    def matches(self, words: list[str]) -> bool:
        """Whether all of these words, in lower case, are in its key or in what is known of it."""
        facts, sidecar = self._facts, self.sidecar or Sidecar()
        texts = [self.key, facts.architecture, *facts.algorithms, facts.output_name, facts.trigger]
        text = " ".join([*texts, sidecar.activation, *(tag for tag, _ in facts.tags)]).casefold()
        return all(word in text for word in words)

    @property
    def _facts(self) -> Facts:
        return self.facts or Facts()


def files_in(folder: Path) -> list[Found]:
    """Return the network files in a folder and its subfolders, by name; follows links, but no cycles."""
    found: list[Found] = []
    seen: set[str] = set()
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real not in seen:
            seen.add(real)
            waiting += _listed(place, found)
    return sorted(found, key=lambda one: one.stamp[0].replace(os.sep, "/").casefold())


def _listed(place: str, found: list[Found]) -> list[str]:
    """Add the network files of one folder, and return its subfolders."""
    try:
        with os.scandir(place) as entries:
            by_name = {entry.name: entry for entry in entries}
    except OSError as error:
        log.info("%s cannot be listed: %s", place, error)
        return []
    folders = []
    for name, entry in by_name.items():
        try:
            if entry.is_dir():
                folders.append(entry.path)
            elif name.endswith(SUFFIX) and entry.is_file():
                stem = name.removesuffix(SUFFIX)
                preview = next((stem + ending for ending in PREVIEWS if stem + ending in by_name), "")
                beside = by_name.get(stem + SIDECAR)
                found.append(Found(_stamp(entry), preview, _stamp(beside) if beside and beside.is_file() else None))
        except OSError as error:  # a link into nowhere, or gone meanwhile
            log.debug("%s: %s", entry.path, error)
    return folders


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    status = entry.stat()
    return entry.path, status.st_mtime_ns, status.st_size


def stamp_of(path: Path) -> Stamp:
    """The present stamp of a file; raises OSError."""
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


def with_keys(folder: Path, files: list[Found], taken: set[str]) -> Iterator[tuple[str, Found]]:
    """The files of a folder with their keys, their paths in it; ``taken`` has the keys of other folders, and grows."""
    for found in files:
        path = found.stamp[0].removesuffix(SUFFIX)
        name = key = Path(path).relative_to(folder).as_posix()
        if name in taken:
            name = key = f"{name} ({folder.name})"
        number = 2
        while key in taken:
            number, key = number + 1, f"{name} {number}"
        taken.add(key)
        yield key, found


def facts_of(path: Path, describe: Callable[[Path], Description]) -> Facts:
    """Return what a file's header says; one that cannot be read has a ``problem``."""
    try:
        found = describe(path)
    except (OSError, ValueError) as error:
        log.info("%s: %s", path, error)
        return Facts(problem=str(error))
    rank, metadata = found["rank"], found["metadata"]
    counts = sorted(tag_counts(metadata.get("ss_tag_frequency", "")).items(), key=lambda item: -item[1])
    arguments = json_object(metadata.get("ss_network_args", ""))
    recommended = recommended_in_metadata(metadata)
    return Facts(
        architecture=found["architecture"],
        algorithms=tuple(found["algorithms"]),
        rank=tuple(rank) if isinstance(rank, list) else rank,
        blocks=dict(found["blocks"]),
        unread=len(found["unread"]),
        notices=tuple(found["notices"]),
        output_name=metadata.get("ss_output_name", "")[:SHOWN_TEXT],
        trained_on=metadata.get("ss_sd_model_name", "")[:SHOWN_TEXT],
        trigger=metadata.get("modelspec.trigger_phrase", "")[:SHOWN_TEXT],
        tags=tuple((tag[:SHOWN_TEXT], count) for tag, count in counts[:SHOWN_TAGS]),
        tag_count=len(counts),
        block_arguments={name: str(arguments[name]) for name in BLOCK_ARGUMENTS if name in arguments},
        recorded=RECORD in metadata,
        recommended=recommended.text if recommended else "",
        recommended_from=recommended.source if recommended else "",
    )


def sidecar_of(path: Path) -> Sidecar:
    """Return what a sidecar says; nothing for one that cannot be read."""
    try:
        data = read_card(path)
    except (OSError, CardError) as error:
        log.info("%s: %s", path, error)
        return Sidecar()
    weight, recommended = data.get("preferred weight"), recommended_in_card(data)
    return Sidecar(
        activation=_text(data, "activation text"),
        negative=_text(data, "negative text"),
        description=_text(data, "description"),
        notes=_text(data, "notes"),
        weight=float(weight) if _is_number(weight) else 0.0,
        block_weights=recommended.text if recommended else "",
        block_weights_from=recommended.source if recommended else "",
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    return value.strip()[:2000] if isinstance(value, str) else ""
