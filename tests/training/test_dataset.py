"""Folders in sd-scripts' layout: what is found, what is refused, what is never served stale."""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_blocktrain.model.clip_tokens import TokenCounter
from lib_blocktrain.training import buckets
from lib_blocktrain.training.batches import BatchSampler
from lib_blocktrain.training.cache import ConditioningCache, LatentCache, TensorStore
from lib_blocktrain.training.caption_length import cut_off
from lib_blocktrain.training.captions import RunStep, augmented_caption
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, RunConfig, resolved
from lib_blocktrain.training.config_json import ConfigError, read
from lib_blocktrain.training.dataset import DatasetError, caption_text, find
from lib_blocktrain.training.dataset_config import ImageOptions
from lib_blocktrain.ui.history import read_history


def picture(path: Path, size=(64, 64), color="red", mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def of(*folders, **options) -> DatasetConfig:
    return DatasetConfig(
        folders=tuple(f if isinstance(f, FolderConfig) else FolderConfig(str(f)) for f in folders), **options
    )


def test_counted_folders(tmp_path):
    picture(tmp_path / "10_robot" / "a.png")
    (tmp_path / "10_robot" / "a.txt").write_text("robot (1.2), blue\nsecond line", "utf-8")
    picture(tmp_path / "10_robot" / "b.jpg")
    picture(tmp_path / "2_a cat" / "c.webp")
    (tmp_path / "2_a cat" / "c.caption").write_text("cat", "utf-8")
    (tmp_path / "2_a cat" / "notes.md").write_text("not a picture", "utf-8")
    picture(tmp_path / "sketches" / "d.png")
    found = {p.path.name: (p.repeats, p.caption) for p in find(of(tmp_path), 64).images}
    assert found == {"a.png": (10, "robot (1.2), blue"), "b.jpg": (10, "robot"), "c.webp": (2, "cat")}


def test_a_flat_folder(tmp_path):
    picture(tmp_path / "a.png")
    [found] = find(of(FolderConfig(str(tmp_path), repeats=3, class_caption="thing")), 64).images
    assert (found.repeats, found.caption) == (3, "thing")


def test_broken_pictures_are_named(tmp_path):
    picture(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    whole = picture(tmp_path / "whole.png", (640, 640)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    dataset = find(of(tmp_path), 64)
    assert {p.path.name for p in dataset.images} == {"good.png", "whole.png"}
    assert len(dataset.broken) == 2
    assert all(any(name in line for line in dataset.broken) for name in ("broken.png", "cut.jpg"))


def test_an_empty_set_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="there is none"):
        find(of(tmp_path), 64)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"none of 1 can be read, e\.g\. .*a\.png"):
        find(of(tmp_path), 64)
    with pytest.raises(DatasetError, match="no such folder"):
        find(of(tmp_path / "elsewhere"), 64)


def test_masks(tmp_path):
    """A file beside the picture, one in a folder of masks, the alpha channel; and none of them is a picture."""
    picture(tmp_path / "a.png", (128, 64))
    half = Image.new("L", (128, 64))
    half.paste(255, (0, 0, 64, 64))
    half.save(tmp_path / "a.mask.png")
    picture(tmp_path / "b.png")
    picture(tmp_path / "masks" / "b.png", color=255, mode="L")
    picture(tmp_path / "c.png", color=(255, 0, 0, 51), mode="RGBA")
    config = of(
        FolderConfig(str(tmp_path), mask_folder=str(tmp_path / "masks")), alpha_mask=True, buckets=False, size=64
    )
    dataset = find(config, 64)
    masks = {p.path.name: np.asarray(p.open_mask()) for p in dataset.images}
    assert masks.keys() == {"a.png", "b.png", "c.png"}
    assert masks["a.png"].mean() == pytest.approx(127.5)  # the middle of the left half and the right one
    assert masks["b.png"].mean() == 255
    assert masks["c.png"].mean() == 51
    assert dataset.describe()["canvas_share"] == pytest.approx((0.5 + 1 + 0.2) / 3, abs=1e-3)
    transparent = next(p for p in dataset.images if p.path.name == "c.png")
    assert transparent.open().getpixel((0, 0)) == (255, 0, 0)  # the colour below the mask, not white


def half_transparent(mode: str) -> Image.Image:
    """An orange picture whose left half is transparent, in a mode or with a transparent colour of that mode."""
    image = Image.new("RGBA", (64, 64), (200, 120, 40, 255))
    image.paste((200, 120, 40, 0), (0, 0, 32, 64))
    if mode in ("RGBA", "LA"):
        return image.convert(mode)
    plain = Image.new("L", (64, 64), 100)
    plain.paste(200, (0, 0, 32, 64))
    plain = plain.convert(mode)
    plain.info["transparency"] = (200, 200, 200) if mode == "RGB" else 200
    return plain


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGBA", "a.png"), ("RGBA", "a.webp"), ("LA", "a.png"), ("P", "a.png"), ("L", "a.png"), ("RGB", "a.png")],
)
def test_alpha_is_the_mask_in_every_mode(tmp_path, mode, name):
    """A channel, a palette with transparent entries, one transparent colour: the left half does not count."""
    image = half_transparent(mode)
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    image.save(tmp_path / name, **options, **({"transparency": t} if (t := image.info.get("transparency")) else {}))
    [found] = find(of(tmp_path, alpha_mask=True), 64).images
    mask = np.asarray(found.open_mask())
    assert mask[:, :32].max() == 0
    assert mask[:, 32:].min() == 255
    colour = found.open().getpixel((0, 0))
    assert colour != (255, 255, 255)  # what is below the mask, not white
    [without] = find(of(tmp_path), 64).images
    assert without.mask is None
    assert without.open().getpixel((0, 0)) == (255, 255, 255)


