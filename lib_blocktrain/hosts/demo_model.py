"""The embedded demo model: its folders, and how its shortened token table and vocabulary are restored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from lib_blocktrain.files import DATA

DEMO = DATA / "demo"
MODEL, LORAS = DEMO / "model", DEMO / "loras"
TOKEN_TABLE, USED_TOKENS = "text_model.embeddings.token_embedding.weight", "used_tokens"


def check_present(folder: Path = MODEL) -> None:
    """Raise FileNotFoundError if the demo model is missing, as in a wheel built without it."""
    if not (folder / "unet").is_dir():
        raise FileNotFoundError(
            f"the demo model is not in {folder}: give a checkpoint (--checkpoint FILE), or run this in a copy of the"
            " repository, which has the demo model"
        )


def parameter_counts(folder: Path) -> tuple[int, int, int]:
    """Return how many parameters the U-Net, the text encoder with its whole token table, and the VAE have."""
    counts = dict.fromkeys(("unet", "text_encoder", "vae"), 0)
    vocabulary = json.loads((folder / "text_encoder" / "config.json").read_text("utf-8"))["vocab_size"]
    for part in counts:
        for path in (folder / part).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118, not a dict
            shapes.pop(USED_TOKENS, None)
            if TOKEN_TABLE in shapes:
                shapes[TOKEN_TABLE] = [vocabulary, *shapes[TOKEN_TABLE][1:]]
            counts[part] += sum(math.prod(shape) for shape in shapes.values())
    return counts["unet"], counts["text_encoder"], counts["vae"]


def full_token_table(state: Mapping[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """Return the text encoder's state with all ``vocabulary`` rows of its token table.

    The file has the rows in use only (``used_tokens``); the others, which are untrained, are drawn from a seed.
    """
    state = dict(state)
    rows, used = state[TOKEN_TABLE].float(), state.pop(USED_TOKENS).long()
    generator = torch.Generator("cpu").manual_seed(0)
    table = torch.randn(vocabulary, rows.shape[1], generator=generator) * rows.std()
    table[used] = rows
    return {**state, TOKEN_TABLE: table}


def clip_vocabulary(merges: Path) -> dict[str, int]:
    """Return CLIP's tokens and their ids, the contents of ``vocab.json``, which follow from ``merges.txt``.

    In order: the 256 bytes as GPT-2's printable characters, the same at the end of a word, the merges, start and end
    (openai/CLIP, ``simple_tokenizer.py``).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    characters = [chr(code) for code in [*printable, *range(256, 256 + others)]]
    joined = ["".join(line.split()) for line in merges.read_text("utf-8").splitlines()[1:] if line]
    words = [*characters, *(c + "</w>" for c in characters), *joined, "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}
