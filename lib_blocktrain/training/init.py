"""The network before its first step: the modules of a plan, whose deltas are all 0, and their dropout in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_blocktrain.networks.adapters import DoRA, LoHa, LoKr, LoRA, NetworkModule
from lib_blocktrain.networks.adapters.base import along_rank
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.keys import Algorithm
from lib_blocktrain.networks.layers import pointwise, run, weight_of, weight_shape
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.plan import ModulePlan, Plan
from lib_blocktrain.training.rng import generator_of


def init_network(plan: Plan, config: NetworkConfig, name: str, seed: int) -> Network:
    """Return the network of a plan, in fp32 on the layers' devices, with `requires_grad`.

    The random values of a module depend on the seed and its key alone, whatever else is in the plan.
    """
    modules: dict[str, NetworkModule] = {}
    for module in plan.modules:
        made = INITIALIZERS[config.algorithm](module, config, generator_of(seed, "module", module.key))
        modules[module.key] = _on_device(made, module.layer)
    return Network(name, plan.architecture, modules)


def trained_tensors(module: NetworkModule) -> dict[str, Tensor]:
    """Return a module's tensors with `requires_grad`, by their names in a file."""
    inner = module.module if isinstance(module, TrainingModule) else module
    return {name: tensor for name, tensor in inner.to_tensors().items() if tensor.requires_grad}


def _lora(plan: ModulePlan, config: NetworkConfig, generator: torch.Generator) -> LoRA:
    """down ~ kaiming_uniform(a = sqrt 5), up = 0 (Hu et al. 2021, 2106.09685, section 4.1; bounds as sd-scripts)."""
    out, *rest = weight_shape(plan.layer)
    down = _uniform((plan.rank, *rest), math.prod(rest), generator)
    up = torch.zeros(out, plan.rank, *(1 for _ in rest[1:]))
    return LoRA(plan.key, down, up, alpha=plan.alpha)


def _loha(plan: ModulePlan, config: NetworkConfig, generator: torch.Generator) -> LoHa:
    """w1_b ~ N(0, 1), w1_a ~ N(0, 0.1), w2_b ~ N(0, 1), w2_a = 0 (LyCORIS `modules/loha.py`)."""
    out, *rest = weight_shape(plan.layer)
    columns, rank = math.prod(rest), plan.rank
    w1_b, w2_b = (torch.randn(rank, columns, generator=generator) for _ in range(2))
    w1_a = 0.1 * torch.randn(out, rank, generator=generator)
    return LoHa(plan.key, w1_a, w1_b, torch.zeros(out, rank), w2_b, alpha=plan.alpha)


def _lokr(plan: ModulePlan, config: NetworkConfig, generator: torch.Generator) -> LoKr:
    """w1 ~ kaiming_uniform(a = sqrt 5), w2 or w2_b = 0; w2 is whole if the rank saves nothing (LyCORIS `lokr.py`)."""
    out, inputs, *kernel = weight_shape(plan.layer)
    (a, b), (c, d) = factors_of(out, config.factor), factors_of(inputs, config.factor)
    w1 = _uniform((a, c), c, generator)
    if plan.rank >= max(b, d) / 2:
        return LoKr(plan.key, w1=w1, w2=torch.zeros(b, d, *kernel), alpha=plan.alpha)
    w2_a = _uniform((b, plan.rank), plan.rank, generator)
    return LoKr(plan.key, w1=w1, w2_a=w2_a, w2_b=torch.zeros(plan.rank, d * math.prod(kernel)), alpha=plan.alpha)


def _dora(plan: ModulePlan, config: NetworkConfig, generator: torch.Generator) -> DoRA:
    """A LoRA with the magnitudes of the input channels (2402.09353), the form that the WebUI reads correctly."""
    weight = weight_of(plan.layer).detach().float()
    magnitude = torch.linalg.vector_norm(weight, dim=(0, *range(2, weight.ndim)), keepdim=True)
    return DoRA(plan.key, _lora(plan, config, generator), magnitude)


INITIALIZERS: Mapping[str, Callable[[ModulePlan, NetworkConfig, torch.Generator], NetworkModule]] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "dora": _dora,
}


def factors_of(size: int, factor: int) -> tuple[int, int]:
    """Split a size into two factors, the smaller first: `factor` itself if it divides, else the largest up to it.

    -1: the nearest to square. As LyCORIS' `factorization`.
    """
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    limit = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    small = next(candidate for candidate in range(limit, 0, -1) if size % candidate == 0)
    return small, size // small


