"""What things cost on this GPU: training steps beside PEFT's, a changed slider, analyses, a compiled step."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import preview, training
from benchmarks.gpu.parts import Clock
from benchmarks.gpu.results import Reporter
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.waits import counted_waits, free
from benchmarks.setting import DTYPES, inputs_of, memory_now, unet_of
from benchmarks.training_loops import BenchmarkModel, Work, loop_of
from lib_blocktrain.analysis.run import analyse
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.statistics import spearman
from lib_blocktrain.model.memory import lacks_memory
from lib_blocktrain.networks.files import write_network
from lib_blocktrain.training import compiled

PEAK = "peak MiB beyond the U-Net"
STEPS = 3  # of an arm alone, before its waits are counted


def training_sd1(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    _training(report, sizes, clock, "sd1")


def training_sdxl(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    _training(report, sizes, clock, "sdxl")


def _training(report: Reporter, sizes: Sizes, clock: Clock, architecture: str) -> None:
    """Peak memory and waits of each program alone; then the times of all of them, in turns."""
    loops = programs(report)
    with tempfile.TemporaryDirectory() as folder:
        work = work_of(sizes, architecture, Path(folder))
        dtype = sizes.dtypes[architecture]
        lacking = set()
        for weights in sizes.weights[architecture]:
            for name in loops:
                if clock.left < clock.seconds / 2:  # that half is for the times
                    report.row("Alone", weights=weights, program=name, **{PEAK: "no time was left"})
                    continue
                try:
                    alone(report, replace(work, weights=weights), name, dtype)
                except RuntimeError as error:
                    if not lacks_memory(error):
                        raise
                    report.row("Alone", weights=weights, program=name, **{PEAK: "out of memory"})
                    lacking.add(weights)
                free()
        fitting = [weights for weights in sizes.weights[architecture] if weights not in lacking]
        if fitting:
            timed(report, sizes, work, fitting, loops, clock)


def programs(report: Reporter) -> list[str]:
    if importlib.util.find_spec("peft") is None:
        report.note("PEFT is not installed: ours alone.")
        return ["ours"]
    return ["ours", "PEFT"]


def work_of(sizes: Sizes, architecture: str, folder: Path) -> Work:
    unet = unet_of(architecture, DTYPES[sizes.dtypes[architecture]], **sizes.unets[architecture])
    latents, conditioning = inputs_of(unet, architecture, sizes.sides[architecture])
    return Work(unet, architecture, "ALL", sizes.rank, latents, conditioning, folder)


def alone(report: Reporter, work: Work, name: str, dtype: str) -> None:
    """Report one program's peak of memory, and the waits of one of its steps by line."""
    free()
    before = memory_now()
    with tempfile.TemporaryDirectory(dir=work.folder.parent) as folder:
        loop = loop_of(name, replace(work, folder=Path(folder)), 0)
        peak = training.peak_of(loop, before)
        with loop.ready():
            for _ in range(STEPS - 2):
                loop.step()
            with counted_waits() as waits:
                loop.step()
    lines = ", ".join(f"{count} at {line}" for line, count in waits.most_common(4))
    counted = sum(waits.values()) if torch.cuda.is_available() else None
    report.row(
        "Alone",
        weights=work.weights,
        program=name,
        dtype=dtype,
        **{PEAK: f"{peak:.0f}", "waits a step": counted, "where": lines or None},
    )


def timed(report: Reporter, sizes: Sizes, work: Work, weights: list[str], loops: list[str], clock: Clock) -> None:
    """Report the times of the programs' steps, in turns: after the first round, and at the end."""

    def enough(found: training.Times) -> bool:
        done = min(map(len, found.values()))
        over = clock.over or done == sizes.rounds
        if done == 1 or over:
            data = {"rounds": done, "seconds": {", ".join(arm): times for arm, times in found.items()}}
            report.text("Time of a step, in turns", training.report(found, {}, {}), **data)
        return over

    settings = argparse.Namespace(weights=weights, loops=loops, rounds=sizes.rounds)
    with tempfile.TemporaryDirectory(dir=work.folder.parent) as folder:
        training.times(replace(work, folder=Path(folder)), settings, enough)


