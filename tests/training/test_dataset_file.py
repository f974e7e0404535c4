"""sd-scripts' dataset file: read once, where a run comes in, with sd-scripts' meaning."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_blocktrain.networks.files import read_network
from lib_blocktrain.training.batches import BatchSampler
from lib_blocktrain.training.config import RunConfig, load, resolved
from lib_blocktrain.training.config_json import ConfigError, read
from lib_blocktrain.training.dataset import find
from lib_blocktrain.training.estimate import UNetSize, estimate

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is Python 3.11's")

OPTIONS = {
    "shuffle_caption = true": {"shuffle_tags": True},
    "shuffle_caption = true\nkeep_tokens = 1": {"shuffle_tags": True, "keep_tags": 1},
    "caption_dropout_rate = 0.5": {"caption_dropout": 0.5},
    "caption_tag_dropout_rate = 0.5": {"tag_dropout": 0.5},
    "flip_aug = true": {"flip": True},
    'shuffle_caption = true\ncaption_separator = ";"': {"shuffle_tags": True, "separator": ";"},
    'caption_extension = ".words"': {"caption_extensions": [".words"]},
    "alpha_mask = true": {"alpha_mask": True},
    "enable_bucket = false": {"buckets": False},
    "random_crop = true\ncolor_aug = true": {"random_crop": True, "color": True},
    'caption_prefix = "{a|the}"\nenable_wildcard = true\ntoken_warmup_step = 3': {
        "prefix": "{a|the}", "wildcards": True, "tag_warmup": 3,
    },
    'caption_suffix = "x"\nsecondary_separator = ";;"\nkeep_tokens_separator = "||"\ntoken_warmup_min = 2': {
        "suffix": "x", "secondary_separator": ";;", "keep_separator": "||", "tag_warmup_least": 2,
    },
}  # fmt: skip
TRAINED = (
    *[text for text in OPTIONS if "enable_wildcard" in text],
    "shuffle_caption = true\nkeep_tokens = 1",
    "flip_aug = true",
    "random_crop = true\ncolor_aug = true",
    "alpha_mask = true",
)


@pytest.fixture
def robots(tmp_path) -> Path:
    """Four pictures with an alpha channel and captions with commas and semicolons."""
    folder = tmp_path / "robots"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 80, 4), dtype=np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"robot, red; blue, number {number}; tall, small", "utf-8")
        (folder / f"{number}.words").write_text(f"words, {number}", "utf-8")
    return folder


def loaded(folder: Path, name: str, dataset: dict[str, object]) -> RunConfig:
    network = {"rank": 2, "weights": "OUT09=1,OUT10=0.5,OUT11=1"}
    data = {"name": "tiny", "dataset": dataset, "network": network, "optimizer": {"lr": 0.01}, "steps": 4, "batch": 2}
    (folder / name).write_text(json.dumps({**data, "save_dtype": "fp32"}), "utf-8")
    return load(folder / name)


def from_toml(folder: Path, text: str) -> RunConfig:
    (folder / "set.toml").write_text(text, "utf-8")
    return loaded(folder, "of-toml.json", {"toml": "set.toml"})


def written_three_ways(folder: Path, text: str) -> tuple[list[RunConfig], RunConfig]:
    """The run with an option in a toml, in run.json and in a folder of it; and the run without it."""
    place = {"path": "robots", "repeats": 3, "numbered": False}
    options = OPTIONS[text]
    own = {name: value for name, value in options.items() if name != "buckets"}
    rest = {name: value for name, value in options.items() if name == "buckets"}
    runs = [
        from_toml(folder, general(text)),
        loaded(folder, "written.json", {"folders": [place], "size": 64, **options}),
        loaded(folder, "by-folder.json", {"folders": [{**place, **own}], "size": 64, **rest}),
    ]
    return runs, loaded(folder, "plain.json", {"folders": [place], "size": 64})


def content(path: Path) -> tuple[dict[str, object], bytes]:
    """A network file's header, whose entries safetensors puts into any order, and every byte after it."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def general(options: str, subset: str = 'image_dir = "robots"\nnum_repeats = 3') -> str:
    return f"[general]\nresolution = 64\n{options}\n[[datasets]]\n[[datasets.subsets]]\n{subset}\n"