def _uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """kaiming_uniform with a = sqrt 5: U(-1, 1) / sqrt(fan in)."""
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(fan_in)


def _on_device(module: NetworkModule, layer: nn.Module) -> NetworkModule:
    moved = module.to(weight_of(layer).device, torch.float32)
    for tensor in moved.to_tensors().values():
        if tensor.ndim:  # alpha is a number
            tensor.requires_grad_()
    return moved


@dataclass
class DropoutSwitch:
    """Whether the dropout of a network acts: not while it is measured, drawn or saved."""

    on: bool = True


@dataclass(frozen=True, eq=False)
class TrainingModule(NetworkModule):
    """A module in training: with a factor, which `to_tensors` multiplies in, and with dropout.

    `factor` is for LoKr with two whole factors, where readers ignore alpha. `rank_dropout` zeroes ranks of a sample,
    `module_dropout` the module for a step, `neuron_dropout` single values between down and up (sd-scripts' names).
    """

    module: NetworkModule
    dropout: DropoutSwitch
    factor: float = 1.0
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    neuron_dropout: float = 0.0

    @property
    def algorithm(self) -> Algorithm:
        return self.module.algorithm

    @property
    def size(self) -> tuple[int, int | None]:
        return self.module.size

    @property
    def trainable(self) -> bool:
        return self.module.trainable

    @property
    def low_rank(self) -> bool:
        return self.module.low_rank

    def check_fits(self, shape: tuple[int, ...]) -> None:
        self.module.check_fits(shape)

    def to_tensors(self) -> dict[str, Tensor]:
        return (self.module if self.factor == 1 else self.module.scaled(self.factor)).to_tensors()

    def delta_weight(self, weight: Tensor) -> Tensor:
        return self.module.delta_weight(weight) * (self.factor * self._keep_mask(weight.device))

    def delta_output(self, x: Tensor, layer: nn.Module, ranks: Tensor | None = None) -> Tensor:
        if not (self.dropout.on and (self.rank_dropout or self.neuron_dropout)):
            return self.module.delta_output(x, layer, ranks) * self._keep_mask(x.device)
        lora = self.module
        assert isinstance(lora, LoRA)  # NetworkConfig has these dropouts for no other algorithm
        hidden = run(layer, x, lora.down.to(x).reshape(lora.rank, *weight_shape(layer)[1:]))
        hidden = F.dropout(hidden, self.neuron_dropout)
        if self.rank_dropout:
            mask = torch.rand(len(x), lora.rank, device=x.device) >= self.rank_dropout
            hidden = hidden * along_rank(hidden, mask.to(x) / (1 - self.rank_dropout))
        if ranks is not None:
            hidden = hidden * along_rank(hidden, ranks)
        return pointwise(layer, hidden * lora.scale, lora.up.to(x)) * self._keep_mask(x.device)

    def _keep_mask(self, device: torch.device) -> float | Tensor:
        if not (self.dropout.on and self.module_dropout):
            return 1.0
        return (torch.rand((), device=device) >= self.module_dropout).float()


def training_network(
    network: Network, plan: Plan, config: NetworkConfig, switch: DropoutSwitch | None = None
) -> Network:
    """Return the network as it acts in training: its modules, wrapped where they need a factor or dropout."""
    switch = switch or DropoutSwitch()
    dropout = {name: getattr(config, name) for name in ("rank_dropout", "module_dropout", "neuron_dropout")}
    modules: dict[str, NetworkModule] = {}
    for planned in plan.modules:
        module = network.modules[planned.key]
        whole = isinstance(module, LoKr) and module.is_whole
        factor = planned.weight if whole and config.weight_mode == "scale" else 1.0
        plain = factor == 1 and not any(dropout.values())
        modules[planned.key] = module if plain else TrainingModule(planned.key, module, switch, factor, **dropout)
    return replace(network, modules=modules)


def detached(network: Network, keys: Collection[str]) -> Network:
    """Return the network with the modules of these keys out of autograd, without dropout; tensors share the memory."""
    if not keys:
        return network
    modules: dict[str, NetworkModule] = {}
    for key, module in network.modules.items():
        if key in keys:
            module = module.mapped(Tensor.detach)
            if isinstance(module, TrainingModule):
                module = replace(module, rank_dropout=0.0, module_dropout=0.0, neuron_dropout=0.0)
        modules[key] = module
    return replace(network, modules=modules)
