"""Train the LoRAs that come with the demo model: ``python demo/train_loras.py`` (minutes on a CPU).

Each is a ready run of ``demo/runs``; another one is ``python -m lib_blocktrain train demo/runs/NAME.json``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib_blocktrain.hosts.standalone import load_demo
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import load
from lib_blocktrain.training.result import publish
from lib_blocktrain.training.trainer import Trainer

log = logging.getLogger("demo")
HERE = Path(__file__).parent
SHIPPED = ("1-robot", "3-robot-on-green", "6-pixel-art")


def report(row) -> None:
    if "loss" in row and row["step"] % 100 == 0:
        log.info("step %d loss %.4f, %.2f s a step", row["step"], row["smoothed"], row["seconds_a_step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=SHIPPED, help=f"of demo/runs ({', '.join(SHIPPED)})")
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--work", type=Path, default=Path("outputs/runs"), help="folder for the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "loras")
    parser.add_argument("--steps", type=int, help="instead of the runs'")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    model = load_demo(arguments.model)
    for name in arguments.names:
        config = load(HERE / "runs" / f"{name}.json")
        config = replace(config, steps=arguments.steps or config.steps)
        run = runs.create(config, runs.new_folder(arguments.work, config.name))
        log.info("%s in %s", config.name, run.folder)
        result = Trainer(model, run, report=report).run_loop().result
        publish(result, arguments.out, replaces=result.name)


if __name__ == "__main__":
    main()
