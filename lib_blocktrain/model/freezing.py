"""Make loaded models fit for training a network on them, and put everything back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

# Switches of a model's own checkpointing: LDM's raises with frozen parameters, diffusers' acts in training mode only.
_CHECKPOINT_SWITCHES = ("checkpoint", "use_checkpoint", "gradient_checkpointing")


@contextmanager
def frozen(*models: nn.Module) -> Iterator[None]:
    """Freeze the models' parameters, in eval mode and without checkpointing of their own, while the context is open.

    No gradient is computed for a frozen weight, and none at all in front of the first layer with a trained network.
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
