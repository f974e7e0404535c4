"""Each algorithm against LyCORIS' own implementation, over layers and dtypes."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from lib_blocktrain.networks.adapters import CannotScaleError, DoRA, LoKr, LoRA, NetworkModuleError, module_from_tensors
from lib_blocktrain.networks.layers import run, weight_shape
from tests.networks.cases import ALPHA, CASES, LAYERS, RANK, filled, lora, make_input, make_tensors

KEY = "lora_unet_mid_block_attentions_0_proj_in"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the largest output


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def lycoris_module(algorithm: str, layer: nn.Module, tensors: dict) -> nn.Module:
    """Return LyCORIS' module of these tensors for this layer."""
    lycoris = pytest.importorskip("lycoris.modules")
    if "oft" in algorithm:
        tensors = {**tensors, "alpha": torch.tensor(0.0)}
    if algorithm == "glora first layout":  # LyCORIS itself no longer reads it
        tensors = {name.translate(str.maketrans("12", "21")): tensor for name, tensor in tensors.items()}
    by_hand = {  # its own reader, 4.1.3, lacks these or gets them wrong
        "dora on input": partial(
            lycoris.LoConModule, lora_dim=RANK, alpha=ALPHA, weight_decompose=True, wd_on_out=False
        ),
        "lokr tucker": partial(lycoris.LokrModule, lora_dim=1, alpha=ALPHA, use_tucker=True, factor=4),
        "ia3 on input": partial(lycoris.IA3Module, train_on_input=True),
        "ia3 on output": partial(lycoris.IA3Module, train_on_input=False),
    }
    if algorithm in by_hand:
        module = by_hand[algorithm](KEY, layer)
        module.load_state_dict(tensors, strict=False)
        return module
    kind, values = lycoris.get_module({f"{KEY}.{name}": tensor for name, tensor in tensors.items()}, KEY)
    return lycoris.make_module(kind, values, KEY, layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("algorithm", "kind"), CASES)
def test_equals_lycoris(algorithm, kind, dtype):
    layer = LAYERS[kind]()
    x = make_input(layer).to(dtype)
    tensors = {n: t if n in ("alpha", "on_input") else t.to(dtype) for n, t in make_tensors(algorithm, layer).items()}
    layer.to(dtype)
    module = module_from_tensors(KEY, tensors)
    module.check_fits(weight_shape(layer))
    with torch.no_grad():
        bias = module.delta_bias()
        merged = (layer.weight + module.delta_weight(layer.weight)).to(dtype)
        by_weight = run(layer, x, merged, layer.bias if bias is None else layer.bias + bias)
        by_output = layer(x) + module.delta_output(x, layer) if module.low_rank else by_weight

    exact = LAYERS[kind]()
    exact.load_state_dict({name: value.float() for name, value in layer.state_dict().items()})
    with torch.no_grad():
        expected = lycoris_module(algorithm, exact, {n: t.float() for n, t in tensors.items()}).forward(x.float())
    allowed = TOLERANCE[dtype] * expected.abs().max().item()
    for found in (by_weight, by_output):
        assert torch.allclose(found.float(), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("layer", [nn.LayerNorm(16), nn.GroupNorm(4, 16)], ids=["layer norm", "group norm"])
def test_norm_equals_lycoris(layer):
    norms = pytest.importorskip("lycoris.modules.norms")
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 16, 16)
    tensors = {"w_norm": filled(16), "b_norm": filled(16)}
    module = module_from_tensors(KEY, tensors)
    found = layer(x) + run(layer, x, module.delta_weight(layer.weight), module.delta_bias())
    oracle = norms.NormModule(KEY, layer)
    oracle.load_state_dict(tensors, strict=False)
    assert torch.allclose(found, oracle.forward(x), atol=1e-5)


