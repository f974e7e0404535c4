"""PEFT keeps alpha outside the tensors; PEFT itself is the oracle."""

import copy
import json
import re

import pytest
import safetensors.torch
import torch

from lib_blocktrain.analysis.similar import of_file
from lib_blocktrain.networks.contents import describe
from lib_blocktrain.networks.files import read_network, write_network
from lib_blocktrain.networks.header import NetworkFileError
from lib_blocktrain.networks.hooks import applied
from tests.networks.cases import filled
from tests.networks.test_files import pipeline_with
from tests.tiny_models import diffusers_unet, predict

DOTTED = "mid_block.attentions.0.proj_in"
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 2}

CONFIGS = {
    "alpha": {"lora_alpha": 8},
    "half": {"lora_alpha": 2},
    "rslora": {"lora_alpha": 3, "use_rslora": True},
    "alpha by layer": {"lora_alpha": 2, "alpha_pattern": {"attn2.to_q": 7, "mid_block.resnets.0.conv1": 1}},
    "a whole name": {"lora_alpha": 2, "alpha_pattern": {"^mid_block.resnets.0.conv1": 20}},
    "rank by layer": {"lora_alpha": 2, "rank_pattern": {"to_q": 2, "conv1": 6}},
    "all": {
        "lora_alpha": 5,
        "alpha_pattern": {"to_out.0": 9, r"attn1\.to_q": 1},
        "rank_pattern": {"to_q": 3},
        "use_rslora": True,
        "use_dora": True,
    },
}


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def unet():
    return diffusers_unet()


def peft_folder(folder, unet, config):
    """What PEFT makes of the model's output, and the file in the folder that it saves."""
    model = pytest.importorskip("peft").get_peft_model(copy.deepcopy(unet), config)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_B", "hada_w")):
            torch.nn.init.normal_(parameter, std=0.3)
    theirs = predict(model.base_model.model)
    model.save_pretrained(folder)
    assert not torch.allclose(theirs, predict(unet), atol=0.01)
    return theirs, folder / "adapter_model.safetensors"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_peft_folder_has_pefts_strength(tmp_path, unet, config):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["to_q", "to_out.0", "conv1"], **config)
    theirs, path = peft_folder(tmp_path, unet, config)
    network = read_network(path)
    assert not network.unread
    assert not network.notices
    with applied(unet, network):
        assert torch.allclose(theirs, predict(unet), atol=1e-4)
    written = read_network(write_network(tmp_path / "kohyas.safetensors", network))  # alpha is in the file then
    with applied(unet, written):
        assert torch.allclose(theirs, predict(unet), atol=1e-4)


def test_a_loha_of_peft(tmp_path, unet):
    peft = pytest.importorskip("peft")
    config = peft.LoHaConfig(r=4, alpha=1, target_modules=["to_q", "proj_in"], alpha_pattern={"proj_in": 6})
    theirs, path = peft_folder(tmp_path, unet, config)
    with applied(unet, read_network(path)):
        assert torch.allclose(theirs, predict(unet), atol=1e-4)


def test_what_diffusers_keeps_in_the_metadata(tmp_path, unet):
    peft = pytest.importorskip("peft")
    trained = copy.deepcopy(unet)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=2,
        target_modules=["to_q", "conv1"],
        alpha_pattern={"conv1": 9},
        use_rslora=True,
        init_lora_weights=False,
    )
    trained.add_adapter(config)
    theirs = predict(trained)
    pipeline_with(trained).save_lora_weights(
        tmp_path,
        unet_lora_layers=peft.get_peft_model_state_dict(trained),
        weight_name="a.safetensors",
        unet_lora_adapter_metadata=trained.peft_config["default"].to_dict(),
    )
    with applied(unet, read_network(tmp_path / "a.safetensors")):
        assert torch.allclose(theirs, predict(unet), atol=1e-4)


def folder_with(folder, config=None, module=f"base_model.model.{DOTTED}", name="adapter_model"):
    tensors = {f"{module}.lora_A.weight": filled(4, 16), f"{module}.lora_B.weight": filled(16, 4)}
    tensors["base_model.model.down_blocks.3.resnets.0.conv1.lora_A.weight"] = filled(4, 16, 3, 3)  # tells SD1
    tensors["base_model.model.down_blocks.3.resnets.0.conv1.lora_B.weight"] = filled(16, 4, 1, 1)
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file(tensors, path)
    if config is not None:
        (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def alphas(path):
    return {module.alpha for module in read_network(path).modules.values()}


def test_without_the_file_alpha_is_said_to_be_unknown(tmp_path, unet, caplog):
    path = folder_with(tmp_path)
    assert alphas(path) == {None}
    (notice,) = describe(path)["notices"]
    assert re.search("alpha is not known.*adapter_config.json", notice)
    assert notice in caplog.text
    assert read_network(path).notices == (notice,)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({**LORA, "r": 8}, "r = 8, .* has 4"),
        ({"peft_type": "LORA", "r": 4}, "lora_alpha"),
        ({**LORA, "peft_type": "LOHA"}, "LOHA"),
        ({**LORA, "peft_type": "LOKR"}, "LOKR"),
    ],
)
def test_a_configuration_of_something_else_is_not_used_and_that_is_said(tmp_path, config, said):
    path = folder_with(tmp_path, config)
    assert alphas(path) == {None}
    (notice,) = describe(path)["notices"]
    assert re.search(f"alpha is not known.*{said}", notice)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{" * 9000, "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"x": "' + "a" * 2_000_000 + '"}', "bytes"),
        ({**LORA, "lora_alpha": "x"}, "lora_alpha = 'x'"),
        ({**LORA, "lora_alpha": 1e38}, r"lora_alpha = 1e\+38"),
        ({**LORA, "alpha_pattern": {"proj_in": None}}, "None"),
        ({**LORA, "alpha_pattern": {"(a+)+$": 3}}, r"alpha_pattern '\(a\+\)\+\$'"),
        ({**LORA, "alpha_pattern": [1]}, "alpha_pattern"),
        ({**LORA, "init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, config, said):
    path = folder_with(tmp_path, config)
    for read in (read_network, describe):
        with pytest.raises(NetworkFileError, match=f"adapter_config.json.*{said}"):
            read(path)
    assert "adapter_config.json" in of_file(path).problem


def test_only_pefts_keys_are_looked_up(tmp_path):
    """A file of kohya's beside a PEFT configuration means alpha = rank, as anywhere."""
    folder_with(tmp_path, LORA)
    key = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{key}.lora_down.weight": filled(4, 16), f"{key}.lora_up.weight": filled(16, 4)}
    safetensors.torch.save_file(tensors, tmp_path / "kohyas.safetensors")
    assert alphas(tmp_path / "kohyas.safetensors") == {None}
    assert describe(tmp_path / "kohyas.safetensors")["notices"] == []


def test_shares_of_blocks_are_by_pefts_strength(tmp_path):
    even = of_file(folder_with(tmp_path, LORA)).norms
    strong = of_file(folder_with(tmp_path, {**LORA, "alpha_pattern": {"proj_in": 200}})).norms
    assert strong["M00"] > 0.99 > even["M00"]
