"""Buckets against sd-scripts' own: what its `BucketManager` (48d368f) answered for 10,000 sizes and each setting.

The table was made by that class; a digest stands for the sizes with how each is scaled and which bucket it has, or None
where that class gives a bucket without pixels, or fails.
"""

from __future__ import annotations

import hashlib
import random

import pytest

from lib_blocktrain.training.buckets import Fit, fitting
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig

FOLDERS = (FolderConfig("pictures"),)
LIMITS = {"bucket_least": 256, "bucket_most": 1024}
NO_UPSCALING = {"upscale": False}
BUCKET_MANAGER = {
    "512": ({"size": 512, **LIMITS}, "e9e60c15ee38eedd"),
    "1024": ({"size": 1024, **LIMITS}, "218d3591d3056883"),
    "768x512": ({"size": 768, "height": 512, **LIMITS}, "ac26396ae28d3c65"),
    "512 in steps of 8": ({"size": 512, "bucket_step": 8, **LIMITS}, "e7475785a7eca08f"),
    "512 from 128 to 2048": ({"size": 512, "bucket_least": 128, "bucket_most": 2048}, "3c3fc578bbbc7d98"),
    "640 from 200 to 1000": ({"size": 640, "bucket_least": 200, "bucket_most": 1000}, "a1e64ad2685d2657"),
    "1024 from 512 in steps of 32": (
        {"size": 1024, "bucket_step": 32, "bucket_least": 512, "bucket_most": 2048},
        "d978083d1e689691",
    ),
    "512, no upscaling": ({"size": 512, **NO_UPSCALING}, "21961c5ca63af355"),
    "1024, no upscaling": ({"size": 1024, **NO_UPSCALING}, "b6c8462e4239deb4"),
    "768x512, no upscaling": ({"size": 768, "height": 512, **NO_UPSCALING}, "8a7a5be19a238043"),
    "1024 in steps of 32, no upscaling": ({"size": 1024, "bucket_step": 32, **NO_UPSCALING}, "67f385379de448f3"),
    "512 in steps of 8, no upscaling": ({"size": 512, "bucket_step": 8, **NO_UPSCALING}, "8f2512a8e90a9294"),
    "512, no buckets": ({"size": 512, "buckets": False}, "650019d34ac0e4f4"),
    "512x768, no buckets": ({"size": 512, "height": 768, "buckets": False}, "5e6f5c8853466232"),
}


def fit_of(original: tuple[int, int], **options: object) -> Fit:
    return fitting(DatasetConfig(FOLDERS, **options), 512)(original)


@pytest.mark.parametrize("name", BUCKET_MANAGER)
def test_sd_scripts_buckets(name):
    options, expected = BUCKET_MANAGER[name]
    found = fitting(DatasetConfig(FOLDERS, **options), 512)
    rng, digest = random.Random(14), hashlib.sha256()
    for _ in range(10_000):
        size = rng.randint(64, 4096), rng.randint(64, 4096)
        try:
            fit = found(size)
            answer = fit.resized, fit.bucket
        except ValueError:
            answer = None
        digest.update(repr((size, answer)).encode())
    assert digest.hexdigest()[:16] == expected


@pytest.mark.parametrize(
    ("original", "resized", "bucket"),
    [
        ((768, 512), (576, 384), (576, 384)),  # 16 % were cut away
        ((2000, 1000), (640, 320), (640, 320)),
        ((1920, 1080), (683, 384), (640, 384)),
        ((300, 200), (300, 200), (256, 192)),
        ((512, 512), (512, 512), (512, 512)),
    ],
)
def test_nothing_is_enlarged_and_little_is_lost(original, resized, bucket):
    found = fit_of(original, size=512, upscale=False)
    assert (found.resized, found.bucket) == (resized, bucket)


def test_limits_are_multiples_of_the_step():
    for size in ((2000, 400), (400, 2000), (3000, 3000)):
        assert all(side % 64 == 0 for side in fit_of(size, size=520).bucket)
        assert all(side % 64 == 0 for side in fit_of(size, size=640, bucket_least=200, bucket_most=1000).bucket)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 512, "bucket_least": 640}, "dataset.bucket_least = 640: expected up to 512, the shorter side"),
        ({"size": 768, "height": 512, "bucket_most": 640}, "bucket_most = 640: expected 768, the longer side, or more"),
        ({"size": 64, "bucket_step": 128}, "dataset.bucket_step = 128: expected up to 64, the shorter side"),
    ],
)
def test_limits_without_a_bucket(options, said):
    with pytest.raises(ConfigError, match=said):
        fit_of((800, 600), **options)


def test_no_image_is_smaller_than_a_step():
    for size in ((40, 300), (4000, 63)):
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels: expected at least 64 on each side"):
            fit_of(size, size=512, upscale=False)