@pytest.mark.parametrize(("algorithm", "kind"), CASES)
@pytest.mark.parametrize("factor", [0.4, -1.5])
def test_scaled_scales_the_delta(algorithm, kind, factor):
    layer = LAYERS[kind]()
    module = module_from_tensors(KEY, make_tensors(algorithm, layer))
    if isinstance(module, DoRA) or "oft" in algorithm:
        with pytest.raises(CannotScaleError, match=KEY):
            module.scaled(factor)
        return
    scaled = module_from_tensors(KEY, module.scaled(factor).to_tensors())
    expected = factor * module.delta_weight(layer.weight)
    assert torch.allclose(scaled.delta_weight(layer.weight), expected, rtol=1e-5, atol=1e-6)
    if module.delta_bias() is not None:
        assert torch.allclose(scaled.delta_bias(), factor * module.delta_bias())


def test_tlora_begins_from_the_weight_and_is_for_pointwise_layers():
    """With the factors that LyCORIS begins from, cut from the layer's weight, the delta is 0."""
    layer = nn.Linear(16, 32)
    u, s, vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    tensors = {"q_layer.weight": vh[:RANK], "p_layer.weight": u[:, :RANK], "lambda_layer": s[None, :RANK]}
    module = module_from_tensors(KEY, tensors)
    assert module.delta_weight(layer.weight).abs().max() < 1e-6
    doubled = module_from_tensors(KEY, {**tensors, "lambda_layer": 2 * s[None, :RANK], "alpha": torch.tensor(2.0)})
    expected = 0.5 * (u[:, :RANK] * s[:RANK]) @ vh[:RANK]
    assert torch.allclose(doubled.delta_weight(layer.weight), expected, atol=1e-6)
    with pytest.raises(NetworkModuleError, match=rf"{KEY}: a tlora module is on a convolution of \(32, 16, 3, 3\)"):
        module_from_tensors(KEY, make_tensors("tlora", nn.Conv2d(16, 32, 1))).check_fits((32, 16, 3, 3))


@pytest.mark.parametrize("alpha", [None, 0.0])
def test_no_alpha_means_rank(alpha):
    tensors = lora(32, 16)
    without = module_from_tensors(KEY, tensors if alpha is None else {**tensors, "alpha": torch.tensor(alpha)})
    assert without.scale == 1.0


def test_whole_lokr_ignores_alpha():
    module = LoKr(KEY, w1=filled(4, 4), w2=filled(8, 4), alpha=7.0)
    weight = torch.zeros(32, 16)
    assert torch.equal(module.delta_weight(weight), torch.kron(module.w1, module.w2))


def test_whole_lokr_has_no_rank():
    with pytest.raises(NetworkModuleError, match="has no rank"):
        LoKr(KEY, w1=filled(4, 4), w2=filled(8, 4)).rank  # noqa: B018


def test_oft_constraint_caps_the_rotation():
    layer = nn.Linear(16, 32)
    tensors = make_tensors("oft", layer)
    oracle = pytest.importorskip("lycoris.functional.diag_oft")
    module = module_from_tensors(KEY, {**tensors, "alpha": torch.tensor(0.01)})
    expected = oracle.diff_weight(layer.weight, tensors["oft_blocks"], None, constraint=0.01 * 32)
    assert torch.allclose(module.delta_weight(layer.weight), expected, atol=1e-6)


def test_early_oft_is_a_rotation_as_it_is():
    weight, rotation = torch.randn(4, 3), torch.linalg.qr(torch.randn(2, 2, 2)).Q
    module = module_from_tensors(KEY, {"oft_diag": rotation})
    expected = torch.block_diag(*rotation).T @ weight - weight
    assert torch.allclose(module.delta_weight(weight), expected, atol=1e-6)


def test_linear_file_on_a_pointwise_convolution_and_back():
    """SD1's proj_in is a 1x1 convolution, SD2's a linear layer, and trainers write either shape for both."""
    convolution, linear = nn.Conv2d(16, 32, 1), nn.Linear(16, 32)
    flat = module_from_tensors(KEY, lora(32, 16))
    spatial = module_from_tensors(KEY, {n: t[..., None, None] for n, t in flat.to_tensors().items()})
    x = torch.randn(1, 16, 2, 2)
    assert torch.allclose(flat.delta_output(x, convolution), spatial.delta_output(x, convolution))
    assert torch.allclose(flat.delta_weight(convolution.weight), spatial.delta_weight(convolution.weight))
    rows = torch.randn(1, 3, 16)
    assert torch.allclose(flat.delta_output(rows, linear), spatial.delta_output(rows, linear))


