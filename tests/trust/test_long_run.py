"""A training of two hours, by its number of steps: the memory stays, the folder grows by the same bytes a step.

The U-Net is three layers, so that a step costs milliseconds; the trainer, its records, the states and checkpoints, the
samples, the runner and those who look at it are the real ones.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from lib_blocktrain.runner import Runner
from lib_blocktrain.training.config import SampleConfig
from lib_blocktrain.ui.history import HistoryReader
from tests.runner.test_runner import TrainingHost, idle, wait
from tests.training.test_layouts import Encoding
from tests.trust.whole import Held

LOOKS = 10  # steps between two looks
BREATH = 10_000  # blocks of memory: the points of a page's curves are thinned from 1000 to 500, and grow again
PARTS = 10  # stretches that are compared


class Skeleton(nn.Module):
    """Three attention layers where SD1's U-Net has those of OUT09 to OUT11, and none of the rest."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        blocks = [nn.Module() for _ in range(4)]
        blocks[3].attentions = nn.ModuleList(self._attention() for _ in range(3))
        self.conv_in = nn.Conv2d(4, 4, 1)
        self.up_blocks = nn.ModuleList(blocks)
        self.eval().requires_grad_(False)

    @staticmethod
    def _attention() -> nn.Module:
        attention, transformer = nn.Module(), nn.Module()
        transformer.attn1 = nn.Module()
        transformer.attn1.to_q = nn.Linear(4, 4)
        attention.transformer_blocks = nn.ModuleList([transformer])
        return attention


class Simulated(Encoding):
    """A model whose step costs next to nothing."""

    name = "simulated"

    def predict(self, latents, timesteps, conditioning):
        found = self.unet.conv_in(latents).movedim(1, -1)
        for attention in self.unet.up_blocks[3].attentions:
            found = found + attention.transformer_blocks[0].attn1.to_q(found)
        return found.movedim(-1, 1)


@dataclass(frozen=True)
class Mark:
    """What the process and the run's folder hold after a step."""

    step: int
    held: Held
    blocks: int  # of Python's memory
    resident: float  # MiB
    metrics: int  # bytes
    folder: int  # bytes without metrics and samples

    @staticmethod
    def of(step: int, folder: Path) -> Mark:
        gc.collect()
        files = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        metrics = files.pop(folder / "metrics.jsonl")
        rest = sum(size for path, size in files.items() if path.suffix != ".png")
        return Mark(step, Held.now(), sys.getallocatedblocks(), resident(), metrics, rest)


def resident() -> float:
    """Memory of this process in MiB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text("utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


@pytest.mark.long
def test_a_long_run(tally, config, tmp_path):
    steps = tally.scale.steps
    every = steps // PARTS
    host = TrainingHost(Simulated(Skeleton(), "sd1"), tmp_path / "host")
    runner = Runner(host)
    config = replace(config, steps=steps, batch=1, save_every=every // 3, keep=3)
    config = replace(config, samples=SampleConfig(prompts=("a robot",), every=every // 2))
    marks, looks, shown = [], 0, []

    def look(what: str, step: int, of: int) -> None:
        nonlocal looks
        if step % LOOKS == 0:
            status = runner.status(run)
            found, _ = run.metrics_after(max(0, step - LOOKS), 100)
            history = shown[0].read()
            assert (status.state, status.step, found[-1]["step"]) == ("training", step, step)
            assert history.curves["loss"][-1][0] == step
            looks += 1
        if step % every == 0 and step < of:
            marks.append(Mark.of(step, run.folder))

    with host.lock:
        run = runner.add(config)
        shown.append(HistoryReader(run.metrics_path))
        host.progress = look
    with tally.case("long run, steps"):
        wait(lambda: idle(runner), patience=max(120.0, steps * 0.2))
        status = runner.status(run)
        assert (status.state, status.step) == ("finished", steps), status.reason
        check(marks, looks, tally)
    tally.rows["long run, steps"].cases += steps - 1
    runner.close()


def check(marks: list[Mark], looks: int, tally) -> None:
    """Fail unless the second half holds what the first held, and every stretch wrote as much as the one before."""
    assert len(marks) == PARTS - 1
    early, late = marks[len(marks) // 2], marks[-1]
    late.held.check(early.held)
    steps = late.step - early.step
    assert late.blocks - early.blocks < BREATH, f"{late.blocks - early.blocks} blocks in {steps} steps"
    grown = [(after.metrics - before.metrics) / (after.step - before.step) for before, after in pairwise(marks)]
    assert max(grown) < 1.1 * min(grown), f"bytes a step, by stretch: {grown}"
    assert abs(late.folder - early.folder) < 0.02 * early.folder, "states and checkpoints grow"
    resident_grown = late.resident - early.resident
    assert resident_grown < 16, f"{resident_grown:.1f} MiB in {steps} steps"
    tally.measured.append(
        f"long run: {late.step} steps, {looks} looks; from step {early.step} on {resident_grown:+.1f} MiB of"
        f" {late.resident:.0f}, {late.blocks - early.blocks:+d} of {late.blocks} blocks of Python's memory,"
        f" {late.held.tensors - early.held.tensors:+d} tensors, {late.held.files - early.held.files:+d} file handles;"
        f" {min(grown):.0f} to {max(grown):.0f} bytes of metrics a step, states and checkpoints {late.folder} bytes"
    )
