"""Against sd-scripts (48d368f): what its `process_caption`, `DreamBoothDataset` and `process_batch` answered.

A digest stands for 10,000 captions, each changed with the same random numbers. A step has its loss and the norms of its
gradients. `test_buckets` has the buckets, `test_dataset_file` the repeats, `test_augmentation` crops and colours.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib_blocktrain.model.diffusion import scaled_linear_alphas_cumprod
from lib_blocktrain.networks.files import read_network, write_network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.training.batches import Batch, BatchSampler
from lib_blocktrain.training.buckets import Fit
from lib_blocktrain.training.captions import RunStep, augmented_caption, framed_caption
from lib_blocktrain.training.config import LossConfig, NetworkConfig
from lib_blocktrain.training.dataset import DatasetImage
from lib_blocktrain.training.dataset_config import ImageOptions
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.step import Denoiser, Noise, Objective, conditioning_of
from lib_blocktrain.training.train_state import TrainState
from lib_blocktrain.weights.block_weights import BlockWeights

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


# One step: latents and noise of two pictures, their captions, and what sd-scripts made of them.

GIVEN = torch.Generator().manual_seed(1)
LATENTS = torch.randn(2, 4, 16, 16, generator=GIVEN)
PREDICTED = torch.randn(2, 4, 16, 16, generator=GIVEN)
NOISE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(7))
MASK = torch.zeros(2, 1, 16, 16)
MASK[0, :, :8], MASK[1] = 1, 0.5
WEIGHTS = torch.tensor([1.0, 0.3])
CAPTIONS = ("a photo of a red robot", "a photo of a red robot on blue, " * 20)

MIDDLE, EARLY, LAST = (427, 638), (287, 58), (999, 999)
V = {"prediction": "v"}
LOSSES = [  # options, timesteps, whether there are masks, and weights of pictures; its loss, the norm of its gradient
    ({}, MIDDLE, False, False, 1.9559261798858643, 0.06180750951170921),
    ({"kind": "l1"}, MIDDLE, False, False, 1.1150450706481934, 0.022097086533904076),
    ({"kind": "huber", "huber_c": 0.2}, MIDDLE, False, False, 0.5439006686210632, 0.012033895589411259),
    (
        {"kind": "huber", "huber_c": 0.2, "huber_schedule": "exponential"}, MIDDLE, False, False,
        0.7009230852127075, 0.015987297520041466,
    ),
    (
        {"kind": "huber", "huber_c": 0.2, "huber_schedule": "constant"}, MIDDLE, False, False,
        0.3804028630256653, 0.008118709549307823,
    ),
    ({"kind": "smooth_l1", "huber_c": 0.2}, MIDDLE, False, False, 1.7639086246490479, 0.038796570152044296),
    ({"v_pred_like_loss": 0.4}, MIDDLE, False, False, 5.9258198738098145, 0.19822470843791962),
    ({"min_snr_gamma": 5.0}, EARLY, False, False, 1.319934368133545, 0.046935077756643295),
    ({"debiased": True}, EARLY, False, False, 1.0552273988723755, 0.03740820661187172),
    (V, MIDDLE, False, False, 1.9600715637207031, 0.061872974038124084),
    (
        {**V, "scale_v_pred_loss_like_noise_pred": True}, MIDDLE, False, False,
        0.5084345936775208, 0.01788380928337574,
    ),
    ({**V, "min_snr_gamma": 5.0}, EARLY, False, False, 0.8833450078964233, 0.02982001192867756),
    ({**V, "zero_terminal_snr": True}, MIDDLE, False, False, 1.9611823558807373, 0.061890505254268646),
    ({**V, "zero_terminal_snr": True}, LAST, False, False, 1.9825934171676636, 0.06222742423415184),
    ({**V, "zero_terminal_snr": True, "kind": "huber"}, MIDDLE, False, False, 0.3904723525047302, 0.008566911332309246),
    ({}, MIDDLE, True, False, 0.9709516763687134, 0.03809865191578865),
    ({}, MIDDLE, False, True, 1.3181418180465698, 0.04691261425614357),
    (
        {"kind": "l1", "v_pred_like_loss": 0.4, "min_snr_gamma": 5.0}, MIDDLE, True, True,
        0.9185974597930908, 0.024627627804875374,
    ),
]  # fmt: skip


def given_batch(masks: bool = False, weights: bool = False) -> Batch:
    mask, weighed = MASK if masks else None, WEIGHTS if weights else torch.ones(2)
    return Batch(LATENTS, {}, CAPTIONS, torch.zeros(2, 6), mask, weighed, (0, 1), 2)


@pytest.mark.parametrize(("options", "timesteps", "masks", "weights", "loss", "gradient"), LOSSES, ids=str)
def test_losses_of_a_step(options, timesteps, masks, weights, loss, gradient):
    objective = Objective(LossConfig(**options), scaled_linear_alphas_cumprod(), "epsilon")
    predicted = PREDICTED.clone().requires_grad_(True)
    found = objective.losses(predicted, given_batch(masks, weights), Noise(NOISE, NOISE, torch.tensor(timesteps)))
    found.mean().backward()
    assert found.mean().item() == pytest.approx(loss, rel=1e-5)
    assert predicted.grad.norm().item() == pytest.approx(gradient, rel=1e-5)


STEPS = [  # clip skip, tokens; loss, norms of the gradients of text encoder and U-Net
    (1, 75, 1.1805484294891357, 0.005610564198183608, 0.05524830214140005),
    (2, 225, 1.1801390647888184, 0.004274748550863291, 0.055182548784823565),
]


@pytest.mark.parametrize(("clip_skip", "tokens", "loss", "text", "unet"), STEPS)
def test_a_step_from_network_weights(model, config, tmp_path, clip_skip, tokens, loss, text, unet):
    """A LoRA of rank 4 on all layers, from a file that has no layer at 0; captions encoded with it."""
    network = NetworkConfig(rank=4, alpha=2.0, text_encoder=True)
    targets, config = {"unet": model.unet, **model.text_encoders}, replace(config, network=network)
    plan = plan_of(targets, model.architecture, network)
    generator, file = torch.Generator().manual_seed(5), tmp_path / "start.safetensors"
    filled = TrainState(plan, config, torch.float32)
    with torch.no_grad():
        for name, parameter in filled.state()["parameters"].items():
            if "lora_up" in name:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.1 - 0.05)
    with filled.network_to_save() as saved:
        write_network(file, saved, dtype=torch.float32)
    state = TrainState(plan, config, torch.float32, start=read_network(file))
    objective, batch = Objective(config.loss, model.alphas_cumprod, "epsilon"), given_batch()
    noise, on = Noise(NOISE, NOISE, torch.tensor(MIDDLE)), BlockWeights.uniform(model.architecture, 1.0)
    with model.trainable(), model.encoding(None, clip_skip), applied(targets, state.training_network, on):
        conditioning = conditioning_of(model, batch, torch.float32, tokens)
        denoiser = Denoiser(model, torch.float32, None, checkpointing=False)
        noised = objective.noised(batch.latents, noise)
        found = objective.losses(denoiser.predict(noised, noise.timesteps, conditioning), batch, noise).mean()
        found.backward()
    assert found.item() == pytest.approx(loss, rel=1e-5)
    of_text = [name.startswith("lora_te") for name in state.state()["parameters"]]
    for part, expected in ((True, text), (False, unet)):
        gradients = [gradient for is_text, gradient in zip(of_text, state.gradients()) if is_text == part]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        assert norm == pytest.approx(expected, rel=1e-5)