def preview_sd1(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """A changed slider: hooks, merged weights and the file read again."""
    dtype = sizes.dtypes["sd1"]
    torch.manual_seed(0)
    unet = unet_of("sd1", DTYPES[dtype], **sizes.unets["sd1"])
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, layers) in enumerate(preview.NETWORKS.items(), start=1):
            own = Clock(clock.left / (len(preview.NETWORKS) - number + 1))
            network = preview.make_network(unet, layers, sizes.rank)
            path = write_network(Path(folder) / f"{name}.safetensors", network, dtype=torch.float16)
            found = preview.measure(unet, path, sizes.sides["sd1"], sizes.rounds, lambda own=own: own.over)
            done = len(found["hooks"])
            title = f"{name} of {len(network.modules)} modules, rank {sizes.rank}, {dtype}, {done} rounds"
            report.text(title, preview.report(found), seconds=found)
            milliseconds = 1000 * preview.change_time(unet, network, repeats=50)
            report.row("A change of block weights under hooks, without a step", network=name, ms=milliseconds)
            free()


class TextModel(BenchmarkModel):
    """A U-Net whose texts are numbers of their letters."""

    def encode_prompt(self, text: str) -> Mapping[str, Tensor]:
        width, weight = self.unet.config.cross_attention_dim, next(self.unet.parameters())
        generator = torch.Generator().manual_seed(len(text))
        return {"context": torch.randn(1, 77, width, generator=generator).to(weight)}


def analyses(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """An exact and a fast analysis of SD1's U-Net at its real size, random weights."""
    dtype = sizes.dtypes["sd1"]
    torch.manual_seed(0)
    model = TextModel(unet_of("sd1", DTYPES[dtype], **sizes.unets["sd1"]), "sd1")
    network = preview.make_network(model.unet, preview.ATTENTION, sizes.rank)
    pixels = sizes.sides["sd1"] * 8
    seeds = (0,) if sizes.dry else (0, 1, 2)
    grid = SamplingGrid(("a fox",), seeds=seeds, steps=sizes.trajectory, width=pixels, height=pixels)
    found = {}
    for method in ("exact", "fast", "exact", "fast"):  # the first of each warms up the kernels
        free()
        began = time.perf_counter()
        (analysis,) = analyse(model, network, grid, method)
        seconds, first = time.perf_counter() - began, method not in found
        found[method] = analysis
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        report.row(
            f"SD1, {pixels} px, {len(grid.seeds)} seeds, {dtype}",
            method=f"{method}{', the first time' if first else ''}",
            evaluations=analysis.evaluations,
            s=seconds,
            **{"ms an evaluation": 1000 * seconds / analysis.evaluations, "peak MiB": peak},
        )
        if clock.over or (sizes.dry and len(found) == 2):
            break
    if len(found) == 2:
        figures = [[abs(found[method].means().get(block, 0.0)) for block in network.blocks] for method in found]
        report.row("Rank correlation of their figures", Spearman=spearman(*figures))


def compiled_step(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """A step under `compile`; the compilation cannot be stopped in its midst, only the whole part."""
    if sizes.dry:
        compiled.BACKEND = "eager"  # torch's own takes minutes
    with tempfile.TemporaryDirectory() as folder:
        began, work = time.perf_counter(), work_of(sizes, "sd1", Path(folder))
        timed(
            report,
            sizes,
            work,
            list(sizes.weights["sd1"][-1:] if sizes.dry else ["ALL"]),
            ["ours", "ours, compiled"],
            clock,
        )
        report.note(f"{sizes.dtypes['sd1']}; all of it, the compilation included, {time.perf_counter() - began:.0f} s.")
