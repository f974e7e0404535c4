"""One step: gradients against PEFT's on diffusers, the order of the loss, noise that belongs to its sample."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from lib_blocktrain.model.diffusion import scaled_linear_alphas_cumprod
from lib_blocktrain.training.batches import Batch, joined
from lib_blocktrain.training.config import LossConfig
from lib_blocktrain.training.config_json import read
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.rng import generator_of
from lib_blocktrain.training.step import Noise, Objective, draw_noise, masked, timestep_distribution
from lib_blocktrain.training.train_state import TrainState
from tests.tiny_models import diffusers_unet

ALPHAS = scaled_linear_alphas_cumprod()


def batch_of(latents, mask=None, weights=None) -> Batch:
    n = len(latents)
    weights = torch.ones(n) if weights is None else weights
    return Batch(latents, {}, ("",) * n, torch.zeros(n, 6), mask, weights, tuple(range(n)), n)


def test_gradients_equal_pefts(train, config, model):
    """The same network, noise and timesteps; the LoRA inside the model by PEFT, the loss by hand."""
    peft = pytest.importorskip("peft")
    import copy

    from lib_blocktrain.blocks import block_of
    from lib_blocktrain.networks.keys import key_of

    trainer = train(replace(config, steps=1))
    batch = trainer.data.batch(1, trainer.processes)
    noise = trainer.step_losses.noise(batch, 1)
    state = {
        key: (module.down.detach(), module.up.detach(), module.scale)
        for key, module in trainer.train_state.network.modules.items()
    }

    with model.trainable():
        trainer.apply()
        with trainer.hooks:
            trainer.step = 1
            trainer.train_state.begin_step(1.0)
            trainer.forward_backward()
    ours = {
        key: (module.down.grad.clone(), module.up.grad.clone())
        for key, module in trainer.train_state.network.modules.items()
    }

    unet = copy.deepcopy(model.unet)
    names = [
        name
        for name, layer in unet.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and key_of(name, "sd1") in state
    ]
    alphas = {name: state[key_of(name, "sd1")][2] * 2 for name in names}
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=names, lora_alpha=2, alpha_pattern=alphas))
    layers = {key_of(name, "sd1"): unet.get_submodule(name) for name in names}
    with torch.no_grad():
        for key, (down, up, scale) in state.items():
            layer = layers[key]
            assert layer.scaling["default"] == pytest.approx(scale)
            layer.lora_A["default"].weight.copy_(down)
            layer.lora_B["default"].weight.copy_(up)
    a = ALPHAS[noise.timesteps].view(-1, 1, 1, 1)
    noised = a.sqrt() * batch.latents + (1 - a).sqrt() * noise.noise
    predicted = unet(noised, noise.timesteps, batch.conditioning["context"]).sample
    (predicted - noise.noise).square().mean().backward()
    for key, (down, up) in ours.items():
        layer = layers[key]
        torch.testing.assert_close(down, layer.lora_A["default"].weight.grad, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(up, layer.lora_B["default"].weight.grad, rtol=1e-3, atol=1e-7)
        assert up.abs().sum() > 0
    assert {block_of(key, "sd1") for key in ours} == {"OUT09", "OUT10", "OUT11"}


def test_noise_belongs_to_its_sample():
    """One batch of four is two batches of two, whatever the options."""
    config = LossConfig(noise_offset=0.1, multires_iterations=3, input_perturbation=0.1)
    shape = (4, 8, 8)
    whole = draw_noise(shape, config, [generator_of(0, "noise", 5, place) for place in range(4)])
    half = draw_noise(shape, config, [generator_of(0, "noise", 5, place) for place in (1, 3)])
    assert torch.equal(half.noise, whole.noise[1::2])
    assert torch.equal(half.added, whole.added[1::2])
    assert torch.equal(half.timesteps, whole.timesteps[1::2])
    assert not torch.equal(whole.noise[0], whole.noise[1])
    other = draw_noise(shape, config, [generator_of(0, "noise", 6, 0)])
    assert not torch.equal(other.noise[0], whole.noise[0])


def test_timesteps_stay_in_their_range():
    config = LossConfig(min_timestep=200, max_timestep=203)
    noise = draw_noise((4, 2, 2), config, [generator_of(0, i) for i in range(50)])
    assert set(noise.timesteps.tolist()) == {200, 201, 202}


def test_the_order_of_the_loss():
    """Elements, mask, mean, the picture's weight, SNR weight: by hand for two samples."""
    generator = torch.Generator().manual_seed(0)
    latents, drawn, predicted = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :4], mask[1] = 1, 0.5
    timesteps = torch.tensor([100, 800])
    batch = batch_of(latents, mask, torch.tensor([1.0, 0.3]))
    found = Objective(LossConfig(min_snr_gamma=5.0, normalised_mask=True), ALPHAS, "epsilon").losses(
        predicted, batch, Noise(drawn, drawn, timesteps)
    )
    snr = (ALPHAS / (1 - ALPHAS))[timesteps]
    first = (predicted - drawn)[0, :, :4].square().mean() * min(snr[0], 5) / snr[0]
    second = (predicted - drawn)[1].square().mean() * 0.3 * min(snr[1], 5) / snr[1]
    torch.testing.assert_close(found, torch.stack([first, second]))


