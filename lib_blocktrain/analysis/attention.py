"""Where the words of a prompt are in the image: cross-attention, averaged over heads, layers and steps.

The attention is computed again from the outputs of the layers `to_q` and `to_k`, so that it does not matter how the
host computes it, and no attention function is replaced (after Tang et al. 2022, 2210.04885, "DAAM").
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_blocktrain.model.protocol import Model

LARGEST_DIVISOR = 8  # of a latent's side: the deepest layers see an eighth of it


@dataclass(frozen=True)
class Tokens:
    """Positions in a prompt's context: those of the word, and those of all its text, without begin and end."""

    word: tuple[int, ...]
    text: tuple[int, ...]


class WordNotFoundError(ValueError):
    """The word is not in the prompt."""


@torch.no_grad()
def tokens_of(model: Model, prompt: str, word: str) -> Tokens:
    """Return the positions of a word, or of several adjacent words, wherever the prompt has them.

    No tokenizer is needed: CLIP's text encoders are causal, so that two texts that begin alike have the same context
    up to the token at which they differ. Raises WordNotFoundError.
    """
    found = places_of(prompt, word)
    if not found:
        raise WordNotFoundError(f"word {word!r}: expected one that stands in the prompt {prompt!r}")
    whole = model.encode_prompt(prompt)["context"][0].float()
    end_of_text = _first_difference(model, prompt, f"{prompt} a")
    positions: list[int] = []
    for start, end in found:
        before, upto = prompt[:start].rstrip(), prompt[:end]
        first, after = _first_difference(model, before, upto), _first_difference(model, upto, f"{upto} a")
        encoded = model.encode_prompt(upto)["context"][0].float()
        if after > len(whole) or not _same(encoded[first:after], whole[first:after]).all():
            raise WordNotFoundError(f"word {word!r}: its place in so long a prompt is not known; use a shorter prompt")
        positions += range(first, after)
    text = range(1, end_of_text)
    if set(positions) == set(text):  # its share of the attention is 1 at every position
        raise WordNotFoundError(f"word {word!r}: it is all of the prompt: expected other words beside it, or use a box")
    return Tokens(tuple(positions), tuple(text))


def places_of(prompt: str, word: str) -> list[tuple[int, int]]:
    """Return where a prompt has a word, as whole words, in any case."""
    pattern = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
    return [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)] if word.strip() else []


def _first_difference(model: Model, a: str, b: str) -> int:
    """Return the first position at which two texts have different tokens."""
    first, second = (model.encode_prompt(text)["context"][0].float() for text in (a, b))
    length = min(len(first), len(second))
    differs = (~_same(first[:length], second[:length])).nonzero()
    if not len(differs):
        raise WordNotFoundError(f"{a[-40:]!r}: nothing of it is within what the text encoder reads (75 tokens)")
    return int(differs[0])


def _same(a: Tensor, b: Tensor) -> Tensor:
    """Return, for each position, whether two contexts are equal there, up to rounding."""
    return (a - b).abs().amax(dim=-1) <= 1e-3 * a.abs().amax().clamp(min=1e-6)


class HeatMap:
    """Attention to a word, summed over forward passes at the latents' `size`."""

    def __init__(self, tokens: Tokens, seeds: int, size: tuple[int, int]) -> None:
        self._tokens, self._seeds, self._size = tokens, seeds, size
        self._sum = torch.zeros(seeds, *size)  # on the layers' device once there was one
        self._word, self._text = (torch.tensor(places, dtype=torch.long) for places in (tokens.word, tokens.text))
        self._layers = 0

    def add(self, queries: Tensor, keys: Tensor, heads: int, scale: float | None) -> None:
        """Add one layer's attention: queries `(batch, positions, width)`, keys `(batch, tokens, width)`.

        Of a guided batch the last rows, those of the prompt, are taken. What counts is the word's share of the
        attention to the prompt's text: most of the rest goes to the begin token, at every position.
        """
        grid = _grid_of(queries.shape[1], self._size)
        if grid is None or keys.shape[1] <= max(self._tokens.text):
            return  # positions of no resolution of the latents, or a context without the prompt's text
        q, k = (_split(tensor[-self._seeds :].float(), heads) for tensor in (queries, keys))
        scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
        attention = scores.softmax(dim=-1)
        if self._sum.device != attention.device:
            self._sum, self._word, self._text = (t.to(attention.device) for t in (self._sum, self._word, self._text))
        of_word = attention.index_select(-1, self._word).sum(dim=-1)
        of_text = attention.index_select(-1, self._text).sum(dim=-1)
        shares = (of_word / of_text.clamp(min=1e-12)).mean(dim=1).reshape(self._seeds, 1, *grid)
        enlarged = F.interpolate(shares, self._size, mode="bilinear", align_corners=False)[:, 0]
        self._sum += enlarged
        self._layers += 1

    @property
    def mean(self) -> Tensor:
        """The mean over layers and passes, `(seeds, h, w)`, 0 to 1; raises ValueError where there was no layer."""
        if not self._layers:
            raise ValueError("no cross-attention was seen: the model's U-Net has no attn2 layers that hooks can reach")
        return self._sum.cpu() / self._layers


@contextmanager
def recording_attention(unet: nn.Module, heat_maps: Sequence[HeatMap]) -> Iterator[None]:
    """Add the cross-attention of all forward passes inside the context to the heat maps; no hook is left behind."""
    if not heat_maps:
        yield
        return
    with ExitStack() as hooks:
        for layer in cross_attentions(unet).values():
            _hook(layer, heat_maps, hooks)
        yield


def _hook(layer: CrossAttention, heat_maps: Sequence[HeatMap], hooks: ExitStack) -> None:
    queries: list[Tensor] = []  # of the pass that has reached to_q but not yet to_k

    def keep_queries(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        queries.append(output.detach())

    def add_attention(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        kept = queries.pop()
        for heat_map in heat_maps:
            heat_map.add(kept, output.detach(), layer.heads, getattr(layer, "scale", None))

    hooks.callback(layer.to_q.register_forward_hook(keep_queries).remove)
    hooks.callback(layer.to_k.register_forward_hook(add_attention).remove)


class CrossAttention(Protocol):
    """A layer `attn2`, in LDM's layout, diffusers' or Forge's."""

    @property
    def to_q(self) -> nn.Module: ...

    @property
    def to_k(self) -> nn.Module: ...

    @property
    def heads(self) -> int: ...


def cross_attentions(unet: nn.Module) -> Mapping[str, CrossAttention]:
    """Return the cross-attention layers by their names in the U-Net."""
    named = {name: module for name, module in unet.named_modules() if name.endswith("attn2")}
    return {name: module for name, module in named.items() if _is_cross_attention(module)}


def _is_cross_attention(module: object) -> TypeGuard[CrossAttention]:
    return all(hasattr(module, part) for part in ("to_q", "to_k", "heads"))


def _split(tensor: Tensor, heads: int) -> Tensor:
    """Return `(batch, heads, length, width of a head)` of `(batch, length, width)`."""
    return tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2)


def _grid_of(positions: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return height and width of a layer with so many positions, for latents of this size; None if none fits."""
    divisor = 1
    while divisor <= LARGEST_DIVISOR:
        height, width = (math.ceil(side / divisor) for side in size)
        if height * width == positions:
            return height, width
        divisor *= 2
    return None
