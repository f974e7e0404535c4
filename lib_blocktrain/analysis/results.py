"""The result of an analysis: figures for each block, as a table, JSON and CSV, and two analyses side by side."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lib_blocktrain import blocks
from lib_blocktrain.analysis.pairs import Pair, notable
from lib_blocktrain.analysis.statistics import (
    Figure,
    Observation,
    by_draw,
    figures,
    rank_stability,
    rounded,
    spearman,
)
from lib_blocktrain.files import atomic_write

FORMAT = "blocktrain-analysis-1"
JSON_NAMES = {"area_share": "canvas", "settings": "setting"}  # of fields whose name in files is another one
MEANINGS = {
    "exact": "change of the predicted noise without the block, over that of the whole LoRA",
    "one-only": "change of the predicted noise with the block alone, over that of the whole LoRA",
    "fast": "the block's part of the whole effect (integrated gradients); they add up to 1",
    "norms": "size of the block's delta weights, over that of all blocks",
    "rendered": "perceived difference of the picture with the block lowered, 0 to 1",
    "probe": "size of the loss's gradient in the block, over that of all blocks",
}


@dataclass(frozen=True)
class Analysis:
    """Figures of one method for one feature. `values` has a row an observation, a column a block.

    `area_share` is the feature's share of the image, 0 to 1, None for the whole; `completeness` the attributions' sum
    over the whole effect, for the method that has one; `evaluations` and `seconds` are what it cost; `settings` are
    what is needed to repeat it. `pairs` are there, the strongest first, where they were asked for.
    """

    method: str
    architecture: str
    name: str  # of the LoRA or the dataset
    model: str
    feature: str
    blocks: tuple[str, ...]
    observations: tuple[Observation, ...]
    values: tuple[tuple[float, ...], ...]
    area_share: float | None = None
    completeness: float | None = None
    evaluations: float = 0.0
    seconds: float = 0.0
    notices: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in MEANINGS:
            raise ValueError(f"method {self.method!r}: expected one of {', '.join(MEANINGS)}")
        known = (blocks.BASE, blocks.REST, *blocks.architecture(self.architecture).block_ids)
        strange = [block for block in self.blocks if block not in known]
        if strange or not self.blocks:
            raise ValueError(f"blocks {strange or 'none'}: expected some of {known[2]}..{known[-1]}, BASE, REST")
        array = np.asarray(self.values, dtype=float)
        if array.shape != (len(self.observations), len(self.blocks)) or not np.isfinite(array).all():
            raise ValueError(
                f"values of shape {array.shape}: expected ({len(self.observations)}, {len(self.blocks)}), all finite"
            )

    @cached_property
    def draws(self) -> np.ndarray:
        """Figures by prompt and seed, `(draws, blocks)`: the mean over timesteps, weighted by their stretch."""
        return by_draw(self.observations, self.values)

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """One figure for each block, in the order of the forward pass."""
        return tuple(figures(self.blocks, self.draws))

    @property
    def stability(self) -> float | None:
        """How well the draws agree on the order of the blocks: mean rank correlation, None with one draw."""
        return rank_stability(self.draws)

    def means(self) -> dict[str, float]:
        return {figure.block: figure.mean for figure in self.figures}

    def summary(self) -> list[str]:
        """Return what the figures cost, how they add up and how well the draws agree, as parts of a sentence."""
        parts = []
        if self.evaluations:
            parts.append(f"{self.evaluations:.0f} U-Net evaluations in {self.seconds:.1f} s")
        if self.completeness is not None:
            parts.append(f"the parts add up to {self.completeness:.1%} of the effect")
        if self.stability is not None:
            parts.append(f"seeds and prompts agree on the order to {self.stability:.2f}")
        return parts

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`; `from_json` gives back this analysis."""
        data = {JSON_NAMES.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}
        data["observations"] = [asdict(observation) for observation in self.observations]
        data["values"] = [list(row) for row in self.values]
        data |= {"blocks": list(self.blocks), "notices": list(self.notices), "setting": dict(self.settings)}
        data["pairs"] = [asdict(pair) for pair in self.pairs]
        summary = {"figures": [asdict(figure) for figure in self.figures], "stability": self.stability}
        return {"format": FORMAT, "meaning": MEANINGS[self.method], **data, **summary}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Analysis:
        """Return what `to_json` wrote; raises ValueError for anything else."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ValueError(f"no analysis: expected an object with format {FORMAT!r}")
        try:
            data = {"pairs": [], **data}  # files of before have none
            known = {f.name: data[JSON_NAMES.get(f.name, f.name)] for f in fields(cls)}
            known["pairs"] = tuple(Pair(**row) for row in data["pairs"])
            known["observations"] = tuple(Observation(**row) for row in data["observations"])
            known["values"] = tuple(tuple(map(float, row)) for row in data["values"])
            return cls(**{**known, "blocks": tuple(data["blocks"]), "notices": tuple(data["notices"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no analysis: {error} is missing or wrong") from error

    def to_csv(self) -> str:
        """Return CSV with a line for each block."""
        head = ("block", "mean", "spread", "noise", "share", "rank", "within_noise")
        return _csv([head, *([getattr(figure, name) for name in head] for figure in self.figures)])

    def to_table(self) -> str:
        """Return a table in plain text, the strongest block first."""
        lines = [f"{'block':<6} {'figure':>8} {'±':>7} {'share':>6}"]
        widest = max((abs(figure.mean) for figure in self.figures), default=0.0) or 1.0
        for figure in sorted(self.figures, key=lambda f: f.rank):
            noise = "-" if figure.noise is None else f"{figure.noise:.3f}"
            bar = "#" * round(30 * abs(figure.mean) / widest)
            said = "  within the noise" if figure.within_noise else ""
            mean, share = rounded(figure.mean, 3), rounded(figure.share, 3)
            lines.append(f"{figure.block:<6} {mean:>8.3f} {noise:>7} {share:>6.1%} {bar}{said}")
        said_of_pairs = [pair.says for pair in notable(self.pairs)] or ["no pair of blocks is beyond the noise"]
        return "\n".join([*lines, *(said_of_pairs if self.pairs else [])])


@dataclass(frozen=True)
class Difference:
    """One block in two analyses, by their shares; positive where it matters more to the first."""

    block: str
    first: float
    second: float
    within_noise: bool

    @property
    def difference(self) -> float:
        return self.first - self.second


@dataclass(frozen=True)
class Comparison:
    """Two analyses of the same blocks; `correlation` is Spearman's, of their means."""

    titles: tuple[str, str]
    rows: tuple[Difference, ...]
    correlation: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        rows = [{**asdict(row), "difference": row.difference} for row in self.rows]
        return {"titles": list(self.titles), "correlation": self.correlation, "blocks": rows}

    def to_csv(self) -> str:
        """Return CSV with a line for each block."""
        head = ("block", "first", "second", "difference", "within_noise")
        return _csv([head, *([getattr(row, name) for name in head] for row in self.rows)])

    def to_table(self) -> str:
        """Return a table in plain text: first the blocks that matter more to A, last those that matter more to B."""
        lines = [f"A: {self.titles[0]}", f"B: {self.titles[1]}", f"{'block':<6} {'A':>6} {'B':>6} {'A - B':>7}"]
        for row in sorted(self.rows, key=lambda row: -row.difference):
            said = "" if not row.within_noise else "  within the noise"
            first, second, points = rounded(row.first, 3), rounded(row.second, 3), rounded(100 * row.difference, 1)
            lines.append(f"{row.block:<6} {first:>6.1%} {second:>6.1%} {points:>+7.1f}{said}")
        return "\n".join([*lines, f"rank correlation {self.correlation:.2f}"])


