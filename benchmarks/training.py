"""Time a training step under several block weights against training all: ``python benchmarks/training.py``.

Steps of all arms take turns, so that whatever else the machine does falls on all of them alike; medians are compared.
On the demo model, or with ``--model`` on another folder in its format.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_blocktrain import demo_model
from lib_blocktrain.block_weights import BlockWeights
from lib_blocktrain.hooks import applied
from lib_blocktrain.hosts.standalone import load_demo
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import load
from lib_blocktrain.training.estimate import estimate, size_of_model
from lib_blocktrain.training.trainer import Trainer

RUN = Path(__file__).resolve().parent.parent / "demo" / "runs" / "1-robot.json"
ARMS = ("ALL", "OUT=1", "OUT06-OUT11=1", "OUT09-OUT11=1", "M00=1,OUT00-OUT05=1", "IN=1")


def arm(model, config, weights: str, folder: Path) -> Trainer:
    config = replace(config, network=replace(config.network, weights=weights))
    trainer = Trainer(model, runs.create(config, folder / weights.replace("=", "-")))
    trainer.prepare()
    trainer.hooks.close()  # each step puts its own network on: the arms share the model
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=demo_model.MODEL)
    parser.add_argument("--run", type=Path, default=RUN)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    model, config = load_demo(arguments.model), load(arguments.run)
    times: dict[str, list[float]] = {weights: [] for weights in ARMS}
    with tempfile.TemporaryDirectory() as folder, model.trainable():
        arms = {weights: arm(model, config, weights, Path(folder)) for weights in ARMS}
        for step in range(arguments.steps + 1):
            for weights, trainer in arms.items():
                with applied(trainer.targets, trainer.learner.acting, BlockWeights.uniform("sd1", 1.0)):
                    started = time.perf_counter()
                    trainer.run_step()
                    if step:  # the first one warms up
                        times[weights].append(time.perf_counter() - started)
    everything = statistics.median(times["ALL"])
    print(f"{'weights':<24} {'s a step':>9} {'of ALL':>7} {'estimate':>9}")
    for weights, taken in times.items():
        wanted = replace(config, network=replace(config.network, weights=weights))
        expected = estimate(wanted, size_of_model(model)).relative_time
        median = statistics.median(taken)
        print(f"{weights:<24} {median:>9.3f} {median / everything:>7.2f} {expected:>9.2f}")


if __name__ == "__main__":
    main()
