"""One resumable training loop for the demo model's networks: AdamW, trapezoid rate, EMA, state on disk."""

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

log = logging.getLogger("demo")


@dataclass(frozen=True)
class Plan:
    """How long and how fast. The rate is constant until the last quarter, so ``steps`` may grow until then."""

    steps: int
    lr: float
    warmup: int = 200
    ema: float = 0.999
    save_every: int = 200
    weight_decay: float = 0.01


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half(enabled: bool = True) -> torch.autocast:
    """bfloat16 autocast, on a CPU as on a GPU; weights and optimizer stay in float32."""
    return torch.autocast(device().type, torch.bfloat16, enabled=enabled)


def save_atomically(path: Path, state: object) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def rate(plan: Plan, step: int) -> float:
    """Linear warm-up, constant, then linear to 1 % over the last quarter."""
    left = (plan.steps - step) / (0.25 * plan.steps)
    return plan.lr * min((step + 1) / plan.warmup, max(0.01, min(1.0, left)))


def ahead(batches: Iterator, depth: int = 4) -> Iterator:
    """Draw batches in a thread, ``depth`` in advance: drawing pictures leaves Python's lock for most of its time."""
    waiting: queue.Queue = queue.Queue(depth)

    def draw() -> None:
        for batch in batches:
            waiting.put(batch)

    threading.Thread(target=draw, daemon=True).start()
    while True:
        yield waiting.get()


def train(
    name: str,
    network: nn.Module,
    batches: Callable[[int], Iterator],
    loss: Callable[..., Tensor],
    plan: Plan,
    work: Path,
) -> nn.Module:
    """Train to ``plan.steps``, or go on from ``work/name.pt``; returns the averaged (EMA) network.

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
        torch.manual_seed(step)  # not the noise of the first steps again
        log.info("%s: resumed at step %d of %d", name, step, plan.steps)
    mean, started, first = None, time.monotonic(), step
    for batch in ahead(batches(step)):
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
