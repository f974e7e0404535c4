"""The embedded demo model: where it lies, and its text encoder's token table made whole."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lib_blocktrain.files import ROOT

DEMO = ROOT / "demo"
MODEL, LORAS = DEMO / "model", DEMO / "loras"
TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"


def full_token_table(state: Mapping[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """The text encoder's state with all ``vocabulary`` rows of its token table.

    The file has the rows in use only (``used_tokens``): the others, which nothing trained, come from a seed.
    """
    state = dict(state)
    rows, used = state[TOKEN_TABLE].float(), state.pop("used_tokens").long()
    generator = torch.Generator("cpu").manual_seed(0)
    table = torch.randn(vocabulary, rows.shape[1], generator=generator) * rows.std()
    table[used] = rows
    return {**state, TOKEN_TABLE: table}
