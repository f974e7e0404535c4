"""A text as a WebUI's text encoders see it, taken literally: brackets, BREAK and the names of embeddings are text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def encode_literally(encoder: Any, text: str, embeddings: Any, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return `(1, tokens, width)` and, of an encoder that has it, the pooled output of the first 75 tokens.

    `encoder` is one of the WebUI's, with clip skip and padding of its own; `embeddings` keeps what its last prompt
    asked for, as `fixes`.
    """
    tokens = list(encoder.tokenize([text])[0])
    length = encoder.chunk_length
    pieces = [tokens[at : at + length] for at in range(0, max(len(tokens), 1), length)]
    encoded = []
    for piece in pieces:
        filled = [encoder.id_start, *piece, *[encoder.id_end] * (length + 1 - len(piece))]
        ids = torch.tensor([filled], device=device)
        if encoder.id_pad != encoder.id_end:  # SD2 and SDXL's second pad with another token than that of the end
            ids[0, len(piece) + 2 :] = encoder.id_pad
        embeddings.fixes = None
        encoded.append(encoder.encode_with_transformers(ids))
    return torch.cat(encoded, dim=1), getattr(encoded[0], "pooled", None)
