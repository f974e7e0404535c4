"""Several sizes, random crops and colours: sd-scripts' answers (48d368f, with its OpenCV), and what a run does."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lib_blocktrain.training.augmentation import colored, drawn
from lib_blocktrain.training.batches import BatchLoader, BatchSampler
from lib_blocktrain.training.buckets import Fit
from lib_blocktrain.training.cache import LatentCache
from lib_blocktrain.training.config import LossConfig, RunConfig
from lib_blocktrain.training.config_json import ConfigError, read
from lib_blocktrain.training.dataset import DatasetError, find
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig, ImageOptions
from lib_blocktrain.training.distributed import Processes
from lib_blocktrain.training.estimate import UNetSize, estimate


def test_colors_are_sd_scripts():
    rng = np.random.default_rng(7)
    images = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(200)]
    rng, whole, found = random.Random(5), Fit((16, 16), (16, 16), (16, 16)), []
    for image in images:
        color = drawn(ImageOptions(color=True), whole, rng)[1]
        found.append(image if color is None else np.asarray(colored(Image.fromarray(image), color)))
    assert hashlib.sha256(b"".join(image.tobytes() for image in found)).hexdigest()[:16] == "c990b2865cf07b73"


def test_crops_are_sd_scripts():
    rng, sizes, found = random.Random(9), random.Random(1), []
    for _ in range(2000):
        width, height = sizes.choice([(64, 64), (128, 64), (64, 192)])
        resized = width + sizes.choice([0, 0, 1, 5, 40]), height + sizes.choice([0, 0, 1, 7, 33])
        fit = drawn(ImageOptions(random_crop=True), Fit(resized, resized, (width, height)), rng)[0]
        found.append((fit.left, fit.top))
    assert hashlib.sha256(repr(found).encode()).hexdigest()[:16] == "242adb9206e27cde"


@pytest.fixture
def long_pictures(tmp_path):
    """Two pictures longer than their bucket, red from left to right, with masks of the same."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    row = np.linspace(0, 255, 192, dtype=np.uint8)
    for number in range(2):
        image = np.zeros((96, 192, 3), dtype=np.uint8)
        image[..., 0] = row
        Image.fromarray(image).save(folder / f"{number}.png")
        Image.fromarray(image[..., 0]).save(folder / f"{number}.mask.png")
    return folder


class Encoder:
    """A model whose latents are the red of a picture's left edge; `encoded` counts its calls."""

    encoded = 0

    def encode_image(self, image):
        self.encoded += 1
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32))
        return pixels[::8, ::8, 0].expand(1, 4, -1, -1)


def test_a_crop_is_another_in_each_step(long_pictures):
    """The picture, its mask and SDXL's conditions follow it; validation has the middle, and what is drawn is alike in
    two processes.
    """
    options = {"size": 64, "buckets": False}
    config = DatasetConfig(folders=(FolderConfig(str(long_pictures)),), random_crop=True, flip=True, **options)
    images, model = find(config, 64).images, Encoder()
    assert {image.fit.resized for image in images} == {(192, 96)}  # not resized where there are no buckets
    loader = BatchLoader(LatentCache(model, None), None, LossConfig(), seed=3)
    batches = [loader.load(images, number, (0, 1), 2) for number in range(20)]
    lefts = {float(sizes[3]) for batch in batches for sizes in batch.sizes}
    assert len(lefts) > 15
    assert max(lefts) <= 128
    for batch in batches:
        for latents, mask, sizes in zip(batch.latents, batch.mask, batch.sizes):
            edge = min(latents[0, 0, 0], latents[0, 0, -1])  # flipped or not
            assert abs(edge - sizes[3] * 255 / 191) < 12
            assert torch.allclose(mask[0] * 255, latents[0], atol=12)
    assert model.encoded == 40
    for rank in range(2):
        of_one = loader.load(images[rank : rank + 1], 7, (rank,), 2)
        assert torch.equal(of_one.latents[0], batches[7].latents[rank])
    plain = loader.plain(images)
    assert {float(sizes[3]) for sizes in plain.sizes} == {64.0}


