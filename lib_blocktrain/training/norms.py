"""Norms of delta weights and gradients, by block and of all, and what is cut down to a norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters import LoHa, LoKr, LoRA, NetworkModule
from lib_blocktrain.networks.adapters.base import matrix
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.layers import weight_of
from lib_blocktrain.training.init import TrainingModule, trained_tensors
from lib_blocktrain.training.plan import ModulePlan, Plan


@torch.no_grad()
def squared_norm(module: NetworkModule, weight: Tensor) -> Tensor:
    """Return |delta W|_F^2, for LoRA without making delta W: sum((up^T up) * (down down^T))."""
    if isinstance(module, TrainingModule):
        return module.factor**2 * squared_norm(module.module, weight)
    if isinstance(module, LoRA) and module.mid is None:
        up, down = matrix(module.up).float(), matrix(module.down).float()
        return module.scale**2 * ((up.T @ up) * (down @ down.T)).sum()
    return module.delta_weight(weight).square().sum()


def block_norms(network: Network, plan: Plan) -> dict[str, float]:
    """Return the Frobenius norm of all delta weights of a block together, by block."""
    return _by_block(plan, lambda planned: squared_norm(network.modules[planned.key], weight_of(planned.layer)))


def gradient_norms(network: Network, plan: Plan) -> dict[str, float]:
    """Return the norm of the gradients of a block's tensors, by block."""

    def squared(planned: ModulePlan) -> Tensor:
        tensors = list(trained_tensors(network.modules[planned.key]).values())
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        zero = torch.zeros((), device=tensors[0].device)
        return sum((gradient.float().square().sum().to(zero.device) for gradient in gradients), zero)

    return _by_block(plan, squared)


def shares(norms: Mapping[str, float]) -> dict[str, float]:
    """Return each block's share of the whole change: its squared norm over the sum of all."""
    total = sum(norm**2 for norm in norms.values())
    return {block: norm**2 / total if total else 0.0 for block, norm in norms.items()}


@torch.no_grad()
def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of all tensors together, `()`, without a wait: not finite where one of their numbers is not."""
    norms = torch._foreach_norm([tensor.detach() for tensor in tensors])
    return torch.linalg.vector_norm(torch.stack([norm.float().to(norms[0].device) for norm in norms]))


@torch.no_grad()
def clip_to_norm(tensors: Sequence[Tensor], most: float, norm: Tensor) -> None:
    """Multiply the tensors, whose norm this is, in place, so that it is `most` at most; as `clip_grad_norm_`."""
    factor = torch.clamp(most / (norm + 1e-6), max=1.0)
    for device in {tensor.device for tensor in tensors}:
        torch._foreach_mul_([tensor for tensor in tensors if tensor.device == device], factor.to(device))


@torch.no_grad()
def cap_norms(network: Network, plan: Plan) -> None:
    """Shrink the delta weights of the blocks whose norm is above their cap, in place, without a wait for the GPU."""
    caps = {planned.block: planned.cap for planned in plan.modules}
    squares = _squares_by_block(
        plan, lambda planned: squared_norm(network.modules[planned.key], weight_of(planned.layer))
    )
    for block, square in squares.items():
        limit = caps[block]
        if limit is not None:
            keys = (planned.key for planned in plan.modules if planned.block == block)
            norm = square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()
            factor = (limit / norm).clamp(max=1.0)  # to multiply by 1 changes no bit
            scale_deltas((network.modules[key] for key in keys), factor)


@torch.no_grad()
def scale_deltas(modules: Iterable[NetworkModule], factor: float | Tensor) -> None:
    """Multiply the deltas by a factor, in place, by way of `linear_factor`."""
    for module in modules:
        inner = module.module if isinstance(module, TrainingModule) else module
        tensor = linear_factor(inner)
        tensor.mul_(factor.to(tensor) if isinstance(factor, Tensor) else factor)


def linear_factor(module: NetworkModule) -> Tensor:
    """Return the tensor that began at 0 and in which the delta is linear; raise ValueError where there is none."""
    if isinstance(module, LoRA):
        return module.up
    if isinstance(module, LoHa):
        return module.w2_a
    if isinstance(module, LoKr):
        factor = module.w2 if module.w2 is not None else module.w2_b
        assert factor is not None  # one of the two is there
        return factor
    raise ValueError(f"{module.key}: the delta of {type(module).__name__} is linear in none of its tensors")


def _by_block(plan: Plan, squared: Callable[[ModulePlan], Tensor]) -> dict[str, float]:
    """Return the root of the sum of `squared` over the modules of each block; it waits for the device once."""
    squares = _squares_by_block(plan, squared)
    if not squares:
        return {}
    device = next(iter(squares.values())).device
    numbers = torch.stack([square.to(device) for square in squares.values()]).tolist()
    return {block: math.sqrt(max(0.0, number)) for block, number in zip(squares, numbers)}


def _squares_by_block(plan: Plan, squared: Callable[[ModulePlan], Tensor]) -> dict[str, Tensor]:
    """Return the sum of `squared` over the modules of each block, `()`."""
    totals: dict[str, Tensor] = {}
    for planned in plan.modules:
        value = squared(planned).float()
        totals[planned.block] = (
            totals[planned.block] + value.to(totals[planned.block]) if planned.block in totals else value
        )
    return totals
