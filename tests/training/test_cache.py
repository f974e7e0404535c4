"""The cache on disk and in memory: nothing damaged is read, nothing spoilt is kept."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image
from torch import nn

from lib_blocktrain.training import cache as cache_module
from lib_blocktrain.training.batches import BatchLoader
from lib_blocktrain.training.cache import ConditioningCache, LatentCache, TensorStore
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, LossConfig, RunConfig, resolved
from lib_blocktrain.training.dataset import DatasetError, find

MADE = {"latents": torch.tensor([0.5, -0.25])}


class Encoder:
    """A model whose text encoder is one number."""

    clip = 1.0
    vae, text_encoders = nn.Identity(), {}

    def encode_image(self, image):
        return torch.zeros(1, 4, image.height // 8, image.width // 8)

    def encode_prompt(self, text):
        return {"context": torch.full((1, 77, 2), float(len(text))) * self.clip}


def test_a_flipped_bit_is_noticed(tmp_path, caplog):
    """Each bit of an entry's numbers, and 200 of its header: the entry is made again, and that is logged."""
    TensorStore(tmp_path).get("abcd", lambda: MADE)
    [file] = tmp_path.rglob("??/*.safetensors")
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
    loader = BatchLoader(LatentCache(model, None), store, LossConfig(), seed=0)
    captions = set()
    for number in range(60):
        batch = loader.load([image], number, [0], 1)
        captions.update(batch.captions)
        expected = model.encode_prompt(batch.captions[0])["context"]
        assert torch.equal(batch.conditioning["context"], expected)
    assert len(captions) > 30
    assert len([*(tmp_path / "cache").rglob("??/*.safetensors")]) <= 2  # the caption itself, and none at all
    assert len(store._passing) == 3
    loader.plain([image])
    assert [*(tmp_path / "cache").rglob("??/*.safetensors")]


def test_a_passing_caption_is_encoded_once_while_it_is_kept(tmp_path):
    model, encoded = Encoder(), []
    store = ConditioningCache(model, tmp_path)
    model.encode_prompt = lambda text: encoded.append(text) or Encoder.encode_prompt(model, text)
    for caption in ("b, a", "a, b", "b, a"):
        store.of(caption, passing=True)
    assert encoded == ["b, a", "a, b"]
    assert not [*tmp_path.rglob("??/*.safetensors")]


class Gpu(Encoder):
    """A model whose numbers differ in the last bits from GPU to GPU, and that counts what it encodes."""

    def __init__(self, rounding=0.0, weight=1.0):
        self.rounding, self.encoded = rounding, 0
        self.vae = self.encoder = nn.Linear(2, 2)
        nn.init.constant_(self.vae.weight, weight)
        nn.init.zeros_(self.vae.bias)
        self.text_encoders = {"te": self.encoder}

    def encode_image(self, image):
        self.encoded += 1
        shape = 1, 4, image.height // 8, image.width // 8
        return torch.ones(shape) * (1 + self.rounding) * self.clip

    def encode_prompt(self, text):
        self.encoded += 1
        return {"context": torch.full((1, 77, 2), float(len(text))) * (1 + self.rounding) * self.clip}


@pytest.fixture
def encoded_by(tmp_path):
    """Encode a picture and a caption with a model; return how often it did, two probes included."""
    picture = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(picture)
    (tmp_path / "a.txt").write_text("a robot", "utf-8")
    config = DatasetConfig(folders=(FolderConfig(str(tmp_path)),), size=64)
    [image] = find(resolved(RunConfig("a", config)).dataset, 64).images

    def encode(model) -> int:
        LatentCache(model, tmp_path / "cache").of(image)
        ConditioningCache(model, tmp_path / "cache").of(image.caption)
        return model.encoded

    return encode


def test_another_gpu_finds_the_entries(encoded_by):
    """The last bits of what a model gives differ there; the weights and the settings are the same."""
    assert encoded_by(Gpu()) == 4
    for rounding in (1e-3, -1e-3, 0.0):
        assert encoded_by(Gpu(rounding)) == 2  # the probes


def test_other_weights_and_settings_do_not(encoded_by):
    assert encoded_by(Gpu()) == 4
    assert encoded_by(Gpu(weight=1 + 2**-20)) == 4  # what they give is the same here
    half = Gpu()
    half.vae.half()
    assert encoded_by(half) == 4
    other = Gpu()
    other.clip = 0.5  # a setting, such as clip skip
    assert encoded_by(other) == 4
    for model in (Gpu(), other):
        model.encoded = 0
        assert encoded_by(model) == 2


def test_a_damaged_mark_finds_nothing(encoded_by, tmp_path):
    """Nobody knows what settings the entries were made with."""
    encoded_by(Gpu())
    for mark in (tmp_path / "cache").glob("*/models/*"):
        mark.write_bytes(b"damaged")
    other = Gpu()
    other.clip = 0.5
    assert encoded_by(other) == 4
