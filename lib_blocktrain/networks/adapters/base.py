"""The interface of a network's modules, and what the algorithms share."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lib_blocktrain.networks.keys import Algorithm


class NetworkModuleError(ValueError):
    """Tensors that do not form a module, or a module that does not fit its layer."""


class CannotScaleError(NetworkModuleError):
    """The delta of this module is linear in none of its tensors, so that no tensor can be scaled by a block weight."""


@dataclass(frozen=True, eq=False)
class NetworkModule:
    """The change that a network makes to one layer; `key` is the layer's key."""

    key: str

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm by whose names the tensors are stored."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int | None]:
        """Rows and columns of the delta weight as a matrix (out, in * k * k); None for columns if any number fits."""
        raise NotImplementedError

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the tensors by their names in a file, numbers as fp32 scalars."""
        raise NotImplementedError

    @property
    def trainable(self) -> bool:
        """Whether a tensor of the module takes part in autograd."""
        return any(isinstance(value, Tensor) and value.requires_grad for value in vars(self).values())

    @property
    def low_rank(self) -> bool:
        """Whether `delta_output` works: it computes the change of the output without the delta weight."""
        return False

    def delta_weight(self, weight: Tensor) -> Tensor:
        """Return the complete change of the layer's weight, in its shape, in fp32 (fp64 for a weight in fp64)."""
        raise NotImplementedError

    def delta_bias(self) -> Tensor | None:
        """Return the change of the layer's bias, None if the module has none."""
        return None

    def delta_output(self, x: Tensor, layer: nn.Module, ranks: Tensor | None = None) -> Tensor:
        """Return the change of the layer's output for the input x.

        `ranks` (batch, rank) multiplies the values between the two factors of a LoRA; only that has them.
        """
        raise NotImplementedError

    def scaled(self, factor: float) -> "NetworkModule":
        """Return a module whose delta is `factor` times this one's, or raise CannotScaleError."""
        raise NotImplementedError

    def to(self, device: torch.device, dtype: torch.dtype) -> "NetworkModule":
        """Return the module with its tensors on another device and in another dtype."""
        return self.mapped(lambda tensor: tensor.to(device=device, dtype=dtype))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "NetworkModule":
        """Return the module with `change` of each of its tensors in the place of it."""
        changed: dict[str, Any] = {}
        for own in fields(self):
            value = getattr(self, own.name)
            if isinstance(value, Tensor):
                changed[own.name] = change(value)
            elif isinstance(value, NetworkModule):
                changed[own.name] = value.mapped(change)
        return replace(self, **changed)

    def check_fits(self, shape: tuple[int, ...]) -> None:
        """Raise NetworkModuleError unless the delta fits a weight of this shape."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Adapter(NetworkModule):
    """A module of one algorithm, which recognises its tensors in a file.

    The fields of a subclass are its tensors (None if the file has none) and plain numbers; `names` maps them to the
    tensor names in a file.
    """

    algorithm: ClassVar[Algorithm]
    names: ClassVar[Mapping[str, str]]
    fits_norms: ClassVar[bool] = False  # whether the layer's weight may have one dimension only

    @classmethod
    def matches(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Tell whether these tensors, by their names in the file, are a module of this algorithm."""
        return cls.algorithm.matches({name: tensor.shape for name, tensor in tensors.items()})

    @classmethod
    def from_tensors(cls, key: str, tensors: Mapping[str, Tensor]) -> "Adapter":
        """Make the module of this layer from a file's tensors."""
        values: dict[str, Tensor | float] = {f: tensors[name] for f, name in cls.names.items() if name in tensors}
        if "alpha" in values:
            values["alpha"] = single(key, "alpha", tensors["alpha"])
        return cls(key, **values)

    def to_tensors(self) -> dict[str, Tensor]:
        values = {name: getattr(self, field) for field, name in self.names.items()}
        return {
            name: value if isinstance(value, Tensor) else torch.tensor(float(value))
            for name, value in values.items()
            if value is not None
        }

    def check_fits(self, shape: tuple[int, ...]) -> None:
        check_matrix(self, shape)
        rows, columns = self.size
        if rows != shape[0] or columns not in (None, math.prod(shape[1:])):
            raise NetworkModuleError(
                f"{self.key}: the {self.algorithm.id} module is for a weight of {rows} x {columns or 'any'}, but the"
                f" layer's is {tuple(shape)}, {shape[0]} x {math.prod(shape[1:])}"
            )


