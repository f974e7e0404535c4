"""Freeze loaded models while a network is trained on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

# The models' own checkpointing: LDM's raises with frozen parameters, diffusers' works in training mode only.
_CHECKPOINT_SWITCHES = ("checkpoint", "use_checkpoint", "gradient_checkpointing")


@contextmanager
def frozen(*models: nn.Module) -> Iterator[None]:
    """Freeze the models' parameters, in eval mode and without the models' own checkpointing; restore all on exit.

    Autograd then computes no gradient for a weight, and none before the first layer that a network is trained on.
    """
    modules = [module for model in models for module in model.modules()]
    parameters = [parameter for model in models for parameter in model.parameters()]
    required = [parameter.requires_grad for parameter in parameters]
    training = [module.training for module in modules]
    switches = [(module, name) for module in modules for name in _CHECKPOINT_SWITCHES if vars(module).get(name) is True]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        for module in modules:
            module.training = False
        for module, name in switches:
            setattr(module, name, False)
        yield
    finally:
        for module, name in switches:
            setattr(module, name, True)
        for module, flag in zip(modules, training):
            module.training = flag
        for parameter, flag in zip(parameters, required):
            parameter.requires_grad_(flag)
