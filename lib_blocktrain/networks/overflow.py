"""Numbers that a dtype cannot hold: checked where they are cast, and at the end of the U-Net where they act."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from lib_blocktrain.networks.adapters import DoRA, NetworkModule, NetworkModuleError
from lib_blocktrain.networks.keys import unwrapped
from lib_blocktrain.networks.layers import is_convolution

_LAST_LAYERS = ("conv_out", "out.2")  # of the U-Net, in diffusers' layout and LDM's


class OverflowedError(NetworkModuleError):
    """A number of a network, or its strength, that the model's dtype cannot hold."""


def compute_dtype(layer: nn.Module) -> torch.dtype:
    """Return the dtype of a layer's weight, fp32 for one that is stored in a dtype of eight bits or quantised."""
    weight = getattr(layer, "weight", None)
    wide = isinstance(weight, Tensor) and weight.is_floating_point() and weight.element_size() > 1
    return weight.dtype if isinstance(weight, Tensor) and wide else torch.float32


def check_number(what: str, number: float, dtype: torch.dtype) -> None:
    """Raise OverflowedError, which names the number, unless the dtype can hold it."""
    if not abs(number) <= torch.finfo(dtype).max:
        raise OverflowedError(f"{what} {number:g} is too large for {dtype} (up to {torch.finfo(dtype).max:.3g})")


def check_tensor(what: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise OverflowedError, which names the largest number, unless the dtype can hold a tensor's numbers.

    A tensor whose own dtype holds no larger numbers is not looked at.
    """
    if tensor.is_floating_point() and torch.finfo(tensor.dtype).max > torch.finfo(dtype).max:
        check_number(what, _largest(tensor), dtype)


def check_result(what: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise OverflowedError unless the numbers of a computed tensor are finite in this dtype."""
    checks = ResultChecks()
    checks.add(what, tensor, dtype)
    checks.check()


class ResultChecks:
    """`check_result` of many tensors, for which the CPU waits once, at `check`, not once for each."""

    def __init__(self) -> None:
        self._found: list[tuple[str, Tensor, torch.dtype]] = []

    def add(self, what: str, tensor: Tensor, dtype: torch.dtype) -> None:
        """Compute a tensor's largest magnitude where it is; it may be changed or freed afterwards."""
        if tensor.numel():
            self._found.append((what, tensor.abs().max(), dtype))

    def check(self) -> None:
        """Raise OverflowedError for the first tensor whose numbers were not finite in its dtype."""
        by_device: dict[torch.device, list[Tensor]] = {}
        for _, largest, _ in self._found:
            by_device.setdefault(largest.device, []).append(largest.double())
        numbers = {device: iter(torch.stack(found).tolist()) for device, found in by_device.items()}
        for what, tensor, dtype in self._found:
            largest = next(numbers[tensor.device])
            if not math.isfinite(largest):
                raise OverflowedError(
                    f"{what} has numbers that are not finite in {tensor.dtype}: too large, or damaged"
                )
            check_number(what, largest, dtype)


def alpha_of(module: NetworkModule) -> float | None:
    """Return alpha as it is in the file, which may be more than fp32 holds."""
    return getattr(module.direction if isinstance(module, DoRA) else module, "alpha", None)


def check_module(module: NetworkModule, dtype: torch.dtype) -> None:
    """Raise OverflowedError unless a dtype can hold a module's tensors and its scale, alpha / rank."""
    alpha = alpha_of(module)
    if alpha is not None:
        check_number(f"{module.key}: alpha =", alpha, dtype)
    for name, tensor in module.to_tensors().items():
        if name != "alpha":
            check_tensor(f"{module.key}.{name}: its number", tensor.detach(), dtype)


def computed_delta(module: NetworkModule, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the changes of a layer's weight and bias; raise OverflowedError for what fp32, or fp64, cannot hold."""
    check_module(module, torch.float64 if weight.dtype == torch.float64 else torch.float32)
    return module.delta_weight(weight), module.delta_bias()


class OverflowWatch:
    """A forward hook for the U-Net's last layer that remembers whether an output was not finite.

    It does so where the output is: to ask a GPU in each pass would make the CPU wait for it. `acting` says whether
    anything acts at the time; `strengths` are block, largest factor and module of all that did.
    """

    def __init__(self, acting: Callable[[], bool], strengths: Callable[[], Iterable[tuple[str, float, NetworkModule]]]):
        self._acting, self._strengths = acting, strengths
        self._finite: Tensor | None = None
        self._dtype = torch.float32

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self._acting():
            finite = output.detach().isfinite().all()
            self._finite = finite if self._finite is None else self._finite.to(finite.device) & finite
            self._dtype = output.dtype

    def error(self) -> OverflowedError | None:
        """Return the error if an output was not finite, which names the largest number in use, else None."""
        if self._finite is None or self._finite:
            return None
        _, what = max(numbered for each in self._strengths() for numbered in _numbers(*each))
        return OverflowedError(f"the U-Net's numbers overflowed {self._dtype}: the largest in use is {what}")


def last_layer(models: Mapping[str, nn.Module]) -> nn.Module | None:
    """Return the last layer of the U-Net among models by component, None if it is not found."""
    for path, layer in models["unet"].named_modules() if "unet" in models else ():
        if unwrapped(path) in _LAST_LAYERS and is_convolution(layer):
            return layer
    return None


def _numbers(block: str, factor: float, module: NetworkModule) -> Iterable[tuple[float, str]]:
    yield abs(factor), f"the strength of {block}, {factor:g}"
    alpha = alpha_of(module)
    if alpha is not None:
        yield abs(alpha), f"alpha = {alpha:g} of {module.key}"
    for name, tensor in module.to_tensors().items():
        if name != "alpha":
            largest = _largest(tensor.detach())
            yield largest, f"{largest:g} in {module.key}.{name}"


def _largest(tensor: Tensor) -> float:
    """Return the largest magnitude, 0 for no numbers."""
    tensor = tensor if tensor.element_size() > 1 else tensor.float()
    return tensor.abs().max().item() if tensor.numel() else 0.0
