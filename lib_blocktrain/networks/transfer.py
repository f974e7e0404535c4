"""Networks on their way to a GPU: in one copy, where each of a LoRA's hundreds of tensors would be waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters import NetworkModule


def beside_weights(pairs: Iterable[tuple[NetworkModule, Tensor]]) -> dict[NetworkModule, NetworkModule]:
    """Return, by module, the same module with its tensors where the weight is that it is for."""
    by_device: dict[torch.device, list[NetworkModule]] = {}
    for module, weight in pairs:
        by_device.setdefault(weight.device, []).append(module)
    return {
        module: moved
        for device, modules in by_device.items()
        for module, moved in zip(modules, on_device(modules, device))
    }


def on_device(modules: Sequence[NetworkModule], device: torch.device) -> list[NetworkModule]:
    """Return the modules with their tensors on a device, in their own dtypes; to a GPU without a wait."""
    if device.type != "cuda":
        return [module.mapped(lambda tensor: tensor.to(device)) for module in modules]
    return sent_together(modules, lambda flat: flat.pin_memory().to(device, non_blocking=True))


def sent_together(modules: Sequence[NetworkModule], send: Callable[[Tensor], Tensor]) -> list[NetworkModule]:
    """Return the modules with parts of what `send` makes of all their tensors on the CPU, as one for each dtype."""
    found: dict[torch.dtype, dict[int, Tensor]] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.device.type == "cpu":
            found.setdefault(tensor.dtype, {})[id(tensor)] = tensor
        return tensor

    for module in modules:
        module.mapped(note)
    moved: dict[int, Tensor] = {}
    for tensors in found.values():
        flat = send(torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()]))
        parts = flat.split([tensor.numel() for tensor in tensors.values()])
        moved.update((number, part.view(tensors[number].shape)) for number, part in zip(tensors, parts))
    return [module.mapped(lambda tensor: moved.get(id(tensor), tensor)) for module in modules]
