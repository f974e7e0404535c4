"""``docs/evidence.md`` from the cells, and from nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.trial.arms import ATTENTION, kept, weights
from benchmarks.trial.comparing import ENOUGH, Curve, Interval, interval, matched
from benchmarks.trial.figure import drawn, line
from benchmarks.trial.replicate import EXPERIMENTS

Cell = Mapping[str, Any]
Cells = Mapping[str, Mapping[tuple[str, int], Cell]]  # by arm, by subject and seed

HEAD = """# Evidence: does training under block weights keep the subject and leak less?

Every number here is measured on the demo model, a small Stable Diffusion whose pictures are emoji on plain backgrounds:
it need not hold for SD1.5 or SDXL. `python benchmarks/evidence.py report` writes this page.

## The answer

In each experiment something never changes in the training pictures: the background, the size, the style. *Leakage* is
the probability that a LoRA draws it where it should not, minus that of the model alone. *Fidelity* is the probability
of the subject. A LoRA is compared with one of all blocks where both reach equal fidelity; in brackets is by how much it
leaks less (-) or more:
"""
HOW = """## How it was measured

A *replicate* is a subject (one that the model has never seen) and a seed, which draws the dataset, the initial LoRA
and the order of training; all arms of a replicate share them, and are compared in pairs. Means have 95 % bootstrap
intervals over replicates. A row of the folded tables says "less" or "more" where the interval of the difference of the
areas excludes 0 and its mean is 0.0005 or more, with five replicates or more; the answer above only where that of the
difference at matched fidelity does, too. There are many rows: one in twenty may do so by chance. An interval from
five replicates is narrower than it should be. The rivals and the searched arms were trained by a later version of the
program than the other arms; *all again* shows how much that changes. Pictures are drawn in bfloat16, or in float32 by a
CPU that emulates it, as the last cells of *dressed* were; the model alone differs between the two by less than 0.001
in the probabilities, 0.006 in diversity and 0.0002 in the losses. A search has 1,020 U-Net evaluations and 12
pictures, and keeps the subject while it drops all else; a run under its weights has 0 for those below 0, which a run
refuses.

<details><summary>The words of the tables</summary>

- **fidelity**: the classifier's probability of the subject, on pictures that ask for what the dataset never showed
- **leakage, asked otherwise**: its probability of the factor that never changed in the dataset, where the prompt asks
  for another value of it; minus that of the model alone
- **leakage, nothing asked**: the same where the prompt says nothing of the factor, as in training
- **at matched fidelity**: every LoRA is drawn at several strengths; the arms are compared by the least leakage at which
  they reach the fidelity that both can reach. *Area*: the mean of that over all fidelities up to there
- **drift**: how far pictures without the trigger move (RMS of latents; 1 is their standard deviation)
- **diversity**: how far pictures of one prompt are from each other, in the same unit
- **gap**: loss on held-out pictures of the subject minus that on training pictures, minus the same for the model alone

</details>

