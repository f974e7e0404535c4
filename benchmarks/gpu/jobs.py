"""The demo model on this GPU: whether it is whole after every job, a run that is killed, and 500 steps of a run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.gpu.parts import Clock
from benchmarks.gpu.results import Reporter
from benchmarks.gpu.sizes import Sizes
from lib_blocktrain.analysis.request import AnalysisRequest
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.files import ROOT
from lib_blocktrain.hosts.demo_model import LORAS
from lib_blocktrain.hosts.host import SampleRequest
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.runner import sampler
from lib_blocktrain.training import config as configs
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.control import TrainerControl
from lib_blocktrain.training.trainer import Trainer
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace.analyses import run_analysis
from tests.trust.whole import Whole

RUN = ROOT / "demo" / "runs" / "1-robot.json"
PROMPT = "a photo of a large robot in the center, blue background"


PICTURES = 4  # of the short runs' dataset


def short_run(steps: int, folder: Path) -> RunConfig:
    """Return the demo's first run, cut to a few steps on a few pictures, which it puts into the folder."""
    config = configs.load(RUN)
    dataset = folder / "pictures" / "1_robot"
    dataset.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "demo" / "datasets" / "robot").rglob("*.*"))[: 2 * PICTURES]:
        shutil.copyfile(path, dataset / path.name)  # pictures and captions lie side by side
    samples = replace(config.samples, prompts=(PROMPT,), steps=2, every=steps, first=False)
    folders = (replace(config.dataset.folders[0], path=str(dataset.parent)),)
    return replace(
        config,
        dataset=replace(config.dataset, folders=folders),
        steps=steps,
        batch=2,
        samples=samples,
        save_every=2,
        save_dtype="fp32",
    )


