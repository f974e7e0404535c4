"""Which modules a set of block weights makes, with what rank, alpha and learning rate."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from lib_blocktrain.blocks import architecture
from lib_blocktrain.training import state_file
from lib_blocktrain.training.config import NetworkConfig, OptimizerConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.init import factors_of, init_network, trained_tensors, training_network
from lib_blocktrain.training.norms import block_norms, cap_norms, gradient_norms, shares
from lib_blocktrain.training.optimizer_table import TABLE, spec_of
from lib_blocktrain.training.optimizers import parameter_groups
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.precision import LossScale, dtype_of
from lib_blocktrain.training.train_state import TrainState
from tests.tiny_models import diffusers_sdxl_unet, diffusers_unet, ldm_unet, randomised
from tests.training.bare import real_unet


def counts(unet, arch="sd1", **config):
    return Counter(module.block for module in plan_of(unet, arch, NetworkConfig(**config)).modules)


@pytest.mark.parametrize("arch", ["sd1", "sd2", "sdxl"])
def test_the_modules_are_sd_scripts(arch):
    """A plain LoRA and one with convolutions, block by block, on the real configuration (facts, section 1)."""
    pytest.importorskip("diffusers")
    unet = real_unet(arch)
    blocks = architecture(arch).blocks
    assert counts(unet, arch) == {b.id: b.lora_modules for b in blocks if b.lora_modules}
    assert counts(unet, arch, conv_rank=4) == {b.id: b.locon_modules for b in blocks if b.locon_modules}


@pytest.mark.parametrize("make", [diffusers_unet, lambda: randomised(ldm_unet())], ids=["diffusers", "ldm"])
def test_both_layouts_give_the_same_keys(make):
    plan = plan_of(make(), "sd1", NetworkConfig(conv_rank=4))
    assert len(plan.modules) == 277  # of the real ones 278: IN07 of this one does not widen
    assert sorted(m.key for m in plan.modules) == sorted(
        m.key for m in plan_of(diffusers_unet(), "sd1", NetworkConfig(conv_rank=4)).modules
    )


def by_block(**config):
    weights = "OUT09=1,OUT10=0.5,OUT11=0.01"
    modules = plan_of(diffusers_unet(), "sd1", NetworkConfig(**{"weights": weights, "rank": 16, **config})).modules
    return {m.block: (m.rank, m.alpha, m.lr) for m in modules}


def test_meanings():
    assert by_block() == {"OUT09": (16, 16, 1), "OUT10": (16, 8, 1), "OUT11": (16, 0.16, 1)}
    assert by_block(alpha=4) == {"OUT09": (16, 4, 1), "OUT10": (16, 2, 1), "OUT11": (16, 0.04, 1)}
    assert by_block(weight_mode="lr") == {"OUT09": (16, 16, 1), "OUT10": (16, 16, 0.5), "OUT11": (16, 16, 0.01)}
    assert by_block(weight_mode="rank") == {"OUT09": (16, 16, 1), "OUT10": (8, 8, 1), "OUT11": (1, 0.16, 1)}
    assert by_block(weight_mode="max_norm") == {"OUT09": (16, 16, 1), "OUT10": (16, 16, 1), "OUT11": (16, 16, 1)}


def test_a_blocks_own_numbers():
    found = by_block(block_ranks={"OUT10": 3, "OUT11": 0}, block_alphas={"OUT10": 5})
    assert found == {"OUT09": (16, 16, 1), "OUT10": (3, 5, 1)}
    plan = plan_of(
        diffusers_unet(),
        "sd1",
        NetworkConfig(weights="OUT10=1", conv_rank=4, conv_alpha=1, conv_block_ranks={"OUT10": 2}),
    )
    convolutions = [m for m in plan.modules if m.element == "conv" and hasattr(m.layer, "kernel_size")]
    kernels = {m.layer.kernel_size == (3, 3): (m.rank, m.alpha) for m in convolutions}
    assert kernels == {True: (2, 1), False: (16, 16)}


def test_elements():
    plan = plan_of(
        diffusers_unet(), "sd1",
        NetworkConfig(weights="OUT09=1,OUT10=1", elements={"ff": 0, "attn1": 0.5, "OUT10.attn1": 1, "proj": 0}),
    )  # fmt: skip
    assert Counter((m.block, m.element, m.weight) for m in plan.modules) == {
        ("OUT09", "attn1", 0.5): 4, ("OUT09", "attn2", 1): 4, ("OUT10", "attn1", 1): 4, ("OUT10", "attn2", 1): 4
    }  # fmt: skip


def test_what_is_wrong_is_said():
    unet = diffusers_unet()
    for config, message in (
        ({"weights": "OUT09=3"}, "OUT09 = 3: expected 0 to 2"),
        ({"weights": "OUT09=-1"}, "OUT09 = -1: expected 0 to 2"),
        ({"elements": {"attn3": 1}}, "'attn3': expected one of attn1"),
        ({"block_ranks": {"OUT99": 1}}, "unknown block 'OUT99'"),
        ({"weights": "NONE"}, "nothing to train .* all blocks are 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_of(unet, "sd1", NetworkConfig(**config))
    plan = plan_of(unet, "sd1", NetworkConfig(weights="OUT00=1,OUT09=1"))
    assert any(notice.startswith("OUT00: a weight, but convolutions only") for notice in plan.notices)
    assert not any("BASE" in notice for notice in plan.notices)


def test_kohyas_arguments_are_weights():
    down, up = "down_lr_weight=0,0,0,0,0,0,0,0,0,0,0,0", "up_lr_weight=0,0,0,0,0,0,0,0,0,1,0.5,0"
    text = f'network_args="{down}" "mid_lr_weight=0" "{up}"'
    assert counts(diffusers_unet(), weights=text, weight_mode="lr") == {"OUT09": 12, "OUT10": 12}


def test_the_first_block_is_that_of_the_forward_pass():
    assert plan_of(diffusers_unet(), "sd1", NetworkConfig(weights="M00=1,IN08=1,OUT11=1")).first_block == "IN08"


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "dora"])
def test_a_fresh_network_does_nothing(algorithm):
    """And is the same in every scope; its initial values are the papers'."""
    unet = diffusers_unet()
    weight_mode = "lr" if algorithm == "dora" else "scale"
    config = NetworkConfig(algorithm, rank=4, weights="OUT09=1,OUT10=1", conv_rank=2, weight_mode=weight_mode)
    plan = plan_of(unet, "sd1", config)
    network = init_network(plan, config, "x", seed=0)
    for module in plan.modules:
        delta = network.modules[module.key].delta_weight(module.layer.weight)
        assert delta.abs().max() < 1e-6
        assert any(t.abs().sum() > 0 for t in trained_tensors(network.modules[module.key]).values())
    smaller = replace(config, weights="OUT10=1")
    other = init_network(plan_of(unet, "sd1", smaller), smaller, "x", seed=0)
    for key, module in other.modules.items():
        for name, tensor in trained_tensors(module).items():
            assert torch.equal(tensor, trained_tensors(network.modules[key])[name])
    another = init_network(plan, config, "x", seed=1).modules[plan.modules[0].key]
    first = network.modules[plan.modules[0].key]
    assert any(not torch.equal(t, trained_tensors(first)[name]) for name, t in trained_tensors(another).items())


