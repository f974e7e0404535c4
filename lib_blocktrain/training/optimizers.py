"""Optimizers, their parameter groups by block and learning rate, and learning rate schedules."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lib_blocktrain.blocks import BASE
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.keys import TE2, component_of
from lib_blocktrain.training.config import NetworkConfig, OptimizerConfig, ScheduleConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.init import trained_tensors
from lib_blocktrain.training.optimizer_table import OptimizerSpec, spec_of
from lib_blocktrain.training.plan import ModulePlan, Plan

# The tensors that begin at 0: B in LoRA+ (Hayou et al. 2024, 2402.12354).
_BEGINS_AT_ZERO = frozenset(("lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_b"))


_FUSED = ("torch.optim.AdamW", "torch.optim.Adam")


def parameter_groups(network: Network, plan: Plan, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Return one group for each block and learning rate; `base_lr` is the rate before the schedule."""
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for planned in plan.modules:
        lr, lr_of_zeros = _learning_rates(planned, optimizer)
        for name, tensor in trained_tensors(network.modules[planned.key]).items():
            rate = lr_of_zeros if name in _BEGINS_AT_ZERO else lr
            group = groups.setdefault(
                (planned.block, rate), {"params": [], "lr": rate, "base_lr": rate, "block": planned.block}
            )
            group["params"].append(tensor)
    return list(groups.values())


def _learning_rates(planned: ModulePlan, optimizer: OptimizerConfig) -> tuple[float, float]:
    """Return the learning rate of a module's tensors, and of those that begin at 0 (LoRA+); BASE may have its own."""
    rates = optimizer.text_encoder_rates if planned.block == BASE else ()
    second = len(rates) > 1 and component_of(planned.key) == TE2
    lr = (rates[second] if rates else optimizer.rate) * planned.lr
    return lr, lr * optimizer.lora_plus


def check_learning_rates(config: OptimizerConfig, network: NetworkConfig, plan: Plan) -> None:
    """Raise ConfigError where the optimizer cannot do what the learning rates ask of it."""
    encoders = 2 if plan.architecture == "sdxl" else 1
    if len(config.text_encoder_rates) > encoders:
        raise ConfigError(
            f"optimizer.text_encoder_lr = {list(config.text_encoder_rates)}: expected one number:"
            f" {plan.architecture} has one text encoder"
        )
    reason = _single_lr_reason(config)
    rates = {rate for planned in plan.modules for rate in _learning_rates(planned, config)}
    if reason and (network.weight_mode == "lr" or len(rates) > 1):
        what = "the weights' meaning is lr" if network.weight_mode == "lr" else f"there are {len(rates)} learning rates"
        raise ConfigError(f"optimizer.name = {config.name!r}, and {what}: {reason}: expected the meaning scale or rank")
    spec = spec_of(config.name)
    if rates and min(rates) < spec.least_rate:
        raise ConfigError(
            f"optimizer.lr = {min(rates):g} with {config.name}, which finds its step size itself and multiplies it by"
            f" lr: nothing would be learnt: expected about {spec.rate:g}, at least {spec.least_rate:g}, or no lr"
        )


def learning_rate_notices(config: OptimizerConfig, schedule: ScheduleConfig) -> tuple[str, ...]:
    """Say what the optimizer ignores of the learning rates that were asked for."""
    if not _is_relative(config):
        return ()
    own = ", ".join(f"{rate:g}" for rate in config.text_encoder_rates)
    ignored = [f"optimizer.lr = {config.lr:g}"] if config.lr is not None else []
    ignored += [f"optimizer.text_encoder_lr = {own}"] if own else []
    if schedule != ScheduleConfig():
        ignored.append(f"the schedule {schedule.name}, warmup {schedule.warmup}")
    what = f"{config.name} with relative_step makes its own learning rate"
    return (f"{what}: {', '.join(ignored)}: ignored; relative_step=false uses them",) if ignored else ()


def make_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimizer; raise ConfigError with the package to install, or the arguments that it refuses."""
    spec = spec_of(config.name)
    cls = _class_of(config.name, spec)
    arguments = {**spec.arguments, **config.arguments}
    if not {"fused", "foreach", "capturable", "differentiable"} & set(arguments) and _has_fused(cls, spec, groups):
        arguments["fused"] = True
    arguments.pop("lr", None)  # each group has its own
    try:
        return cls(groups, lr=None if _is_relative(config) else config.rate, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {config.name}: {error}") from error


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its own."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return all tensors of all groups, in order."""
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def _has_fused(
    cls: Callable[..., torch.optim.Optimizer], spec: OptimizerSpec, groups: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether this version of torch has the optimizer as one operation for all tensors on these devices.

    Otherwise Adam takes about ten operations a tensor, which is a twelfth of a small U-Net's step.
    """
    if spec.path not in _FUSED:
        return False
    devices = {tensor.device for group in groups for tensor in group["params"]}
    try:
        cls([torch.zeros(1, device=device, requires_grad=True) for device in devices], fused=True)
    except (RuntimeError, TypeError):  # torch before 2.4 has it on GPUs only
        return False
    return True


def _single_lr_reason(config: OptimizerConfig) -> str | None:
    if _is_relative(config):
        return "with relative_step it ignores the learning rate"
    return spec_of(config.name).single_lr


def _is_relative(config: OptimizerConfig) -> bool:
    """Whether this is transformers' Adafactor with the step size that it makes itself, its default."""
    path = spec_of(config.name).path
    return path.startswith("transformers.") and bool(config.arguments.get("relative_step", True))


def _class_of(name: str, spec: OptimizerSpec) -> Callable[..., torch.optim.Optimizer]:
    module, _, attribute = spec.path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: ".x", "a..b"
        raise ConfigError(
            f"optimizer {name} needs a package that is not here ({error}): pip install '{spec.package}'"
        ) from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError(f"optimizer.name = {name!r}: expected a class of optimizers (torch.optim.Optimizer)")
    return found


# Schedules.


def _constant(progress: float, cycles: int) -> float:
    return 1.0


def _linear(progress: float, cycles: int) -> float:
    return 1 - progress


def _cosine(progress: float, cycles: int) -> float:
    """Loshchilov & Hutter 2016 (1608.03983), without restarts."""
    return (1 + math.cos(math.pi * progress)) / 2


def _restarts(progress: float, cycles: int) -> float:
    """Cosine with warm restarts (1608.03983, eq. 5)."""
    return (1 + math.cos(math.pi * (cycles * progress % 1))) / 2 if progress < 1 else 0.0


_CURVES = {"constant": _constant, "linear": _linear, "cosine": _cosine, "cosine_with_restarts": _restarts}


def lr_factor(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Return the factor of the learning rate at step 0, 1, ... of `steps`: warm-up, then the curve. It has no state."""
    if step < schedule.warmup:
        return (step + 1) / (schedule.warmup + 1)
    progress = (step - schedule.warmup) / max(1, steps - schedule.warmup)
    curve = _CURVES[schedule.name](min(progress, 1.0), schedule.cycles)
    return schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * curve