@pytest.mark.parametrize("text", OPTIONS)
def test_an_option_of_a_toml_is_that_of_run_json(robots, tmp_path, text):
    runs, plain = written_three_ways(tmp_path, text)
    assert runs[0] == runs[1] == runs[2] != plain


@pytest.mark.parametrize("text", TRAINED)
def test_a_toml_is_the_same_run(robots, tmp_path, train, monkeypatch, text):
    """Each option reaches training: the file is that of the run.json with the same options, metadata included."""
    monkeypatch.setattr("lib_blocktrain.training.trainer.time.time", lambda: 0.0)
    runs, plain = written_three_ways(tmp_path, text)
    files = [content(train(run, f"run-{n}").outcome.result) for n, run in enumerate([*runs[:2], plain])]
    assert files[0] == files[1]
    assert files[1][1] != files[2][1]


def test_what_is_read_beside_training_is_the_same(robots, tmp_path, train):
    """The estimate, the metadata and the tags are those of what is trained."""
    config = from_toml(
        tmp_path,
        general('enable_bucket = false\ncaption_separator = ";"\nbatch_size = 4\nface_crop_aug_range = [1.0, 2.0]'),
    )
    assert config.dataset.toml is None
    assert estimate(config, UNetSize.real("sd1")).title.endswith("64")
    small = estimate(replace(config, dataset=replace(config.dataset, size=128)), UNetSize.real("sd1"))
    assert estimate(config, UNetSize.real("sd1")).gflop < small.gflop
    trainer = train(config)
    metadata = read_network(trainer.outcome.result).metadata
    assert (metadata["ss_resolution"], metadata["ss_enable_bucket"]) == ("(64, 64)", "False")
    assert json.loads(metadata["ss_tag_frequency"])["robots"]["blue, number 0"] == 1
    notices = trainer.run.config.dataset.notices
    assert [notice.partition(": ")[2] for notice in notices] == [
        "face_crop_aug_range not known here: ignored",
    ]
    assert set(notices) <= set(estimate(config, UNetSize.real("sd1")).notices)
    (tmp_path / "set.toml").unlink()  # the run has all of it
    assert load(trainer.run.folder / "run.json") == config


def test_a_folders_number_counts_in_train_data_dir_only(robots, tmp_path):
    """sd-scripts: `num_repeats` alone in a toml, the folder's number under `--train_data_dir`."""
    counted = tmp_path / "10_robots"
    robots.rename(counted)
    (counted / "3_inside").mkdir()
    Image.new("RGB", (64, 64)).save(counted / "3_inside" / "deep.png")

    def repeats(config: RunConfig) -> dict[str, int]:
        return {image.path.name: image.repeats for image in find(config.dataset, 64).images}

    own = {f"{number}.png": 10 for number in range(4)}
    assert repeats(from_toml(tmp_path, general("", 'image_dir = "10_robots"\nnum_repeats = 10'))) == own
    assert set(repeats(from_toml(tmp_path, general("", 'image_dir = "10_robots"'))).values()) == {1}
    assert repeats(loaded(tmp_path, "a.json", {"folders": [{"path": "10_robots"}]})) == {"deep.png": 3}
    flat = {"folders": [{"path": "10_robots", "repeats": 2, "numbered": False}]}
    assert repeats(loaded(tmp_path, "b.json", flat)) == dict.fromkeys(own, 2)
    assert {image.caption for image in find(loaded(tmp_path, "c.json", flat).dataset, 64).images} == {
        f"robot, red; blue, number {number}; tall, small" for number in range(4)
    }


TWO = """
[[datasets]]
resolution = 64
  [[datasets.subsets]]
  image_dir = "robots"
  alpha_mask = true
  flip_aug = true
  shuffle_caption = true
  caption_extension = ".words"
  [[datasets.subsets]]
  image_dir = "others"
  keep_tokens = 1
"""


