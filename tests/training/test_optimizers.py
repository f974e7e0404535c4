"""Optimizers: each has a learning rate of its own, and says what it cannot do with the one that is asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lib_blocktrain.networks.layers import weight_of
from lib_blocktrain.training.config import NetworkConfig, OptimizerConfig, RunConfig, ScheduleConfig, dumps
from lib_blocktrain.training.config_json import ConfigError, read
from lib_blocktrain.training.init import init_network
from lib_blocktrain.training.optimizer_table import TABLE, spec_of
from lib_blocktrain.training.optimizers import check_learning_rates, learning_rate_notices, parameter_groups
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.train_state import TrainState
from tests.tiny_models import diffusers_sdxl_unet, diffusers_unet
from tests.training.test_layouts import TwoEncoders

NETWORK = NetworkConfig(weights="OUT09=1,OUT10=0.5", rank=2)
RUN = {"name": "a", "dataset": {"folders": [{"path": "."}]}}


def checked(optimizer: OptimizerConfig) -> None:
    check_learning_rates(optimizer, NETWORK, plan_of(diffusers_unet(), "sd1", NETWORK))


@pytest.mark.parametrize("name", TABLE)
def test_every_optimizer_has_a_rate_that_it_takes(name):
    """A run.json that names an optimizer and no rate gets the optimizer's own; it stays open in the file."""
    config = read(RunConfig, {**RUN, "optimizer": {"name": name}})
    assert config.optimizer.rate == TABLE[name].rate
    checked(config.optimizer)
    assert json.loads(dumps(config))["optimizer"]["lr"] is None
    assert replace(config.optimizer, name="Prodigy").rate == 1.0


@pytest.mark.parametrize(
    "name", ["Prodigy", "DAdaptAdam", "dadaptlion", "prodigyopt.Prodigy", "prodigyplus.ProdigyPlusScheduleFree"]
)
def test_a_rate_at_which_nothing_is_learnt_is_refused(name):
    assert OptimizerConfig(name).rate == 1.0
    with pytest.raises(ConfigError, match=rf"lr = 0\.0001 with {name}.*expected about 1, at least 0\.1, or no lr"):
        checked(OptimizerConfig(name, lr=1e-4))
    checked(OptimizerConfig(name, lr=0.5))
    with pytest.raises(ConfigError, match="estimates one step size"):
        check_learning_rates(
            OptimizerConfig(name), replace(NETWORK, weight_mode="lr"), plan_of(diffusers_unet(), "sd1", NETWORK)
        )


def test_adafactor_is_transformers():
    """As in sd-scripts: relative_step unless it is switched off, and then the rate counts."""
    assert spec_of("Adafactor") == spec_of("transformers.optimization.Adafactor")
    relative, absolute = OptimizerConfig("Adafactor"), OptimizerConfig("Adafactor", 1e-3)
    absolute = replace(absolute, arguments={"relative_step": False, "scale_parameter": False, "warmup_init": False})
    by_rate = replace(NETWORK, weight_mode="lr")
    plan = plan_of(diffusers_unet(), "sd1", by_rate)
    check_learning_rates(absolute, by_rate, plan)
    with pytest.raises(ConfigError, match="with relative_step it ignores the learning rate"):
        check_learning_rates(relative, by_rate, plan)
    changes = {}
    for name, optimizer in (("relative", relative), ("absolute", absolute), ("faster", replace(absolute, lr=2e-3))):
        run = replace(read(RunConfig, RUN), network=NETWORK, optimizer=optimizer)
        state = TrainState(plan_of(diffusers_unet(), "sd1", NETWORK), run, torch.float32)
        before = [parameter.detach().clone() for parameter in state.parameters]
        state.begin_step(1.0)
        for gradient in state.gradients():
            gradient.fill_(1.0)
        state.optimize(0)
        changes[name] = sum(float((p.detach() - b).abs().sum()) for p, b in zip(state.parameters, before))
    assert changes["relative"] > 0
    assert changes["faster"] == pytest.approx(2 * changes["absolute"], rel=1e-3)


def test_what_adafactor_ignores_is_said():
    constant = ScheduleConfig()
    assert learning_rate_notices(OptimizerConfig("Adafactor"), constant) == ()
    assert learning_rate_notices(OptimizerConfig("AdamW", lr=1e-3), ScheduleConfig("cosine")) == ()
    asked = OptimizerConfig("Adafactor", lr=1e-3)
    [notice] = learning_rate_notices(asked, ScheduleConfig("cosine", warmup=5))
    assert "optimizer.lr = 0.001, the schedule cosine, warmup 5: ignored" in notice
    assert learning_rate_notices(replace(asked, arguments={"relative_step": False}), constant) == ()


def test_a_run_and_an_estimate_say_what_is_ignored(train, config):
    from lib_blocktrain.training.estimate import UNetSize, estimate

    optimizer = OptimizerConfig("Adafactor", lr=1e-3)
    notices: list[str] = []
    train(replace(config, optimizer=optimizer, steps=1), report=lambda row: notices.append(row.get("notice", "")))
    assert any("optimizer.lr = 0.001: ignored" in notice for notice in notices)
    found = estimate(replace(config, optimizer=optimizer), UNetSize("sd1", 64, (64,) * 4, 64, (10**6, 0, 0), 4))
    assert any("optimizer.lr = 0.001: ignored" in notice for notice in found.notices)


