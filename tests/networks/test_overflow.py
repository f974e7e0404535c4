"""Numbers that the model's dtype cannot hold end with an error that names them, where they are cast or applied."""

import copy
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from lib_blocktrain.networks.adapters import NetworkModuleError
from lib_blocktrain.networks.bake import bake
from lib_blocktrain.networks.contents import describe
from lib_blocktrain.networks.files import read_network, write_network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.networks.merge import merged
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.networks.cases import filled
from tests.tiny_models import diffusers_unet, network_for, predict

KEY = "lora_unet_mid_block_attentions_0_proj_in"
LAYERS = ("mid_block_attentions_0_proj_in",)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def unet():
    return diffusers_unet()


def changed(network, **numbers):
    return replace(network, modules={key: replace(module, **numbers) for key, module in network.modules.items()})


@pytest.mark.parametrize("alpha", [1e38, 1e39, 1e300])
@pytest.mark.parametrize("algorithm", ["lora", "loha", "glora"])
def test_an_alpha_that_overflows_is_named(unet, algorithm, alpha):
    network = changed(network_for(unet, algorithm, layers=LAYERS), alpha=alpha)
    number = f"alpha = {alpha:g}".replace("+", r"\+")
    with pytest.raises(NetworkModuleError, match=number), applied(unet, network):
        predict(unet)
    with applied(unet, network_for(unet, layers=LAYERS)):
        assert predict(unet).isfinite().all(), "nothing is left of it"


@pytest.mark.parametrize("factor", [1e30, 1e39, -1e300])
def test_a_block_weight_that_overflows_is_named(unet, factor):
    network = network_for(unet, layers=LAYERS)
    number = f"{factor:g}".replace("+", r"\+")
    with pytest.raises(NetworkModuleError, match=f"M00.*{number}"), applied(unet, network, multiplier=factor):
        predict(unet)
    weights = replace(BlockWeights.uniform("sd1", 1.0), values={**BlockWeights.uniform("sd1", 1.0).values, "M00": 0.0})
    with applied(unet, network, weights, multiplier=factor):
        predict(unet)  # a block that is off


@pytest.mark.parametrize(
    ("changed_name", "algorithm"),
    [("lora_up.weight", "lora"), ("diff", "full")],
    ids=["lora", "full"],
)
def test_weights_above_fp32_are_read_and_named_where_they_are_applied(tmp_path, unet, changed_name, algorithm):
    module = network_for(unet, algorithm, layers=LAYERS).modules[KEY]
    tensors = {f"{KEY}.{name}": tensor for name, tensor in module.to_tensors().items()}
    name = f"{KEY}.{changed_name}"
    tensors[name] = tensors[name].double()
    tensors[name].view(-1)[3] = -7e38
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file(tensors, path)
    assert describe(path)["algorithms"] == [algorithm], "listing reads no tensor"
    network = read_network(path)
    with pytest.raises(NetworkModuleError, match=rf"{KEY}.*7e\+38.*float32"), applied(unet, network):
        predict(unet)
    with pytest.raises(NetworkModuleError, match=r"not finite|7e\+38"), merged(unet, network):
        pass
    assert write_network(tmp_path / "again.safetensors", network).exists(), "as it was, in fp64"
    with pytest.raises(NetworkModuleError, match=rf"{KEY}.*7e\+38.*float32"):
        write_network(tmp_path / "narrow.safetensors", network, dtype=torch.float32)
    with pytest.raises(NetworkModuleError, match=KEY):
        bake(network, BlockWeights.uniform("sd1", 0.5), tmp_path / "baked.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "large.safetensors"]


def test_a_model_in_fp16_holds_less(tmp_path, unet):
    half = copy.deepcopy(unet).half()
    network = network_for(unet, layers=LAYERS)
    large = changed(network, up=torch.full_like(network.modules[KEY].up, 1e6))
    for given, multiplier in ((large, 1.0), (network, 1e6)):
        with pytest.raises(NetworkModuleError, match=r"1e\+06.*float16"), applied(half, given, multiplier=multiplier):
            predict(half)
        before = {name: tensor.clone() for name, tensor in half.state_dict().items()}
        with pytest.raises(NetworkModuleError, match="float16"), merged(half, given, multiplier=multiplier):
            pass
        assert all(torch.equal(before[name], tensor) for name, tensor in half.state_dict().items())
    with pytest.raises(NetworkModuleError, match=rf"{KEY}.lora_up.weight.*1e\+06.*float16"):
        write_network(tmp_path / "half.safetensors", large, dtype=torch.float16)
    with applied(half, changed(network, up=filled(*network.modules[KEY].up.shape))):
        assert predict(half).isfinite().all()


def test_an_alpha_above_fp32_is_not_written(tmp_path, unet):
    network = changed(network_for(unet, layers=LAYERS), alpha=1e39)
    with pytest.raises(NetworkModuleError, match=rf"{KEY}.alpha.*1e\+39"):
        write_network(tmp_path / "a.safetensors", network)


def test_training_judges_its_own_numbers(unet):
    network = changed(network_for(unet, layers=LAYERS), alpha=1e38)
    trained = changed(network, up=network.modules[KEY].up.clone().requires_grad_())
    with applied(unet, trained):
        assert not predict(unet).isfinite().all()
