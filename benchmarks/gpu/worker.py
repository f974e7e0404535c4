"""The process that holds the GPU: does the parts that it is given, and reports each row at once.

    python -m benchmarks.gpu.worker --parts hooks,vae --seconds 100 [--dry-run]

A part that fails does not end it, unless the GPU itself no longer answers: then `on_gpu.py` starts another.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import subprocess
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.parts import BY_NAME, Clock, Part, share
from benchmarks.gpu.results import Reporter
from benchmarks.gpu.sizes import DRY, Sizes
from benchmarks.gpu.waits import free
from benchmarks.setting import processor

PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors", "xformers", "triton")
UNUSABLE = 3  # the exit code where the GPU no longer answers


def about() -> dict[str, Any]:
    """Return the card, its driver and the versions of what is used."""
    found: dict[str, Any] = {"device": processor()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found = {"device": card.name, "memory": f"{card.total_memory / 2**30:.0f} GiB"}
        found |= {"compute capability": f"{card.major}.{card.minor}", "driver": driver(), "CUDA": torch.version.cuda}
        found |= {"cuDNN": torch.backends.cudnn.version(), "processor": processor()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "Python": platform.python_version(), "threads": torch.get_num_threads()}


def driver() -> str:
    """Return the version of NVIDIA's driver, as its tool or the kernel's module says it."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        pass
    try:
        words = Path("/proc/driver/nvidia/version").read_text("ascii").split("\n")[0].split()
        return next(word for word in words if word.count(".") >= 1 and word[0].isdigit())
    except (OSError, StopIteration):
        return "unknown"


def do(part: Part, report: Reporter, sizes: Sizes, seconds: float) -> None:
    """Do one part; what it raises is reported."""
    report.send("begin", part=part.name, state="running", limit=seconds)
    missing, began = part.missing(), time.monotonic()
    if missing:
        report.send("end", part=part.name, state="skipped", reason=f"not installed: {', '.join(missing)}", seconds=0)
        return
    ended: dict[str, Any] = {"state": "done"}
    try:
        module, name = part.function.split(":")
        getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)(report, sizes, Clock(seconds))
    except Exception as error:  # noqa: BLE001 - the other parts are to be done whatever it was
        lines = traceback.format_exc().strip().splitlines()
        ended = {"state": "failed", "reason": f"{type(error).__name__}: {error}"[:500], "traceback": lines[-30:]}
    report.send("end", part=part.name, seconds=time.monotonic() - began, **ended)
    try:
        free()
    except RuntimeError:  # an illegal access, for example: every later call fails too
        os._exit(UNUSABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    until, report = time.monotonic() + arguments.seconds, Reporter()
    if arguments.dry_run:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        parser.exit(2, f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU: --dry-run needs none\n")
    report.send("about", about=about())
    waiting = [BY_NAME[name] for name in arguments.parts.split(",")]
    sizes = DRY if arguments.dry_run else Sizes()
    while waiting:
        do(waiting[0], report, sizes, share(waiting[0], waiting, until - time.monotonic()))
        waiting.pop(0)


if __name__ == "__main__":
    main()
