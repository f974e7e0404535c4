"""Networks applied by hooks against the same networks merged into the weights, and the model unchanged afterwards."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.networks.adapters import LoRA, NetworkModuleError, module_from_tensors
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.hooks import Placement, applied
from lib_blocktrain.networks.merge import merged
from lib_blocktrain.networks.placement import PlacementError
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse
from tests.networks.cases import CONVOLUTION_ONLY, SCALED, UNSCALED, filled, lora
from tests.tiny_models import (
    assert_untouched,
    diffusers_sdxl_unet,
    diffusers_unet,
    ldm_unet,
    network_for,
    predict,
    state_of,
    unet_inputs,
)

ALGORITHMS = [*(name for name in (*SCALED, *UNSCALED) if name not in CONVOLUTION_ONLY), "norm"]
SOME = ("down_blocks_0_attentions_0", "down_blocks_1_resnets_0", "mid_block_resnets_0", "up_blocks_2", "conv_norm_out")
MIXED = BlockWeights.uniform("sd1", 1.0).replace({"IN01": 0.5, "M00": -0.3, "OUT06": 0.0, "OUT08": 1.4, "REST": 0.7})


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return diffusers_unet()


@pytest.fixture(scope="module")
def network(unet) -> Network:
    return network_for(unet)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def off_in(*blocks: str) -> BlockWeights:
    return BlockWeights.uniform("sd1", 1.0).replace(dict.fromkeys(blocks, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hooks_equal_merged_weights(algorithm, dtype):
    """The tolerance is relative to what the network changes: 1e-3 in fp32; in bf16 both routes round, 0.1."""
    unet = diffusers_unet().to(dtype)
    before = state_of(unet)
    network = network_for(unet, algorithm, layers=SOME)
    base = predict(unet)
    with applied(unet, network, MIXED, 0.5):
        hooked = predict(unet)
    with merged(unet, network, MIXED, 0.5):
        in_weights = predict(unet)
    effect = (in_weights - base).float().norm()
    assert effect > 0.01 * base.float().norm()
    assert (hooked - in_weights).float().norm() < {torch.float32: 1e-3, torch.bfloat16: 0.1}[dtype] * effect
    assert_untouched(unet, before)


@pytest.mark.parametrize("algorithm", ["lora", "lokr w2", "norm", "oft"])
def test_both_layouts_put_out_the_same(unet, algorithm):
    network = network_for(unet, algorithm, layers=SOME)
    other = ldm_unet(unet)
    with applied(unet, network, MIXED) as ours, applied(other, network, MIXED) as theirs:
        assert not ours.unmatched
        assert not theirs.unmatched
        assert torch.allclose(predict(unet), predict(other), atol=1e-4)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "unet."])
def test_prefixes_of_wrapped_models_are_taken_off(unet, network, prefix):
    wrapper = nn.Module()
    inner = wrapper
    for name in prefix.rstrip(".").split("."):
        setattr(inner, name, nn.Module())
        previous, inner = inner, getattr(inner, name)
    setattr(previous, name, unet)
    with applied(wrapper, network) as handle:
        assert not handle.unmatched
        wrapped = predict(unet)
    with applied(unet, network):
        assert torch.equal(wrapped, predict(unet))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weight_0_is_the_base_bit_for_bit(unet, algorithm):
    network = network_for(unet, algorithm, layers=SOME)
    base = predict(unet)
    with applied(unet, network, BlockWeights.uniform("sd1", 0.0)):
        assert torch.equal(predict(unet), base)
    with applied(unet, network, multiplier=0.0):
        assert torch.equal(predict(unet), base)


def test_block_at_0_equals_a_network_without_its_modules(unet, network):
    rest = {key: module for key, module in network.modules.items() if network.block_of(key) != "OUT05"}
    with applied(unet, network, off_in("OUT05")):
        switched_off = predict(unet)
    with applied(unet, replace(network, modules=rest)):
        assert torch.equal(switched_off, predict(unet))


def test_weights_change_at_once_and_touch_no_tensor(unet, network):
    before = state_of(unet)
    versions = [parameter._version for parameter in unet.parameters()]
    base = predict(unet)
    with applied(unet, network) as handle:
        whole = predict(unet)
        handle.set_weights(MIXED, multiplier=0.5)
        changed = predict(unet)
        handle.set_weights(BlockWeights.uniform("sd1", 0.0))
        assert torch.equal(predict(unet), base)
        handle.set_weights(BlockWeights.uniform("sd1", 1.0), multiplier=1.0)
        assert torch.equal(predict(unet), whole)
        assert handle.placements[0].weights == BlockWeights.uniform("sd1", 1.0)
    with applied(unet, network, MIXED, 0.5):
        assert torch.equal(changed, predict(unet))
    assert [parameter._version for parameter in unet.parameters()] == versions
    assert_untouched(unet, before)


def test_kinds_of_layers_have_weights_of_their_own(unet, network):
    """Against the same network in parts, each under block weights; a kind of layer at 0 is the model's own."""
    weights = parse("ALL,OUT05=0.4,OUT.attn2=0.5,*.ff=0", "sd1", layers=True).layers
    feed = {key for key in network.modules if "_ff_net_" in key}
    cross = {key for key in network.modules if "_attn2_" in key and network.block_of(key).startswith("OUT")}
    assert feed
    assert cross

    def part(keys: set[str]) -> Network:
        return replace(network, modules={key: network.modules[key] for key in network.modules if key in keys})

    others = set(network.modules) - feed - cross
    with applied(unet, network, weights) as handle:
        whole = predict(unet)
        handle.set_weights(BlockWeights.uniform("sd1", 1.0))
        assert not torch.equal(predict(unet), whole)
    blocks = BlockWeights.uniform("sd1", 1.0).replace({"OUT05": 0.4})
    with applied(unet, [Placement(part(others), blocks), Placement(part(cross), off_in(), 0.5)]):
        assert torch.allclose(predict(unet), whole, atol=1e-6)
    with applied(unet, network, parse("NONE,OUT.attn2=1", "sd1", layers=True).layers):
        alone = predict(unet)
    with applied(unet, part(cross)):
        assert torch.equal(predict(unet), alone)