def test_a_masked_loss_is_sd_scripts():
    """Its rule: the elements' loss times the mask, and the mean over all elements - unless a run says otherwise."""
    generator = torch.Generator().manual_seed(0)
    latents, drawn = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :2] = 1
    gradients = {}
    for normalised in (None, False, True):
        config = read(LossConfig, {} if normalised is None else {"normalised_mask": normalised})
        predicted = torch.zeros(1, 4, 8, 8, requires_grad=True)
        noise = Noise(drawn, drawn, torch.tensor([100]))
        Objective(config, ALPHAS, "epsilon").losses(
            predicted, batch_of(latents, mask, torch.ones(1)), noise
        ).sum().backward()
        gradients[normalised] = predicted.grad
    theirs = -2 * drawn * mask / drawn.numel()
    torch.testing.assert_close(gradients[None], theirs)
    torch.testing.assert_close(gradients[False], theirs)
    torch.testing.assert_close(gradients[True], 4 * theirs)


def test_masks():
    loss, mask = torch.ones(1, 4, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., :2] = 1
    assert masked(loss, mask, normalised=False).mean() == 0.25
    assert masked(loss, mask, normalised=True).mean() == 1
    assert masked(loss, torch.zeros_like(mask), normalised=True).sum() == 0


def test_zero_terminal_snr_is_for_v():
    with pytest.raises(ValueError, match="expected v prediction"):
        Objective(LossConfig(zero_terminal_snr=True), ALPHAS, "epsilon")
    objective = Objective(LossConfig(zero_terminal_snr=True), ALPHAS, "v")
    latents, noise = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    at_the_end = Noise(noise, noise, torch.tensor([999]))
    assert torch.equal(objective.noised(latents, at_the_end), noise)