def test_lora_begins_as_in_sd_scripts():
    plan = plan_of(diffusers_sdxl_unet(), "sdxl", NetworkConfig(weights="OUT01=1", rank=8))
    network = init_network(plan, NetworkConfig(rank=8), "x", 0)
    down = torch.cat([module.down.flatten() * module.down[0].numel() ** 0.5 for module in network.modules.values()])
    assert down.abs().max() <= 1  # kaiming_uniform with a = sqrt 5: U(-1, 1) / sqrt(fan in)
    assert down.std().item() == pytest.approx(3**-0.5, rel=0.01)


def test_lokrs_factors():
    assert factors_of(640, -1) == (20, 32)
    assert factors_of(640, 8) == (8, 80)
    assert factors_of(7, -1) == (1, 7)
    assert factors_of(320, 300) == (16, 20)


def test_a_whole_lokr_has_its_weight_in_the_file():
    """Readers ignore its alpha: w_b is a factor in training, and inside lokr_w1 in the file."""
    config = NetworkConfig("lokr", rank=1000, weights="OUT09=0.5,OUT10=1")
    plan = plan_of(diffusers_unet(), "sd1", config)
    network = init_network(plan, config, "x", 0)
    acting = training_network(network, plan, config)
    for planned in plan.modules:
        whole, decorated_module = network.modules[planned.key], acting.modules[planned.key]
        with torch.no_grad():
            whole.w2.normal_()
        expected = planned.weight * whole.delta_weight(planned.layer.weight)
        torch.testing.assert_close(decorated_module.delta_weight(planned.layer.weight), expected)
        from_file = type(whole).from_tensors(planned.key, decorated_module.to_tensors())
        torch.testing.assert_close(from_file.delta_weight(planned.layer.weight), expected)


