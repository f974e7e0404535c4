"""The layers that a network can act on, told by their attributes: Forge's own classes are not torch's.

The projections of an `nn.MultiheadAttention` (OpenCLIP's text encoders) are among them, although the attention computes
them without calling a layer. Each is represented by the linear layer that it stands for, so that a network's module
finds it. A hook on it would never run; a hook on the attention computes the attention again with changed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")

# Returns what to add to the weights of the projections by name; empty where nothing acts.
Deltas = Callable[[], Mapping[str, Tensor]]


def is_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is a linear layer, by its `in_features` and `out_features`."""
    return hasattr(layer, "in_features") and hasattr(layer, "out_features")


def is_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether this is a convolution in two dimensions, not a transposed one."""
    two_dimensions = hasattr(layer, "in_channels") and len(getattr(layer, "kernel_size", ())) == 2
    return two_dimensions and "Transpose" not in type(layer).__name__


def is_layer_norm(layer: nn.Module) -> TypeGuard[nn.LayerNorm]:
    """Whether this is a layer norm, by its `normalized_shape`."""
    return hasattr(layer, "normalized_shape")


def is_group_norm(layer: nn.Module) -> TypeGuard[nn.GroupNorm]:
    """Whether this is a group norm, by its `num_groups` and `num_channels`."""
    return hasattr(layer, "num_groups") and hasattr(layer, "num_channels")


def is_target(layer: nn.Module) -> bool:
    """Whether a network can act on this leaf layer."""
    return is_linear(layer) or is_convolution(layer) or is_layer_norm(layer) or is_group_norm(layer)


def is_attention(layer: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Whether this is an attention of one width, which holds the weights of q, k and v in one parameter."""
    return type(layer).__name__ == "MultiheadAttention" and getattr(layer, "in_proj_weight", None) is not None


def weight_of(layer: nn.Module) -> Tensor:
    """Return the layer's weight as it is stored; raise TypeError if it has none."""
    if not isinstance(layer.weight, Tensor):
        raise TypeError(f"{type(layer).__name__}.weight is a {type(layer.weight).__name__}: expected a tensor")
    return layer.weight


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """Return the logical shape of the layer's weight, (out, in[, k, k]); a quantised weight is stored in another."""
    if is_linear(layer):
        return layer.out_features, layer.in_features
    if is_convolution(layer):
        return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size
    return tuple(weight_of(layer).shape)


def run(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the output that the layer would have with this weight and bias in place of its own."""
    if is_linear(layer):
        return F.linear(x, weight, bias)
    if is_convolution(layer):
        return _convolve(layer, x, weight, bias)
    if is_layer_norm(layer):
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    if is_group_norm(layer):
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    raise TypeError(f"{type(layer).__name__}: expected a linear layer, a convolution or a normalisation")


def pointwise(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Apply a weight (out, in[, 1, 1]) to each position of the input of a linear layer or a convolution."""
    if is_linear(layer):
        return F.linear(x, shaped(weight, weight.shape[:2]))
    return F.conv2d(x, shaped(weight, (*weight.shape[:2], 1, 1)))


def shaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor in this shape; itself if it has it, without a node in the autograd graph."""
    return tensor if tensor.shape == shape else tensor.reshape(shape)


def _convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if getattr(layer, "padding_mode", "zeros") == "zeros":
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    # the WebUI's "Tiling" makes it circular
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    return F.conv2d(padded, weight, bias, layer.stride, 0, layer.dilation, layer.groups)


class Projection(nn.Module):
    """One projection of an attention as a layer: `weight` (out, in) and `bias` are the attention's own numbers."""

    attention: nn.MultiheadAttention

    def __init__(self, attention: nn.MultiheadAttention, name: str) -> None:
        super().__init__()
        self.__dict__["attention"] = attention  # not registered as a child: its parameters would be listed twice
        self.name = name
        self.in_features = self.out_features = attention.embed_dim

    @property
    def weight(self) -> Tensor:
        return self._part(self.attention.in_proj_weight, self.attention.out_proj.weight)

    @property
    def bias(self) -> Tensor | None:
        """The part of the attention's bias, `(out,)`, None where it has none."""
        if self.attention.in_proj_bias is None:
            return None
        return self._part(self.attention.in_proj_bias, self.attention.out_proj.bias)

    def _part(self, in_proj: Tensor, out_proj: Tensor) -> Tensor:
        return out_proj if self.name == "out_proj" else in_proj.chunk(3)[PROJECTIONS.index(self.name)]


def attention_hook(deltas: Deltas) -> Callable[[nn.MultiheadAttention, tuple[Any, ...], dict[str, Any], Any], Any]:
    """Return a forward hook (with keyword arguments) of an attention; it returns None where nothing acts."""
    inside = False

    def recompute(attention: nn.MultiheadAttention, inputs: tuple[Any, ...], options: dict[str, Any], _: Any) -> Any:
        nonlocal inside
        added = {} if inside else deltas()
        if not added:
            return None
        inside = True  # the call below runs this hook again
        try:
            return torch.func.functional_call(attention, _changed(attention, added), inputs, options)
        finally:
            inside = False

    return recompute


def _changed(attention: nn.MultiheadAttention, added: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of an attention that change, with these deltas of its projections added to them."""
    changed = {}
    if "out_proj" in added:
        weight = attention.out_proj.weight
        changed["out_proj.weight"] = weight + added["out_proj"].to(weight)
    if set(added) - {"out_proj"}:
        weight = attention.in_proj_weight
        parts = zip(PROJECTIONS, weight.chunk(3))
        changed["in_proj_weight"] = torch.cat(
            [part + added[name].to(weight) if name in added else part for name, part in parts]
        )
    return changed
