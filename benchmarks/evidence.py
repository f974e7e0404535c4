"""Does training under block weights keep the subject and leak less? On the demo model, repeatable from seeds.

    python benchmarks/evidence.py run --work DIR [--minutes N] [--part 1/2] [--only background] [--arms out masked]
    python benchmarks/evidence.py report [--work DIR]     writes docs/evidence.md from the cells

`run` makes the cells that are missing in DIR. It can be stopped at any time and started again. A cell (one arm of one
subject and seed) is one JSON file. Several processes share the work with `--part 1/2`, `--part 2/2`. Before it starts
it says how long all of it takes. `report` also writes the cells into one file beside the document, and without `--work`
makes the document from that file alone; `run --known docs/evidence.jsonl` starts with its cells. The pictures are made
here: the font Noto Color Emoji is needed (Debian: fonts-noto-color-emoji).

A second base model, for `--second-model`, is a fine-tune of the first one, as checkpoints are made in the field:
`python demo/build.py --from demo/model --seed 1 --steps 800 --work OTHER --out FOLDER`.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.trial import cells, report
from benchmarks.trial.cells import Bench
from benchmarks.trial.measures import Reader
from benchmarks.trial.replicate import EXPERIMENTS, STEPS, Replicate, path_of
from demo.evaluate import load_classifier
from lib_blocktrain.hosts import demo_model
from lib_blocktrain.hosts.standalone import load_demo

ROOT = Path(__file__).resolve().parent.parent
log = logging.getLogger("evidence")
ARMS = list(dict.fromkeys(arm for experiment in EXPERIMENTS.values() for arm in experiment.arms))
SUBJECTS = ("robot", "koala", "raccoon")
SEEDS = 5
MOVED = ("all", "analysis", "out")  # arms whose LoRAs are tried on the second model
GUESS = 60.0  # seconds a cell, before any is there to tell


@dataclass(frozen=True)
class Task:
    """One cell that is to be there."""

    experiment: str
    subject: str
    seed: int
    arm: str
    moved: bool = False

    def path(self, work: Path) -> Path:
        return path_of(work, self.moved, vars(self))


def tasks(only: list[str], arms: list[str], subjects: list[str], seeds: int, second: bool) -> Iterator[Task]:
    """Yield all cells: all experiments and subjects of a seed before the next seed, so that what is there is paired."""
    for seed in range(seeds):
        for experiment in only:
            for subject in subjects:
                for arm in (arm for arm in EXPERIMENTS[experiment].arms if arm in arms):
                    yield Task(experiment, subject, seed, arm)
                    if second and experiment == "background" and arm in MOVED:
                        yield Task(experiment, subject, seed, arm, moved=True)


def part_of(found: list[Task], part: str) -> list[Task]:
    """Return every n-th replicate's tasks, for `k/n`."""
    number, of = (int(text) for text in part.split("/"))
    names = list(dict.fromkeys((task.experiment.partition("-")[0], task.subject, task.seed) for task in found))
    mine = set(names[number - 1 :: of])
    return [task for task in found if (task.experiment.partition("-")[0], task.subject, task.seed) in mine]