def test_weights_over_the_steps(unet, network):
    before = state_of(unet)
    weights = parse("ALL,OUT=0@0,1@1,OUT05.ff=1@0.5-1", "sd1", layers=True).layers
    by_step = []
    with applied(unet, network, weights, fold=True) as handle:
        for step in range(1, 6):
            handle.enter_step(step, 5)
            by_step.append(predict(unet))
            assert torch.allclose(predict(unet), by_step[-1], atol=1e-4)  # folded by then
        handle.set_weights(off_in())
        constant = predict(unet)
        handle.enter_step(1, 5)
        assert torch.allclose(predict(unet), constant, atol=1e-4)
    for step, seen in enumerate(by_step, start=1):
        text = f"ALL,OUT={(step - 1) / 4},OUT05.ff={int(step > 2)}"
        with applied(unet, network, parse(text, "sd1", layers=True).layers):
            assert torch.equal(predict(unet), seen), step
    assert len({seen.sum().item() for seen in by_step}) == 5
    with pytest.raises(PlacementError, match="over the steps cannot be merged"), merged(unet, network, weights):
        pass
    assert_untouched(unet, before)


def test_several_networks_add_up(unet):
    first, second = (network_for(unet, algorithm, layers=SOME) for algorithm in ("lora", "dora on output"))
    placements = [Placement(first, MIXED, 0.5), Placement(second, off_in("IN01"), 0.4)]
    with applied(unet, placements) as handle:
        hooked = predict(unet)
        handle.set_weights(BlockWeights.uniform("sd1", 0.0), index=1)
        first_alone = predict(unet)
        with pytest.raises(ValueError, match="same 2 networks"):
            handle.placements = placements[::-1]
    with merged(unet, placements):
        assert torch.allclose(hooked, predict(unet), atol=2e-4)
    with applied(unet, first, MIXED, 0.5):
        assert torch.equal(first_alone, predict(unet))


def test_contexts_may_be_nested(unet, network):
    before = state_of(unet)
    with applied(unet, network, MIXED, 0.5):
        outer = predict(unet)
        with applied(unet, network, multiplier=0.2):
            both = predict(unet)
        assert torch.equal(predict(unet), outer)
    with applied(unet, [Placement(network, MIXED, 0.5), Placement(network, off_in(), 0.2)]):
        assert torch.allclose(both, predict(unet), atol=1e-4)
    assert_untouched(unet, before)


@pytest.mark.parametrize("context", [applied, merged])
def test_exception_leaves_no_trace(unet, network, context):
    before = state_of(unet)
    with pytest.raises(RuntimeError, match="out of memory"), context(unet, network, MIXED):  # noqa: PT012
        predict(unet)
        raise RuntimeError("out of memory")
    assert_untouched(unet, before)