def tensors_of(network, planned):
    return trained_tensors(network.modules[planned.key]).values()


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr"])
def test_norms_and_their_cap(algorithm):
    """Norms of whole delta weights, computed a second way; the cap shrinks what is above it and no other."""
    config = NetworkConfig(
        algorithm, rank=2, weights="OUT09=0.5,OUT10=1,OUT11=1", weight_mode="max_norm", conv_rank=2, cap=2.0
    )
    plan = plan_of(diffusers_unet(), "sd1", config)
    network = init_network(plan, config, "x", 0)
    with torch.no_grad():
        for module in network.modules.values():
            for tensor in trained_tensors(module).values():
                tensor.normal_(generator=torch.Generator().manual_seed(0))
                tensor.mul_(1e-4 if network.block_of(module.key) == "OUT11" else 1)

    def norms():
        found = Counter()
        for planned in plan.modules:
            delta = network.modules[planned.key].delta_weight(planned.layer.weight)
            found[planned.block] += delta.detach().square().sum().item()
        return {block: total**0.5 for block, total in found.items()}

    before = norms()
    assert block_norms(network, plan) == pytest.approx(before, rel=1e-4)
    whole = sum(norm**2 for norm in before.values())
    assert shares(before) == pytest.approx({block: norm**2 / whole for block, norm in before.items()})
    loss = sum(
        tensor.square().sum() for module in network.modules.values() for tensor in trained_tensors(module).values()
    )
    loss.backward()  # whose gradient is twice the tensor
    flat = {
        block: torch.cat([t.flatten() for p in plan.modules if p.block == block for t in tensors_of(network, p)])
        for block in before
    }
    expected = {block: 2 * float(tensor.detach().norm()) for block, tensor in flat.items()}
    assert gradient_norms(network, plan) == pytest.approx(expected, rel=1e-4)
    cap_norms(network, plan)
    assert norms() == pytest.approx({"OUT09": 1.0, "OUT10": 2.0, "OUT11": before["OUT11"]}, rel=1e-4)


# Optimizers.


def test_one_group_a_block_and_rate():
    config = NetworkConfig(weights="OUT09=1,OUT10=0.5", weight_mode="lr", rank=2)
    plan = plan_of(diffusers_unet(), "sd1", config)
    network = init_network(plan, config, "x", 0)
    groups = parameter_groups(network, plan, OptimizerConfig(lr=1e-3, lora_plus=4))
    assert {(g["block"], g["base_lr"], len(g["params"])) for g in groups} == {
        ("OUT09", 1e-3, 12), ("OUT09", 4e-3, 12), ("OUT10", 5e-4, 12), ("OUT10", 2e-3, 12)
    }  # fmt: skip


def test_a_learning_rate_acts_on_its_block(config):
    """With SGD a block's step is its rate times its gradient."""
    network = replace(config.network, weight_mode="lr")
    run = replace(config, network=network, optimizer=OptimizerConfig("SGD", lr=0.1, clip=0))
    train_state = TrainState(plan_of(diffusers_unet(), "sd1", network), run, torch.float32)
    before = [p.detach().clone() for p in train_state.parameters]
    train_state.begin_step(0.5)
    for gradient in train_state.gradients():
        gradient.fill_(1.0)
    train_state.optimize(0)
    changes = {}
    for group in train_state.optimizer.param_groups:
        for parameter in group["params"]:
            index = next(i for i, p in enumerate(train_state.parameters) if p is parameter)
            changes[group["block"]] = (before[index] - parameter.detach()).mean().item()
    assert changes == pytest.approx({"OUT09": 0.05, "OUT10": 0.025, "OUT11": 0.05}, rel=1e-4)