@dataclass(frozen=True, eq=False)
class RankedModule(Adapter):
    """A module with a rank, whose delta is scaled by alpha / rank (Hu et al. 2021, 2106.09685, section 4.1).

    `alpha` missing or 0 means alpha = rank, as sd-scripts and LyCORIS read it.
    """

    alpha: float | None = field(default=None, kw_only=True)

    @property
    def rank(self) -> int:
        """The number of columns of the first factor; raises NetworkModuleError where no factor is of low rank."""
        rank = self.algorithm.rank({name: tensor.shape for name, tensor in self.to_tensors().items()})
        if rank is None:
            raise NetworkModuleError(f"{self.key}: this {self.algorithm.id} module has no rank")
        return rank

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.effective_alpha / self.rank

    @property
    def effective_alpha(self) -> float:
        return self.alpha or float(self.rank)

    def scaled(self, factor: float) -> "NetworkModule":
        """Scale alpha only: the factors stay exact."""
        return replace(self, alpha=self.effective_alpha * factor)

    def check_product(self, left: Tensor, right: Tensor) -> None:
        """Raise NetworkModuleError unless `left` (out, rank[, 1, 1]) and `right` (rank, in, ...) can be multiplied."""
        fit = left.ndim >= 2 and right.ndim >= 2 and left.shape[1] == right.shape[0] > 0
        if not fit or math.prod(left.shape[2:]) != 1:
            raise NetworkModuleError(
                f"{self.key}: {self.algorithm.id} factors of shapes {tuple(left.shape)} and {tuple(right.shape)}"
                ": expected (out, rank) and (rank, in) with a rank of 1 or more"
            )


def single(key: str, name: str, tensor: Tensor) -> float:
    """Return the one number of a tensor, or raise NetworkModuleError."""
    if tensor.numel() != 1:
        raise NetworkModuleError(f"{key}: {name} of shape {tuple(tensor.shape)}: expected one number")
    return tensor.item()


def present(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Return the tensors that are not None."""
    return tuple(tensor for tensor in tensors if tensor is not None)


def along_rank(hidden: Tensor, ranks: Tensor) -> Tensor:
    """Return factors of ranks by sample, (batch, rank), in a shape that multiplies a layer's output of that rank."""
    after = hidden.ndim - 2 if hidden.ndim == 4 else 0  # a convolution's channels come second
    before = 0 if after else hidden.ndim - 2
    return ranks.to(hidden).reshape(ranks.shape[0], *[1] * before, ranks.shape[1], *[1] * after)


def check_matrix(module: Adapter, shape: tuple[int, ...]) -> None:
    """Raise NetworkModuleError for a weight of one dimension, unless the module is for normalisation layers."""
    if len(shape) < 2 and not module.fits_norms:
        raise NetworkModuleError(
            f"{module.key}: the {module.algorithm.id} module is on a layer whose weight is {tuple(shape)}"
            ": expected a linear layer or a convolution"
        )


def check_core(module: RankedModule, name: str, core: Tensor, sizes: tuple[int, int]) -> None:
    """Raise NetworkModuleError unless a Tucker core is (*sizes, k, k)."""
    if core.shape[:2] != sizes:
        raise NetworkModuleError(
            f"{module.key}: {name} of shape {tuple(core.shape)}: expected ({sizes[0]}, {sizes[1]}, k, k)"
        )


def widened(weight: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors on the weight's device, in fp32, or fp64 for a weight in fp64."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return tuple(tensor.to(device=weight.device, dtype=dtype) for tensor in tensors)


def tucker_product(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return core x_1 left x_2 right: (r, s, k, k), (r, out), (s, in) -> (out, in, k, k)."""
    return torch.einsum("r s ..., r o, s i -> o i ...", core, left, right)


def matrix(tensor: Tensor) -> Tensor:
    """Return the tensor with all dimensions after the first as one."""
    return tensor.reshape(tensor.shape[0], -1)
