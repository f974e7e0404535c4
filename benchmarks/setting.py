"""What the benchmarks have in common: the machine in words, and U-Nets of the real configurations."""

from __future__ import annotations

import gc
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NARROW = {"sd1": {"block_out_channels": [64, 128, 256, 256], "cross_attention_dim": 128, "attention_head_dim": 4}}
STANDARD = 0.02  # of random weights: large enough that every layer is felt, small enough that nothing overflows


def machine(*packages: str) -> str:
    """Return a line that says what it ran on."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", *packages)]
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([*gpu, processor(), f"{torch.get_num_threads()} threads", *versions])


def load() -> str:
    """Return how busy the machine is otherwise, in words."""
    try:
        busy = float(Path("/proc/loadavg").read_text("ascii").split()[0])
    except OSError:
        return "load unknown"
    return f"load {busy:.1f} at the start"


def now() -> tuple[float, ...]:
    """Return the wall clock; on a CPU also the processor's time, which a busy machine disturbs less."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return (time.perf_counter(),)
    return time.perf_counter(), time.process_time()


CLOCKS = ("",) if torch.cuda.is_available() else ("", " (CPU)")  # what a column of each of `now` is called


def since(began: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(after - before for after, before in zip(now(), began))


def ratios(above: Sequence[float], below: Sequence[float]) -> str:
    """Return the median of the rounds' ratios and, of three or more, their quartiles."""
    found = [one / other for one, other in zip(above, below, strict=True)]
    told = f"{statistics.median(found):.3f}"
    if above == below or len(found) < 3:
        return told
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return f"{told} ({low:.2f}-{high:.2f})"


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def unet_of(architecture: str, dtype: torch.dtype, **changes: Any) -> nn.Module:
    """Return a frozen U-Net of the real configuration, with these changes (`NARROW`), and of random weights."""
    from tests.training.bare import real_unet

    unet = real_unet(architecture, **changes).to(dtype)
    unet = unet.to_empty(device=device())
    drawn = STANDARD * torch.randn(2**22, generator=torch.Generator().manual_seed(0)).to(device(), dtype)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith("norm.weight") or (".norm" in name and name.endswith("weight")):
                parameter.fill_(1.0)
            else:
                _tile(parameter, drawn)
    return unet.eval().requires_grad_(False)


def shared(unet: nn.Module) -> nn.Module:
    """Return a second U-Net whose parameters are the very tensors of the first."""
    with torch.device("meta"):
        other = type(unet).from_config(unet.config)
    other.load_state_dict(unet.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def inputs_of(unet: nn.Module, architecture: str, side: int, batch: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """Return latents `(batch, 4, side, side)`, fp32 on the CPU, and a conditioning in the U-Net's dtype."""
    generator, weight = torch.Generator().manual_seed(1), next(unet.parameters())
    conditioning = {"context": torch.randn(batch, 77, unet.config.cross_attention_dim, generator=generator)}
    if architecture == "sdxl":
        conditioning["pooled"] = torch.randn(batch, 1280, generator=generator)
    conditioning = {name: tensor.to(weight) for name, tensor in conditioning.items()}
    if architecture == "sdxl":
        size = float(8 * side)
        conditioning["size"] = torch.tensor([[size, size, 0, 0, size, size]] * batch, device=weight.device)
    return torch.randn(batch, 4, side, side, generator=generator), conditioning


def memory_now() -> float:
    """Return the MiB in use: on a GPU those that torch has allocated, else of the process."""
    gc.collect()
    return torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else _status("VmRSS")


def memory_peak() -> float:
    """Return the most MiB in use since `forget_peak`."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else _status("VmHWM")


def forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown, so that it can be kept as it is."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _tile(parameter: Tensor, drawn: Tensor) -> None:
    """Fill a parameter with the same few million numbers over and over: drawing billions would take longer than all."""
    flat = parameter.view(-1)
    for start in range(0, len(flat), len(drawn)):
        part = flat[start : start + len(drawn)]
        part.copy_(drawn[: len(part)])


def _status(name: str) -> float:
    """Return one of Linux's figures of this process, in MiB."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
