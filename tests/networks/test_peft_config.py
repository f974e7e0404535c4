"""PEFT keeps alpha outside the tensors; PEFT itself is the oracle."""

import copy
import json
import re
import time
from contextlib import suppress

import pytest
import safetensors.torch
import torch

from lib_blocktrain.analysis.similar import of_file
from lib_blocktrain.networks.contents import describe
from lib_blocktrain.networks.files import read_network, write_network
from lib_blocktrain.networks.header import NetworkFileError
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.networks.peft_patterns import LayerPatterns
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
    "expressions": {
        "lora_alpha": 3,
        "alpha_pattern": {r"down_blocks\.[01]\..*attn[12]\.to_q": 7, ".*(conv1|to_out.0)": 1, "(up_blocks.*to_q)+?": 9},
        "rank_pattern": {r"^mid_block\..*": 2, r"resnets\.\d+\.conv1": 6},
    },
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
        if any(part in name for part in ("lora_B", "hada_w", "lokr_w")):
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


@pytest.mark.parametrize("config", [{"alpha": 1}, {"alpha": 6, "decompose_both": True}, {"alpha": 4, "r": 4}], ids=str)
def test_a_lokr_of_peft(tmp_path, unet, config):
    peft = pytest.importorskip("peft")
    config = peft.LoKrConfig(**{"r": 2, "target_modules": ["to_q", "conv1"], "alpha_pattern": {"co.v1": 3}, **config})
    if config.r == 4:  # whole factors: read at PEFT's strength where that is 1
        config.alpha_pattern = {}
    theirs, path = peft_folder(tmp_path, unet, config)
    with applied(unet, read_network(path)):
        assert torch.allclose(theirs, predict(unet), atol=1e-4)


def test_a_lokr_of_whole_factors_at_another_strength_is_refused(tmp_path, unet):
    peft = pytest.importorskip("peft")
    _, path = peft_folder(tmp_path, unet, peft.LoKrConfig(r=64, alpha=8, target_modules=["to_q"]))
    with pytest.raises(NetworkFileError, match="r = 64 and alpha = 8 of two whole factors"):
        read_network(path)


PATTERNS = [
    "to_q", "attn1.to_q", "a.tn1", "^down_blocks.0", r"^down_blocks\.0.*", ".*", "", "x*", "(a|b)+", "(a+)+b", "a{2,3}",
    "[^.]+", r"\w+\.\d+", r"[a-c_\d]*", "^a|b$", "a)|(b", "(?:ab)*?c", r"\D\S\W?",
    "(|a)+b", r"\Aa.*\Z", "(a*)*", "a{0}",
]  # fmt: skip
NAMES = [
    "to_q", "attn1.to_q", "xattn1.to_q", "down_blocks.0", "down_blocks.0.attentions.1.to_q", "a.down_blocks.0", "aab",
    "ab.ab", "b", "a", "aaa", "x.aa", "x.aaaa", "ababc", "", ".", "a.", "c", "a1_", "x.y.1", "mid_block.1", "a\n",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_pefts_do(pattern):
    get_pattern_key = pytest.importorskip("peft.utils.other").get_pattern_key
    for name in NAMES:
        if name != pattern:  # which PEFT answers, too, where it finds nothing
            assert LayerPatterns().match(pattern, name) == (get_pattern_key([pattern], name) == pattern), name


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*)*x", ".*.*.*.*.*.*x", "(a{1,9999}){1,9999}b"])
def test_no_pattern_takes_for_ever(pattern):
    began = time.monotonic()
    patterns = LayerPatterns()
    with suppress(ValueError):
        for number in range(100):
            patterns.match(pattern, "a" * 60 + str(number))
    assert time.monotonic() - began < 20


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
        ({**LORA, "alpha_pattern": {"(a": 3}}, r"alpha_pattern '\(a': not a regular expression"),
        ({**LORA, "alpha_pattern": {"(?=mid).*": 3}}, "alpha_pattern.*ASSERT is not supported"),
        ({**LORA, "alpha_pattern": {r"(.)\1.*": 3}}, "alpha_pattern.*GROUPREF is not supported"),
        ({**LORA, "alpha_pattern": {"(?i:MID.*)": 3}}, "alpha_pattern.*flags are not supported"),
        ({**LORA, "alpha_pattern": {"a" + "?" * 1 + "b" * 2000: 3}}, "alpha_pattern.*2002 characters"),
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
