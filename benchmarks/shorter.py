"""Shorter trainings on the demo model: early stopping by block beside fixed steps, a pool of noise beside fresh noise.

    python benchmarks/shorter.py --work DIR [--minutes N] [--seeds 3] [--only pool]

Subject and background as in `benchmarks/evidence.py`: the pictures of a seed always have one background, the captions
do not say it. Printed are the mean probabilities, by the demo's classifier, of the subject (fidelity), of the
background that is asked for, and of the trained one where nothing is said of it (leakage), and the processor's seconds
of the training, each with its range over the seeds. Each arm of a seed is one JSON file in DIR; it can be stopped and
started again. `at equal time` has the steps that a pool makes in the time of the arm with fresh noise, by the
processor's time of a step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import bench_of
from benchmarks.trial.drawing import acting
from benchmarks.trial.replicate import EXPERIMENTS, Replicate
from lib_blocktrain.files import atomic_write
from lib_blocktrain.hosts import demo_model
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import FolderConfig, PoolConfig, RunConfig
from lib_blocktrain.training.trainer import Trainer

SUBJECT, LATE = "robot", "OUT06-OUT11=1"
STEPS, BATCH = 60, 2
JUDGED = {"times": 2, "validate_every": 12}  # `times` the plain run's steps
ARMS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {  # by comparison and name: what differs from the plain run
    "early": {
        "fixed steps": {},
        "twice the steps": {"times": 2},
        "of these, by block": {"block_patience": 1, **JUDGED},
        "of these, by validation": {"patience": 2, **JUDGED},
    },
    "pool": {
        "fresh noise": {},
        "pool of 4": {"draws": 4},
        "pool of 4, at equal time": {"draws": 4, "as_long_as": "fresh noise"},
        "pool of 16": {"draws": 16},
        "pool of 16, at equal time": {"draws": 16, "as_long_as": "fresh noise"},
    },
}


def config_of(replicate: Replicate, plain: RunConfig, comparison: str, changes: Mapping[str, Any]) -> RunConfig:
    """Return the run of an arm."""
    named = {name: value for name, value in changes.items() if name not in ("draws", "as_long_as", "times")}
    named["steps"] = plain.steps * changes.get("times", 1)
    dataset = replace(plain.dataset, caption_dropout=0.0)
    if "validate_every" in changes:
        dataset = replace(dataset, validation=(FolderConfig(path=str(few(replicate))),))
    if comparison == "pool":
        named["network"] = replace(plain.network, weights=LATE)
    return replace(plain, dataset=dataset, batch=BATCH, pool=PoolConfig(changes.get("draws", 0)), **named)


def few(replicate: Replicate) -> Path:
    """Return a folder of three of the pictures that are held out: other ones are for the figures."""
    folder = replicate.folder / "validation"
    folder.mkdir(exist_ok=True)
    for picture in sorted(replicate.held_out.glob("*.png"))[:3]:
        for path in (picture, picture.with_suffix(".txt")):
            shutil.copyfile(path, folder / path.name)
    return folder


def trained(replicate: Replicate, config: RunConfig) -> tuple[Path, dict[str, Any]]:
    """Train a run; return its file, and steps, seconds and frozen blocks."""
    folder = replicate.folder / "runs" / "shorter"
    shutil.rmtree(folder, ignore_errors=True)
    trainer = Trainer(replicate.model, runs.create(config, folder))
    began, processor = time.perf_counter(), time.process_time()
    outcome = trainer.run_loop()
    assert outcome.result is not None
    return outcome.result, {
        "steps": outcome.step,
        "seconds": time.perf_counter() - began,
        "processor": time.process_time() - processor,
        "frozen": {row["step"]: row["blocks"] for row in trainer.run.metrics() if row.get("event") == "frozen"},
    }


def steps_in_time(cells: Mapping[str, dict[str, Any]], name: str, draws: int, steps: int) -> int:
    """Return how many steps the pool makes in the processor's time of another arm."""
    own = cells[f"pool of {draws}"]["processor"] / steps
    return round(cells[name]["processor"] / own)


def measured(replicate: Replicate, bench, comparison: str, name: str, cells: Mapping[str, dict[str, Any]]) -> dict:
    changes = ARMS[comparison][name]
    config = config_of(replicate, replicate._run(replicate.plan("all")), comparison, changes)
    if "as_long_as" in changes:
        config = replace(config, steps=steps_in_time(cells, changes["as_long_as"], changes["draws"], config.steps))
    result, told = trained(replicate, config)
    with acting(replicate.model, read_network(result), None, 1.0):
        figures = bench.figures(replicate.experiment, replicate.subject)
    return {"comparison": comparison, "arm": name, "seed": replicate.seed, **told, "figures": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="begin no arm after this time")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=STEPS, help="of the plain run (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = bench_of(demo_model.MODEL)
    ends = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
    for seed in range(arguments.seeds):
        experiment, model = EXPERIMENTS["background"], bench.reader.model
        replicate = Replicate(experiment, SUBJECT, seed, arguments.work, model, arguments.steps)
        for comparison in arguments.only:
            cells: dict[str, dict[str, Any]] = {}
            for name in ARMS[comparison]:
                path = arguments.work / "shorter" / f"{comparison} {name} {seed}.json"
                if not path.exists():
                    if time.monotonic() > ends:
                        break
                    with atomic_write(path) as temporary:
                        cell = measured(replicate, bench, comparison, name, cells)
                        temporary.write_text(json.dumps(cell, indent=1) + "\n", "utf-8")
                cells[name] = json.loads(path.read_text("utf-8"))
    report(arguments.work / "shorter", arguments.only)


def report(folder: Path, only: list[str]) -> None:
    """Print the tables of the cells that are there, with the range over the seeds."""
    cells = [json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")]
    for comparison in only:
        print(f"\n| {comparison} | seeds | steps | processor's seconds | subject | asked | leakage |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for name in ARMS[comparison]:
            found = [cell for cell in cells if (cell["comparison"], cell["arm"]) == (comparison, name)]
            if not found:
                continue
            shown = [ranged([cell[key] for cell in found], 0) for key in ("steps", "processor")]
            shown += [ranged([cell["figures"][key] for cell in found], 2) for key in ("subject", "asked", "silent")]
            print(f"| {name} | {len(found)} | {' | '.join(shown)} |")


def ranged(numbers: list[float], digits: int) -> str:
    """The mean, and in brackets the least and the greatest where they differ."""
    mean, least, most = (f"{value:.{digits}f}" for value in (statistics.fmean(numbers), min(numbers), max(numbers)))
    return mean if least == most else f"{mean} ({least} to {most})"


if __name__ == "__main__":
    main()
