"""A text as Forge's text encoders see it, taken literally: brackets, BREAK and the names of embeddings are text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def encode_literally(engine: Any, text: str) -> tuple[Tensor, Tensor | None]:
    """Return `(1, tokens, width)` and, of an encoder that has it, the pooled output of the first 75 tokens.

    `engine` is one of Forge's text processing engines: clip skip and padding are its own.
    """
    tokens = list(engine.tokenize([text])[0])
    pieces = [tokens[at : at + engine.chunk_length] for at in range(0, max(len(tokens), 1), engine.chunk_length)]
    encoded = [_encode(engine, piece) for piece in pieces]
    return torch.cat([states for states, _ in encoded], dim=1), encoded[0][1]


def _encode(engine: Any, tokens: list[int]) -> tuple[Tensor, Tensor | None]:
    filled = [engine.id_start, *tokens, *[engine.id_end] * (engine.chunk_length + 1 - len(tokens))]
    ids = torch.tensor([filled])
    if engine.id_pad != engine.id_end:  # SD2 and SDXL's second pad with another token than the one that ends the text
        ids[0, len(tokens) + 2 :] = engine.id_pad
    engine.embeddings.fixes = None  # embeddings of the prompt before
    states = engine.encode_with_transformers(ids)
    return states, getattr(states, "pooled", None)
