"""Times alternatives for parts of a training step, to show why they are implemented as they are.

    python benchmarks/pieces.py

*A layer*: what a LoRA adds to a linear layer's forward and backward pass, in four forms. *q, k, v*: their three
down-projections apart, as hooks that know nothing of each other make them, and as one product of matrices. *Adam*: one
step for 384 tensors in 16 groups (a LoRA on SD1's attention, a group a block). All forms take turns; ratios are medians
over the rounds, with their quartiles, on a CPU of the processor's time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.setting import device, load, machine, now, ratios, since, table

# Tokens, width, rank: SD1's blocks at 16x16 latents and at 64x64, and the narrow U-Net's.
SHAPES = ((64, 64, 4), (16, 256, 4), (256, 320, 16), (64, 640, 16), (16, 1280, 16), (4096, 320, 16), (1024, 640, 16))
TENSORS, GROUPS = 384, 16

Form = Callable[..., Tensor]


class OneNode(torch.autograd.Function):
    """The whole of a LoRA, its layer's output included, as one node of the autograd graph."""

    @staticmethod
    def forward(ctx, base: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        hidden = flat @ down.t()
        ctx.save_for_backward(flat, hidden, down, up)
        return torch.addmm(base.flatten(0, 1), hidden, up.t()).view_as(base)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        flat, hidden, down, up = ctx.saved_tensors
        upper = gradient.flatten(0, 1)
        inner = upper @ up
        to_x = (inner @ down).view(*gradient.shape[:2], -1)
        return gradient, to_x, inner.t() @ flat, upper.t() @ hidden


def added(base: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return torch.add(base, F.linear(F.linear(x, down), up), alpha=1.0)


def into_the_product(base: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return torch.addmm(base.flatten(0, 1), F.linear(x, down).flatten(0, 1), up.t()).view_as(base)


def scaled(base: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return base + F.linear(F.linear(x, down), up) * 1.0


def alone(base: Tensor, *_: Tensor) -> Tensor:
    return base


LAYER: Mapping[str, Form] = {
    "ours: two products, an addition": added,
    "the addition inside the second product": into_the_product,
    "one node of autograd": OneNode.apply,
    "scaled and added (PEFT)": scaled,
    "no LoRA": alone,
}


def apart(x: Tensor, weights: Sequence[Tensor], downs: Sequence[Tensor], ups: Sequence[Tensor]) -> list[Tensor]:
    return [added(F.linear(x, weight), x, down, up) for weight, down, up in zip(weights, downs, ups)]


def together(x: Tensor, weights: Sequence[Tensor], downs: Sequence[Tensor], ups: Sequence[Tensor]) -> list[Tensor]:
    hidden = F.linear(x, torch.cat(list(downs))).split(len(downs[0]), dim=-1)
    return [F.linear(x, weight) + F.linear(part, up) for weight, part, up in zip(weights, hidden, ups)]


def turns(forms: Mapping[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of `repeats` calls of each form, round by round; the first round does not count."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(rounds + 1):
        for name, form in forms.items():
            began = now()
            for _ in range(repeats):
                form()
            if number:
                found[name].append(since(began)[-1])
    return found


def drawn(*shape: int, trained: bool = False) -> Tensor:
    return (torch.randn(shape, device=device()) * 0.05).requires_grad_(trained)


def repeats_of(tokens: int, width: int) -> int:
    return max(2, min(100, round(6e7 / (tokens * width * width))))


def layers(rounds: int) -> str:
    rows = []
    for tokens, width, rank in SHAPES:
        x, weight, gradient = drawn(1, tokens, width, trained=True), drawn(width, width), drawn(1, tokens, width)
        down, up = drawn(rank, width, trained=True), drawn(width, rank, trained=True)

        def step(form: Form, x=x, weight=weight, down=down, up=up, gradient=gradient) -> None:
            form(F.linear(x, weight), x, down, up).backward(gradient)
            x.grad = down.grad = up.grad = None

        forms = {name: lambda form=form, step=step: step(form) for name, form in LAYER.items()}
        found = turns(forms, rounds, repeats_of(tokens, width))
        ours = found["ours: two products, an addition"]
        rows.append([f"{tokens} x {width}, rank {rank}", *(ratios(seconds, ours) for seconds in found.values())])
    return table(["tokens x width", *LAYER], rows)


def projections(rounds: int) -> str:
    rows = []
    for tokens, width, rank in SHAPES:
        x, gradient = drawn(1, tokens, width, trained=True), drawn(1, tokens, width)
        weights = [drawn(width, width) for _ in range(3)]
        downs = [drawn(rank, width, trained=True) for _ in range(3)]
        ups = [drawn(width, rank, trained=True) for _ in range(3)]

        def step(form: Callable, x=x, gradient=gradient, weights=weights, downs=downs, ups=ups) -> None:
            torch.autograd.backward(form(x * 1, weights, downs, ups), [gradient] * 3)
            for tensor in (x, *downs, *ups):
                tensor.grad = None

        forms = {form.__name__: lambda form=form, step=step: step(form) for form in (apart, together)}
        found = turns(forms, rounds, repeats_of(tokens, width))
        rows.append([f"{tokens} x {width}, rank {rank}", ratios(found["together"], found["apart"])])
    return table(["tokens x width", "one product / three"], rows)


def adam(rounds: int) -> str:
    arms = {}
    means = {"one tensor after the other": {"foreach": False}, "lists of tensors": {"foreach": True}}
    for name, options in {**means, "ours: one operation": {"fused": True}}.items():
        tensors = [drawn(16, 320, trained=True) for _ in range(TENSORS)]
        for tensor in tensors:
            tensor.grad = torch.randn_like(tensor)
        arms[name] = torch.optim.AdamW([{"params": tensors[i::GROUPS]} for i in range(GROUPS)], **options).step
    found = turns(arms, rounds, 5)
    first = found["one tensor after the other"]
    rows = [[n, f"{200 * statistics.median(s):.2f}", ratios(s, first)] for n, s in found.items()]
    return table(["Adam", "ms a step", "/ one tensor after the other"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"{machine()}; {load()}; {arguments.rounds} rounds, fp32\n")
    for part in (layers, projections, adam):
        print(part(arguments.rounds), flush=True)
        print()


if __name__ == "__main__":
    main()
