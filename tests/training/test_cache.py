"""The cache on disk and in memory: nothing damaged is read, nothing spoilt is kept."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image

from lib_blocktrain.training import cache as cache_module
from lib_blocktrain.training.batches import BatchLoader
from lib_blocktrain.training.cache import ConditioningCache, LatentCache, TensorStore
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, RunConfig, resolved
from lib_blocktrain.training.dataset import DatasetError, find

MADE = {"latents": torch.tensor([0.5, -0.25])}


class Encoder:
    """A model whose text encoder is one number."""

    clip = 1.0

    def encode_image(self, image):
        return torch.zeros(1, 4, image.height // 8, image.width // 8)

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


def test_shuffled_captions_fill_no_disk(tmp_path, monkeypatch):
    """Captions of a single step are encoded as they come, and neither stored nor kept without a bound."""
    monkeypatch.setattr(cache_module, "_PASSING", 3)
    picture, model = tmp_path / "a.png", Encoder()
    Image.new("RGB", (64, 64)).save(picture)
    (tmp_path / "a.txt").write_text("robot, red, blue, green, large, small", "utf-8")
    config = DatasetConfig(folders=(FolderConfig(str(tmp_path)),), size=64, shuffle_tags=True, caption_dropout=0.2)
    [image] = find(resolved(RunConfig("a", config)).dataset, 64).images
    store = ConditioningCache(model, tmp_path / "cache")
    loader = BatchLoader(LatentCache(model, None), store, prior_weight=1.0, seed=0)
    captions = set()
    for number in range(60):
        batch = loader.load([image], number, [0], 1)
        captions.update(batch.captions)
        expected = model.encode_prompt(batch.captions[0])["context"]
        assert torch.equal(batch.conditioning["context"], expected)
    assert len(captions) > 30
    assert len([*(tmp_path / "cache").rglob("*.safetensors")]) <= 2  # the caption itself, and none at all
    assert len(store._passing) == 3
    loader.plain([image])
    assert [*(tmp_path / "cache").rglob("*.safetensors")]


def test_a_passing_caption_is_encoded_once_while_it_is_kept(tmp_path):
    model, encoded = Encoder(), []
    store = ConditioningCache(model, tmp_path)
    model.encode_prompt = lambda text: encoded.append(text) or Encoder.encode_prompt(model, text)
    for caption in ("b, a", "a, b", "b, a"):
        store.of(caption, passing=True)
    assert encoded == ["b, a", "a, b"]
    assert not [*tmp_path.rglob("*.safetensors")]
