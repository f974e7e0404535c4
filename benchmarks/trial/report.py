"""``docs/evidence.md`` from the cells, and from nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.trial.arms import ATTENTION, kept, weights
from benchmarks.trial.comparing import Curve, Interval, interval, matched
from benchmarks.trial.replicate import EXPERIMENTS

Cell = Mapping[str, Any]
Cells = Mapping[str, Mapping[tuple[str, int], Cell]]  # by arm, by subject and seed

HEAD = """# Evidence: does training under block weights keep the subject and leak less?

Written by `python benchmarks/evidence.py report` from the cells that `python benchmarks/evidence.py run` made (its
`--help` says how); every number here comes from a cell. All of it is measured on the demo model, a small Stable
Diffusion whose pictures are emoji on plain backgrounds: it need not hold for SD1.5 or SDXL.

A *replicate* is a subject (one that the model has never seen) and a seed, which draws the dataset, the initial LoRA
and the order of training; all arms of a replicate share them, and are compared in pairs. Means have 95 % bootstrap
intervals over replicates. A row says "less" or "more" only where the interval of the paired difference excludes 0 at
three digits, with five replicates or more; with so many rows, one in twenty may do so by chance.

- **fidelity**: the classifier's probability of the subject, on pictures that ask for what the dataset never showed
- **leakage, asked otherwise**: its probability of the factor that never changed in the dataset, where the prompt asks
  for another value of it; minus that of the model alone
- **leakage, nothing asked**: the same where the prompt says nothing of the factor, as in training
- **at matched fidelity**: every LoRA is drawn at several strengths; the arms are compared by the least leakage at which
  they reach the fidelity that both can reach. *Area*: the mean of that over all fidelities up to there
