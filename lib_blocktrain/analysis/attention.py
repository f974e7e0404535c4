"""Where the words of a prompt are in the picture: cross-attention, averaged over heads, layers and steps.

The attention is computed again from what the layers `to_q` and `to_k` put out, so that it does not matter how the
host computes it, and nothing is put in the place of anything (after Tang et al. 2022, 2210.04885, "DAAM").
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_blocktrain.model.protocol import Model

ENLARGED = 8  # positions that one position of the deepest layer stands for, at most


@dataclass(frozen=True)
class Tokens:
    """Positions in a prompt's context: those of the word, and those of all its text, without begin and end."""

    word: tuple[int, ...]
    text: tuple[int, ...]


class WordNotFoundError(ValueError):
    """The word is not in the prompt."""


@torch.no_grad()
def tokens_of(model: Model, prompt: str, word: str) -> Tokens:
    """Return the positions of a word, or of several that stand together, wherever the prompt has them.

    No tokenizer is asked: CLIP's text encoders are causal, so that two texts that begin alike are alike up to the
    token at which they part. Raises WordNotFoundError.
    """
    found = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(word.strip())}(?!\w)", prompt, re.IGNORECASE)]
    if not word.strip() or not found:
        raise WordNotFoundError(f"word {word!r}: expected one that stands in the prompt {prompt!r}")
    whole = model.encode_prompt(prompt)["context"][0].float()
    end_of_text = _parting(model, prompt, f"{prompt} a")
    positions: list[int] = []
    for start, end in found:
        before, upto = prompt[:start].rstrip(), prompt[:end]
        first, after = _parting(model, before, upto), _parting(model, upto, f"{upto} a")
        encoded = model.encode_prompt(upto)["context"][0].float()
        if after > len(whole) or not _same(encoded[first:after], whole[first:after]).all():
            raise WordNotFoundError(
                f"word {word!r}: its place in so long a prompt cannot be told; use a shorter prompt"
            )
        positions += range(first, after)
    return Tokens(tuple(positions), tuple(range(1, end_of_text)))


def _parting(model: Model, a: str, b: str) -> int:
    """Return the first position at which two texts have different tokens."""
    first, second = (model.encode_prompt(text)["context"][0].float() for text in (a, b))
    length = min(len(first), len(second))
    differs = (~_same(first[:length], second[:length])).nonzero()
    if not len(differs):
        raise WordNotFoundError(f"{a[-40:]!r}: nothing of it is within what the text encoder reads (75 tokens)")
    return int(differs[0])


def _same(a: Tensor, b: Tensor) -> Tensor:
    """Tell, for each position, whether two contexts are the same there, within the error of their numbers."""
    return (a - b).abs().amax(dim=-1) <= 1e-3 * a.abs().amax().clamp(min=1e-6)


class Heat:
    """Attention to a word gathered over forward passes; `map` is its mean, `(seeds, h, w)`, 0 to 1."""

    def __init__(self, tokens: Tokens, seeds: int, size: tuple[int, int]):
        self._tokens, self._seeds, self._size = tokens, seeds, size
        self._sum = torch.zeros(seeds, *size)
        self._layers = 0

    def add(self, queries: Tensor, keys: Tensor, heads: int, scale: float | None) -> None:
        """Take one layer's attention: queries `(batch, positions, width)`, keys `(batch, tokens, width)`.

        Of a guided batch the last rows, those of the prompt, are taken. What counts is the word's share of the
        attention to the prompt's text: most of the rest goes to the begin token, wherever one looks.
        """
        grid = grid_of(queries.shape[1], self._size)
        if grid is None or keys.shape[1] <= max(self._tokens.text):
            return  # more positions than the latent's: something else attends here
        q, k = (split(tensor[-self._seeds :].float(), heads) for tensor in (queries, keys))
        scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
        attention = scores.softmax(dim=-1)
        of_word = attention[..., list(self._tokens.word)].sum(dim=-1)
        of_text = attention[..., list(self._tokens.text)].sum(dim=-1)
        shares = (of_word / of_text.clamp(min=1e-12)).mean(dim=1).reshape(self._seeds, 1, *grid)
        enlarged = F.interpolate(shares, self._size, mode="bilinear", align_corners=False)[:, 0]
        self._sum += enlarged.cpu()
        self._layers += 1

    @property
    def map(self) -> Tensor:
        """Where the word is, `(seeds, h, w)`, 0 to 1; raises ValueError where no layer could be watched."""
        if not self._layers:
            raise ValueError("no cross-attention was seen: the model's U-Net has no attn2 layers that hooks can reach")
        return self._sum / self._layers


@contextmanager
def watching(unet: nn.Module, heats: Sequence[Heat]) -> Iterator[None]:
    """Gather the cross-attention of all forward passes while the context is open; afterwards no hook is left."""
    if not heats:
        yield
        return
    with ExitStack() as hooks:
        for layer in cross_attentions(unet).values():
            seen: dict[str, Tensor] = {}

            def took_queries(_module, _inputs, output: Tensor, seen=seen) -> None:
                seen["queries"] = output.detach()

            def took_keys(_module, _inputs, output: Tensor, seen=seen, layer=layer) -> None:
                queries = seen.pop("queries")
                for heat in heats:
                    heat.add(queries, output.detach(), layer.heads, getattr(layer, "scale", None))

            hooks.callback(layer.to_q.register_forward_hook(took_queries).remove)
            hooks.callback(layer.to_k.register_forward_hook(took_keys).remove)
        yield


def cross_attentions(unet: nn.Module) -> Mapping[str, nn.Module]:
    """Return the layers `attn2` by name, in LDM's layout, diffusers' and Forge's; they have `to_q`, `to_k`, `heads`."""
    return {
        name: module
        for name, module in unet.named_modules()
        if name.endswith("attn2") and all(hasattr(module, part) for part in ("to_q", "to_k", "heads"))
    }


def split(tensor: Tensor, heads: int) -> Tensor:
    """Return `(batch, heads, length, width of a head)` of `(batch, length, width)`."""
    return tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2)


def grid_of(positions: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return height and width of a layer with so many positions, for latents of this size; None if there is none."""
    divisor = 1
    while divisor <= ENLARGED:
        grid = tuple(math.ceil(side / divisor) for side in size)
        if math.prod(grid) == positions:
            return grid
        divisor *= 2
    return None