def test_the_average_warms_up(config):
    """With SGD and gradients of 1 a weight is -lr * steps: the average by hand, of 3 steps and of 200."""
    optimizer = OptimizerConfig("SGD", lr=0.1, clip=0, ema=0.9, ema_warmup=True)
    train_state = TrainState(
        plan_of(diffusers_unet(), "sd1", config.network), replace(config, optimizer=optimizer), torch.float32
    )
    place = next(i for i, p in enumerate(train_state.parameters) if not p.detach().any())  # an up, at first 0
    expected, weight = 0.0, 0.0
    for step in range(120):
        train_state.begin_step(1.0)
        for gradient in train_state.gradients():
            gradient.fill_(1.0)
        train_state.optimize(step)
        weight -= 0.1
        decay = min(0.9, (1 + step) / (10 + step))  # 0.1 at the first step, 0.9 from step 80 on
        expected = decay * expected + (1 - decay) * weight
        if step in (0, 2, 119):
            assert float(train_state.average[place].mean()) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ConfigError, match="ema_warmup = True: expected false without ema"):
        OptimizerConfig(ema_warmup=True)


@pytest.mark.parametrize(
    "name", [name for name, spec in TABLE.items() if hasattr(torch.optim, spec.path.rpartition(".")[2])]
)
def test_torchs_optimizers_learn_and_resume(config, name, tmp_path):
    """Each makes a step, and the state in its file goes on to the same bits, with values of the same types."""
    plan = plan_of(diffusers_unet(), "sd1", config.network)
    run = replace(config, optimizer=OptimizerConfig(name, lr=1e-2))

    def step(train_state, number):
        train_state.begin_step(1.0)
        for index, gradient in enumerate(train_state.gradients()):
            gradient.normal_(generator=torch.Generator().manual_seed(1000 * number + index))
        train_state.optimize(0)

    whole, broken = TrainState(plan, run, torch.float32), TrainState(plan, run, torch.float32)
    fresh = [p.detach().clone() for p in whole.parameters]
    for train_state in (whole, broken):
        step(train_state, 0)
    resumed = TrainState(plan, run, torch.float32)
    state_file.save(tmp_path / "state", broken.state())
    resumed.load_state(state_file.load(tmp_path / "state"))
    before, after = broken.optimizer.state_dict(), resumed.optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert [*after["state"]] == [*before["state"]]
    for train_state in (whole, resumed):
        step(train_state, 1)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, resumed.parameters))
    assert not any(torch.equal(a, b) for a, b in zip(whole.parameters, fresh))


def test_any_dotted_class_and_no_other():
    assert spec_of("adamw").path == "torch.optim.AdamW"
    assert spec_of("torch.optim.Adamax").path == "torch.optim.Adamax"
    with pytest.raises(ConfigError, match=r"'Adammm': expected one of AdamW, .* or a dotted class"):
        spec_of("Adammm")


def test_the_precision_is_at_most_the_models():
    half, whole = torch.float16, torch.float32
    assert [dtype_of(name, half) for name in ("auto", "fp32", "bf16", "fp16")] == [half, half, torch.bfloat16, half]
    assert [dtype_of(name, whole) for name in ("auto", "fp32", "bf16", "fp16")] == [whole, whole, torch.bfloat16, half]


def test_loss_scaling():
    scale, gradient = LossScale(enabled=True, patience=2), [torch.full((2,), 2.0**16)]
    assert scale.factor == 2.0**16
    scale.unscale(gradient)
    assert gradient[0].tolist() == [1, 1]
    scale.adapt(finite=False)
    assert scale.factor == 2.0**15
    for _ in range(2):
        scale.adapt(finite=True)
    assert scale.factor == 2.0**16
    assert LossScale(enabled=False).factor == 1