def test_each_text_encoder_has_its_rate():
    encoders = {}
    for name in ("te1", "te2"):
        encoders[name] = torch.nn.Module()
        encoders[name].text_model = torch.nn.Module()
        layer = torch.nn.Module()
        layer.mlp = torch.nn.Module()
        layer.mlp.fc1 = torch.nn.Linear(4, 4)
        encoders[name].text_model.encoder = torch.nn.Module()
        encoders[name].text_model.encoder.layers = torch.nn.ModuleList([layer])
    network = NetworkConfig(weights="BASE=0.5,OUT01=1", rank=2, text_encoder=True, weight_mode="lr")
    plan = plan_of({"unet": diffusers_sdxl_unet(), **encoders}, "sdxl", network)
    assert sum(module.block == "BASE" for module in plan.modules) == 2
    for rates, expected in (
        ([1e-5, 4e-5], {"te1": 5e-6, "te2": 2e-5}),
        (1e-5, {"te1": 5e-6, "te2": 5e-6}),
        (None, {"te1": 1e-4, "te2": 1e-4}),
    ):
        optimizer = read(RunConfig, {**RUN, "optimizer": {"lr": 2e-4, "text_encoder_lr": rates}}).optimizer
        check_learning_rates(optimizer, network, plan)
        for module in plan.modules:
            wanted = expected.get(module.key.split("_")[1], 2e-4)
            alone = replace(plan, modules=(module,))
            groups = parameter_groups(init_network(alone, network, "x", 0), alone, optimizer)
            assert [group["lr"] for group in groups] == [pytest.approx(wanted)]
    two = OptimizerConfig(text_encoder_lr=(1e-5, 2e-5))
    with pytest.raises(ConfigError, match=r"text_encoder_lr = \[1e-05, 2e-05\]: expected one number: sd1 has one"):
        checked(two)
    for wrong, said in (
        ([1e-5, 0], "more than 0, or two"),
        ([1e-5] * 3, "more than 0, or two"),
        ("x", "a finite number"),
    ):
        with pytest.raises(ConfigError, match=f"text_encoder_lr = .*expected {said}"):
            read(RunConfig, {**RUN, "optimizer": {"text_encoder_lr": wrong}})


def test_a_block_with_an_alpha_of_its_own_keeps_its_delta_when_its_weight_changes():
    """The alpha stays there, and what was learnt was divided all the same."""
    config = RunConfig("a", read(RunConfig, RUN).dataset, replace(NETWORK, block_alphas={"OUT09": 4.0}))
    state = TrainState(plan_of(diffusers_unet(), "sd1", config.network), config, torch.float32)
    for parameter in state.parameters:
        parameter.detach().fill_(0.1)
    after = plan_of(diffusers_unet(), "sd1", replace(config.network, weights="OUT09=0.25,OUT10=1"))
    layers = {planned.key: weight_of(planned.layer).detach() for planned in after.modules}

    def deltas():
        return {key: module.delta_weight(layers[key]) for key, module in state.network.modules.items()}

    before = deltas()
    state.change_weights(after)
    now = deltas()
    assert all(torch.allclose(now[key], before[key]) for key in before)


def test_the_second_weights_of_a_schedule_free_optimizer_follow(monkeypatch):
    """z of AdamWScheduleFree: left as it was, the next average mixed it with divided weights."""
    config = read(RunConfig, {**RUN, "network": {"weights": NETWORK.weights, "rank": 2}})
    state = TrainState(plan_of(diffusers_unet(), "sd1", config.network), config, torch.float32)
    for parameter in state.parameters:
        parameter.detach().fill_(0.1)
        state.optimizer.state[parameter]["z"] = parameter.detach().clone()
    state.remember_good(at_once=True)
    state.change_weights(plan_of(diffusers_unet(), "sd1", replace(config.network, weights="OUT09=0.25,OUT10=1")))
    values = {float(parameter.detach().flatten()[0]) for parameter in state.parameters}
    assert len(values) > 1
    for parameter in state.parameters:
        assert torch.equal(state.optimizer.state[parameter]["z"], parameter)
        state.optimizer.state[parameter]["z"].fill_(torch.nan)
        parameter.detach().fill_(torch.nan)
    state.back_to_good()
    for parameter in state.parameters:
        assert parameter.isfinite().all()
        assert torch.equal(state.optimizer.state[parameter]["z"], parameter)


def test_a_state_with_other_rates_is_refused_by_name():
    """Two rates of the text encoders where the state has one: it was "zip() argument 2 is shorter"."""
    network = NetworkConfig(weights="BASE=1,OUT00=1", rank=2, text_encoder=True)
    base = RunConfig("a", read(RunConfig, RUN).dataset, network)
    one, two = (replace(base, optimizer=OptimizerConfig(text_encoder_lr=rates)) for rates in ((5e-5,), (5e-5, 1e-5)))
    model = TwoEncoders()
    plan = plan_of({"unet": model.unet, **model.text_encoders}, "sdxl", network)
    state = TrainState(plan, one, torch.float32).state()
    with pytest.raises(ValueError, match=r"has 2 groups.*gives 3: expected as many.*optimizer\.text_encoder_lr"):
        TrainState(plan, two, torch.float32).load_state(state)
