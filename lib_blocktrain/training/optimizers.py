"""Optimizers, as a table: what each is, which package it wants, and whether it can have a learning rate a block."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lib_blocktrain.blocks import BASE
from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.config import NetworkConfig, OptimizerConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.init import trained_tensors
from lib_blocktrain.training.plan import ModulePlan, Plan

# What begins at 0 in its algorithm: B in LoRA+ (Hayou et al. 2024, 2402.12354).
_BEGINS_AT_ZERO = frozenset(("lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_b"))


@dataclass(frozen=True)
class Kind:
    """An optimizer by its dotted class; `one_rate` says why it cannot have several learning rates."""

    path: str
    package: str = "torch"  # as pip knows it
    one_rate: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # defaults other than the class's own


_FUSED = ("torch.optim.AdamW", "torch.optim.Adam")
_ESTIMATES = "it estimates one step size for all weights, and takes no learning rates that differ"

TABLE: Mapping[str, Kind] = {
    "AdamW": Kind("torch.optim.AdamW"),
    "Adam": Kind("torch.optim.Adam"),
    "NAdam": Kind("torch.optim.NAdam"),
    "RAdam": Kind("torch.optim.RAdam"),
    "Adafactor": Kind("torch.optim.Adafactor", "torch>=2.5"),
    "SGD": Kind("torch.optim.SGD"),
    "RMSprop": Kind("torch.optim.RMSprop"),
    "AdamW8bit": Kind("bitsandbytes.optim.AdamW8bit", "bitsandbytes"),
    "PagedAdamW8bit": Kind("bitsandbytes.optim.PagedAdamW8bit", "bitsandbytes"),
    "Lion": Kind("lion_pytorch.Lion", "lion-pytorch"),
    "Lion8bit": Kind("bitsandbytes.optim.Lion8bit", "bitsandbytes"),
    "Prodigy": Kind("prodigyopt.Prodigy", "prodigyopt", _ESTIMATES, {"lr": 1.0}),
    "DAdaptAdam": Kind("dadaptation.DAdaptAdam", "dadaptation", _ESTIMATES, {"lr": 1.0}),
    "DAdaptLion": Kind("dadaptation.DAdaptLion", "dadaptation", _ESTIMATES, {"lr": 1.0}),
    "AdamWScheduleFree": Kind("schedulefree.AdamWScheduleFree", "schedulefree"),
    "SGDScheduleFree": Kind("schedulefree.SGDScheduleFree", "schedulefree"),
}


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
    own = optimizer.text_encoder_lr if planned.block == BASE else None
    lr = (own or optimizer.lr) * planned.lr
    return lr, lr * optimizer.lora_plus


def check_learning_rates(config: OptimizerConfig, network: NetworkConfig, plan: Plan) -> None:
    """Raise ConfigError where the optimizer cannot do what the learning rates ask of it."""
    reason = _one_rate(config)
    rates = {rate for planned in plan.modules for rate in _learning_rates(planned, config)}
    if reason and (network.weight_mode == "lr" or len(rates) > 1):
        what = "the weights' meaning is lr" if network.weight_mode == "lr" else f"there are {len(rates)} learning rates"
        raise ConfigError(f"optimizer.name = {config.name!r}, and {what}: {reason}: expected the meaning scale or rank")


def make_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimizer; raise ConfigError with what to install, or with what it did not take."""
    kind = kind_of(config.name)
    made = _class_of(config.name, kind)
    arguments = {**kind.arguments, **config.arguments}
    if not {"fused", "foreach", "capturable", "differentiable"} & set(arguments) and _has_fused(made, kind, groups):
        arguments["fused"] = True
    arguments.pop("lr", None)  # each group has its own
    try:
        return made(groups, lr=config.lr, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {config.name}: {error}") from error


def kind_of(name: str) -> Kind:
    """Return an optimizer by its name in the table, in any case, or by its dotted class; raise ConfigError."""
    found = next((kind for known, kind in TABLE.items() if known.lower() == name.lower()), None)
    if found is None and "." not in name:
        raise ConfigError(f"optimizer.name = {name!r}: expected one of {', '.join(TABLE)}, or a dotted class")
    return found or Kind(name, name.split(".")[0])


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its own."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return all tensors of all groups, in order."""
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def _has_fused(made: type[torch.optim.Optimizer], kind: Kind, groups: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether this torch has the optimizer as one operation for all tensors on these devices.

    One tensor after the other, Adam takes about ten operations each: of a small U-Net's step that is a twelfth.
    """
    if kind.path not in _FUSED:
        return False
    devices = {tensor.device for group in groups for tensor in group["params"]}
    try:
        made([torch.zeros(1, device=device, requires_grad=True) for device in devices], fused=True)
    except (RuntimeError, TypeError):  # torch before 2.4 has it on GPUs only
        return False
    return True


def _one_rate(config: OptimizerConfig) -> str | None:
    kind = kind_of(config.name)
    relative = config.arguments.get("relative_step", kind.path.startswith("transformers."))
    if kind.path.endswith("Adafactor") and relative:
        return "with relative_step it ignores the learning rate"
    return kind.one_rate


def _class_of(name: str, kind: Kind) -> type[torch.optim.Optimizer]:
    module, _, attribute = kind.path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: ".x", "a..b"
        raise ConfigError(
            f"optimizer {name} needs a package that is not here ({error}): pip install '{kind.package}'"
        ) from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError(f"optimizer.name = {name!r}: expected a class of optimizers (torch.optim.Optimizer)")
    return found
