"""The layers that a network can act on, told by what they look like: Forge's own classes are not torch's."""

import torch.nn.functional as F
from torch import Tensor, nn

LINEAR, CONVOLUTION, LAYER_NORM, GROUP_NORM = "linear", "convolution", "layer norm", "group norm"


def kind_of(layer: nn.Module) -> str | None:
    """Return the kind of a leaf layer, None for those that no network acts on."""
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        return LINEAR
    if hasattr(layer, "in_channels") and len(getattr(layer, "kernel_size", ())) == 2 and not _is_transposed(layer):
        return CONVOLUTION
    if hasattr(layer, "normalized_shape"):
        return LAYER_NORM
    return GROUP_NORM if hasattr(layer, "num_groups") and hasattr(layer, "num_channels") else None


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """Return the shape that the layer's weight stands for, (out, in[, k, k]); a quantised one is stored in another."""
    kind = kind_of(layer)
    if kind == LINEAR:
        return layer.out_features, layer.in_features
    if kind == CONVOLUTION:
        return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size
    return tuple(layer.weight.shape)


def run(layer: nn.Module, x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
    """Return what the layer would put out with this weight and bias in place of its own."""
    kind = kind_of(layer)
    if kind == LINEAR:
        return F.linear(x, weight, bias)
    if kind == CONVOLUTION:
        return _convolve(layer, x, weight, bias)
    if kind == LAYER_NORM:
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)


def pointwise(x: Tensor, weight: Tensor, kind: str) -> Tensor:
    """Apply a weight (out, in[, 1, 1]) to each position of a linear layer's or a convolution's input."""
    if kind == CONVOLUTION:
        return F.conv2d(x, shaped(weight, (*weight.shape[:2], 1, 1)))
    return F.linear(x, shaped(weight, weight.shape[:2]))


def shaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor in this shape; itself if it has it, without a node in the autograd graph."""
    return tensor if tensor.shape == shape else tensor.reshape(shape)


def _convolve(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = layer.padding
    if getattr(layer, "padding_mode", "zeros") != "zeros":  # the WebUI's "Tiling" makes it circular
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = 0
    return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)


def _is_transposed(layer: nn.Module) -> bool:
    return "Transpose" in type(layer).__name__
