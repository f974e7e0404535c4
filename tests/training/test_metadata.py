"""What a file says of its training, and that it can be read back as the weights of the next one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lib_blocktrain.networks.files import network_hashes, read_network
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.config_json import read
from lib_blocktrain.training.metadata import network_arguments
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse

WEIGHTS = BlockWeights("sd1", {**dict.fromkeys(BlockWeights.uniform("sd1", 0).values, 0.0), "OUT03": 0.5, "OUT04": 1.0})


@pytest.mark.parametrize("weight_mode", ["scale", "lr", "rank"])
@pytest.mark.parametrize("arch", ["sd1", "sdxl"])
def test_kohyas_arguments_read_back(config, weight_mode, arch):
    """By our own reader of sd-scripts' arguments: the same weights."""
    weights = BlockWeights(arch, {block: WEIGHTS[block] for block in BlockWeights.uniform(arch, 0).values})
    config = replace(config, network=replace(config.network, weight_mode=weight_mode, rank=8, alpha=4))
    arguments = network_arguments(config, weights)
    text = " ".join(f"{key}={value}" for key, value in {**arguments, "network_dim": "8", "network_alpha": "4"}.items())
    assert dict(parse(text, arch).weights.values) == pytest.approx(dict(weights.values))


def test_block_arguments():
    base = {"name": "x", "dataset": {"folders": [{"path": "p"}]}}
    network = {"rank": 8, "alpha": 4, "conv_rank": 4, "block_ranks": {"OUT04": 3}, "algorithm": "lokr"}
    arguments = network_arguments(read(RunConfig, {**base, "network": network}), WEIGHTS)
    zeros = ["0"] * 16
    assert arguments["block_dims"].split(",") == [*zeros, "8", "3", *["0"] * 7]
    assert arguments["block_alphas"].split(",") == [*zeros, "2", "4", *["0"] * 7]
    assert arguments["conv_block_dims"].split(",") == [*zeros, "4", "4", *["0"] * 7]
    assert arguments["conv_block_alphas"].split(",") == [*zeros, "2", "4", *["0"] * 7]
    assert (arguments["conv_dim"], arguments["conv_alpha"], arguments["algo"]) == ("4", "4", "lokr")
    lr = network_arguments(read(RunConfig, {**base, "network": {"meaning": "lr"}}), WEIGHTS)
    assert lr["up_lr_weight"] == "0,0,0,0.5,1,0,0,0,0,0,0,0"
    assert "block_dims" not in lr
    assert not network_arguments(read(RunConfig, {**base, "network": {"meaning": "max_norm"}}), WEIGHTS)


def dims_and_alphas(weights, rank, alpha):
    network = {"rank": rank, "alpha": alpha, "weight_mode": "rank"}
    config = read(RunConfig, {"name": "x", "dataset": {"folders": [{"path": "p"}]}, "network": network})
    arguments = network_arguments(config, weights)
    return [[float(value) for value in arguments[name].split(",")] for name in ("block_dims", "block_alphas")]


def test_kohya_dims_and_alphas():
    weights = BlockWeights.uniform("sd1", 0).replace(IN04=0.5, M00=0.01, OUT00=1)
    expected = [0] * 25
    expected[4], expected[12], expected[13] = 8, 1, 16  # what is trained at all has rank 1 at least
    assert dims_and_alphas(weights, 16, 8) == [expected, [0, 0, 0, 0, 4, *[0] * 7, 0.08, 8, *[0] * 11]]


def test_kohya_dims_of_sdxl():
    weights = BlockWeights.uniform("sdxl", 1).replace(M00=0.5, REST=0)
    assert dims_and_alphas(weights, 4, 4)[0] == [0, *[4] * 9, 2, 2, 2, *[4] * 9, 0]


def test_a_file_tells_how_it_was_made(train, config, pictures):
    trainer = train(replace(config, description="a test", metadata={"ss_note": "mine"}))
    saved = read_network(trainer.outcome.result)
    metadata = saved.metadata
    assert metadata["ss_output_name"] == "tiny"
    assert metadata["ss_network_dim"] == "2"
    assert metadata["ss_steps"] == "3"
    assert metadata["ss_num_train_images"] == "8"
    assert metadata["ss_note"] == "mine"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert json.loads(metadata["ss_dataset_dirs"]) == {"2_thing": {"n_repeats": 2, "img_count": 4}}
    assert json.loads(metadata["ss_tag_frequency"])["2_thing"]["a photo of a robot"] == 4
    assert json.loads(metadata["ss_bucket_info"])["buckets"]["0"] == {"resolution": [64, 64], "count": 8}
    tensors = {f"{key}.{name}": t for key, module in saved.modules.items() for name, t in module.to_tensors().items()}
    assert (metadata["sshs_model_hash"], metadata["sshs_legacy_hash"]) == network_hashes(tensors, metadata)
    record = json.loads(metadata["ss_blocktrain"])
    assert BlockWeights.from_json(record["trained"]["weights"]) == trainer.train_state.plan.weights
    assert record["trained"]["meaning"] == "scale"
    assert str(pictures.parent) not in metadata["ss_blocktrain"]  # names, not where they lie
    again = read(RunConfig, record["run"])
    assert again.network == config.network
    assert again.dataset.folders[0].path == pictures.name
