"""The network as it is saved, and its copy in a LoRA folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lib_blocktrain.files import atomic_write
from lib_blocktrain.networks.adapters import LoRA, NetworkModule
from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.card import write_card
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.init import training_network
from lib_blocktrain.training.plan import Plan


def saved_network(network: Network, plan: Plan, config: NetworkConfig) -> Network:
    """Return the network without dropout, with the factors that readers ignore multiplied into its tensors."""
    plain = replace(config, rank_dropout=0.0, module_dropout=0.0, neuron_dropout=0.0)
    return with_one_alpha(training_network(network, plan, plain), config.alpha or float(config.rank))


def with_one_alpha(network: Network, alpha: float) -> Network:
    """Return a network whose LoRA modules all have this alpha; `lora_up` is scaled where it was another one.

    diffusers (0.35) reads one alpha for all attention layers of a file: with several, blocks would act too strongly.
    """
    if all(not isinstance(module, LoRA) or module.alpha == alpha for module in network.modules.values()):
        return network
    return replace(network, modules={key: _with_alpha(module, alpha) for key, module in network.modules.items()})


def _with_alpha(module: NetworkModule, alpha: float) -> NetworkModule:
    if not isinstance(module, LoRA):
        return module
    return replace(module, up=module.up.detach() * (module.effective_alpha / alpha), alpha=alpha)


def reason_not_to_save(network: Network, dtype: torch.dtype) -> str | None:
    """Return which weight a file of this dtype cannot hold, None if it can hold all."""
    tensors = {
        f"{key}.{name}": tensor.detach()
        for key, module in network.modules.items()
        for name, tensor in module.to_tensors().items()
        if tensor.ndim  # alpha stays exact
    }
    norms = torch._foreach_norm([*tensors.values()], float("inf"))
    largest = torch.stack([norm.float().to(norms[0].device) for norm in norms]).cpu()
    spoilt = (~largest.to(dtype).isfinite()).nonzero().flatten().tolist()
    if not spoilt:
        return None
    name, number = [*tensors][spoilt[0]], float(largest[spoilt[0]])
    found = "is not finite" if not math.isfinite(number) else f"is {number:.3g}, too large for {dtype}"
    return f"{len(spoilt)} of {len(tensors)} tensors cannot be saved, {name} {found}: a learning rate that is too high"


@contextmanager
def kept_parameters(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Give the parameters their own values back, bit for bit, at the end of the context."""
    own = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        torch._foreach_copy_([parameter.detach() for parameter in parameters], own)


def publish(
    result: Path,
    folder: Path,
    *,
    text: str = "",
    weight: float = 1.0,
    preview: Path | None = None,
    replaces: str | None = None,
) -> Path:
    """Copy a result into a LoRA folder, with the WebUI's metadata beside it; return the copy's path.

    `text` is the WebUI's "activation text", `weight` its "preferred weight", `preview` its image, a PNG. A file of
    the same name is not replaced, the copy gets a number after its name; unless the file's name is `replaces`: what was
    written into its card since stays.
    """
    target, number = folder / result.name, 2
    while target.exists() and target.name != replaces:
        target, number = folder / f"{result.stem}-{number}{result.suffix}", number + 1
    write_card(target, result, text=text, weight=weight)
    contents = {target: result.read_bytes()}
    if preview is not None:
        contents[target.with_suffix(".png")] = preview.read_bytes()
    for path, content in contents.items():
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    return target