def whole(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """Do each job on the demo model; then every parameter, buffer, flag and hook must be what it was."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_demo()
        host = StandaloneHost(output_dir=Path(folder))
        host.use(model)
        parts = {"unet": model.unet, "vae": model.pipeline.vae, **model.text_encoders}
        jobs = _jobs(host, Path(folder))
        bits, state = digest(parts), Whole(parts)
        for name, job in jobs.items():
            began = time.monotonic()
            job()
            seconds = time.monotonic() - began
            try:
                state.check()
                changed = ""
            except AssertionError as error:
                changed = str(error).splitlines()[0][:200]
            after = digest(parts)
            report.check(
                "The demo model after a job",
                after == bits and not changed,
                job=name,
                dtype=str(model.unet.dtype),
                **{"SHA-256 before": bits[:12], "after": after[:12], "changed": changed or "nothing", "s": seconds},
            )
            if clock.over:
                report.note("The time was over before all jobs had their turn.")
                return


def _jobs(host: StandaloneHost, folder: Path) -> Mapping[str, Callable[[], object]]:
    network = read_network(LORAS / "robot.safetensors")
    weights = BlockWeights.uniform("sd1", 1.0).replace({"IN04": 0.0, "OUT05": 0.5})
    grid = SamplingGrid((PROMPT,), seeds=(0,), steps=2, timesteps=1)

    def preview() -> None:
        request = SampleRequest(PROMPT, seed=1, steps=2, placements=[Placement(network, weights, 0.8)])
        with host.queued():
            host.sample(request)

    def analysis(method: str) -> None:
        with host.queued():
            run_analysis(host, AnalysisRequest(network, grid, method))

    def training(name: str, **changes: object) -> None:
        config = replace(short_run(2, folder), **changes)
        trainer(host, config, folder / name).run_loop()

    return {
        "preview": preview,
        "exact analysis": lambda: analysis("exact"),
        "fast analysis": lambda: analysis("fast"),
        "training": lambda: training("plain"),
        "training, checkpointing": lambda: training("checkpointing", checkpointing=True),
        "training, bf16": lambda: training("bf16", precision="bf16"),
    }


def trainer(host: StandaloneHost, config: RunConfig, folder: Path, **options: object) -> Trainer:
    """Return the trainer of a run, new or begun, on the host's model."""
    run = runs.open_run(folder) if (folder / "run.json").exists() else runs.create(config, folder)
    control = options.pop("control", None) or TrainerControl()
    draw = sampler(host, config.samples, lambda: control.stopping)
    return Trainer(host.model(), run, control=control, draw=draw, **options)


def digest(parts: Mapping[str, nn.Module]) -> str:
    """Return the SHA-256 of all parameters and buffers, byte by byte."""
    found = hashlib.sha256()
    for part, model in parts.items():
        for name, value in sorted(model.state_dict().items()):
            found.update(f"{part}.{name}".encode())
            found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def resume(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """Kill a run in a process of its own, resume it here, and compare it with two that were not killed."""
    with tempfile.TemporaryDirectory() as name, repeatable():
        folder, config = Path(name), short_run(sizes.steps, Path(name))
        host = StandaloneHost(output_dir=folder)
        host.use(load_demo())
        process = start_run(folder / "killed", sizes)
        killed_at = kill_in_the_middle(process, folder / "killed", config.steps, clock)
        if killed_at is None and clock.over:
            report.note("The time was over before the run was past its half.")
            return
        unbroken = [trainer(host, config, folder / kind).run_loop().result for kind in ("unbroken", "again")]
        state = runs.open_run(folder / "killed").load_state() if killed_at else None
        resumed = trainer(host, config, folder / "killed").run_loop().result
        floor, error = difference(*unbroken), difference(unbroken[0], resumed)
        report.check(
            "The result of a run that was killed and resumed",
            killed_at is not None and state is not None and error <= max(2 * floor, 1e-6),
            steps=config.steps,
            **{
                "killed after step": killed_at,
                "went on from step": state["step"] if state else None,
                "difference from an unbroken run": error,
                "between two unbroken runs": floor,
                "the same bits": error == 0,
            },
        )


@contextmanager
def repeatable() -> Iterator[None]:
    """Ask for kernels that give the same bits each time, where there are some."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    asked, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warn)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def start_run(folder: Path, sizes: Sizes) -> subprocess.Popen:
    """Begin the run in another process, slowed so that it can be killed in its midst."""
    command = [sys.executable, "-m", "benchmarks.gpu.jobs", str(folder), str(sizes.steps)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ)


def kill_in_the_middle(process: subprocess.Popen, folder: Path, steps: int, clock: Clock) -> int | None:
    """Kill the process once it is past the half; return the last step that it recorded, None if it ended first."""
    metrics = folder / "metrics.jsonl"
    try:
        while process.poll() is None and not clock.over:
            done = _steps_done(metrics)
            if done > steps // 2 and (folder / "state.safetensors").exists():
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return _steps_done(metrics)
            time.sleep(0.02)
        return None
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _steps_done(metrics: Path) -> int:
    if not metrics.exists():
        return 0
    rows = []
    for line in metrics.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # it is being written
            continue
    return max((row["step"] for row in rows if "loss" in row), default=0)


def difference(one: Path, other: Path) -> float:
    """Return the relative difference of two results' tensors; 0 means the same bits."""
    first, second = load_file(one), load_file(other)
    if first.keys() != second.keys():
        return float("inf")
    squares = sum(float((first[name].double() - second[name].double()).square().sum()) for name in first)
    return (squares / sum(float(value.double().square().sum()) for value in first.values())) ** 0.5


def demo_run(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """Train the demo's first run as it is, samples included; it is stopped when the time is over."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = short_run(sizes.demo_steps, folder) if sizes.dry else configs.load(RUN)
        control, began, marks = TrainerControl(), time.monotonic(), {1, *range(100, config.steps, 100), config.steps}

        def follow(row: Mapping[str, object]) -> None:
            if "loss" not in row:
                return
            if row["step"] in marks:
                cells = {"step": row["step"], "smoothed loss": row["smoothed"], "s": time.monotonic() - began}
                report.row("The demo's run", **cells, **{"peak MiB": row.get("memory_mib")})
            if clock.over:
                control.stop(save=False)

        host = StandaloneHost(output_dir=folder)
        host.use(load_demo())
        outcome = trainer(host, config, folder / "run", control=control, report=follow).run_loop()
        report.check(
            "How it ended",
            outcome.step > 0,
            ended=outcome.ended,
            step=outcome.step,
            batch=config.batch,
            **{"pictures drawn": len(list((folder / "run" / "samples").glob("*.png")))},
            s=time.monotonic() - began,
        )


def _slowly(seconds: float) -> Callable[[Mapping[str, object]], None]:
    return lambda row: time.sleep(seconds) if "loss" in row else None


def killed(folder: Path, steps: int) -> None:
    """Train the run that is killed; this is the other process."""
    with repeatable():
        host = StandaloneHost(output_dir=folder.parent)
        host.use(load_demo())
        trainer(host, short_run(steps, folder.parent), folder, report=_slowly(0.3)).run_loop()


if __name__ == "__main__":
    killed(Path(sys.argv[1]), int(sys.argv[2]))
