"""A training step beside its peers: time, peak memory, and the arithmetic limit of training a part of the blocks.

    python benchmarks/training.py                      SD1's U-Net, random weights, small latents on a CPU
    python benchmarks/training.py --architecture sdxl --dtype bf16
    python benchmarks/training.py --memory             peak memory too, each arm in a process of its own
    python benchmarks/training.py --narrow --side 8    hardly any arithmetic: what is left is overhead
    python benchmarks/training.py --loops ours "ours, compiled"    what `compile` gains (minutes before the first step)

Arms take turns, step by step and in another order every round, so that whatever else the machine does falls on all of
them alike; ratios are medians over rounds of the ratio within a round, with their quartiles. On a CPU they are also
given of the processor's time, which a busy machine disturbs less. The limit is the share of FLOP, counted by torch with
fused attention.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.setting import (
    CLOCKS,
    DTYPES,
    NARROW,
    forget_peak,
    inputs_of,
    load,
    machine,
    memory_now,
    memory_peak,
    now,
    ratios,
    since,
    table,
    unet_of,
)
from benchmarks.training_loops import LOOPS, USUAL, Loop, Ours, OursCompiled, Work, loop_of
from tests.training.bare import Bare, real_unet, training

WEIGHTS = {
    "sd1": ("ALL", "OUT=1", "OUT06-OUT11=1", "OUT09-OUT11=1"),
    "sdxl": ("ALL", "OUT=1", "OUT03-OUT05=1", "OUT00-OUT01=1"),  # the last one is B-LoRA's
}
Times = dict[tuple[str, str], list[tuple[float, ...]]]  # by weights and program: seconds by clock, round by round
PEAK = "peak MiB beyond the U-Net"
SIDES = {"sd1": 64, "sdxl": 128}  # of the latents, on a GPU; a quarter of it on a CPU


def changes_of(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Return what is changed of the U-Net's configuration."""
    return NARROW[arguments.architecture] if arguments.narrow else {}


def work_of(arguments: argparse.Namespace, weights: str, folder: Path) -> Work:
    unet = unet_of(arguments.architecture, DTYPES[arguments.dtype], **changes_of(arguments))
    latents, conditioning = inputs_of(unet, arguments.architecture, arguments.side, arguments.batch)
    return Work(unet, arguments.architecture, weights, arguments.rank, latents, conditioning, folder)


def times(work: Work, arguments: argparse.Namespace, enough: Callable[[Times], bool] = lambda _: False) -> Times:
    """Return the times of each arm's steps, round by round; the first round does not count.

    `enough` gets those so far after each round, and may say that there are to be no more.
    """
    arms = {}
    for weights in arguments.weights:
        for name in arguments.loops:
            arms[weights, name] = loop_of(name, Work(**{**vars(work), "weights": weights}), len(arms))
    found: Times = {arm: [] for arm in arms}
    for number in range(arguments.rounds + 1):
        for arm in random.Random(number).sample(list(arms), len(arms)):
            loop = arms[arm]
            with loop.ready():
                began = now()
                loop.step()
                took = since(began)
            if number:
                found[arm].append(took)
            elif isinstance(loop, OursCompiled):
                print(f"{arm[0]}, compiled: {took[0]:.0f} s for the first step", flush=True)
        if number and enough(found):
            break
    return found


