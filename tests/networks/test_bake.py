"""A baked file acts at strength 1 as the original does under the block weights, for other readers too."""

import json

import pytest
import safetensors.torch
import torch

from lib_blocktrain.networks.adapters import CannotScaleError
from lib_blocktrain.networks.bake import bake, baked
from lib_blocktrain.networks.files import Network, read_network, write_network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse
from tests.networks.cases import CONVOLUTION_ONLY, SCALED, UNSCALED
from tests.networks.test_files import pipeline_with
from tests.tiny_models import diffusers_unet, network_for, predict

LAYERS = ("down_blocks_0_attentions_0", "down_blocks_1_resnets_0", "mid_block_resnets_0", "up_blocks_2")
WEIGHTS = BlockWeights.uniform("sd1", 1.0).replace({"IN01": 0.7, "IN04": -0.3, "OUT06": 0.0, "OUT07": 1.3})
NOT_LINEAR = [name for name in (*SCALED, *UNSCALED) if "dora" in name or "oft" in name]
LINEAR = [name for name in (*SCALED, *UNSCALED) if name not in {*NOT_LINEAR, *CONVOLUTION_ONLY}] + ["norm"]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def unet():
    return diffusers_unet()


def effects(unet, network: Network, path, **arguments) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return the outputs under the weights and with the baked file, and the size of the effect."""
    with applied(unet, network, WEIGHTS):
        expected = predict(unet)
    with applied(unet, read_network(bake(network, WEIGHTS, path, **arguments))):
        found = predict(unet)
    return expected, found, (expected - predict(unet)).norm().item()


@pytest.mark.parametrize("algorithm", LINEAR)
def test_baked_file_is_exact(tmp_path, unet, algorithm):
    network = network_for(unet, algorithm, layers=LAYERS)
    expected, found, effect = effects(unet, network, tmp_path / "a.safetensors")
    assert (found - expected).norm() < 1e-4 * effect


def test_a_tlora_becomes_a_lora_with_the_base_model(tmp_path, unet):
    network = network_for(unet, "tlora", layers=LAYERS)
    expected, found, effect = effects(unet, network, tmp_path / "a.safetensors", base=unet)
    assert (found - expected).norm() < 1e-4 * effect
    modules = read_network(tmp_path / "a.safetensors").modules.values()
    assert {(module.algorithm.id, module.rank) for module in modules} == {("lora", 8)}


def test_kinds_of_layers_are_baked_and_steps_are_not(tmp_path, unet):
    network = network_for(unet, "lora", layers=LAYERS)
    weights = parse("ALL,IN01=0.7,IN.attn2=0.5,OUT.ff=0", "sd1", layers=True).layers
    with applied(unet, network, weights):
        expected = predict(unet)
    made = read_network(bake(network, weights, tmp_path / "a.safetensors"))
    with applied(unet, made):
        assert (predict(unet) - expected).norm() < 1e-4 * (expected - predict(unet)).norm() + 1e-4
    gone = set(network.modules) - set(made.modules)
    assert gone == {key for key in network.modules if "_ff_net_" in key and network.block_of(key).startswith("OUT")}
    for key, module in made.modules.items():
        wanted = (0.5 if "_attn2_" in key else 0.7 if network.block_of(key) == "IN01" else 1.0) if "down_" in key else 1
        one, other = module.to_tensors(), network.modules[key].to_tensors()
        products = [t["lora_up.weight"].flatten(1) @ t["lora_down.weight"].flatten(1) for t in (one, other)]
        alphas = [float(t.get("alpha", len(t["lora_down.weight"]))) for t in (one, other)]
        assert torch.allclose(products[0] * alphas[0], products[1] * alphas[1] * wanted, atol=1e-5), key
    record = json.loads(made.metadata["ss_blocktrain"])["baked"]
    assert record[-1]["changes"] == "IN00-IN11.attn2=0.5,OUT00-OUT11.ff=0"
    with pytest.raises(ValueError, match="a file acts alike in every step, expected weights without @"):
        bake(network, parse("OUT=1@0-0.5", "sd1", layers=True).layers, tmp_path / "b.safetensors")


@pytest.mark.parametrize("algorithm", NOT_LINEAR)
def test_not_linear_algorithms_become_diff_with_the_base_model(tmp_path, unet, algorithm):
    if algorithm in CONVOLUTION_ONLY:
        pytest.skip("for convolutions only")
    network = network_for(unet, algorithm, layers=LAYERS)
    expected, found, effect = effects(unet, network, tmp_path / "a.safetensors", base=unet)
    assert (found - expected).norm() < 1e-4 * effect


@pytest.mark.parametrize("algorithm", NOT_LINEAR)
def test_not_linear_algorithms_are_refused_without_it(tmp_path, unet, algorithm):
    network = network_for(unet, algorithm, layers=LAYERS)
    with pytest.raises(CannotScaleError, match=r"lora_unet_\w+: .*here 0\.7, needs the base model"):
        bake(network, WEIGHTS, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    whole_or_off = BlockWeights.uniform("sd1", 1.0).replace({"IN01": 0.0})
    left = baked(network, whole_or_off, "a").modules
    assert left == {key: m for key, m in network.modules.items() if network.block_of(key) != "IN01"}


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr w2", "lokr whole", "full"])
def test_exactly_one_factor_changes(unet, algorithm):
    network = network_for(unet, algorithm, layers=LAYERS)
    done = baked(network, WEIGHTS, "a")
    for key, module in done.modules.items():
        before, after = network.modules[key].to_tensors(), module.to_tensors()
        changed = [name for name in before if not torch.equal(before[name].float(), after[name].float())]
        weight = WEIGHTS[network.block_of(key)]
        assert weight != 0
        assert len(changed) == (0 if weight == 1 else 2 if algorithm == "full" else 1)  # diff and diff_b
        if algorithm == "lora" and weight != 1:
            assert changed == ["lora_up.weight"]
    assert {network.block_of(key) for key in network.modules} - {done.block_of(key) for key in done.modules} == {
        "OUT06"
    }


@pytest.mark.parametrize("layers", [("attn1_to", "attn2_to"), ("attn1_to", "conv1")], ids=["lora", "locon"])
def test_diffusers_reads_negative_and_missing_blocks_alike(tmp_path, layers):
    """Alpha would not do here: diffusers takes one for all attention layers, whatever the file says."""
    pytest.importorskip("peft")
    unet = diffusers_unet()
    network = network_for(unet, layers=layers)
    weights = BlockWeights.uniform("sd1", 1.0).replace({"IN01": -0.8, "IN02": 0.0, "OUT09": 0.35})
    with applied(unet, network, weights):
        expected = predict(unet)
    path = bake(network, weights, tmp_path / "a.safetensors", dtype=torch.float32)
    pipeline_with(unet).load_lora_weights(tmp_path, weight_name=path.name)
    assert torch.allclose(expected, predict(unet), atol=1e-4)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr w2", "lokr whole"])
def test_lycoris_reads_baked_files_alike(tmp_path, algorithm):
    lycoris = pytest.importorskip("lycoris")
    unet = diffusers_unet()
    network = network_for(unet, algorithm, layers=LAYERS)
    with applied(unet, network, WEIGHTS):
        expected = predict(unet)
    path = bake(network, WEIGHTS, tmp_path / "a.safetensors")
    theirs = {name.replace("lora_unet_", "lycoris_"): t for name, t in safetensors.torch.load_file(path).items()}
    wrapper, _ = lycoris.create_lycoris_from_weights(1.0, None, unet, weights_sd=theirs)
    for module in wrapper.loras:
        module.eval().apply_to()
    assert torch.allclose(expected, predict(unet), atol=1e-3)


def test_metadata_says_what_is_inside_and_the_alias_is_the_files_own(tmp_path, unet):
    network = network_for(unet, layers=LAYERS)
    network = Network("a", "sd1", network.modules, {"ss_output_name": "original", "ss_tag_frequency": "{}"})
    original = read_network(write_network(tmp_path / "original.safetensors", network))
    once = read_network(bake(original, WEIGHTS, tmp_path / "once.safetensors"))
    assert once.metadata["ss_tag_frequency"] == "{}"
    assert once.metadata["ss_output_name"] == "once"
    assert once.metadata["sshs_model_hash"] != original.metadata["sshs_model_hash"]
    twice = baked(once, BlockWeights.uniform("sd1", 0.5), "twice")
    record = json.loads(twice.metadata["ss_blocktrain"])["baked"]
    assert [BlockWeights.from_json(entry) for entry in record] == [WEIGHTS, BlockWeights.uniform("sd1", 0.5)]


def test_nothing_left_is_refused(unet):
    network = network_for(unet, layers=LAYERS)
    with pytest.raises(ValueError, match="no module is left"):
        baked(network, BlockWeights.uniform("sd1", 0.0), "a")


def test_existing_file_is_kept(tmp_path, unet):
    network = network_for(unet, layers=LAYERS)
    path = bake(network, WEIGHTS, tmp_path / "a.safetensors")
    with pytest.raises(FileExistsError):
        bake(network, WEIGHTS, path)
    bake(network, WEIGHTS, path, overwrite=True)
