"""The commands `train` and `estimate`; torch is imported when one of them runs."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_blocktrain.cli import terminal
from lib_blocktrain.cli.commands import ProgressBar
from lib_blocktrain.cli.parsers import Answer, Commands
from lib_blocktrain.cli.signals import handled

if TYPE_CHECKING:
    from lib_blocktrain.hosts.standalone import StandaloneHost
    from lib_blocktrain.training.config import RunConfig
    from lib_blocktrain.training.control import TrainerControl
    from lib_blocktrain.training.distributed import Processes
    from lib_blocktrain.training.estimate import UNetSize
    from lib_blocktrain.training.runs import Run


def add_commands(commands: Commands) -> None:
    train = commands.add("train", train_command, "train a LoRA under block weights")
    train.add_argument(
        "file", nargs="?", type=Path, metavar="RUN.json", help="what to train, e.g. demo/runs/1-robot.json"
    )
    train.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in this folder")
    train.add_argument(
        "--earlier-state",
        action="store_true",
        help="with --resume: from state-before.safetensors, where state.safetensors is damaged",
    )
    length = train.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="instead of the file's")
    length.add_argument("--epochs", type=int, metavar="N", help="instead of the file's")
    train.add_argument("--save-every", type=int, metavar="N", help="save every N steps")
    train.add_argument(
        "--dry-run", action="store_true", help="say what would be trained, and what it costs; write nothing"
    )
    train.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (one in outputs/runs)")
    estimate = commands.add("estimate", estimate_command, "what a run will cost in time and memory")
    estimate.add_argument("file", type=Path, metavar="RUN.json")


def train_command(arguments: argparse.Namespace) -> Answer | int:
    """Train a run, new or resumed; Ctrl-C saves and stops."""
    from lib_blocktrain.cli.own_presets import for_training
    from lib_blocktrain.runner import publish_result, sampler
    from lib_blocktrain.training.control import TrainerControl, TrainingError
    from lib_blocktrain.training.distributed import joined
    from lib_blocktrain.training.runs import RunInUse
    from lib_blocktrain.training.trainer import Trainer

    with joined() as processes:
        config = asked_config(arguments)
        host, control = _host(config), TrainerControl()
        if arguments.resume is None:
            config = for_training(config, host.model().architecture)
        if arguments.dry_run:
            return _planned(arguments, config, host, processes)
        run = _run(arguments, config, host.output_dir / "runs", processes)
        report = _progress(run) if processes.is_first else None
        draw = sampler(host, config.samples, lambda: control.stopping)
        trainer = Trainer(host.model(), run, control=control, processes=processes, draw=draw, report=report)
        try:
            with host.queued(), _interruptible(control):
                outcome = trainer.run_loop()
        except (TrainingError, RunInUse) as error:
            terminal.say(f"blocktrain: {error}")
            return 1
    if not processes.is_first:
        return 0
    data = {
        "ended": outcome.ended,
        "step": outcome.step,
        "run": str(run.folder),
        "result": None if outcome.result is None else str(outcome.result),
        "loss": trainer.monitor.smoothed,
    }
    is_ours = arguments.resume is None or arguments.resume.resolve().parent == (host.output_dir / "runs").resolve()
    if outcome.ended == "finished" and arguments.out is None and is_ours:
        data["published"] = str(publish_result(trainer, host))
    end = f"{outcome.ended} at step {outcome.step}, loss {trainer.monitor.smoothed:.4f}"
    again = "" if outcome.ended == "finished" else f"\ngo on: python -m lib_blocktrain train --resume {run.folder}"
    return data, f"{end}: {data.get('published') or outcome.result or run.folder}{again}"


def _planned(
    arguments: argparse.Namespace, config: RunConfig, host: StandaloneHost, processes: Processes
) -> Answer | int:
    """Return what a run would do; nothing is written."""
    from lib_blocktrain.training.run_plan import plan_run

    out = arguments.out
    if out is not None and (out / "run.json").exists():
        raise FileExistsError(f"{out} holds a run already: resume it, or choose another folder")
    found = plan_run(config, host.model(), processes.count)
    return (found.to_json(), found.text) if processes.is_first else 0


def estimate_command(arguments: argparse.Namespace) -> Answer:
    """Estimate the cost of a run without loading the model: by its header, or the demo model's configuration."""
    from dataclasses import replace

    from lib_blocktrain.cli.own_presets import for_training
    from lib_blocktrain.hosts.prompt_syntax import unread_notices
    from lib_blocktrain.training.config import load
    from lib_blocktrain.training.estimate import estimate_run

    config = load(arguments.file)
    size = _unet_size(config.checkpoint)
    found = estimate_run(for_training(config, size.architecture), size)
    unread = unread_notices(config.samples.texts, name="prompt of the samples")
    found = replace(found, notices=(*found.notices, *unread))
    return found.to_json(), found.text