def test_merged_bias_on_a_layer_without_one():
    layer = nn.Linear(16, 32, bias=False)
    unet = nn.ModuleDict({"time_embedding": nn.ModuleDict({"linear_1": layer})})
    key = "lora_unet_time_embedding_linear_1"
    module = module_from_tensors(key, {"diff": filled(32, 16), "diff_b": filled(32)})
    network = Network("tiny", "sd1", {key: module})
    x = torch.randn(3, 16)
    with applied(unet, network):
        hooked = layer(x)
    with merged(unet, network):
        assert torch.allclose(layer(x), hooked, atol=1e-5)
    assert layer.bias is None


def test_no_placements_change_nothing(unet):
    base = predict(unet)
    with applied(unet, []):
        assert torch.equal(predict(unet), base)


def test_gradients_pass_to_the_input_and_to_trained_factors(unet):
    network = network_for(unet, layers=("up_blocks_3",))
    trained = {key: module.to("cpu", torch.float32) for key, module in network.modules.items()}
    for module in trained.values():
        module.up.requires_grad_()
    latents, timesteps, context = unet_inputs()
    gradients = []
    for modules in (network.modules, trained):
        x = latents.clone().requires_grad_()
        with torch.enable_grad(), applied(unet, Network("tiny", "sd1", modules)):
            predict(unet, (x, timesteps, context)).square().sum().backward()
        gradients.append(x.grad)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-4)
    assert all(module.up.grad.abs().sum() > 0 for module in trained.values())
    assert all(parameter.grad is None for parameter in unet.parameters())


@pytest.mark.parametrize("algorithm", ["loha", "dora on output"])
def test_trained_deltas_are_not_frozen_at_their_first_values(algorithm):
    unet = diffusers_unet()
    network = network_for(unet, algorithm, layers=("mid_block_attentions",))
    leaf = next(iter(network.modules.values()))
    leaf = leaf.w1_a if algorithm == "loha" else leaf.direction.up
    leaf.requires_grad_()
    with applied(unet, network):
        first = predict(unet)
        leaf.mul_(2)
        assert not torch.equal(predict(unet), first)


def test_half_precision_model_under_autocast():
    """The WebUI's way: fp32 activations, fp16 or bf16 weights, and autocast in between."""
    unet = diffusers_unet().to(torch.bfloat16)
    network = network_for(unet, layers=SOME)
    with torch.autocast("cpu", torch.bfloat16):
        with applied(unet, network, multiplier=0.5):
            hooked = predict(unet, unet_inputs(torch.float32))
        with merged(unet, network, multiplier=0.5):
            in_weights = predict(unet, unet_inputs(torch.float32))
        base = predict(unet, unet_inputs(torch.float32))
    assert (hooked - in_weights).norm() < 0.1 * (in_weights - base).norm()


def test_inference_tensors_as_in_forge():
    with torch.inference_mode():
        unet = diffusers_unet()
    before = state_of(unet)
    network = network_for(unet, "dora on output", layers=SOME)
    with applied(unet, network, MIXED, 0.5):
        hooked = predict(unet)
    with merged(unet, network, MIXED, 0.5):
        assert torch.allclose(hooked, predict(unet), atol=2e-4)
    assert_untouched(unet, before)


def test_layers_of_another_class_are_told_by_their_looks():
    """Forge's Linear is a plain nn.Module."""

    class ForgeLinear(nn.Module):
        def __init__(self, like: nn.Linear):
            super().__init__()
            self.in_features, self.out_features = like.in_features, like.out_features
            self.weight, self.bias = like.weight, like.bias

        def forward(self, x):
            return nn.functional.linear(x, self.weight, self.bias)

    unet, forge = diffusers_unet(), diffusers_unet()
    network = network_for(unet, layers=("to_q", "proj_in"))
    for parent in list(forge.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, ForgeLinear(child))
    with applied(unet, network), applied(forge, network) as handle:
        assert not handle.unmatched
        assert torch.equal(predict(unet), predict(forge))


def test_text_encoders_follow_base():
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    encoder = transformers.CLIPTextModel(config).eval().requires_grad_(False)
    key = "lora_te_text_model_encoder_layers_1_self_attn_q_proj"
    network = Network("tiny", "sd1", {key: module_from_tensors(key, lora(32, 32))})
    tokens = torch.tensor([[49, 3, 4, 5]])

    def encode():
        return encoder(tokens).last_hidden_state

    base = encode()
    with applied({"te": encoder}, network, off_in("BASE")) as handle:
        assert torch.equal(encode(), base)
        handle.set_weights(BlockWeights.uniform("sd1", 1.0))
        hooked = encode()
    with merged({"te": encoder}, network):
        assert torch.allclose(encode(), hooked, atol=1e-5)
    assert not torch.allclose(hooked, base, atol=1e-3)


