"""The question "keep A, drop B", and its answer: the front of block weights with what they keep of A and drop of B."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from PIL import Image

from lib_blocktrain.analysis import sampling_grid as limits
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.request import Options, read_seeds
from lib_blocktrain.analysis.sampling_grid import GUIDANCE, SamplingGrid
from lib_blocktrain.analysis.statistics import rounded
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_files import named_preset
from lib_blocktrain.weights.preset_strings import Parsed, parse
from lib_blocktrain.weights.presets import Preset

FORMAT = "blocktrain-solution-1"
JSON_NAMES = {"area_share": "canvas", "settings": "setting"}  # of fields whose name in files is another one
BUDGET = 2040  # U-Net evaluations: a rendered sheet of a LoRA in 16 blocks, on three seeds
MAX_BUDGET = 1_000_000
WALKED = 5  # steps of a trajectory in the search: as good as ten for it, at half the cost
SEEDS = 20
KINDS: Mapping[str, str] = {
    "free": "each weight from -0.5 to 1.5",
    "sparse": "the same, with weak blocks at 0",
    "on-off": "each block at 0 or 1",
}
BOUNDS: Mapping[str, tuple[float, float]] = {"free": (-0.5, 1.5), "sparse": (-0.5, 1.5), "on-off": (0.0, 1.0)}
TOGETHER = (
    "no weights were found that keep half of A and drop half of B: both seem to sit in the same blocks. Training again"
    " with block weights may part them"
)
SAME = 0.02  # of kept and leaked: differences between points of a front that are not worth a choice


@dataclass(frozen=True)
class SolveRequest:
    """Keep `keep` and drop `drop`, None for everything else, in at most `budget` U-Net evaluations.

    `options.weights` are those of the LoRA as it is, from which the search begins; a block that is 0 there stays so,
    and so do BASE and REST. Raises ValueError for what cannot be asked.
    """

    network: Network
    grid: SamplingGrid
    keep: Feature
    drop: Feature | None = None
    kind: str = "free"
    budget: int = BUDGET
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}: expected one of {', '.join(KINDS)}")
        if not self.keep.given:
            raise ValueError("nothing to keep: expected a word, a box or a mask as A")
        if self.drop is not None and not self.drop.given:
            raise ValueError("B is the whole picture, which has A in it: expected a word, a box or a mask")
        if self.drop == self.keep:
            raise ValueError(f"A and B are both {self.keep.title}: expected two different features")
        if not 1 <= self.budget <= MAX_BUDGET:
            raise ValueError(f"budget {self.budget}: expected 1 to {MAX_BUDGET} U-Net evaluations")
        if len(self.grid.prompts) > limits.MAX_PROMPTS or len(self.grid.seeds) > limits.MAX_SEEDS:
            raise ValueError(
                f"{len(self.grid.prompts)} prompts and {len(self.grid.seeds)} seeds: expected up to"
                f" {limits.MAX_PROMPTS} and {limits.MAX_SEEDS}"
            )


def build_solve_request(
    network: Network,
    *,
    prompts: Sequence[str],
    keep: Feature,
    drop: Feature | None = None,
    negative: str = "",
    seeds: Sequence[int] | str = tuple(range(SEEDS)),
    guidance: float = GUIDANCE,
    width: int | None = None,
    height: int | None = None,
    kind: str = "free",
    budget: int = BUDGET,
    weights: Parsed | None = None,
    multiplier: float = 1.0,
) -> SolveRequest:
    """Return the request; raises ValueError, with the value and what was expected, for what cannot be asked."""
    if not prompts:
        raise ValueError("no prompt: expected at least one")
    grid = SamplingGrid(
        tuple(prompts),
        negative=negative,
        seeds=read_seeds(seeds) if isinstance(seeds, str) else tuple(seeds),
        steps=WALKED,
        guidance=guidance,
        width=width,
        height=height,
    )
    options = Options(None if weights is None else weights.weights, multiplier)
    return SolveRequest(network, grid, keep, drop, kind, budget, options)


@dataclass(frozen=True)
class Solution:
    """Weights, and what they keep of A and leave of B: 1 is as with the whole LoRA there, 0 as without.

    `picture` is the first seed's, None where it was not decoded.
    """

    weights: BlockWeights
    kept: float
    leaked: float
    picture: Image.Image | None = field(default=None, compare=False, repr=False)

    @property
    def dropped(self) -> float:
        return 1.0 - self.leaked


@dataclass(frozen=True)
class Solved:
    """The answer: the front, from most kept to least leaked, and the solution of it that was `chosen`, by its place.

    `found_with` says on how many pictures; `finished` is False where the search was ended before its budget was spent.
    """

    architecture: str
    name: str  # of the LoRA
    model: str
    keep: str
    drop: str
    kind: str
    front: tuple[Solution, ...]
    chosen: int
    area_share: float
    evaluations: float
    budget: int
    seconds: float
    pictures: int
    finished: bool = True
    notices: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Solution:
        return self.front[self.chosen]

    def preset(self, name: str, place: int | None = None) -> Preset:
        """Return the solution at this place of the front as a preset that says what it was found for.

        Raises ValueError for a name that cannot be one, and for a place that the front lacks.
        """
        solution = self.at(place)
        kept, dropped = rounded(solution.kept, 2), rounded(solution.dropped, 2)
        said = f"keeps {kept:.0%} of {self.keep}, drops {dropped:.0%} of {self.drop}, {self.name}"
        return named_preset(self.line(place, name), name, said)

    def at(self, place: int | None) -> Solution:
        """Return the solution at this place of the front, None for the chosen one; raises ValueError."""
        place = self.chosen if place is None else place
        if not 0 <= place < len(self.front):
            raise ValueError(f"solution {place + 1}: expected 1 to {len(self.front)}, the front's places")
        return self.front[place]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`; `from_json` gives back this answer, without its pictures."""
        data = {JSON_NAMES.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}
        data |= {"notices": list(self.notices), "setting": dict(self.settings)}
        data["front"] = [
            {"weights": self.line(place), "kept": solution.kept, "leaked": solution.leaked}
            for place, solution in enumerate(self.front)
        ]
        return {"format": FORMAT, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Solved:
        """Return what `to_json` wrote; raises ValueError for anything else."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ValueError(f"no solution: expected an object with format {FORMAT!r}")
        try:
            known = {f.name: data[JSON_NAMES.get(f.name, f.name)] for f in fields(cls)}
            front = tuple(
                Solution(parse(row["weights"], data["architecture"]).weights, float(row["kept"]), float(row["leaked"]))
                for row in data["front"]
            )
            return cls(**{**known, "front": front, "notices": tuple(data["notices"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no solution: {error} is missing or wrong") from error

    def line(self, place: int | None = None, name: str | None = None) -> str:
        """Return the preset line of the solution at this place, with the architecture and the share of the canvas."""
        return self.at(place).weights.to_line(name, with_architecture=True, area_share=self.rounded_share)

    @property
    def rounded_share(self) -> float | None:
        """The share of the canvas as a line has it; None where it is not known."""
        return round(self.area_share, 3) or None

    def to_table(self) -> str:
        """Return the front as a table in plain text, the chosen solution marked."""
        lines = [f"A: {self.keep}", f"B: {self.drop}", f"{'':<3} {'A kept':>7} {'B dropped':>10}  weights"]
        for place, solution in enumerate(self.front):
            mark = "*" if place == self.chosen else ""
            line = solution.weights.to_line()
            kept, dropped = rounded(solution.kept, 2), rounded(solution.dropped, 2)
            lines.append(f"{place + 1:>2}{mark:<1} {kept:>7.0%} {dropped:>10.0%}  {line}")
        spent = f"{self.evaluations:.0f} of {self.budget} U-Net evaluations in {self.seconds:.1f} s"
        return "\n".join([*lines, f"{spent}, on {self.pictures} pictures{'' if self.finished else '; ended early'}"])


def front_of(found: Iterable[Solution]) -> tuple[Solution, ...]:
    """Return the solutions that no other beats both in what is kept and in what leaks, from most kept to least leaked.

    Of solutions that are nearly alike only the first stays.
    """
    front: list[Solution] = []
    for solution in sorted(found, key=lambda one: (-one.kept, one.leaked)):
        if not front or solution.leaked < front[-1].leaked - SAME:
            front.append(solution)
    return tuple(front)


def parts(front: Iterable[Solution]) -> bool:
    """Return whether some solution keeps half of A or more and drops half of B or more."""
    return any(solution.kept >= 0.5 >= solution.leaked for solution in front)


def worth(kept: Sequence[float], leaked: Sequence[float]) -> float:
    """Return what a choice of the front goes by: the pictures that keep A, less those that leak, as a part of all.

    A picture with half of A or more shows it, and one with less than half of B's change does not show that; others
    count in part. 0 for the whole LoRA.
    """
    shows = [min(max(2 * share, 0.0), 1.0) for share in kept]
    leaks = [min(max(2 * share - 1, 0.0), 1.0) for share in leaked]
    return (sum(shows) - sum(leaks)) / len(shows)
