"""A dataset's gradients: as an unbiased estimate of the true ones, and in what pictures agree."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from lib_blocktrain.analysis import probe as probing
from lib_blocktrain.analysis.probe import build_probe_request, own_images, probe
from lib_blocktrain.blocks import block_of
from lib_blocktrain.model.diffusion import add_noise
from lib_blocktrain.training.batches import Batch
from lib_blocktrain.training.precision import LossScale
from lib_blocktrain.training.rng import generator_of
from lib_blocktrain.training.step import Objective
from tests.analysis.miniature import PROMPT
from tests.tiny_models import assert_untouched, state_of


def batch(model, latents: torch.Tensor) -> Batch:
    conditioning = {name: tensor.detach() for name, tensor in model.encode_prompt(PROMPT).items()}
    return Batch(latents[None], conditioning, (PROMPT,), torch.zeros(1, 6), None, torch.ones(1), (0,), 1)


def pictures(model, count: int, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(4, 8, 8, generator=generator)
    return [batch(model, shared + 0.3 * torch.randn(4, 8, 8, generator=generator)) for _ in range(count)]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(probing, "TIMESTEPS", (400,))


def test_energy_is_that_of_the_true_gradients(sd1, quick, monkeypatch):
    """Against autograd on the weights themselves: <g_1, g_2> of two pictures, summed by block."""
    monkeypatch.setattr(probing, "RANK", 1024)
    two, before = pictures(sd1, 2), state_of(sd1.unet)
    found = probe(sd1, two).moves
    assert_untouched(sd1.unet, before)
    layers = {n: m for n, m in sd1.unet.named_modules() if "transformer_blocks" in n and isinstance(m, torch.nn.Linear)}
    layers |= {n: m for n, m in sd1.unet.named_modules() if n.endswith(("proj_in", "proj_out"))}
    gradients = []
    try:
        for layer in layers.values():
            layer.weight.requires_grad_(True)
        for number, one in enumerate(two):
            generator = generator_of(0, "probe", number, 400)
            at = torch.tensor([torch.randint(400, 401, (), generator=generator)])
            noise = torch.randn(4, 8, 8, generator=generator)[None]
            noised = add_noise(one.latents, noise, sd1.alphas_cumprod, at)
            loss = (sd1.predict(noised, at, one.conditioning) - noise).square().mean()
            gradients.append(torch.autograd.grad(loss, [layer.weight for layer in layers.values()]))
    finally:
        for layer in layers.values():
            layer.weight.requires_grad_(False)
    products: dict[str, float] = dict.fromkeys(found.blocks, 0.0)
    for name, a, b in zip(layers, *gradients):
        products[block_of(name, "sd1")] += float((a * b).sum())
    whole = sum(products.values())
    assert found.observations[0].whole == pytest.approx(whole, rel=0.1)
    for block, share in found.means().items():
        assert share == pytest.approx(products[block] / whole, abs=0.04)


def test_difference_from_the_model_s_own_images(sd1, quick):
    ours = pictures(sd1, 4)
    same = probe(sd1, ours, ours)
    assert same.differs is None
    assert "cannot be told from reference" in same.moves.notices[0]
    before = state_of(sd1.unet)
    own = own_images(sd1, "a red thing", ours[0], 2, steps=2)
    assert_untouched(sd1.unet, before)
    assert own[0].latents.shape == ours[0].latents.shape
    assert own[0].captions == ("a red thing",)
    found = probe(sd1, ours, own, name="robots", reference_name="own")
    assert found.differs.name == "robots against own"
    assert found.moves.means() == pytest.approx(same.moves.means())
    weights = found.weights
    assert max(weights.values.values()) == 1
    assert all(value == 0 for block, value in weights.values.items() if block not in found.moves.blocks)


def test_pictures_that_cannot_be_probed_are_refused(sd1, quick):
    with pytest.raises(ValueError, match="1 picture: expected two or more"):
        probe(sd1, pictures(sd1, 1))
    still = [replace(one, weights=torch.zeros(1)) for one in pictures(sd1, 2)]
    with pytest.raises(ValueError, match="nothing in common"):
        probe(sd1, still)


def test_a_request_names_its_folders(tmp_path):
    data, others = tmp_path / "5_robot", tmp_path / "1_other"
    data.mkdir()
    others.mkdir()
    request = build_probe_request([data], references=[others], class_prompt=" a photo ", images=3.0)
    assert [(folder.path, folder.regularisation) for folder in request.dataset.folders] == [
        (str(data), False),
        (str(others), True),
    ]
    assert (request.class_prompt, request.images, request.convolutions) == ("a photo", 3, False)
    for images in (1, 65, 2.5, None):
        with pytest.raises(ValueError, match=f"pictures {images}: expected a whole number from 2 to 64"):
            build_probe_request([data], images=images)
    with pytest.raises(ValueError, match="no folder of pictures"):
        build_probe_request([])
    with pytest.raises(ValueError, match="nowhere: expected a folder of pictures"):
        build_probe_request([data], references=[tmp_path / "nowhere"])


def test_a_loss_scale_that_overflows_is_halved(sd1, quick, monkeypatch):
    half = replace(sd1, unet=copy.deepcopy(sd1.unet).half())
    expected = probe(half, pictures(sd1, 2)).moves.values
    scale = LossScale(enabled=True, scale=2.0**40)
    monkeypatch.setattr(probing, "LossScale", lambda enabled: scale)
    found = probe(half, pictures(sd1, 2)).moves.values
    assert 1 < scale.scale < 2.0**40
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=0.05, atol=0.005)


def test_small_gradients_in_fp16_are_not_lost(sd1, quick, monkeypatch):
    """Against fp32, under the loss of a picture of 1024 pixels, whose mean is over 64 times as many numbers as here.

    Below 16x16 latents the middle's group norms have two numbers, and gradients that no half precision tells from 0.
    """
    losses, gradient, found = Objective.losses, probing._GradientProjection.gradient, []
    monkeypatch.setattr(Objective, "losses", lambda *arguments: losses(*arguments) / 64)

    def noted(self, *arguments):
        found.append(gradient(self, *arguments))
        return found[-1]

    monkeypatch.setattr(probing._GradientProjection, "gradient", noted)
    half, generator = copy.deepcopy(sd1.unet).half(), torch.Generator().manual_seed(0)
    two = [batch(sd1, torch.randn(4, 16, 16, generator=generator)) for _ in range(2)]

    def gradients(unet) -> torch.Tensor:
        found.clear()
        probe(replace(sd1, unet=unet), two)
        return torch.cat([tensor.flatten() for each in found for tensor in each.values()]).double()

    expected = gradients(copy.deepcopy(half).float())

    def error_and_zeros() -> tuple[float, float]:
        ours = gradients(half)
        return float((ours - expected).norm() / expected.norm()), float((ours == 0).double().mean())

    error, zeros = error_and_zeros()
    assert error < 0.01
    assert zeros < 0.001
    monkeypatch.setattr(probing, "LossScale", lambda enabled: LossScale(enabled=False))
    error, zeros = error_and_zeros()
    assert error > 0.05, "the control"
    assert zeros > 0.05, "the control"