"""
FIGURE = "evidence.svg"
# No more than can be told apart in one figure.
FIGURE_ARMS = ("all", "lower rank", "out", "masked", "t-lora", "prior", "preservation", "out, preservation")
ARMS = {
    "all": "ALL blocks",
    "all again": "ALL blocks, trained again by the version of the program that trained the rivals",
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
    "t-lora": "ALL, fewer ranks at high noise (T-LoRA)",
    "masked": "ALL, loss only on the subject (its mask)",
    "prior": "ALL, with pictures of other subjects as prior preservation",
    "preservation": "ALL, differential output preservation (the class: another subject)",
    "dropout": "ALL, captions left out of three steps in ten",
    "solved": "ALL in training, at inference the weights that the search finds",
    "solved before training": "the weights that the search finds for an ALL LoRA of a tenth of the steps, in training",
    "out, lower rank": "OUT only, its rank cut as *lower rank*",
    "out, t-lora": "OUT only, with T-LoRA",
    "out, masked": "OUT only, loss only on the subject",
    "out, prior": "OUT only, with prior preservation",
    "out, preservation": "OUT only, with differential output preservation",
    "out, dropout": "OUT only, with captions left out",
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
    cells = {name: by_arm(cell for cell in found if cell["experiment"] == name) for name in EXPERIMENTS}
    parts = [HEAD, _in_short(cells), _figure_text(cells.get("background", {})), _answer(cells), HOW, _facts(found)]
    for name, of_experiment in cells.items():
        parts.append(f"\n## {TITLES[name]}\n")
        if not of_experiment:
            parts.append(f"Not run: `python benchmarks/evidence.py run --work DIR --only {name}`.\n")
            continue
        parts.append(folded("All tables", _tables(of_experiment, EXPERIMENTS[name].bias is not None)))
    stayed = by_arm(cell for cell in found if cell["experiment"] == "background")
    parts += ["\n## One LoRA on a second base model\n", _moved(stayed, by_arm(moved))]
    return "\n".join(parts)


def figure(found: Sequence[Cell]) -> str:
    """Return the figure of the background as SVG."""
    return drawn(_curves(by_arm(cell for cell in found if cell["experiment"] == "background")), *AXES)


AXES = ("fidelity: probability of the subject", "leakage: of the training background, nothing asked")


def _curves(cells: Cells) -> dict[str, list[Curve]]:
    return {arm: [curve_of(cell, "silent") for cell in cells[arm].values()] for arm in FIGURE_ARMS if arm in cells}


def _figure_text(cells: Cells) -> str:
    lines = [arm for arm, curves in _curves(cells).items() if len(line(arm, curves).points) > 1]
    if not lines:
        return "There are too few cells for a figure yet.\n"
    return (
        f"![Leakage of the training background over fidelity to the subject, a line an arm: {', '.join(lines)}]"
        f"(images/{FIGURE})\n\nThe subject always on one background: the lower a line, the less background comes with\n"
        "the same subject. Bands are 95 % intervals, in brackets is the number of replicates; a line ends where fewer\n"
        "than four in five of them get.\n"
    )


def folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n</details>\n"


def _tables(cells: Cells, biased: bool) -> str:
    parts = [_at_one(cells, biased)]
    parts += [_against(cells, "all", kind) for kind in LEAKAGES] if biased else [_dressed_against(cells)]
    for one, other in PAIRS:
        if biased and one in cells and other in cells:
            parts += [_against({one: cells[one], other: cells[other]}, other, kind) for kind in LEAKAGES]
    if "analysis" in cells or "matched" in cells:
        parts.append(_blocks(cells.get("analysis") or cells["matched"]))
    if "solved before training" in cells:
        parts.append(_searched(cells["solved before training"]))
    return "\n".join(parts)


PAIRS = (
    ("analysis", "analysis at inference"), ("matched", "crossed"), ("analysis", "random"), ("out", "lower rank"),
    ("out, lower rank", "lower rank"), ("out, t-lora", "t-lora"), ("out, masked", "masked"), ("out, prior", "prior"),
    ("out, preservation", "preservation"), ("out, dropout", "dropout"), ("solved before training", "analysis"),
    ("solved before training", "out"), ("solved before training", "lower rank"), ("solved before training", "solved"),
    ("solved", "analysis at inference"),
)  # fmt: skip
ANSWERED = (("background", "silent"), ("size", "trained"), ("style", "silent"))  # where most leaks in each


def _answer(cells: Mapping[str, Cells]) -> str:
    """The difference of every arm from the LoRA of all blocks, in one table."""
    rows = []
    for arm, title in ARMS.items():
        row = [_difference(cells.get(name, {}), arm, kind) for name, kind in ANSWERED]
        if any(row) and arm not in ("all", "same norm"):
            rows.append([f"*{arm}*: {title}", *(entry or "not run" for entry in row)])
    head = ["arm", *(f"{TITLES[name].lower()}, {LEAKAGES[kind]}" for name, kind in ANSWERED)]
    if not rows:
        return "No cells yet.\n"
    said = (
        "The table says what each arm is, and by how much it leaks less (-) or more than a LoRA of all blocks, with\n"
        "the 95 % interval from five replicates on. The masks of *masked* are exact, which those of a user are not.\n\n"
    )
    words = "\n".join(_in_words(cells.get(name, {}), name, kind) for name, kind in ANSWERED)
    words = f"{words}\n{_dressed_in_words(cells.get('dressed', {}))}"
    return f"{said}{table(head, rows)}\n{folded('The same in words, and each arm with others', words)}"


BRIEF = {"out": "the OUT blocks only", "lower rank": "a lower rank", "masked": "exact masks"}
BRIEF_DRESSED = {"all": "all blocks", "out": "the OUT blocks only", "without the face": "all but OUT03-OUT05",
                 "face only": "OUT03-OUT05 only", "masked": "exact masks"}  # fmt: skip


def _in_short(cells: Mapping[str, Cells]) -> str:
    """A line on each experiment: block weights, and the plainest of the other remedies."""
    lines = [_briefly(cells[name], name, kind) for name, kind in ANSWERED if cells.get(name)]
    dressed = {arm: of_arm for arm, of_arm in cells.get("dressed", {}).items() if len(of_arm) >= ENOUGH}
    known = {title: dressed[arm] for arm, title in BRIEF_DRESSED.items() if arm in dressed}
    if known:
        lines.append(f"- {_character_and_accessories(known)}")
    return "\n".join(lines) if known else "\n".join([*lines, ""])


def _briefly(cells: Cells, name: str, leakage: str) -> str:
    said: dict[str, list[str]] = {}
    for arm, title in BRIEF.items():
        if arm in cells and "all" in cells:
            verdict, difference, _ = _compared(cells, arm, "all", leakage)
            told = f" ({difference.mean:+.2f})" if verdict in ("less", "more") else ""
            said.setdefault(verdict, []).append(f"{title}{told}")
    parts = [f"{VERDICTS[verdict].lower()}: {', '.join(said[verdict])}" for verdict in VERDICTS if verdict in said]
    told = "; ".join(parts)
    return f"- **{TITLES[name]}**, {LEAKAGES[leakage]}. {told[:1].upper()}{told[1:]}."


def _in_words(cells: Cells, name: str, leakage: str) -> str:
    """A few sentences on an experiment: which arms leak less than the LoRA of all blocks, which more."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for arm in cells:
        if arm not in ("all", "same norm"):
            verdict, difference, _ = _compared(cells, arm, "all", leakage)
            groups.setdefault(verdict, []).append((difference.mean, f"*{arm}* ({difference.mean:+.2f})"))
    ordered = {verdict: [text for _, text in sorted(found)] for verdict, found in groups.items()}
    parts = [f"{said}: {', '.join(ordered[verdict])}." for verdict, said in VERDICTS.items() if verdict in ordered]
    if not parts:
        return f"- **{TITLES[name]}** ({LEAKAGES[leakage]}). Not run."
    for arm, others in (("out", ("lower rank",)), ("solved before training", ("analysis", "out", "lower rank"))):
        told = []
        for other in (other for other in others if arm in cells and other in cells):
            verdict, difference, count = _compared(cells, arm, other, leakage)
            said = f"no verdict from {counted(count, 'replicate')}" if verdict == "too few" else verdict
            told.append(f"with *{other}*: {said} ({difference.mean:+.2f})")
        if told:
            parts.append(f"*{arm}* compared {', '.join(told)}.")
    if with_out := [_beside_rival(cells, arm, leakage) for arm in cells if arm.startswith("out, ")]:
        parts.append(f"A remedy with *out*, compared with the remedy alone: {', '.join(with_out)}.")
    whole = [interval([MEASURES[m](cell) for cell in cells["all"].values()]).mean for m in ("fidelity", _leak(leakage))]
    first = f"A LoRA of all blocks has fidelity {whole[0]:.2f} and leakage {whole[1]:.2f}."
    return f"- **{TITLES[name]}** ({LEAKAGES[leakage]}). {first} {' '.join(parts)}"