- **drift**: how far pictures without the trigger move (RMS of latents; 1 is their standard deviation)
- **diversity**: how far pictures of one prompt are from each other, in the same unit
- **gap**: loss on held-out pictures of the subject minus that on training pictures, minus the same for the model alone
"""
ARMS = {
    "all": "ALL blocks",
    "analysis": "the blocks that the analysis of the ALL LoRA keeps (75 % of the effect on the subject's word)",
    "out": "OUT only",
    "in": "IN only",
    "lower rank": "ALL, rank cut to the numbers of *analysis*",
    "same norm": "ALL, at the strength that gives the delta norm of *analysis*",
    "random": "as many blocks as *analysis*, drawn at random",
    "analysis at inference": "ALL in training, the weights of *analysis* at inference only",
    "without the face": "all but OUT03-05 (the tutorial's face template)",
    "face lowered": "ALL, OUT03-05 at 0.3",
    "face only": "OUT03-05 only (LoRA Block Weight users' FACE)",
    "without at inference": "ALL in training, OUT03-05 at 0 at inference only",
    "matched": "the blocks that the analysis keeps at this share of the canvas",
    "crossed": "the blocks that it keeps at the other share",
}
TITLES = {
    "background": "Subject always on one background",
    "size": "Subject always large",
    "style": "Subject always drawn in pencil",
    "dressed": "One character in a dozen accessories, each seen once",
    "share-small": "Another share of the canvas: a small subject on one background",
    "share-large": "Another share of the canvas: a large subject on one background",
}


def written(found: Sequence[Cell], moved: Sequence[Cell]) -> str:
    """Return the whole document."""
    parts = [HEAD, _facts(found)]
    for name in EXPERIMENTS:
        cells = by_arm(cell for cell in found if cell["experiment"] == name)
        parts.append(f"## {TITLES[name]}\n")
        if not cells:
            parts.append(f"Not run: `python benchmarks/evidence.py run --work DIR --only {name}`.\n")
            continue
        biased = EXPERIMENTS[name].bias is not None
        parts.append(_at_one(cells, biased))
        parts += [_against(cells, "all", kind) for kind in LEAKAGES] if biased else [_dressed_against(cells)]
        for one, other in (("analysis", "analysis at inference"), ("matched", "crossed"), ("analysis", "random")):
            if biased and one in cells and other in cells:
                parts += [_against({one: cells[one], other: cells[other]}, other, kind) for kind in LEAKAGES]
        if "analysis" in cells or "matched" in cells:
            parts.append(_blocks(cells.get("analysis") or cells["matched"]))
    stayed = by_arm(cell for cell in found if cell["experiment"] == "background")
    parts += ["## One LoRA on a second base model\n", _moved(stayed, by_arm(moved))]
    return "\n".join(parts)


def by_arm(found: Iterable[Cell]) -> dict[str, dict[tuple[str, int], Cell]]:
    arms: dict[str, dict[tuple[str, int], Cell]] = {}
    for cell in found:
        arms.setdefault(cell["arm"], {})[cell["subject"], cell["seed"]] = cell
    return {arm: arms[arm] for arm in ARMS if arm in arms}


def curve_of(cell: Cell, leakage: str) -> Curve:
    """Return (fidelity, leakage) by strength, the model alone first; `leakage` is one of LEAKAGES."""
    plain = cell["plain"]
    points = [(row["subject"], row[leakage] - plain[leakage]) for row in cell["curve"]]
    return [(plain["subject"], 0.0), *points]


def at_strength(cell: Cell) -> Cell:
    return next(row for row in cell["curve"] if row["multiplier"] == cell["strength"])


MEASURES: dict[str, Callable[[Cell], float]] = {
    "fidelity": lambda cell: at_strength(cell)["subject"],
    "leakage, asked otherwise": lambda cell: at_strength(cell)["trained"] - cell["plain"]["trained"],
    "leakage, nothing asked": lambda cell: at_strength(cell)["silent"] - cell["plain"]["silent"],
    "accessory": lambda cell: at_strength(cell)["asked"],
    "drift": lambda cell: cell["others"]["distance"],
    "intrusion": lambda cell: cell["others"]["intruder"] - cell["others"]["plain intruder"],
    "diversity": lambda cell: at_strength(cell)["diversity"],
    "gap": lambda cell: gap(cell["losses"]) - gap(cell["plain"]["losses"]),
}
LEAKAGES = {"trained": "asked otherwise", "silent": "nothing asked"}
BIASED = ("fidelity", "leakage, asked otherwise", "leakage, nothing asked", "drift", "diversity", "gap")
DRESSED = ("fidelity", "accessory", "intrusion", "drift", "diversity", "gap")


def gap(losses: Mapping[str, float]) -> float:
    return losses["held out"] - losses["training"]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def _facts(found: Sequence[Cell]) -> str:
    if not found:
        return "No cells yet.\n"
    counts = Counter(cell["experiment"] for cell in found)
    seconds = sum(sum(cell["seconds"].values()) for cell in found)
    replicates = {name: len({(c["subject"], c["seed"]) for c in found if c["experiment"] == name}) for name in counts}
    counted = ", ".join(f"{name}: {counts[name]} cells of {replicates[name]} replicates" for name in counts)
    steps, models = ({cell[name] for cell in found} for name in ("steps", "model"))
    made = (
        f"{', '.join(map(str, steps))} steps of training each; U-Net {', '.join(sorted(models))} (sha256 of its file)"
    )
    return f"Cells here ({counted}); {made};\n{seconds / 3600:.1f} hours in all.\n"


def _at_one(cells: Cells, biased: bool) -> str:
    names = BIASED if biased else DRESSED
    rows = []
    for arm, of_arm in cells.items():
        values = [interval([MEASURES[name](cell) for cell in of_arm.values()]) for name in names]
        parameters = interval([cell["parameters"] for cell in of_arm.values()]).mean
        rows.append([ARMS[arm], len(of_arm), f"{parameters:,.0f}", *values])
    plain = interval([cell["plain"]["subject"] for cell in cells["all"].values()]) if "all" in cells else "-"
    said = "\nAt strength 1 (*same norm*: at its own). "
    if not biased:
        said += "*accessory*: the probability of the accessory that was asked for. *intrusion*: that of the character"
        said += " where the prompt asks for another in the accessory, minus the model's. "
    return table(["arm", "n", "numbers", *names], rows) + said + f"Fidelity of the model alone: {plain}.\n"


def _pairs(cells: Cells, arm: str, other: str) -> list[tuple[Cell, Cell]]:
    return [(cell, cells[other][key]) for key, cell in cells[arm].items() if key in cells[other]]


def _against(cells: Cells, other: str, leakage: str) -> str:
    """Compare every arm with another at matched fidelity, replicate by replicate."""
    rows = []
    for arm in cells:
        if arm in (other, "same norm"):  # a point of the curve of ALL
            continue
        found = [matched(curve_of(one, leakage), curve_of(two, leakage)) for one, two in _pairs(cells, arm, other)]
        if found:
            differences = interval([ours - theirs for _, ours, theirs, _ in found])
            means = [interval([row[axis] for row in found]).mean for axis in (0, 2, 1)]
            areas = interval([row[3] for row in found])
            rows.append([arm, len(found), *(f"{mean:.3f}" for mean in means), differences, areas, areas.verdict])
    if not rows:
        return ""
    head = ["arm", "n", "fidelity", f"leakage of *{other}*", "of the arm", "difference", "of areas", "leaks, by area"]
    return f"Against *{other}*, at matched fidelity; leakage, {LEAKAGES[leakage]}:\n\n{table(head, rows)}"


def _dressed_against(cells: Cells) -> str:
    rows = []
    for arm in cells:
        if arm == "all" or "all" not in cells:
            continue
        pairs = _pairs(cells, arm, "all")
        pairwise: list[Interval] = [
            interval([MEASURES[n](one) - MEASURES[n](two) for one, two in pairs]) for n in DRESSED
        ]
        rows.append([arm, len(pairs), *(f"{i} {i.verdict}" for i in pairwise)])
    if not rows:
        return ""
    return f"Minus *all*, in pairs, at strength 1:\n\n{table(['arm', 'n', *DRESSED], rows)}"


def _blocks(cells: Mapping[tuple[str, int], Cell]) -> str:
    counted = Counter(block for cell in cells.values() for block in kept(weights(cell["weights"])))
    rows = [[block, f"{counted[block]}/{len(cells)}"] for block in ATTENTION]
    return "Blocks that the analysis kept: " + ", ".join(f"{block} {count}" for block, count in rows) + ".\n"


def _moved(found: Cells, moved: Cells) -> str:
    if not moved:
        return "Not run: `python benchmarks/evidence.py run --work DIR --only background --second-model FOLDER`.\n"
    rows = []
    for arm, of_arm in moved.items():
        there = {key: cell for key, cell in found.get(arm, {}).items() if key in of_arm}
        lost = [MEASURES["fidelity"](of_arm[key]) - MEASURES["fidelity"](cell) for key, cell in there.items()]
        values = [interval([MEASURES[name](cell) for cell in of_arm.values()]) for name in BIASED[:3]]
        rows.append([ARMS[arm], len(of_arm), *values, interval(lost)])
    return table(["arm", "n", *(f"{name}, there" for name in BIASED[:3]), "fidelity there minus here"], rows)