def compare(first: Analysis, second: Analysis) -> Comparison:
    """Compare two analyses by their blocks' shares; raises ValueError unless they have blocks in common."""
    if first.architecture != second.architecture:
        raise ValueError(f"analyses for {first.architecture} and {second.architecture}: expected one architecture")
    theirs = {figure.block: figure for figure in second.figures}
    common = [figure for figure in first.figures if figure.block in theirs]
    if not common:
        raise ValueError(f"blocks {', '.join(first.blocks)} and {', '.join(second.blocks)}: expected some in common")
    rows = []
    for ours in common:
        other = theirs[ours.block]
        noise = _noise_of_share(first, ours) + _noise_of_share(second, other)
        rows.append(Difference(ours.block, ours.share, other.share, abs(ours.share - other.share) <= noise))
    means = [figure.mean for figure in common], [theirs[figure.block].mean for figure in common]
    return Comparison((_title(first), _title(second)), tuple(rows), spearman(*means))


def read_analysis(path: Path) -> Analysis:
    """Read an analysis from a JSON file; raises ValueError, naming the file."""
    try:
        return Analysis.from_json(json.loads(path.read_text("utf-8")))
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_analysis(analysis: Analysis, folder: Path, stem: str) -> list[Path]:
    """Write STEM.json and STEM.csv, and return their paths."""
    texts = {
        "json": json.dumps(analysis.to_json(), indent=1, ensure_ascii=False) + "\n",
        "csv": analysis.to_csv(),
    }
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{stem}.{suffix}"
        with atomic_write(path) as temporary:
            temporary.write_text(text, "utf-8")
        paths.append(path)
    return paths


def _title(analysis: Analysis) -> str:
    return f"{analysis.feature} ({analysis.name}, {analysis.method})"


def _noise_of_share(analysis: Analysis, figure: Figure) -> float:
    total = sum(max(0.0, f.mean) for f in analysis.figures)
    return (figure.noise or 0.0) / total if total else 0.0


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