def _beside_rival(cells: Cells, arm: str, leakage: str) -> str:
    """What training the OUT blocks alone adds to another remedy."""
    rival = arm.removeprefix("out, ")
    verdict, difference, _ = _compared(cells, arm, rival, leakage)
    return f"*{rival}* {verdict} ({difference.mean:+.2f})"


def _leak(leakage: str) -> str:
    return f"leakage, {LEAKAGES[leakage]}"


def _dressed_in_words(cells: Cells) -> str:
    """What became of the character and of its accessories, arm by arm."""
    return "- " + _character_and_accessories({f"*{arm}*": of_arm for arm, of_arm in cells.items()}) if cells else ""


def _character_and_accessories(arms: Cells) -> str:
    """What the arms learnt of both; the names are shown as they are."""
    told, highest = [], 0.0
    for name, of_arm in arms.items():
        character, accessory = (interval([MEASURES[m](cell) for cell in of_arm.values()]).mean for m in DRESSED[:2])
        few = "" if len(of_arm) >= FULL else f" ({counted(len(of_arm), 'replicate')})"
        told.append(f"{name} {character:.2f} and {accessory:.2f}{few}")
        highest = max(highest, accessory)
    said = f"**{TITLES['dressed']}**. Probability of the character, and of the accessory that was asked for: "
    said += f"{', '.join(told)}."
    if highest < SELDOM:
        said += " No arm learnt to draw the accessories, so this says nothing of which blocks carry them."
    return f"{said}\n"


