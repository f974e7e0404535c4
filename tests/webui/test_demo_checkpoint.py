"""The exported demo model in the WebUI: it loads, and draws what the prompt says."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image

from lib_blocktrain.hosts.demo_model import LORAS, MODEL
from lib_blocktrain.hosts.ldm_export import export

pytestmark = [
    pytest.mark.kinds("a1111"),
    pytest.mark.skipif(not (MODEL / "unet").exists(), reason="the demo model is not there"),
]
NAME = "blocktrain-demo"
PICTURES = 24


def draw(webui, prompt: str, **options) -> Image.Image:
    size = {"width": 128, "height": 128, "steps": 20, "sampler_name": None}
    return Image.fromarray(webui.pixels(prompt, **{**size, **options}))


@pytest.fixture(scope="module")
def demo(webui):
    export(MODEL, webui.data / "models" / "Stable-diffusion", NAME)
    webui.use_checkpoint(f"{NAME}.safetensors")
    return webui


@pytest.fixture(scope="module")
def classifier():
    from demo.evaluate import load_classifier

    return load_classifier(MODEL)


def test_draws_what_the_prompt_says(demo, classifier):
    from demo.classifier import read
    from demo.composites import SUBJECTS, draw_scene
    from demo.pictures import as_tensor

    rng = random.Random(11)
    scenes = [draw_scene(rng, list(SUBJECTS)) for _ in range(PICTURES)]
    pictures = [draw(demo, s.caption, seed=n, sampler_name="DDIM") for n, s in enumerate(scenes)]
    told = read(classifier, torch.stack([as_tensor(p) for p in pictures]))
    right = {
        name: sum(getattr(s, name) == word for s, word in zip(scenes, told[name])) / PICTURES
        for name in ("subject", "background", "size")
    }
    assert right["background"] > 0.8, right
    assert right["size"] > 0.7, right
    assert right["subject"] > 0.6, right


def test_same_picture_twice(demo):
    first, second = (draw(demo, "a photo of a large fox, blue background", steps=4).tobytes() for _ in range(2))
    assert first == second


def test_demo_lora_fits(demo):
    """The WebUI's own Lora networks load every module of the demo LoRA, and the image changes."""
    import shutil

    folder = demo.data / "models" / "Lora"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(LORAS / "robot.safetensors", folder)
    demo.call("/sdapi/v1/refresh-loras", {})
    prompt = "a photo of a large robot in the center, blue background"
    plain = draw(demo, prompt, steps=4).tobytes()
    assert draw(demo, f"{prompt} <lora:robot:1>", steps=4).tobytes() != plain
    assert draw(demo, f"{prompt} <lora:robot:0>", steps=4).tobytes() == plain
    assert "didn't match keys" not in demo.log.read_text(errors="replace")