def _unet_size(checkpoint: str | None) -> UNetSize:
    import json

    import torch

    from lib_blocktrain.hosts import demo_model
    from lib_blocktrain.hosts.checkpoint import read_checkpoint_info
    from lib_blocktrain.training.estimate import UNetSize

    itemsize = 2 if torch.cuda.is_available() else 4
    if checkpoint is not None:
        return UNetSize.real(read_checkpoint_info(Path(checkpoint)).architecture, itemsize)
    demo_model.check_present(demo_model.MODEL)
    unet = json.loads((demo_model.MODEL / "unet" / "config.json").read_text("utf-8"))
    return UNetSize(
        "sd1",
        unet["sample_size"] * 8,
        tuple(unet["block_out_channels"]),
        unet["cross_attention_dim"],
        demo_model.parameter_counts(demo_model.MODEL),
        itemsize,
    )


def check_file_or_resume(arguments: argparse.Namespace) -> None:
    """Raise ValueError unless there is one of RUN.json and `--resume`."""
    if (arguments.file is None) == (arguments.resume is None):
        what = "nothing to train" if arguments.file is None else "RUN.json and --resume together"
        raise ValueError(f"{what}: expected RUN.json or --resume DIR")
    if arguments.resume is not None and getattr(arguments, "out", None) is not None:
        raise ValueError(f"--out {arguments.out} together with --resume: a run goes on in its own folder")
    if arguments.earlier_state and arguments.resume is None:
        raise ValueError("--earlier-state without --resume: expected the run to go on with, --resume DIR")


def asked_config(arguments: argparse.Namespace) -> RunConfig:
    """Return the configuration that the arguments name, with what they change."""
    from dataclasses import replace

    check_file_or_resume(arguments)
    if arguments.resume is None:
        from lib_blocktrain.training.config import load  # needs no torch: with --url there may be none

        config = load(arguments.file)
    else:
        from lib_blocktrain.training.runs import open_run

        config = open_run(arguments.resume).config
    epochs = arguments.epochs if arguments.steps is None else 0
    changes = {"steps": arguments.steps, "epochs": epochs, "save_every": arguments.save_every}
    return replace(config, **{name: value for name, value in changes.items() if value is not None})


def _run(arguments: argparse.Namespace, config: RunConfig, root: Path, processes: Processes) -> Run:
    """Return the run to go on with, or a new one; the first process makes its folder."""
    from lib_blocktrain.training.runs import Run, create, new_folder

    if arguments.resume is not None:
        run = Run(arguments.resume, config)
        if processes.is_first:
            with run.locked():
                if arguments.earlier_state:
                    run.use_earlier_state()
                run.keep_config()
        processes.wait()
        return run
    if arguments.out is None and processes.count > 1:
        raise ValueError("several processes must agree on the run's folder: expected --out DIR")
    folder = arguments.out or new_folder(root, config.name)
    run = create(config, folder) if processes.is_first else Run(folder, config)
    processes.wait()
    return run


def _host(config: RunConfig) -> StandaloneHost:
    from lib_blocktrain.hosts.standalone import StandaloneHost

    return StandaloneHost(None if config.checkpoint is None else Path(config.checkpoint))


def _progress(run: Run) -> Callable[[Mapping[str, Any]], None]:
    """Return what shows each step of the run on stderr."""
    bar, steps = ProgressBar("training"), run.config.steps

    def show(row: Mapping[str, Any]) -> None:
        nonlocal steps
        steps = row.get("steps", steps)  # of epochs, once the pictures are known
        if "loss" in row:
            bar(row["step"], steps, f"loss {row['smoothed']:.4f}, lr {row['lr']:.2g}")

    return show


@contextmanager
def _interruptible(control: TrainerControl) -> Iterator[None]:
    """Let the first Ctrl-C, or a SIGTERM, save and stop; the second Ctrl-C ends at once."""

    def stop(number: int, _frame: object) -> None:
        if control.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        control.stop()
        with suppress(OSError):  # the terminal may be gone
            sys.stderr.write("\nstopping after this step\n")

    with handled((signal.SIGINT, signal.SIGTERM), stop):
        yield