SELDOM = 0.1  # the probability of what was not learnt
VERDICTS = {
    "less": "Less leakage",
    "more": "More leakage",
    "not told apart": "Not told apart",
    "too few": "Fewer than five replicates, so no verdict",
}


def _compared(cells: Cells, arm: str, other: str, leakage: str) -> tuple[str, Interval, int]:
    """What is said of an arm against another, the difference at matched fidelity, and the number of replicates.

    "less" and "more" only where the difference and that of the areas agree.
    """
    pairs = _pairs(cells, arm, other)
    found = [matched(curve_of(one, leakage), curve_of(two, leakage)) for one, two in pairs]
    difference = interval([ours - theirs for _, ours, theirs, _ in found])
    by_area = interval([row[3] for row in found]).verdict
    return (by_area if by_area == difference.verdict else "not told apart"), difference, len(found)


def _difference(cells: Cells, arm: str, leakage: str) -> str:
    if arm not in cells or "all" not in cells:
        return ""
    verdict, difference, count = _compared(cells, arm, "all", leakage)
    shown = str(difference) if count >= ENOUGH else f"{difference.mean:.3f}"
    said = f"**{verdict}** {shown}" if verdict in ("less", "more") else shown
    return said if count >= FULL else f"{said}; {counted(count, 'replicate')}"


FULL = 15  # replicates of a finished arm


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


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
    told = ", ".join(f"{name}: {counts[name]} cells of {counted(replicates[name], 'replicate')}" for name in counts)
    steps, models = ({cell[name] for cell in found} for name in ("steps", "model"))
    made = (
        f"{', '.join(map(str, steps))} steps of training each; U-Net {', '.join(sorted(models))} (sha256 of its file)"
    )
    hours = f"{seconds / 3600:.1f} hours in all.\n"
    return f"Cells here ({told}); {made};\n{hours}{_unfinished(found)}"


def _unfinished(found: Sequence[Cell]) -> str:
    """Which arms have fewer replicates than others of their experiment, and which have none."""
    said = []
    for name, experiment in EXPERIMENTS.items():
        arms = by_arm(cell for cell in found if cell["experiment"] == name)
        most = max((len(of_arm) for of_arm in arms.values()), default=0)
        few = [
            f"*{arm}* {len(of_arm)} ({', '.join(f'{subject}-{seed}' for subject, seed in sorted(of_arm))})"
            for arm, of_arm in arms.items()
            if len(of_arm) < most
        ]
        none = [f"*{arm}*" for arm in experiment.arms if arm not in arms]
        if arms and (few or none):
            parts = [f"of {most} replicates only {'; '.join(few)}"] * bool(few)
            parts += [f"not run {', '.join(none)}"] * bool(none)
            said.append(f"- {name}: {'; '.join(parts)}.\n")
    return f"\nNot finished:\n\n{''.join(said)}" if said else ""


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


def _searched(cells: Mapping[tuple[str, int], Cell]) -> str:
    """The range of the weights that each replicate's early search gave to the blocks in which a LoRA acts."""
    told = []
    for (subject, seed), cell in sorted(cells.items()):
        found = [weights(cell["weights"])[block] for block in ATTENTION]
        told.append(f"{subject}-{seed} {min(found):g} to {max(found):g}")
    return f"Least and greatest weight of *solved before training* in these blocks: {', '.join(told)}.\n"


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
