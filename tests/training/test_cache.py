"""The cache on disk and in memory: nothing damaged is read, nothing spoilt is kept."""

from __future__ import annotations

import random

import pytest
import torch

from lib_blocktrain.training.cache import ConditioningCache, TensorStore
from lib_blocktrain.training.dataset import DatasetError

MADE = {"latents": torch.tensor([0.5, -0.25])}


class Encoder:
    """A model whose text encoder is one number."""

    clip = 1.0

    def encode_prompt(self, text):
        return {"context": torch.full((1, 77, 2), float(len(text))) * self.clip}


def test_a_flipped_bit_is_noticed(tmp_path, caplog):
    """Each bit of an entry's numbers, and 200 of its header: the entry is made again, and that is logged."""
    TensorStore(tmp_path).get("abcd", lambda: MADE)
    [file] = tmp_path.rglob("*.safetensors")
    content = file.read_bytes()
    numbers = (len(content) - 8) * 8
    for bit in (*range(numbers, len(content) * 8), *random.Random(0).sample(range(numbers), 200)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        caplog.clear()
        assert torch.equal(TensorStore(tmp_path).get("abcd", lambda: MADE)["latents"], MADE["latents"]), bit
        assert file.read_bytes() == content, bit
        assert "it is made anew" in caplog.text or b'"checksum"' not in damaged, bit


def test_texts_that_are_no_numbers(tmp_path):
    model = Encoder()
    cache = ConditioningCache(model, tmp_path)
    model.clip = float("inf")
    with pytest.raises(DatasetError, match=r"'a robot'.*not finite"):
        cache.of("a robot")
    model.clip = 1.0
    assert torch.isfinite(cache.of("a robot")["context"]).all()  # nothing was kept
