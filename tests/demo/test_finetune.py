"""A second demo model: fine-tuned repeatably, with the first one's autoencoder and vocabulary."""

from __future__ import annotations

import random
import shutil

import pytest
from PIL import Image
from safetensors.torch import load_file

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def second(random_model, tmp_path, monkeypatch):
    """Make a second model of the random one in two steps, on flat pictures."""
    from demo import diffusion, finetune

    def flat(scene, rng):
        return Image.new("RGB", (128, 128), (rng.randrange(256), 40 * len(scene.background) % 256, 90))

    source = tmp_path / "first"
    shutil.copytree(random_model, source)
    (source / "classifier.safetensors").write_bytes(b"the first model's")
    for module, name, value in ((finetune, "compose", flat), (finetune, "PICTURES", 4), (finetune, "CHUNK", 2)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(diffusion, "BATCH", 2)

    def make(seed, work):
        folder = tmp_path / f"{work}-{seed}"
        (tmp_path / work).mkdir(exist_ok=True)
        finetune.fine_tune(source, tmp_path / work, folder, seed, 2)
        return source, folder

    return make


def read(folder):
    return {name: load_file(folder / name / f"{file}.safetensors") for name, file in WEIGHTS.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())


def test_a_second_model(second):
    pytest.importorskip("diffusers")
    from lib_blocktrain.hosts.standalone import load_demo

    source, folder = second(1, "work")
    first, made, again = read(source), read(folder), read(second(1, "elsewhere")[1])
    assert equal(made["vae"], first["vae"])
    assert not equal(made["unet"], first["unet"])
    assert not equal(made["text_encoder"], first["text_encoder"])
    assert all(equal(made[name], again[name]) for name in made)
    assert not equal(read(second(2, "work")[1])["unet"], made["unet"])
    assert (folder / "classifier.safetensors").read_bytes() == b"the first model's"
    assert load_demo(folder).pipeline.vae.config.scaling_factor == 1.25


def test_the_second_mix():
    from demo.finetune import other_scene

    rng = random.Random(0)
    scenes = [other_scene(rng) for _ in range(2000)]
    assert sum(scene.style == "pencil drawing" for scene in scenes) / 2000 == pytest.approx(0.7, abs=0.05)
    dark = sum(scene.background in ("black", "blue", "purple") for scene in scenes) / 2000
    assert dark == pytest.approx(9 / 14, abs=0.05)