def limits(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the FLOP of a step under each weights over those of ALL, counted on tensors that hold no numbers."""
    counted = {}
    model = Bare(real_unet(arguments.architecture, **changes_of(arguments)), arguments.architecture)
    latents, conditioning = inputs_of(model.unet, arguments.architecture, arguments.side, arguments.batch)
    latents, timesteps = latents.to("meta"), torch.zeros(arguments.batch, dtype=torch.long, device="meta")

    def fused(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    with patch("torch.nn.functional.scaled_dot_product_attention", fused):
        for weights in {"ALL", *arguments.weights}:
            step = training(model, weights, rank=arguments.rank)
            with step as (denoiser, _), FlopCounterMode(display=False) as counter:
                denoiser.predict(latents, timesteps, conditioning).square().sum().backward()
            counted[weights] = counter.get_total_flops()
    return {weights: counted[weights] / counted["ALL"] for weights in arguments.weights}


def peak(arguments: argparse.Namespace) -> float:
    """Return the MiB that two steps of one arm take at most, beyond the U-Net."""
    with tempfile.TemporaryDirectory() as folder:
        work = work_of(arguments, arguments.weights[0], Path(folder))
        before = memory_now()
        return peak_of(loop_of(arguments.loops[0], work, 0), before)


def peak_of(loop: Ours | Loop, before: float) -> float:
    """Return the MiB that two steps take at most, beyond those before the loop was made."""
    with loop.ready():
        loop.step()  # makes the optimizer's state
        forget_peak()
        loop.step()
    return memory_peak() - before


def peaks(arguments: argparse.Namespace) -> dict[tuple[str, str], float]:
    """Return each arm's peak, each from a process of its own."""
    found = {}
    for weights in arguments.weights:
        for name in arguments.loops:
            settings = {**vars(arguments), "weights": [weights], "loops": [name]}
            command = [sys.executable, __file__, "--one", json.dumps(settings)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[weights, name] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(found: Times, memory: dict[tuple[str, str], float], limit: dict[str, float]) -> str:
    """Return one row an arm; ratios are of the same round. Without limits it has no columns of them."""
    seconds = {arm: list(zip(*measured)) for arm, measured in found.items()}  # by clock
    rows = []
    for (weights, name), clocks in seconds.items():
        ours, whole = seconds.get((weights, "ours")), seconds.get(("ALL", name))
        row = [weights, name, f"{statistics.median(clocks[0]):.3f}"]
        for others, turned in ((ours, True), (whole, False)):
            pairs = [(theirs, own) if turned else (own, theirs) for own, theirs in zip(clocks, others or ())]
            row += [ratios(*pair) for pair in pairs] or ["-"] * len(clocks)
        share = statistics.median(own / all_ for own, all_ in zip(clocks[-1], whole[-1])) if whole else None
        if limit:
            row += [f"{limit[weights]:.2f}", f"{share / limit[weights]:.2f}" if share else "-"]
        rows.append([*row, *([f"{memory[weights, name]:.0f}"] if memory else [])])
    head = ["weights", "program", "s a step", *(f"ours / it{c}" for c in CLOCKS), *(f"/ its ALL{c}" for c in CLOCKS)]
    return table([*head, *(["limit", "/ limit"] if limit else []), *([PEAK] if memory else [])], rows)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=WEIGHTS, default="sd1")
    parser.add_argument("--narrow", action="store_true", help="the same blocks, a fifth as wide (sd1)")
    parser.add_argument("--side", type=int, help="of the latents")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="of timed steps; 0: peak memory alone")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--weights", nargs="+")
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(USUAL))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return argparse.Namespace(**{**json.loads(arguments.one), "one": True})
    gpu = torch.cuda.is_available()
    arguments.side = arguments.side or SIDES[arguments.architecture] // (1 if gpu else 4)
    arguments.weights = arguments.weights or list(WEIGHTS[arguments.architecture])
    return arguments


def main() -> None:
    arguments = read_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(peak(arguments)))
        return
    told = f"{arguments.architecture}{' narrow' if arguments.narrow else ''}, {arguments.side}x{arguments.side} latents"
    print(f"{machine('diffusers', 'peft')}; {load()}")
    print(f"{told}, batch {arguments.batch}, rank {arguments.rank}, {arguments.dtype}, {arguments.rounds} rounds\n")
    if not arguments.rounds:
        rows = [[*arm, f"{mib:.0f}"] for arm, mib in peaks(arguments).items()]
        print(table(["weights", "program", PEAK], rows))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = times(work_of(arguments, "ALL", Path(folder)), arguments)
    gc.collect()
    print(report(found, peaks(arguments) if arguments.memory else {}, limits(arguments)))


if __name__ == "__main__":
    main()
