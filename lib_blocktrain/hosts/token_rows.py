"""Captions of a fixed length as sd-scripts encodes them (`--max_token_length`): rows of 77 tokens, joined again.

From `_get_input_ids` (`strategy_base.py`) and `encode_tokens` (`strategy_sd.py`, `strategy_sdxl.py`): a caption is
cut, or filled up, to so many tokens, these are divided into rows of 75 wherever that is, and of the encoded rows one
beginning, all that stands between and one end are kept. A WebUI instead has as many chunks of 75 as there are, each
with its own beginning and end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROW = 75  # tokens, without begin and end


def token_rows(tokens: Sequence[int], max_tokens: int, begin: int, end: int, pad: int) -> list[list[int]]:
    """Return rows of 77 tokens of a text's `tokens`, without begin and end; `max_tokens` is a multiple of 75."""
    kept = [*tokens[:max_tokens], end]
    kept += [pad] * (max_tokens + 1 - len(kept))
    if max_tokens == ROW:
        return [[begin, *kept]]
    rows = [[begin, *kept[at : at + ROW], kept[-1]] for at in range(0, max_tokens, ROW)]
    if pad != end:
        for row in rows:
            if row[-2] not in (end, pad):
                row[-1] = end
            if row[1] == pad:
                row[1] = end
    return rows


def joined_rows(states: Tensor) -> Tensor:
    """Return `(1, 75 * rows + 2, width)` of encoded rows `(rows, 77, width)`."""
    if len(states) == 1:
        return states
    between = states[:, 1:-1].reshape(1, -1, states.shape[-1])
    return torch.cat([states[:1, :1], between, states[-1:, -1:]], dim=1)