def test_a_run_with_crops_colors_and_sizes(long_pictures, train, config):
    folders = (
        FolderConfig(str(long_pictures), random_crop=True, color=True),
        FolderConfig(str(long_pictures), size=64, batch=1),
    )
    dataset = DatasetConfig(folders=folders, size=64, more_sizes=(128,), validation_share=0.5)
    config = replace(config, dataset=dataset, steps=3, batch=2)
    trainer = train(config)
    images = trainer.data.dataset.images
    assert sorted({(image.group, image.batch) for image in images}) == [(0, None), (1, None), (2, 1)]
    held_out = {image.path for image in trainer.data.dataset.held_out}
    assert len(held_out) == 1
    assert not held_out & {image.path for image in images}
    assert trainer.model.vae not in trainer.data.idle(trainer.model)
    whole = [trainer.data.batch(number, Processes()) for number in range(3)]
    halves = [[trainer.data.batch(number, Processes(rank, 2)) for rank in range(2)] for number in range(3)]
    for batch, parts in zip(whole, halves):
        assert torch.equal(batch.latents, torch.cat([part.latents for part in parts if part is not None]))


def test_regularisation_is_of_each_size(long_pictures, train, config):
    """As many as there are training pictures of that size and batch; a size that nothing else has is an error."""
    folders = (FolderConfig(str(long_pictures), repeats=3), FolderConfig(str(long_pictures), regularisation=True))
    dataset = DatasetConfig(folders=folders, size=64, more_sizes=(128,))
    sampler = BatchSampler(find(dataset, 64).images, 4, seed=0)
    images = [image for number in range(sampler.batches_per_epoch) for image in sampler.batch(number)]
    assert Counter((image.group, image.regularisation) for image in images) == {
        (group, regularisation): 6 for group in (0, 1) for regularisation in (False, True)
    }
    alone = replace(dataset, folders=(folders[0], replace(folders[1], size=256)), more_sizes=())
    with pytest.raises(DatasetError, match="regularisation pictures of a size, buckets and batch that no other"):
        train(replace(config, dataset=alone))


def test_the_estimate_knows_sizes_and_what_is_encoded_in_the_step():
    unet, run = UNetSize.real("sd1"), read(RunConfig, {"name": "x", "dataset": {"folders": [{"path": "."}]}})

    def of(**dataset):
        return estimate(replace(run, dataset=replace(run.dataset, **dataset)), unet)

    small, large, both = of(size=512), of(size=768), of(size=512, more_sizes=(768,))
    assert both.total_mib == large.total_mib
    assert both.gflop == pytest.approx((small.gflop + large.gflop) / 2)
    assert both.title.endswith("512 to 768")
    cropped = of(size=512, random_crop=True)
    assert cropped.gflop - small.gflop == pytest.approx(2e-9 * 558e9, rel=0.02)  # the encoder's 558 GMAC
    assert cropped.mib["model"] - small.mib["model"] == pytest.approx(83_653_863 * 2 / 2**20, rel=1e-6)
    folder = FolderConfig(".", batch=4)
    assert of(folders=(folder,)).mib["activations"] == pytest.approx(4 * of().mib["activations"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"more_sizes": [100]}, r"more_sizes\[0\] = 100: expected a multiple of 8 from 64 on"),
        ({"folders": [{"path": ".", "batch": 0}]}, "batch = 0: expected 1 or more"),
        ({"folders": [{"path": ".", "size": 65}]}, "size = 65: expected a multiple of 8"),
        ({"folders": [{"path": ".", "height": 64}]}, "height = 64: expected a size, too"),
        ({"random_crop": "yes"}, "dataset.random_crop = 'yes': expected true or false"),
        ({"color": 1}, "dataset.color = 1: expected true or false"),
    ],
)
def test_what_cannot_be(data, message):
    with pytest.raises(ConfigError, match=message):
        read(RunConfig, {"name": "x", "dataset": {"folders": [{"path": "."}], **data}})
