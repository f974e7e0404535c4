"""Trains a run in processes that are killed at random moments, resumes it, and compares how it ends.

``python killed.py --model DIR --run RUN.json --out DIR --kills N [--seed S]`` prints a JSON object. The model is loaded
once: each training is a fork, so that a kill costs a second. Saving is slowed, so that many kills fall into it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch
from safetensors import safe_open

from lib_blocktrain.hosts.standalone import StandaloneModel, load_demo
from lib_blocktrain.networks.header import read_header
from lib_blocktrain.training import config as configs
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.runs import create, open_run
from lib_blocktrain.training.trainer import Trainer

A_SYNC = 0.03  # seconds that the slowed disk takes
IN_A_ROW = 3  # kills of one run, before it may end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # bits depend on it, and a fork has no others
    model, config = load_demo(arguments.model), configs.load(arguments.run)
    slow_down_saving()
    whole = arguments.out / "whole"
    started = time.monotonic()
    assert ended(training(model, config, whole)) == 0
    lasts = time.monotonic() - started
    rng, kills, in_saving, runs = random.Random(arguments.seed), 0, 0, 0
    while kills < arguments.kills:
        folder = arguments.out / f"killed-{runs}"
        for _ in range(min(IN_A_ROW, arguments.kills - kills)):
            process = training(model, config, folder)
            time.sleep(rng.random() * lasts)
            os.kill(process, signal.SIGKILL)
            if ended(process) == 0:
                lasts *= 0.8  # it was faster
                break
            kills += 1
            in_saving += any(folder.rglob(".*.tmp"))
            check_whole(folder)
        assert ended(training(model, config, folder)) == 0
        compare(folder, whole, config)
        runs += 1
    sys.stdout.write(json.dumps({"kills": kills, "in_saving": in_saving, "runs": runs, "seed": arguments.seed}) + "\n")


def slow_down_saving() -> None:
    sync = os.fsync

    def slow(file: int) -> None:
        time.sleep(A_SYNC)
        sync(file)

    os.fsync = slow


def training(model: StandaloneModel, config: RunConfig, folder: Path) -> int:
    """Begin, or go on with, the run in a process of its own; return its number."""
    process = os.fork()
    if process:
        return process
    try:
        run = open_run(folder) if (folder / "run.json").exists() else create(config, folder)
        Trainer(model, run).run_loop()
    except BaseException:  # noqa: BLE001 - whatever it is, it is shown, and the fork must not go on as the parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(process: int) -> int:
    """Wait for it; return its exit status, 128 and more for a killed one."""
    status = os.waitpid(process, 0)[1]
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def check_whole(folder: Path) -> None:
    """Fail if anything that a killed run left under its own name is not whole."""
    for path in folder.rglob("*.safetensors"):
        if not path.name.startswith("."):
            with safe_open(path, framework="pt") as file:
                assert all(file.get_tensor(name) is not None for name in file.keys())  # noqa: SIM118
    if (folder / "run.json").exists():
        run = open_run(folder)
        assert run.status in ("waiting", "broken off", "finished"), run.status
        state = run.load_state()
        assert state is None or 1 <= state["step"] <= run.config.steps


def compare(folder: Path, whole: Path, config: RunConfig) -> None:
    """Fail unless a run ended as the unbroken one: the bytes of all its tensors, its losses, no file too many."""
    names = [sorted(str(path.relative_to(f)) for path in f.rglob("*") if path.is_file()) for f in (folder, whole)]
    assert names[0] == names[1], names
    for name in (f"{config.name}.safetensors", *(name for name in names[0] if name.startswith("checkpoints"))):
        assert tensor_bytes(folder / name) == tensor_bytes(whole / name), name
    losses = [[(row["step"], row["loss"]) for row in open_run(f).metrics() if "loss" in row] for f in (folder, whole)]
    assert losses[0] == losses[1], losses


def tensor_bytes(path: Path) -> bytes:
    """What stands behind the header, in which are the times of the training."""
    return path.read_bytes()[read_header(path).start :]


if __name__ == "__main__":
    main()