def test_bucket_sizes_are_sd_scripts():
    """512 px, 256 to 1024 in steps of 64: the list that sd-scripts prints for them."""
    sizes = buckets.bucket_sizes((512, 512), 256, 1024, 64)
    assert (512, 512) in sizes
    assert (256, 1024) in sizes
    assert (448, 576) in sizes
    assert (384, 640) in sizes
    assert all(w * h <= 512 * 512 and w % 64 == 0 and h % 64 == 0 and min(w, h) >= 256 for w, h in sizes)
    assert len(sizes) == 17


@pytest.mark.parametrize(
    ("original", "bucket"),
    [((1000, 1000), (512, 512)), ((1920, 1080), (640, 384)), ((500, 2000), (256, 1024)), ((512, 512), (512, 512))],
)
def test_a_picture_goes_to_the_nearest_aspect_and_covers_it(original, bucket):
    found = buckets.fit(original, buckets.bucket_sizes((512, 512), 256, 1024, 64))
    assert found.bucket == bucket
    assert found.resized[0] >= bucket[0]
    assert found.resized[1] >= bucket[1]
    assert found.resized[0] == bucket[0] or found.resized[1] == bucket[1]
    assert found.crop(Image.new("RGB", original)).size == bucket


def test_cut_from_the_middle():
    wide = Image.new("RGB", (192, 64))
    wide.paste((255, 255, 255), (64, 0, 128, 64))
    cut = np.asarray(buckets.fit((192, 64), ((64, 64),)).crop(wide))
    assert cut.shape == (64, 64, 3)
    assert cut.min() == 255


def test_no_upscaling():
    small = buckets.fit_without_upscaling((200, 300), (512, 512), 64)
    assert (small.resized, small.bucket) == ((200, 300), (192, 256))
    large = buckets.fit_without_upscaling((2000, 1000), (512, 512), 64)
    assert large.bucket == (640, 320)
    with pytest.raises(ValueError, match="at least 64"):
        buckets.fit_without_upscaling((40, 300), (512, 512), 64)


def test_every_epoch_has_every_picture_as_often_as_its_repeats(tmp_path):
    for number in range(5):
        picture(tmp_path / "3_a" / f"{number}.png", (64, 64) if number < 3 else (128, 64))
    picture(tmp_path / "1_b" / "b.png")
    dataset = find(of(tmp_path, size=128, bucket_least=64), 128)
    order = BatchSampler(dataset.images, 4, seed=0)
    epochs = [
        [order.batch(i) for i in range(e * order.batches_per_epoch, (e + 1) * order.batches_per_epoch)] for e in (0, 1)
    ]
    for batches in epochs:
        counts = Counter(p.path.name for batch in batches for p in batch)
        assert counts == {**{f"{i}.png": 3 for i in range(5)}, "b.png": 1}
        assert all(len({p.fit.bucket for p in batch}) == 1 for batch in batches)
    assert epochs[0] != epochs[1]
    again = BatchSampler(dataset.images, 4, seed=0)
    assert again.batch(order.batches_per_epoch) == epochs[1][0]
    assert [BatchSampler(dataset.images, 4, seed=1).batch(i) for i in range(3)] != epochs[0][:3]


def test_regularisation_pictures_are_as_many_as_the_others(tmp_path):
    for number in range(4):
        picture(tmp_path / "train" / f"{number}.png")
    picture(tmp_path / "reg" / "class.png")
    dataset = find(of(tmp_path / "train", FolderConfig(str(tmp_path / "reg"), regularisation=True)), 64)
    order = BatchSampler(dataset.images, 2, seed=0)
    counts = Counter(p.regularisation for i in range(order.batches_per_epoch) for p in order.batch(i))
    assert counts == {False: 4, True: 4}


