"""CLIP's vocabulary as tokenizer files, and token ids for captions in which every word is a single token."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import torch
from torch import Tensor

from demo.composites import ACCESSORIES, BACKGROUNDS, HELD_OUT, HELD_OUT_STYLES, POSITIONS, SIZES, STYLES, SUBJECTS
from lib_blocktrain.hosts.demo_model import clip_vocabulary

START, END, LENGTH = "<|startoftext|>", "<|endoftext|>", 77
TRIGGERS = ("sks", "ohwx")  # rare tokens in use as trigger words
GLUE = "a an the of with in on at and to , . background wearing picture image"


def write_tokenizer(folder: Path) -> None:
    """Write ``merges.txt`` from the package open_clip_torch; the vocabulary follows from it."""
    from importlib.util import find_spec

    spec = find_spec("open_clip")
    if spec is None:
        raise ModuleNotFoundError("CLIP's merges come with open_clip: pip install --no-deps open_clip_torch")
    packed = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")


class Vocabulary:
    """The words that captions may have; ``rows`` are their token ids, sorted."""

    def __init__(self, folder: Path):
        ids = clip_vocabulary(folder / "merges.txt")
        phrases = [*SUBJECTS, *HELD_OUT, *ACCESSORIES, *SIZES, *POSITIONS, *BACKGROUNDS, *STYLES, *HELD_OUT_STYLES]
        words = set(split(" ".join([*phrases, *TRIGGERS, GLUE])))
        missing = sorted(w for w in words if w + "</w>" not in ids)
        if missing:
            raise ValueError(f"not single tokens of CLIP's vocabulary: {missing}")
        self.ids = {w: ids[w + "</w>"] for w in words}
        self.start, self.end = ids[START], ids[END]
        self.rows = sorted([*self.ids.values(), self.start, self.end])

    def encode(self, captions: list[str]) -> Tensor:
        """Token ids ``(batch, 77)``, padded with the end token as Stable Diffusion 1 does."""
        tokens = torch.full((len(captions), LENGTH), self.end)
        for row, caption in zip(tokens, captions):
            words = [self.start, *(self.ids[w] for w in split(caption))]
            row[: len(words)] = torch.tensor(words)
        return tokens

    def encode_rows(self, captions: list[str]) -> Tensor:
        """As ``encode``, but as indices into ``rows``."""
        return torch.searchsorted(torch.tensor(self.rows), self.encode(captions))


def split(caption: str) -> list[str]:
    return re.findall(r"[a-z]+|[,.]", caption.lower())
