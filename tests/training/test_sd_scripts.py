"""Captions and epochs against sd-scripts (48d368f): what its `process_caption` and `DreamBoothDataset` answered.

A digest stands for 10,000 captions, each changed with the same random numbers. `test_buckets` has the buckets,
`test_dataset_file` the repeats.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path

import pytest

from lib_blocktrain.training.batches import BatchSampler
from lib_blocktrain.training.buckets import Fit
from lib_blocktrain.training.captions import RunStep, augmented_caption, framed_caption
from lib_blocktrain.training.dataset import DatasetImage
from lib_blocktrain.training.dataset_config import ImageOptions

WORDS = ("robot", "blue  sky", " (red:1.2)", "", "long hair", "1girl", "a, b")
PROCESS_CAPTION = [
    ({"shuffle_tags": True}, "6224aab0b14d988b"),
    ({"shuffle_tags": True, "keep_tags": 2}, "98d4830931df49e0"),
    ({"caption_dropout": 0.3}, "792ffefcfef4804a"),
    ({"tag_dropout": 0.4, "keep_tags": 1}, "e19793520ea59c6c"),
    ({"shuffle_tags": True, "keep_tags": 3, "caption_dropout": 0.2, "tag_dropout": 0.5}, "8a299e9dd854b45c"),
    ({"keep_tags": 2}, "7e82470d4009d39d"),
]


@pytest.mark.parametrize(("options", "expected"), PROCESS_CAPTION, ids=lambda value: str(value))
def test_captions(options, expected):
    rng = random.Random(14)
    captions = [", ".join(rng.choices(WORDS, k=rng.randint(0, 8))) for _ in range(10_000)]
    rng = random.Random(3)
    found = [augmented_caption(caption, ImageOptions(**options), rng) for caption in captions]
    assert hashlib.sha256("\n".join(found).encode()).hexdigest()[:16] == expected


MORE_WORDS = (*WORDS, "{day|night|dusk} sky", "{{x}}", "cat;;;dog", "|||", "x\ny", "{a}")
MORE_OPTIONS = [
    ({"prefix": "zx,", "suffix": "photo", "caption_dropout": 0.1}, "b2cf410089e3f5d6"),
    ({"wildcards": True}, "80d2d9f0ba1c8598"),
    ({"wildcards": True, "shuffle_tags": True, "keep_tags": 1}, "0052c7c3ae4a9ddb"),
    ({"shuffle_tags": True, "keep_separator": "|||"}, "a366c3d9758de776"),
    (
        {"secondary_separator": ";;;", "shuffle_tags": True, "tag_dropout": 0.3, "keep_separator": "|||"},
        "459da170469345d8",
    ),
    ({"tag_warmup": 40.0, "tag_warmup_least": 2}, "5d12441ac7ea81bd"),
    ({"tag_warmup": 0.3, "shuffle_tags": True, "prefix": "zx,"}, "637242ccdf7da251"),
    (
        {
            "wildcards": True, "prefix": "zx,", "secondary_separator": ";;;", "tag_warmup": 50.0, "shuffle_tags": True,
            "tag_dropout": 0.2, "caption_dropout": 0.1, "keep_separator": "|||", "keep_tags": 2,
        },
        "93acf19f752f0e6b",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), MORE_OPTIONS, ids=lambda value: str(value))
def test_captions_with_lines_and_choices(options, expected):
    """Caption i at step i modulo 60 of 100."""
    rng = random.Random(14)
    captions = [", ".join(rng.choices(MORE_WORDS, k=rng.randint(0, 8))) for _ in range(10_000)]
    rng, options = random.Random(3), ImageOptions(**options)
    found = [
        augmented_caption(framed_caption(caption, options), options, rng, RunStep(i % 60, 100))
        for i, caption in enumerate(captions)
    ]
    assert hashlib.sha256("\n".join(found).encode()).hexdigest()[:16] == expected


def image(name: str, repeats: int, *, regularisation: bool = False, side: int = 64) -> DatasetImage:
    return DatasetImage(Path(name), "", Fit((side, side), (side, side), (side, side)), repeats, regularisation)


@pytest.mark.parametrize(
    ("trained", "repeats", "expected"),
    [
        (4, {"a": 1}, {"a": 4}),
        (10, {"a": 3, "b": 3}, {"a": 5, "b": 5}),
        (100, dict.fromkeys("abcde", 30), dict.fromkeys("abcd", 30)),
        (7, {"a": 1, "b": 1, "c": 1}, {"a": 3, "b": 2, "c": 2}),
        (12, {"a": 2, "b": 5, "c": 1}, {"a": 4, "b": 6, "c": 2}),
    ],
)
def test_regularisation_in_an_epoch(trained, repeats, expected):
    images = [image("x", trained), *(image(name, count, regularisation=True) for name, count in repeats.items())]
    order = BatchSampler(images, 3, seed=0)
    counts = Counter(found.path.name for n in range(order.batches_per_epoch) for found in order.batch(n))
    assert counts == {"x": trained, **expected}


def test_batches_in_an_epoch():
    """The sum over buckets of their images by the batch, rounded up: 7 / 3 and 5 / 3."""
    assert BatchSampler([image("a", 7), image("b", 5, side=128)], 3, seed=0).batches_per_epoch == 3 + 2