def test_sdxl_names_find_their_layers():
    unet = diffusers_sdxl_unet()
    network = network_for(unet, layers=("attn", "ff_net", "proj_in", "proj_out"), architecture="sdxl")
    assert sum(network.blocks.values()) == 722
    assert network.blocks["IN07"] == 102
    assert all("down_blocks" not in key for key in network.modules)


def openclip_encoder():
    """One block as OpenCLIP builds them, and a network for some of its layers."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(16, 2)
            self.mlp = nn.ModuleDict({"c_fc": nn.Linear(16, 64), "c_proj": nn.Linear(64, 16)})

        def forward(self, x):
            x = x + self.attn(x, x, x, need_weights=False, attn_mask=torch.full((5, 5), -1e9).triu(1))[0]
            return x + self.mlp["c_proj"](self.mlp["c_fc"](x))

    encoder = nn.Module()
    encoder.transformer = nn.ModuleDict({"resblocks": nn.ModuleList([Block()])})
    layers = "lora_te2_text_model_encoder_layers_0_"
    sizes = {"self_attn_q_proj": (16, 16), "self_attn_v_proj": (16, 16), "self_attn_out_proj": (16, 16)}
    sizes["mlp_fc1"] = (64, 16)
    modules = {layers + name: module_from_tensors(layers + name, lora(*size)) for name, size in sizes.items()}
    return encoder, Network("tiny", "sdxl", modules)


def test_openclip_attention_is_reached():
    """Hooks on an attention that calls no layer for its projections equal its merged weights; its parts are counted."""
    encoder, network = openclip_encoder()
    block, x = encoder.transformer["resblocks"][0], filled(5, 2, 16)
    base = block(x)
    with merged({"te2": encoder}, network, multiplier=0.7):
        expected = block(x)
    assert torch.equal(block(x), base)
    off = BlockWeights("sdxl", dict.fromkeys(ARCHITECTURES["sdxl"].block_ids, 1.0), base=0.0)
    with applied({"te2": encoder}, network, multiplier=0.7) as handle:
        assert not handle.unmatched
        assert torch.allclose(block(x), expected, atol=1e-5)
        assert not torch.allclose(expected, base, atol=1e-3)
        handle.set_weights(off)
        assert torch.equal(block(x), base)
    assert not block.attn._forward_hooks


def test_openclip_attention_takes_part_in_autograd():
    encoder, network = openclip_encoder()
    block, key = encoder.transformer["resblocks"][0], "lora_te2_text_model_encoder_layers_0_self_attn_v_proj"
    up = network.modules[key].up.detach().requires_grad_()
    module = replace(network.modules[key], up=up)
    block.requires_grad_(False)
    with torch.enable_grad(), applied({"te2": encoder}, Network("tiny", "sdxl", {key: module})):
        block(filled(5, 2, 16)).square().sum().backward()
    assert up.grad.abs().max() > 0


def test_modules_without_a_layer_are_reported(unet, network, caplog):
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_7_attn1_to_q"
    more = {**network.modules, key: module_from_tensors(key, lora(32, 32))}
    with applied(unet, replace(network, modules=more)) as handle:
        assert [one.key for one in handle.unmatched] == [key]
    assert key in caplog.text


def test_network_for_another_architecture_is_refused(unet):
    key = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"
    network = Network("painter", "sdxl", {key: LoRA(key, filled(4, 640), filled(640, 4))})
    with (
        pytest.raises(PlacementError, match=r"'painter' is a network for sdxl.*input_blocks_4_1"),
        applied(unet, network),
    ):
        pass


def test_network_for_another_width_is_refused(unet):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    network = Network("painter", "sd1", {key: LoRA(key, filled(4, 1280), filled(1280, 4))})
    with pytest.raises(NetworkModuleError, match=rf"painter.*{key}.*1280 x 1280.*64 x 64"), applied(unet, network):
        pass
    assert_untouched(unet, unet.state_dict())


def test_weights_for_another_architecture_are_refused(network):
    with pytest.raises(PlacementError, match=r"block weights for sdxl on 'tiny'.*expected 25 blocks, got 19"):
        Placement(network, BlockWeights.uniform("sdxl", 1.0))