def test_circular_padding_is_kept():
    layer = nn.Conv2d(16, 32, 3, padding=1, padding_mode="circular")
    module = module_from_tensors(KEY, lora(32, 16, 3, 3))
    x = make_input(layer)
    merged = nn.Conv2d(16, 32, 3, padding=1, padding_mode="circular", bias=False)
    merged.weight.data = module.delta_weight(layer.weight)
    assert torch.allclose(module.delta_output(x, layer), merged(x), atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lora_down.weight": torch.zeros(0, 16), "lora_up.weight": torch.zeros(32, 0)}, r"\(0, 16\)"),
        ({"lora_down.weight": torch.zeros(4, 16), "lora_up.weight": torch.zeros(32, 5)}, r"\(32, 5\)"),
        ({**lora(32, 16), "lora_mid.weight": torch.zeros(3, 4, 3, 3)}, r"\(3, 4, 3, 3\)"),
        ({**lora(32, 16), "dora_scale": torch.zeros(32)}, r"\(32,\)"),
        ({"oft_blocks": torch.zeros(2, 4, 5)}, r"\(2, 4, 5\)"),
    ],
)
def test_wrong_tensors_are_named(tensors, said):
    with pytest.raises(NetworkModuleError, match=f"{KEY}.*{said}"):
        module_from_tensors(KEY, tensors)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr w2", "oft", "full", "ia3 on input", "dora on output"])
def test_module_of_another_width_does_not_fit(algorithm):
    module = module_from_tensors(KEY, make_tensors(algorithm, LAYERS["linear"]()))
    with pytest.raises(NetworkModuleError, match=rf"{KEY}.*\(64, 48\)"):
        module.check_fits((64, 48))


def test_unknown_tensors_are_no_module():
    assert module_from_tensors(KEY, {"lora_down.weight": torch.zeros(4, 16), "alpha": torch.tensor(1.0)}) is None


def test_delta_output_is_differentiable_in_input_and_factors():
    layer = nn.Linear(16, 32)
    module = LoRA(KEY, filled(4, 16).requires_grad_(), filled(32, 4).requires_grad_(), alpha=math.pi)
    x = make_input(layer).requires_grad_()
    gradients = torch.autograd.grad(module.delta_output(x, layer).square().sum(), [x, module.down, module.up])
    by_weight = torch.nn.functional.linear(x, module.delta_weight(layer.weight)).square().sum()
    expected = torch.autograd.grad(by_weight, [x, module.down, module.up])
    assert module.trainable
    for found, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first_layout", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 4, 5, 8, 16])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Conv2d(4, 32, 3, padding=1),
        lambda: nn.Conv2d(32, 4, 3, padding=1),
        lambda: nn.Linear(16, 16),
        lambda: nn.Linear(4, 16),
    ],
    ids=["conv_in", "conv_out", "square", "few inputs"],
)
def test_glora_of_a_rank_above_the_inputs(layer, rank, first_layout):
    """LyCORIS' preset "full" puts it on `conv_in`, which has 4 inputs."""
    modules = pytest.importorskip("lycoris.modules")
    layer = layer()
    oracle = modules.GLoRAModule(KEY, layer, lora_dim=rank, alpha=ALPHA)
    for parameter in (oracle.a1, oracle.a2, oracle.b1, oracle.b2):
        nn.init.normal_(parameter.weight, std=0.3)
    names = str.maketrans("12", "21") if first_layout else {}
    tensors = {name.translate(names): tensor.detach() for name, tensor in oracle.state_dict().items()}
    module = module_from_tensors(KEY, tensors)
    module.check_fits(weight_shape(layer))
    assert module.rank == rank
    expected, _ = oracle.get_diff_weight()
    if rank == 16 and first_layout and isinstance(layer, nn.Linear) and layer.in_features == 16:
        assert module.delta_weight(layer.weight).shape == expected.shape  # both layouts in one shape: either
        return
    assert torch.allclose(module.delta_weight(layer.weight.detach()), expected, atol=1e-4)
