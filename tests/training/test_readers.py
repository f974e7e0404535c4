"""What is trained here, read by others: diffusers and LyCORIS put out what the U-Net did in training."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.weights.block_weights import BlockWeights


@pytest.fixture
def inputs(model):
    generator = torch.Generator().manual_seed(0)
    context = model.encode_prompt("a photo of a robot")["context"]
    return torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([500]), {"context": context}


def trained(train, config, model, inputs, **network):
    """Train a little, and return the file, the U-Net's output with it, and its output without."""
    trainer = train(replace(config, steps=2, network=replace(config.network, **network)))
    with torch.no_grad():
        plain = model.predict(*inputs)
        with applied(model.unet, trainer.train_state.training_network, BlockWeights.uniform("sd1", 1.0)):
            expected = model.predict(*inputs)
    assert (expected - plain).abs().max() > 1e-3
    return trainer.outcome.result, expected


@pytest.mark.parametrize("network", [{}, {"conv_rank": 4, "conv_alpha": 2.0}], ids=["lora", "locon"])
def test_diffusers(train, config, model, inputs, network):
    path, expected = trained(train, config, model, inputs, **network)
    pipeline = copy.copy(model.pipeline)
    unet = copy.deepcopy(model.unet)
    pipeline.unet = unet
    pipeline.register_modules(unet=unet)
    try:
        pipeline.load_lora_weights(load_file(path))
        with torch.no_grad():
            found = unet(inputs[0], inputs[1], inputs[2]["context"]).sample
    finally:
        pipeline.register_modules(unet=model.unet)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"conv_rank": 4},
        {"algorithm": "loha"},
        {"algorithm": "lokr"},
        {"algorithm": "lokr", "factor": 2, "rank": 1},
        {"algorithm": "lokr", "rank": 1000},
    ],
    ids=str,
)
def test_lycoris(train, config, model, inputs, network):
    lycoris = pytest.importorskip("lycoris")
    path, expected = trained(train, config, model, inputs, **network)
    unet = copy.deepcopy(model.unet)
    # LyCORIS names a wrapped model's layers by one prefix; ours are kohya's names of the same layers.
    tensors = {key.replace("lora_unet_", "lycoris_"): value for key, value in load_file(path).items()}
    lycoris.LycorisNetwork.apply_preset({"enable_conv": True, "unet_target_module": [], "target_name": [".*"]})
    wrapper, _ = lycoris.create_lycoris_from_weights(1.0, None, unet, weights_sd=tensors)
    wrapper.apply_to()
    with torch.no_grad():
        found = unet(inputs[0], inputs[1], inputs[2]["context"]).sample
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_lycoris_dora(train, config, model, inputs):
    """DoRA over the inputs, as the WebUI reads it; LyCORIS' own loader takes the other form for granted (4.1.3)."""
    locon = pytest.importorskip("lycoris.modules.locon")
    from lib_blocktrain.networks.keys import key_of

    path, expected = trained(train, config, model, inputs, algorithm="dora", weight_mode="lr")
    tensors, unet = load_file(path), copy.deepcopy(model.unet)
    for name, layer in list(unet.named_modules()):
        if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) or "conv_in" in name:
            continue
        key = key_of(name, "sd1")
        if f"{key}.lora_down.weight" not in tensors:
            continue
        down, alpha = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.alpha"].item()
        module = locon.LoConModule(key, layer, 1, len(down), alpha, weight_decompose=True, wd_on_out=False)
        module.lora_down.weight.data.copy_(down)
        module.lora_up.weight.data.copy_(tensors[f"{key}.lora_up.weight"])
        module.dora_scale.data.copy_(tensors[f"{key}.dora_scale"])
        module.apply_to()
    with torch.no_grad():
        found = unet(inputs[0], inputs[1], inputs[2]["context"]).sample
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
