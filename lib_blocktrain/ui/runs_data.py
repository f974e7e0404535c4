"""What the scripts of Runs draw, as JSON in an attribute: the table of runs, the curves of one, its heat map."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from lib_blocktrain.blocks import ARCHITECTURES, spans
from lib_blocktrain.runner import Status
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.plan import read_weights
from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui import runs_words
from lib_blocktrain.ui.history import History, Points, thinned

COLUMNS = 240  # of a heat map: more cannot be told apart
CURVE = 600  # points of a curve, likewise


@dataclass(frozen=True)
class Weighed:
    """The block weights that a run was started with, and their architecture."""

    architecture: str
    weights: Mapping[str, float]


def weighed(network: NetworkConfig, loaded: str | None) -> Weighed | None:
    """Read a run's weights for the loaded model's architecture, or else the first that they fit; None for none."""
    for architecture in dict.fromkeys((loaded, *ARCHITECTURES)):
        try:
            if architecture is not None:
                found = read_weights(network, architecture)[0]
                known = ARCHITECTURES[architecture].block_ids
                return Weighed(architecture, {block: found[block] for block in known})
        except ValueError:
            continue
    return None


def data(value: object) -> Markup:
    """An element with this value as JSON, for the page's scripts."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup('<div class="blocktrain-data" data-json="{}"></div>').format(text)


def row(run: Run, status: Status, weights: Weighed | None) -> dict[str, object]:
    """A row of the table. `when`: seconds since 1970 of its last row, None while it is active or has none."""
    try:
        when = None if status.is_active else round(run.metrics_path.stat().st_mtime)
    except OSError:
        when = None
    on = "" if weights is None else spans([b for b, w in weights.weights.items() if w], tuple(weights.weights))
    return {
        "name": status.name,
        "title": status.title,
        "kind": runs_words.kind(status),
        "state": status.state,
        "words": runs_words.short(status),
        "step": status.step,
        "steps": status.steps,
        "loss": _rounded(status.smoothed),
        "when": when if runs_words.kind(status) in ("done", "stop", "bad") else None,
        "place": status.place,
        "notes": status.notes,
        "blocks": on,
        "on": "" if weights is None else " ".join(block for block, weight in weights.weights.items() if weight),
        "weights": [] if weights is None else [*weights.weights.values()],
    }


def damaged_row(name: str, why: str) -> dict[str, object]:
    """A row of the table for a run that cannot be read."""
    said: dict[str, object] = {"name": name, "title": name, "state": "damaged", "words": "cannot be read", "notes": why}
    drawn = {"kind": "bad", "step": 0, "steps": 0, "loss": None, "when": None, "place": None}
    return {**said, **drawn, "blocks": "", "on": "", "weights": []}


def curves(run: Run, status: Status, history: History) -> dict[str, object]:
    """Curves, samples and saved files of a run. Curves are `[steps, values]`; `last` is the last step with a row."""
    samples = run.config.samples
    return {
        "name": status.name,
        "title": status.title,
        "step": status.step,
        "steps": status.steps,
        "last": max([status.step, *(points[-1][0] for points in history.curves.values() if points)]),
        "active": status.is_active,
        "curves": {name: _columns(points, CURVE) for name, points in history.curves.items() if points},
        "samples": [
            {"step": sample.step, "file": sample.file, "prompt": sample.prompt, "version": _version(run, sample.file)}
            for sample in history.samples
        ],
        "seed": samples.seed,
        "drawn": f"CFG {samples.cfg:g} · {samples.sampler} {samples.steps}",
    }


def blocks(status: Status, history: History, weights: Weighed | None) -> dict[str, object]:
    """The heat map of a run: for each block that has values the norms of its change and gradient, `[steps, values]`.

    `order` has all blocks from the input to the output; those without values are not trained. `frozen` has the step
    from which a block was trained no more.
    """
    shown = {name: history.by_block[name] for name in ("norms", "gradients")}
    known = ARCHITECTURES[weights.architecture].block_ids if weights else tuple(shown["norms"])
    others = [block for block in shown["norms"] if block not in known]  # BASE
    return {
        "name": status.name,
        "order": [*known, *others],
        "frozen": {block: step for block, step in history.frozen.items() if block in shown["norms"]},
        **{name: {b: _columns(p, COLUMNS) for b, p in by_block.items()} for name, by_block in shown.items()},
    }


def log(history: History) -> list[dict[str, object]]:
    """The events of a run, the newest first; the script writes their times, in the reader's time zone."""
    return [{"step": event.step, "text": event.text, "time": event.time} for event in reversed(history.events)]


def _columns(points: Points, limit: int) -> list[list[float]]:
    points = thinned(points, limit)
    return [[step for step, _ in points], [float(f"{value:.4g}") for _, value in points]]


def _version(run: Run, file: str) -> int:
    """Another number for another content of a sample, which a resumed run draws again; 0 where it is missing."""
    try:
        return (run.folder / "samples" / file).stat().st_mtime_ns // 1_000_000
    except OSError:
        return 0


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