def test_captions():
    rng = random.Random(0)
    caption = "a, b, (c:1.2), d, e"
    plain = of("x")
    assert augmented_caption(caption, plain, rng) == caption
    shuffled = {augmented_caption(caption, replace(plain, shuffle_tags=True, keep_tags=2), rng) for _ in range(50)}
    assert len(shuffled) == 6
    assert all(c.startswith("a, b, ") and sorted(c.split(", ")) == sorted(caption.split(", ")) for c in shuffled)
    dropped = Counter(
        tag
        for _ in range(400)
        for tag in augmented_caption(caption, replace(plain, tag_dropout=0.25, keep_tags=1), rng).split(", ")
    )
    assert dropped["a"] == 400
    assert 260 < dropped["b"] < 340
    assert {augmented_caption(caption, replace(plain, caption_dropout=0.5), rng) for _ in range(50)} == {caption, ""}


def test_held_out_pictures(tmp_path):
    for number in range(10):
        picture(tmp_path / f"{number}.png")
    dataset = find(of(tmp_path, validation_share=0.2), 64)
    assert (len(dataset.images), len(dataset.held_out)) == (8, 2)
    assert not set(dataset.images) & set(dataset.held_out)
    assert find(of(tmp_path, validation_share=0.2), 64) == dataset


# The cache.


class Counted:
    """A model that counts how often it encodes; its VAE and its text encoder are one number each."""

    def __init__(self):
        self.images = self.texts = 0
        self.brightness, self.clip = 1.0, 1.0
        self.vae, self.text_encoders = torch.nn.Identity(), {}

    def encode_image(self, image):
        self.images += 1
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32))[None, ::8, ::8].permute(0, 3, 1, 2)
        return pixels * self.brightness

    def encode_prompt(self, text):
        self.texts += 1
        return {"context": torch.full((1, 77, 2), float(len(text))) * self.clip}


def test_latents_are_never_stale(tmp_path):
    path, model, folder = picture(tmp_path / "pictures" / "a.png"), Counted(), tmp_path / "cache"
    [found] = find(of(path.parent), 64).images
    first = LatentCache(model, folder).of(found)
    model.images = 0
    assert torch.equal(LatentCache(model, folder).of(found), first)
    assert model.images == 1  # the probe
    cache = LatentCache(model, folder)
    flipped = cache.of(found, flipped=True)
    assert model.images == 3
    assert flipped.shape == first.shape
    model.brightness = 2.0  # another VAE
    assert torch.equal(LatentCache(model, folder).of(found), first * 2)
    picture(path, color="blue")  # the file is another
    assert not torch.equal(LatentCache(model, folder).of(found), first * 2)
    [smaller] = find(of(path.parent, size=128, bucket_least=128), 64).images  # another size
    assert LatentCache(model, folder).of(smaller).shape == (3, 16, 16)


def test_texts_follow_the_encoder(tmp_path):
    model = Counted()
    first = ConditioningCache(model, tmp_path).of("a [bracket]")["context"]
    model.texts = 0
    assert torch.equal(ConditioningCache(model, tmp_path).of("a [bracket]")["context"], first)
    assert model.texts == 1
    model.clip = 0.5  # another clip skip
    assert torch.equal(ConditioningCache(model, tmp_path).of("a [bracket]")["context"], first / 2)


def test_a_damaged_cache_is_made_anew(tmp_path):
    TensorStore(tmp_path).get("abcd", lambda: {"x": torch.ones(3)})
    [file] = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"damaged")
    assert torch.equal(TensorStore(tmp_path).get("abcd", lambda: {"x": torch.zeros(3)})["x"], torch.zeros(3))


def test_latents_that_are_no_numbers(tmp_path):
    path, model = picture(tmp_path / "a.png"), Counted()
    cache = LatentCache(model, None)
    model.brightness = float("nan")
    [found] = find(of(path.parent), 64).images
    with pytest.raises(DatasetError, match=r"a\.png.*not finite"):
        cache.of(found)


# sd-scripts' dataset file.

TOML = """
[general]
shuffle_caption = true
caption_extension = ".txt"
keep_tokens = 1

[[datasets]]
resolution = [768, 512]
batch_size = 4

  [[datasets.subsets]]
  image_dir = "robot"
  num_repeats = 5
  face_crop_aug_range = [1.0, 2.0]

  [[datasets.subsets]]
  image_dir = "reg"
  is_reg = true
  class_tokens = "machine"
"""


