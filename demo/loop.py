"""One resumable training loop for all of the demo model's networks: AdamW, trapezoidal learning rate, EMA."""

from __future__ import annotations

import copy
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lib_blocktrain.training.precision import emulated

log = logging.getLogger("demo")


@dataclass(frozen=True)
class Plan:
    """Length and learning rate of a training; ``steps`` may be raised until the last quarter, where the rate decays."""

    steps: int
    lr: float
    warmup: int = 200
    ema: float = 0.999
    save_every: int = 200
    weight_decay: float = 0.01


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half(on: torch.device | None = None) -> torch.autocast:
    """bfloat16 autocast where it is fast: weights and optimizer stay in float32.

    A CPU without its instructions emulates it: measured on one with AVX2 alone, the U-Net took 19 times as long as in
    float32, the autoencoder 140 times.
    """
    on = on or device()
    return torch.autocast(on.type, torch.bfloat16, enabled=not emulated(on, torch.bfloat16))


def save_atomically(path: Path, state: object) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def rate(plan: Plan, step: int) -> float:
    """Linear warm-up, constant, then linear decay to 1 % over the last quarter."""
    left = (plan.steps - step) / (0.25 * plan.steps)
    return plan.lr * min((step + 1) / plan.warmup, max(0.01, min(1.0, left)))


def prefetch(batches: Iterator, depth: int = 4) -> Iterator:
    """Make batches in a thread, ``depth`` ahead: drawing images mostly runs without Python's global lock."""
    ready: queue.Queue = queue.Queue(depth)

    def draw() -> None:
        for batch in batches:
            ready.put(batch)

    threading.Thread(target=draw, daemon=True).start()
    while True:
        yield ready.get()


def train(
    name: str,
    network: nn.Module,
    batches: Callable[[int], Iterator],
    loss: Callable[..., Tensor],
    plan: Plan,
    work: Path,
) -> nn.Module:
    """Train to ``plan.steps``, resuming from ``work/name.pt`` if it exists; return the averaged (EMA) network.

    ``batches(step)`` iterates over batches from that step on; ``loss(network, batch)`` is a scalar.
    """
    network.to(device()).train()
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.lr, betas=(0.9, 0.99), weight_decay=plan.weight_decay)
    path, step = work / f"{name}.pt", 0
    if path.exists():
        state = torch.load(path, map_location=device(), weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        torch.manual_seed(step)  # other noise than in the first steps
        log.info("%s: resumed at step %d of %d", name, step, plan.steps)
    mean, started, first = None, time.monotonic(), step
    for batch in prefetch(batches(step)):
        if step >= plan.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, step)
        value = loss(network, batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(plan.ema, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        mean = value.item() if mean is None else 0.98 * mean + 0.02 * value.item()
        if step % 50 == 0:
            pace = (time.monotonic() - started) / (step - first)
            log.info("%s %d/%d loss %.4f, %.2f s a step", name, step, plan.steps, mean, pace)
        if step % plan.save_every == 0 or step == plan.steps:
            state = {"network": network.state_dict(), "average": average.state_dict(), "step": step}
            save_atomically(path, {**state, "optimizer": optimizer.state_dict()})
    return average
