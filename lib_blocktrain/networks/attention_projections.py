"""The projections of an `nn.MultiheadAttention`, which it computes without calling a layer (OpenCLIP's encoders).

Each is shown as the linear layer that it stands for, so that a network's module finds it. No hook of its own would ever
fire: what acts on it is added by a hook on the attention, which computes the attention again with changed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")

# What is to be added to the weights of the projections by name, None where nothing acts.
Deltas = Callable[[], Mapping[str, Tensor] | None]


class Projection(nn.Module):
    """One projection of an attention as a layer: `weight` `(out, in)` and `bias` are the attention's own numbers."""

    def __init__(self, attention: nn.MultiheadAttention, name: str):
        super().__init__()
        self.__dict__["attention"] = attention  # no child: its parameters must not be met twice
        self.name = name
        self.in_features = self.out_features = attention.embed_dim

    @property
    def weight(self) -> Tensor:
        return self._of(self.attention.in_proj_weight, self.attention.out_proj.weight)

    @property
    def bias(self) -> Tensor | None:
        """The part of the attention's bias, `(out,)`, None where it has none."""
        if self.attention.in_proj_bias is None:
            return None
        return self._of(self.attention.in_proj_bias, self.attention.out_proj.bias)

    def _of(self, inputs: Tensor, output: Tensor) -> Tensor:
        return output if self.name == "out_proj" else inputs.chunk(3)[NAMES.index(self.name)]


def is_attention(layer: nn.Module) -> bool:
    """Whether this is an attention of one width, whose projections stand in one parameter."""
    return type(layer).__name__ == "MultiheadAttention" and getattr(layer, "in_proj_weight", None) is not None


def attention_hook(deltas: Deltas) -> Callable:
    """Return a forward hook (with keyword arguments) of an attention; it returns None where nothing acts."""
    inside = False

    def recompute(attention: nn.MultiheadAttention, inputs: tuple, options: dict, _output: object) -> object:
        nonlocal inside
        added = None if inside else deltas()
        if not added:
            return None
        changed = {}
        if "out_proj" in added:
            weight = attention.out_proj.weight
            changed["out_proj.weight"] = weight + added["out_proj"].to(weight)
        if set(added) - {"out_proj"}:
            weight = attention.in_proj_weight
            parts = [part + added[name].to(weight) if name in added else part for name, part in _parts(weight)]
            changed["in_proj_weight"] = torch.cat(parts)
        inside = True
        try:
            return torch.func.functional_call(attention, changed, inputs, options)
        finally:
            inside = False

    return recompute


def _parts(weight: Tensor) -> list[tuple[str, Tensor]]:
    return list(zip(NAMES, weight.chunk(3)))