def test_contexts_of_different_lengths():
    """A long caption beside a short one: attention to the short one, repeated, is what it was."""
    short, long = torch.randn(1, 77, 8), torch.randn(1, 154, 8)
    both = joined([{"context": short}, {"context": long}])["context"]
    assert both.shape == (2, 154, 8)
    query = torch.randn(1, 5, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(attend(query, both[:1], both[:1]), attend(query, short, short), rtol=1e-4, atol=1e-5)


def steps_of(train_state, numbers) -> list[torch.Tensor]:
    """Make steps with gradients drawn from their numbers; return the weights after them."""
    for number in numbers:
        train_state.begin_step(1.0)
        generator = torch.Generator().manual_seed(number)
        for parameter in train_state.parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        train_state.optimize(0)
    return [parameter.detach().clone() for parameter in train_state.parameters]


def test_a_fused_optimizer_and_a_plain_one_go_the_same_way(config):
    """One operation for all tensors, or one tensor after the other; a state of the one goes on in the other."""
    plan, ends = plan_of(diffusers_unet(), "sd1", config.network), {}
    plainly = replace(config, optimizer=replace(config.optimizer, arguments={"fused": False}))
    for first, second in ((plainly, config), (config, plainly)):
        train_state, resumed = (TrainState(plan, run, torch.float32) for run in (first, second))
        implementations = [group["fused"] for group in resumed.optimizer.param_groups]
        steps_of(train_state, range(3))
        resumed.load_state(copy.deepcopy(train_state.state()))
        assert [group["fused"] for group in resumed.optimizer.param_groups] == implementations
        ends[first is plainly] = steps_of(train_state, range(3, 6)), steps_of(resumed, range(3, 6))
    plain, *others = [*ends[True], *ends[False]]
    assert all(weights.abs().max() > 0 for weights in plain)
    for found in others:
        for ours, theirs in zip(found, plain):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


# What sd-scripts (48d368f) makes of the losses 1, 2, 0.5 and 0.25 at the timesteps 0, 250, 600 and 999.
SD_SCRIPTS_LOSSES = [
    (
        "epsilon",
        {"v_pred_like_loss": 0.5},
        [1.500499963760376, 3.4841361045837402, 2.0548949241638184, 27.073469161987305],
    ),
    (
        "epsilon",
        {"v_pred_like_loss": 0.3, "min_snr_gamma": 5.0},
        [0.005531118717044592, 2.89048171043396, 1.4329369068145752, 16.34408187866211],
    ),
    (
        "v",
        {"scale_v_pred_loss_like_noise_pred": True},
        [0.9990010261535645, 1.3475852012634277, 0.0803912878036499, 0.0011650245869532228],
    ),
    (
        "v",
        {"scale_v_pred_loss_like_noise_pred": True, "debiased": True},
        [0.0009980029426515102, 0.43959227204322815, 0.06746577471494675, 0.0011595954420045018],
    ),
]


@pytest.mark.parametrize(("prediction", "options", "expected"), SD_SCRIPTS_LOSSES, ids=lambda value: str(value)[:40])
def test_weights_of_losses_are_sd_scripts(prediction, options, expected):
    timesteps, latents = torch.tensor([0, 250, 600, 999]), torch.zeros(4, 4, 2, 2)
    noise = Noise(latents, latents, timesteps)
    plain = torch.tensor([1.0, 2.0, 0.5, 0.25])
    predicted = plain.sqrt().view(-1, 1, 1, 1).expand_as(latents)  # the target is 0
    found = Objective(LossConfig(**options), ALPHAS, prediction).losses(predicted, batch_of(latents), noise)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-5, atol=0)
    absolute = Objective(LossConfig(kind="l1"), ALPHAS, prediction).losses(predicted, batch_of(latents), noise)
    torch.testing.assert_close(absolute, plain.sqrt())


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_an_option_of_the_other_prediction_is_refused(prediction):
    options = {"epsilon": {"scale_v_pred_loss_like_noise_pred": True}, "v": {"v_pred_like_loss": 1.0}}[prediction]
    with pytest.raises(ValueError, match=f"{next(iter(options))} with {prediction} prediction"):
        Objective(LossConfig(**options), ALPHAS, prediction)


def test_distributions_of_timesteps():
    """By another route: draws of the normal distribution itself, brought to the nearest timestep."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(200_000, generator=generator, dtype=torch.float64)
    log_sigma = ((1 - ALPHAS.double()) / ALPHAS.double()).log() / 2

    def shares(config: LossConfig) -> torch.Tensor:
        return timestep_distribution(config, ALPHAS)[:-1:50]

    def counted(timesteps: torch.Tensor, count: int) -> torch.Tensor:
        return torch.bincount(timesteps, minlength=count).cumsum(0)[:-1:50] / len(timesteps)

    part = (torch.sigmoid(normal * 0.7 + 0.5) * 800).long()
    config = LossConfig(
        timesteps="logit-normal", timestep_mean=0.5, timestep_std=0.7, min_timestep=100, max_timestep=900
    )
    torch.testing.assert_close(shares(config).float(), counted(part, 800), rtol=0, atol=0.004)

    wanted = normal * 1.2 - 1.2
    between = (log_sigma[1:] + log_sigma[:-1]) / 2
    wanted = wanted[(wanted > 2 * log_sigma[0] - between[0]) & (wanted < 2 * log_sigma[-1] - between[-1])]
    nearest = torch.searchsorted(between, wanted)
    torch.testing.assert_close(
        shares(LossConfig(timesteps="sigma")).float(), counted(nearest, 1000), rtol=0, atol=0.004
    )

    drawn = draw_noise(
        (1, 1, 1), config, [generator_of(0, i) for i in range(2000)], timestep_distribution(config, ALPHAS)
    ).timesteps
    assert 100 <= drawn.min() < drawn.max() < 900
    assert abs(float((drawn < 500).double().mean()) - float(shares_below(part, 400))) < 0.04
    with pytest.raises(ValueError, match="no timestep from 0 to 1 is ever drawn"):
        timestep_distribution(LossConfig(timesteps="sigma", timestep_mean=1e9, max_timestep=1), ALPHAS)


def shares_below(timesteps: torch.Tensor, end: int) -> torch.Tensor:
    return (timesteps < end).double().mean()