def of_toml(path: Path) -> DatasetConfig:
    return resolved(RunConfig("x", DatasetConfig(toml=str(path)))).dataset


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is Python 3.11's")
def test_toml(tmp_path):
    (tmp_path / "set.toml").write_text(TOML, "utf-8")
    picture(tmp_path / "robot" / "a.png", (768, 512))
    picture(tmp_path / "reg" / "b.png", (768, 512))
    dataset = find(of_toml(tmp_path / "set.toml"), 512)
    assert [(p.path.name, p.repeats, p.regularisation, p.caption) for p in dataset.images] == [
        ("a.png", 5, False, ""),
        ("b.png", 1, True, "machine"),
    ]
    assert {p.fit.bucket for p in dataset.images} == {(768, 512)}
    assert any("face_crop_aug_range not known" in notice for notice in dataset.notices)
    assert {image.batch for image in dataset.images} == {4}
    (tmp_path / "set.toml").write_text("[[datasets", "utf-8")
    with pytest.raises(ConfigError, match=r"set\.toml"):
        of_toml(tmp_path / "set.toml")


def test_where_captions_come_from(tmp_path):
    picture(tmp_path / "3_old-robot_2" / "red_robot (3).png")
    (tmp_path / "3_old-robot_2" / "red_robot (3).txt").write_text("{a|the} robot\n\n side view \n", "utf-8")

    def caption(**options) -> tuple[str, str]:
        [found] = find(of(tmp_path, **options), 64).images
        return found.caption, found.plain_caption

    assert caption() == ("{a|the} robot",) * 2
    assert caption(wildcards=True) == ("{a|the} robot\nside view", "a robot")
    assert caption(caption_source="file name", prefix="zx,") == ("zx, red robot",) * 2
    assert caption(caption_source="folder name", suffix=", photo") == ("old robot , photo",) * 2
    with pytest.raises(ConfigError, match="caption_source = 'exif': expected one of caption file, file name"):
        read(DatasetConfig, {"folders": [{"path": "."}], "caption_source": "exif"})
    with pytest.raises(ConfigError, match="tag_warmup = -1: expected 0 or more"):
        of(tmp_path, tag_warmup=-1)


def test_tags_come_in_one_by_one():
    options = ImageOptions(tag_warmup=0.5, tag_warmup_least=1, keep_tags=1)
    found = [augmented_caption("k, a, b, c", options, random.Random(0), RunStep(step, 20)) for step in range(0, 12, 3)]
    assert found == ["k, a", "k, a", "k, a, b", "k, a, b"]
    assert augmented_caption("k, a, b, c", options, random.Random(0), RunStep(10, 20)) == "k, a, b, c"


def test_captions_that_are_cut_off_are_named(train, config, pictures):
    """With the tokens that each loses, most first; in the run's events, too."""
    picture = pictures / "2_thing" / "0.png"
    config = replace(config, dataset=replace(config.dataset, suffix="robot " * 70), max_tokens=75)
    found = find(config.dataset, 64, 75)
    tokens = TokenCounter().count(found.images[0].plain_caption).count
    assert found.images[0].path == picture
    assert tokens > 75
    said = f"max_tokens = 75 cuts captions off: 2_thing/0.png loses {tokens - 75} tokens, 2_thing/1.png loses "
    assert found.notices[0].startswith(said)
    assert not any(find(config.dataset, 64, length).notices for length in (None, 150))
    reported: list[str] = []
    trainer = train(replace(config, steps=1), report=lambda row: reported.append(row.get("notice", "")))
    events = [event.text for event in read_history(trainer.run.metrics()).events]
    assert all(any(text.startswith(said) for text in texts) for texts in (reported, events))


def test_of_many_captions_the_worst_are_named():
    captions = [(f"{number}.png", "robot " * (70 + number)) for number in range(20)]
    assert cut_off(captions, 75) == (
        "max_tokens = 75 cuts captions off: 19.png loses 14 tokens, 18.png loses 13 tokens, 17.png loses 12 tokens,"
        " 16.png loses 11 tokens, 15.png loses 10 tokens, and 9 more pictures",
    )


def test_a_line_of_a_caption_ends_where_it_does_in_sd_scripts(tmp_path):
    """Captions from other tools contain U+2028 and the like, at which `str.splitlines` cuts."""
    file = tmp_path / "a.txt"
    for between in "\u2028\u2029\x85\v\f\x1c":
        file.write_bytes(f"a red robot{between}on a field\r\nsecond".encode())
        assert caption_text(file) == f"a red robot{between}on a field"
        assert caption_text(file, all_lines=True) == f"a red robot{between}on a field\nsecond"