def bench_of(folder: Path) -> Bench:
    model = load_demo(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    mark = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    return Bench(Reader(model, load_classifier(folder).to(model.unet.device)), mark)


def check_same_model(work: Path, benches: dict[bool, Bench]) -> None:
    """Raise SystemExit for cells of other models: they cannot be compared with what would be made now."""
    for place, moved in (("cells", False), ("moved", True)):
        for cell in cells.read_all(work / place):
            if moved in benches and cell["model"] != benches[moved].mark:
                raise SystemExit(
                    f"{work / place} has cells of the model {cell['model']}: expected {benches[moved].mark}, that of"
                    " this model; give another --work"
                )


def run(arguments: argparse.Namespace) -> None:
    """Make the cells that are missing until the time is over."""
    second = arguments.second_model
    if arguments.known is not None:
        cells.unpack(arguments.known, arguments.work)
    found = list(tasks(arguments.only, arguments.arms, arguments.subjects, arguments.seeds, second is not None))
    mine = [task for task in part_of(found, arguments.part) if not task.path(arguments.work).exists()]
    log.info("%d cells, %d of them in this part and still to be made", len(found), len(mine))
    log.info("about %.0f minutes", len(mine) * seconds_a_cell(arguments.work) / 60)
    if not mine:
        return
    benches = {False: bench_of(arguments.model), **({True: bench_of(second)} if second else {})}
    check_same_model(arguments.work, benches)
    ends = time.monotonic() + 60 * arguments.minutes if arguments.minutes else None
    for number, task in enumerate(mine):
        if ends and time.monotonic() > ends:
            log.info("the time is over: %d cells are left", len(mine) - number)
            return
        if task.path(arguments.work).exists():  # another process has made it
            continue
        cell = measured(task, benches, arguments)
        cells.write(task.path(arguments.work), cell)
        took = sum(cell["seconds"].values())
        log.info("%d/%d %s %s-%d %s: %.0f s", number + 1, len(mine), *label(task), task.arm, took)


def label(task: Task) -> tuple[str, str, int]:
    return ("moved " if task.moved else "") + task.experiment, task.subject, task.seed


def measured(task: Task, benches: dict[bool, Bench], arguments: argparse.Namespace) -> dict:
    experiment, model = EXPERIMENTS[task.experiment], benches[False].reader.model
    replicate = Replicate(experiment, task.subject, task.seed, arguments.work, model, arguments.steps)
    return benches[task.moved].measure(replicate, task.arm, (1.0,) if task.moved else None)


def seconds_a_cell(work: Path) -> float:
    """Return the mean of the cells that are there."""
    known = [sum(cell["seconds"].values()) for cell in cells.read_all(work / "cells")]
    return sum(known) / len(known) if known else GUESS


def write_report(arguments: argparse.Namespace) -> None:
    packed = arguments.out.with_suffix(".jsonl")
    if arguments.work is not None:
        cells.pack(arguments.work, packed)
    made = cells.read_packed(packed)
    text = report.written(*([row for row in made if row["moved"] == moved] for moved in (False, True)))
    arguments.out.write_text(text, "utf-8")
    if report.FIGURE in text:
        images = arguments.out.parent / "images"
        images.mkdir(exist_ok=True)
        (images / report.FIGURE).write_text(report.figure([row for row in made if not row["moved"]]), "utf-8")
    log.info("%s, from %d cells in %s", arguments.out, len(made), packed.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="make the cells that are missing")
    runs.add_argument("--work", type=Path, required=True, help="folder of the cells and LoRAs")
    runs.add_argument("--model", type=Path, default=demo_model.MODEL)
    runs.add_argument("--second-model", type=Path, help="another model, to which LoRAs are moved")
    runs.add_argument("--known", type=Path, metavar="FILE", help="begin with the cells of this file")
    runs.add_argument("--minutes", type=float, help="begin no cell after this time")
    runs.add_argument("--part", default="1/1", help="k/n: the k-th of n parts of the replicates")
    runs.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    runs.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, metavar="ARM", help="only these (all)")
    runs.add_argument("--subjects", nargs="+", default=SUBJECTS)
    runs.add_argument("--seeds", type=int, default=SEEDS)
    runs.add_argument("--steps", type=int, default=STEPS, help="of a training (%(default)s)")
    runs.add_argument("--threads", type=int, default=1, help="torch's (%(default)s)")
    runs.set_defaults(act=run)
    tells = commands.add_parser("report", help="write the document from the cells")
    tells.add_argument("--work", type=Path, help="folder of the cells (those in the file beside the document)")
    tells.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence.md")
    tells.set_defaults(act=write_report)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("lib_blocktrain").setLevel(logging.ERROR)
    torch.set_num_threads(getattr(arguments, "threads", 1))
    arguments.act(arguments)


if __name__ == "__main__":
    main()
