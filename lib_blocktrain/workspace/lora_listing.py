"""The list of LoRA files as the page's script reads it: a row for each file, for those that have changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib_blocktrain.blocks import ARCHITECTURES, BASE, REST
from lib_blocktrain.networks.contents import REFUSED
from lib_blocktrain.workspace.lora_files import LoraFile, Sidecar
from lib_blocktrain.workspace.lora_index import LoraIndex


def listing(index: LoraIndex, folders: Sequence[Path], since: int = 0) -> dict[str, Any]:
    """The files that have changed since a revision, all of them with 0."""
    revision, everything, files = index.changes(since)
    return {
        "since": since,
        "revision": revision,
        "all": everything,
        "complete": index.complete,
        "folders": [str(folder) for folder in folders],
        "files": [_row(file) for file in files],
    }


def rank_text(of: int | tuple[int, ...]) -> str:
    """A rank, or the least and the largest of several."""
    return str(of) if isinstance(of, int) else f"{of[0]} to {of[-1]}"


def _row(file: LoraFile) -> list[object]:
    """One file, in the order that `javascript/lora_store.js` reads."""
    facts, beside, stamp = file.facts, file.sidecar or Sidecar(), file.found.stamp
    row: list[object] = [file.key, int(stamp[1] / 1e9), int(bool(file.found.preview)), int(file.known)]
    if facts is None or not file.known:
        return row
    there = sum(bool(count) for block, count in facts.blocks.items() if block not in (BASE, REST))
    words = [facts.output_name, facts.trigger, beside.activation, *(tag for tag, _ in facts.tags)]
    rank = "" if facts.rank is None else f"rank {rank_text(facts.rank)}"
    problem = facts.problem.removeprefix(f"{file.path}: ")
    foreign = problem.startswith(REFUSED)
    return [
        *row,
        facts.architecture,
        ARCHITECTURES[facts.architecture].title if facts.architecture else "",
        "+".join(facts.algorithms),
        rank,
        there,
        int(facts.recorded),
        problem.removeprefix(f"{REFUSED}: "),
        int(foreign),
        " ".join(dict.fromkeys(words)).casefold(),
    ]
