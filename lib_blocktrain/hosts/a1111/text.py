"""A text as the WebUI's text encoders see it, taken literally: brackets, BREAK and the names of embeddings are text."""

from __future__ import annotations

from typing import Any

import torch
from modules import devices
from torch import Tensor


def encode_literally(clip: Any, text: str) -> tuple[Tensor, Tensor | None]:
    """Return `(1, tokens, width)` and, of an encoder that has it, the pooled output of the first 75 tokens.

    `clip` is one of the WebUI's encoders (`sd_hijack_clip`): clip skip and padding are its own.
    """
    tokens = list(clip.tokenize([text])[0])
    pieces = [tokens[at : at + clip.chunk_length] for at in range(0, max(len(tokens), 1), clip.chunk_length)]
    encoded = [_encode(clip, piece) for piece in pieces]
    return torch.cat([states for states, _ in encoded], dim=1), encoded[0][1]


def _encode(clip: Any, tokens: list[int]) -> tuple[Tensor, Tensor | None]:
    filled = [clip.id_start, *tokens, *[clip.id_end] * (clip.chunk_length + 1 - len(tokens))]
    ids = torch.tensor([filled], device=devices.device)
    if clip.id_pad != clip.id_end:  # SD2 and SDXL's second pad with another token than the one that ends the text
        ids[0, len(tokens) + 2 :] = clip.id_pad
    clip.hijack.fixes = None  # embeddings of the prompt before
    states = clip.encode_with_transformers(ids)
    return states, getattr(states, "pooled", None)
