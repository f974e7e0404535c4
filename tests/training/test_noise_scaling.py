"""Less of the network at high noise: T-LoRA's mask, the gradients by another route, and what a file says of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from lib_blocktrain.networks.adapters import LoRA
from lib_blocktrain.networks.cards import recommended_of
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.training.config import LossConfig, NetworkConfig, SampleConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.noise_scaling import curve_of, ranks_at, scale_at
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse


@pytest.mark.parametrize(("rank", "least", "power"), [(16, 0.5, 1.0), (8, 0.0, 2.0), (4, 1.0, 1.0), (1, 0.5, 0.5)])
def test_ranks_are_t_loras(rank, least, power):
    """Against LyCORIS' own mask, at every 37th timestep."""
    tlora = pytest.importorskip("lycoris.modules.tlora")
    config = NetworkConfig(noise_scaling="rank", noise_least=least, noise_power=power)
    timesteps = torch.arange(0, 1000, 37)
    found = ranks_at(timesteps, rank, config)
    fewest = max(1, round(least * rank))
    masks = [tlora.compute_timestep_mask(int(t), 1000, rank, fewest, power) for t in timesteps]
    assert found.tolist() == [int(mask.sum()) for mask in masks]
    assert found[0] == rank


@pytest.mark.parametrize("mode", ["rank", "scale"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_is_that_of_smaller_networks(train, config, model, mode, checkpointing):
    """The gradients of a batch: for each sample by itself those of the LoRA cut to its ranks, or at its strength."""
    network = replace(config.network, rank=4, noise_scaling=mode, noise_least=0.25, noise_power=1.5)
    network = replace(network, conv_rank=4, rank_dropout=1e-12 if checkpointing else 0.0)
    trainer = train(replace(config, steps=2, network=network, checkpointing=checkpointing))
    batch, noise = trainer.data.batch(2, trainer.processes), None
    for number in range(2, 40):  # two samples at different levels
        noise = trainer.step_losses.noise(batch, number)
        ranks = ranks_at(noise.timesteps, 4, network)
        if len(set(ranks.tolist())) == 2:
            break
    assert len(set(ranks.tolist())) == 2
    full = trainer.train_state.network
    parameters = trainer.train_state.parameters

    def alone(sample: int) -> list[torch.Tensor]:
        """The gradients of a sample with no code of the schedule: a network of so many ranks, or at that strength."""
        keep = int(ranks[sample])
        modules = {
            key: LoRA(key, module.down[:keep], module.up[:, :keep], alpha=module.effective_alpha * keep / module.rank)
            for key, module in full.modules.items()
        }
        share = ((1000 - int(noise.timesteps[sample])) / 1000) ** 1.5
        acts = replace(full, modules=modules) if mode == "rank" else full
        strength = 1.0 if mode == "rank" else 0.25 + 0.75 * share
        with applied({"unet": model.unet, **model.text_encoders}, acts, BlockWeights.uniform("sd1", 1.0), strength):
            trainer.step_losses.noise_scaling = None
            return torch.autograd.grad(trainer.losses(batch, noise)[sample], parameters)

    with model.trainable():
        expected = [sum(pair) for pair in zip(alone(0), alone(1))]
        trainer.apply()
        with trainer.hooks:
            found = torch.autograd.grad(trainer.losses(batch, noise).sum(), parameters)
    assert sum(float(g.abs().sum()) for g in expected) > 0
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def test_a_run_its_file_and_its_pictures(train, config, model, tmp_path):
    """A run goes on to the bit; pictures follow the scale at each timestep; the file recommends the curve."""
    network = replace(config.network, noise_scaling="scale", noise_least=0.25)
    config = replace(config, network=network, samples=SampleConfig(prompts=("a robot",), every=1), validate_every=1)
    config = replace(config, dataset=replace(config.dataset, validation_share=0.25))
    seen: dict[int, torch.Tensor] = {}
    latents, context = torch.ones(1, model.in_channels, 8, 8), model.encode_prompt("a robot")

    def draw(asked) -> Image.Image:
        with torch.no_grad():
            for timestep in (0, 500, 999):
                seen[timestep] = model.predict(latents, torch.tensor([timestep]), context)
        return Image.new("RGB", (8, 8))

    trainer = train(config, draw=draw)
    file = read_network(trainer.outcome.result)
    for timestep, found in seen.items():
        strength = 0.25 + 0.75 * (1000 - timestep) / 1000
        with applied({"unet": model.unet}, file, None, strength), torch.no_grad():
            torch.testing.assert_close(model.predict(latents, torch.tensor([timestep]), context), found)
    recommended = recommended_of(trainer.outcome.result)
    layers = parse(recommended.text, "sd1", layers=True).layers
    assert [layers.at(step, 21).weight("OUT09", "attn1") for step in (1, 11, 21)] == pytest.approx([0.25, 0.625, 1])
    assert "with bw=ALL,*=0.25@0,1@1" in file.metadata["modelspec.usage_hint"]
    record = json.loads(file.metadata["ss_blocktrain"])["run"]["network"]
    assert (record["noise_scaling"], record["noise_least"]) == ("scale", 0.25)
    plain = train(replace(config, network=replace(network, noise_scaling="none")), "plain", draw=draw)
    assert parse(recommended_of(plain.outcome.result).text, "sd1", layers=True).layers.constant
    assert not torch.equal(
        next(iter(read_network(plain.outcome.result).modules.values())).up, next(iter(file.modules.values())).up
    )


def test_preservation_sees_the_same_network(train, config):
    """What is preserved is what the network does at that noise: at the last timestep, with least 0, nothing."""
    loss = LossConfig(preservation=1.0, trigger="robot", class_word="cat")
    network = replace(config.network, noise_scaling="scale", noise_least=0.0)
    trainer = train(replace(config, loss=loss, network=network))
    batch = trainer.data.loader.of_class(trainer.data.batch(0, trainer.processes))
    noise = trainer.step_losses.noise(batch, 0)
    trainer.apply()
    with trainer.hooks, torch.no_grad():
        early = replace(noise, timesteps=torch.full_like(noise.timesteps, 1000 - 1))
        moved = {t: trainer.step_losses.preservation(batch, n).sum() for t, n in (("high", early), ("drawn", noise))}
    assert moved["high"] < 1e-3 * moved["drawn"]


def test_the_curve_of_a_picture():
    config = NetworkConfig(noise_scaling="scale", noise_least=0.4, noise_power=2.0)
    curve = curve_of(config, "sdxl")
    for place in (0.0, 0.25, 0.5, 0.75, 1.0):  # its points; between them it is straight
        found = curve.at(1 + int(20 * place), 21).weight("OUT01", "attn1")
        timestep = torch.tensor(1000 * (1 - place))
        assert math.isclose(found, float(scale_at(timestep, config)), abs_tol=1e-4)
    assert isinstance(curve_of(replace(config, noise_least=1.0), "sdxl"), BlockWeights)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm = 'loha': expected lora, for noise_scaling = rank"):
        NetworkConfig(algorithm="loha", noise_scaling="rank")
    with pytest.raises(ConfigError, match=r"noise_least = 1\.5: expected 0 to 1"):
        NetworkConfig(noise_least=1.5)
    with pytest.raises(ConfigError, match=r"noise_power = 0: expected more than 0"):
        NetworkConfig(noise_power=0)
