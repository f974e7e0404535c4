"""Which models a run moves off the GPU, and when they are back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image
from torch import nn

pytest.importorskip("diffusers")

from lib_blocktrain.hosts.standalone import StandaloneModel
from lib_blocktrain.training.config import PoolConfig, SampleConfig
from lib_blocktrain.training.dataset_config import ImageOptions
from lib_blocktrain.training.preparation import TrainingData
from lib_blocktrain.training.trainer import Trainer
from tests.model.test_set_aside import Part, places
from tests.training.test_trainer import same, untouched  # noqa: F401 - a fixture


def idle(has_conditioning: bool, **options) -> list[str]:
    image = SimpleNamespace(options=ImageOptions(**options))
    data = TrainingData(
        SimpleNamespace(images=(image,), held_out=()),
        None,
        SimpleNamespace(has_conditioning=has_conditioning),
        contents={},
        steps=1,
        accumulate=1,
    )
    parts = {"vae": nn.Identity(), "te1": nn.Identity(), "te2": nn.Identity()}
    encoders = {name: part for name, part in parts.items() if name != "vae"}
    found = data.idle(SimpleNamespace(text_encoders=encoders, movable=tuple(parts.values())))
    return [name for name, part in parts.items() if any(part is one for one in found)]


def test_a_text_encoder_that_steps_need_stays():
    assert idle(True) == ["vae", "te1", "te2"]
    assert idle(False) == ["vae"]  # it is trained
    assert idle(True, shuffle_tags=True) == ["vae"]
    assert idle(True, caption_dropout=0.1) == ["vae"]


def test_standalone_all_may_be_moved(model):
    assert [id(part) for part in model.movable] == [id(model.vae), id(model.text_encoders["te"])]


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_has_them_only_for_samples(train, config, monkeypatch, fails):
    """In steps and validation they are on the CPU, for samples and at the end on the GPU; flips are cached before."""
    part, seen = Part(), {"step": set(), "sample": set(), "encoded": set()}
    monkeypatch.setattr(StandaloneModel, "movable", property(lambda _: (part,)))
    losses, encode = Trainer.losses, StandaloneModel.encode_image

    def step(self, *arguments):
        if hasattr(self, "_running"):
            seen["step"].add(part.place.type)
            if fails and self.step == 2:
                raise ValueError("broken")
        return losses(self, *arguments)

    def put(self):
        self._running = True
        return apply(self)

    apply = Trainer.apply
    monkeypatch.setattr(Trainer, "apply", put)
    monkeypatch.setattr(Trainer, "losses", step)
    monkeypatch.setattr(
        StandaloneModel, "encode_image", lambda *a: (seen["encoded"].add(part.place.type), encode(*a))[1]
    )

    def draw(asked):
        seen["sample"].add(part.place.type)
        return Image.new("RGB", (8, 8))

    config = replace(
        config,
        dataset=replace(config.dataset, flip=True, validation_share=0.3),
        samples=SampleConfig(prompts=("a",), every=1),
        validate_every=1,
    )
    if fails:
        with pytest.raises(ValueError, match="broken"):
            train(config, draw=draw)
    else:
        train(config, draw=draw)
    assert seen == {"step": {"cpu"}, "sample": {"cuda"}, "encoded": {"cuda"}}
    assert places(part) == ["cuda"]


@pytest.mark.usefixtures("untouched")
def test_stored_weights_are_back_after_a_run(train, config):
    """On the CPU is where they are here: the same bits. As fp8 it is another result, with samples and validation."""
    drawn: list[object] = []

    def draw(asked):
        drawn.append(asked)
        return Image.new("RGB", (8, 8))

    samples = SampleConfig(prompts=("a",), every=3)
    dataset = replace(config.dataset, validation_share=0.3)
    config = replace(config, dataset=dataset, samples=samples, validate_every=2, checkpointing=True)
    plain = train(config, "plain", draw=draw)
    offloaded = train(replace(config, offload=True), "offload", draw=draw)
    assert same(offloaded.outcome.result, plain.outcome.result)
    both = replace(config, offload=True, fp8=True, pool=PoolConfig(2), checkpointing=False)
    rounded = train(both, "fp8", draw=draw)
    losses = [[row["loss"] for row in t.run.metrics() if "loss" in row] for t in (plain, rounded)]
    assert losses[0] != losses[1]
    assert all(0.5 < one / other < 2 for one, other in zip(*losses))
    assert len(drawn) == 3