def test_a_subsets_options_are_its_own(robots, tmp_path, train):
    others = tmp_path / "others"
    others.mkdir()
    for name in ("a", "b"):
        Image.new("RGBA", (64, 64), (255, 0, 0, 51)).save(others / f"{name}.png")
        (others / f"{name}.txt").write_text("first, second, third", "utf-8")
    config = from_toml(tmp_path, TWO)
    images = find(config.dataset, 64).images
    first, second = images[0], images[-1]
    assert (first.caption, first.mask) == ("words, 0", first.path)
    assert (second.caption, second.mask) == ("first, second, third", None)
    assert (first.options.flip, first.options.shuffle_tags, first.options.keep_tags) == (True, True, 0)
    assert (second.options.flip, second.options.shuffle_tags, second.options.keep_tags) == (False, False, 1)
    trainer = train(replace(config, steps=1))
    captions = Counter()
    for number in range(40):
        captions.update(trainer.data.batch(number, trainer.processes).captions)
    assert {caption for caption in captions if "first" in caption} == {"first, second, third"}
    assert {"words, 0", "0, words"} < set(captions)
    metadata = read_network(trainer.outcome.result).metadata
    assert json.loads(metadata["ss_flip_aug"]) == {"robots": True, "others": False}
    assert load(trainer.run.folder / "run.json") == replace(config, steps=1)


def test_each_dataset_has_its_size_and_batch(robots, tmp_path):
    """What one dataset asks for is not asked of another that does not say it; batches are of one dataset."""
    subset = '[[datasets.subsets]]\nimage_dir = "robots"\n'
    first = "[[datasets]]\nresolution = [128, 64]\nbatch_size = 3\nenable_bucket = false\n"
    config = from_toml(tmp_path, f"{first}{subset}[[datasets]]\nmin_bucket_reso = 64\n{subset}")
    one, two = config.dataset.folders
    assert (config.dataset.size, one.size, one.height, one.batch, one.buckets) == (None, 128, 64, 3, False)
    assert (two.size, two.batch, two.buckets, two.bucket_least) == (None, None, None, 64)
    images = find(config.dataset, 64).images
    assert {(image.group, image.fit.bucket) for image in images} == {(0, (128, 64)), (1, (64, 64))}
    sampler = BatchSampler(images, 2, seed=0)
    batches = [sampler.batch(number) for number in range(sampler.batches_per_epoch)]
    assert sorted((batch[0].group, len(batch)) for batch in batches) == [(0, 1), (0, 3), (1, 2), (1, 2)]
    assert all(len({image.group for image in batch}) == 1 for batch in batches)
    assert BatchSampler(images, 4, seed=0, processes=2).batches_per_epoch == 2
    for line, said in (
        ('resolution = "x"', "size = 'x': expected a whole number"),
        ("resolution = 60", "size = 60: expected a multiple of 8"),
        ("batch_size = 0", "batch = 0: expected 1 or more"),
    ):
        with pytest.raises(ConfigError, match=said):
            from_toml(tmp_path, f"{first}{subset}[[datasets]]\n{line}\n{subset}")
    with pytest.raises(ConfigError, match="bucket_no_upscale = 'no': expected true or false"):
        from_toml(tmp_path, general('bucket_no_upscale = "no"'))


def test_a_run_made_before_goes_on(robots, tmp_path, train):
    """A run.json with a toml in it, as they were written, is read with the file; without it the file is named."""
    (tmp_path / "set.toml").write_text(general("flip_aug = true"), "utf-8")
    data = {"name": "tiny", "dataset": {"toml": str(tmp_path / "set.toml")}}
    assert resolved(read(RunConfig, data)).dataset.flip
    (tmp_path / "set.toml").unlink()
    with pytest.raises(OSError, match=r"set\.toml"):
        resolved(read(RunConfig, data))


def test_batches_in_an_epoch(robots, tmp_path):
    """sd-scripts: 4 pictures, 3 times, batches of 5: ceil(12 / 5) in an epoch."""
    dataset = find(from_toml(tmp_path, general("")).dataset, 64)
    assert BatchSampler(dataset.images, 5, seed=0).batches_per_epoch == 3
