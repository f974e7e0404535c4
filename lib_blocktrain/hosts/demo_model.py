"""The embedded demo model: where it lies, and what its files leave out made whole: token table and vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lib_blocktrain.files import DATA

DEMO = DATA / "demo"
MODEL, LORAS = DEMO / "model", DEMO / "loras"
TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"


def check_present(folder: Path = MODEL) -> None:
    """Raise FileNotFoundError where the demo model is missing, as in a wheel that was built without it."""
    if not (folder / "unet").is_dir():
        raise FileNotFoundError(
            f"the demo model is not in {folder}: give a checkpoint (--checkpoint FILE), or run this in a copy of the"
            " repository, which has the demo model"
        )


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


def clip_vocabulary(merges: Path) -> dict[str, int]:
    """CLIP's words and their ids, as ``vocab.json`` holds them; they follow from ``merges.txt``.

    The 256 bytes as GPT-2's printable characters, the same at the end of a word, the merges in order, start and end
    (openai/CLIP, ``simple_tokenizer.py``).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    characters = [chr(code) for code in [*printable, *range(256, 256 + others)]]
    joined = ["".join(line.split()) for line in merges.read_text("utf-8").splitlines()[1:] if line]
    words = [*characters, *(c + "</w>" for c in characters), *joined, "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}
