"""Network files: written as kohya does, read in every spelling, checked with diffusers and LyCORIS as readers."""

import hashlib
import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from lib_blocktrain.networks.adapters import DoRA, LoRA
from lib_blocktrain.networks.contents import describe, inspect
from lib_blocktrain.networks.files import Network, network_hashes, read_network, write_network
from lib_blocktrain.networks.header import NetworkFileError, read_header
from lib_blocktrain.networks.hooks import applied
from tests.networks.cases import filled, lora
from tests.tiny_models import diffusers_unet, network_for, predict

ATTENTION = ("attn1_to", "attn2_to", "ff_net")
CONVOLUTIONS = (*ATTENTION, "conv1", "conv2", "sampler", "proj_in")
KEY = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def unet():
    return diffusers_unet()


def small_file(path, tensors=None, metadata=None, module=KEY):
    tensors = tensors or {**lora(16, 16), "alpha": torch.tensor(2.0)}
    safetensors.torch.save_file({f"{module}.{name}": value for name, value in tensors.items()}, path, metadata)
    return path


@pytest.mark.parametrize(
    "algorithm", ["lora", "loha", "lokr w1 w2", "dora on input", "full", "oft rescaled", "ia3 on input"]
)
def test_what_was_written_is_read(tmp_path, unet, algorithm):
    network = network_for(unet, algorithm, layers=("mid_block", "up_blocks_3_resnets_0_conv1"))
    read = read_network(write_network(tmp_path / "a.safetensors", network))
    assert (read.name, read.architecture, read.unread) == ("a", "sd1", ())
    assert read.modules.keys() == network.modules.keys()
    for key, module in network.modules.items():
        for name, tensor in module.to_tensors().items():
            assert torch.equal(read.modules[key].to_tensors()[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_that_of_the_factors_and_alpha_stays_exact(tmp_path, dtype):
    network = Network("a", "sd1", {KEY: LoRA(KEY, filled(4, 16), filled(16, 4), alpha=0.7)})
    path = write_network(tmp_path / "a.safetensors", network, dtype=dtype)
    read = read_network(path).modules[KEY]
    assert read.down.dtype == dtype
    assert read.alpha == torch.tensor(0.7).item()


def test_metadata_is_kept_and_the_architecture_added(tmp_path):
    network = Network("a", "sdxl", {}, {"ss_sd_model_name": "x", "ss_base_model_version": "sdxl_base_v0-9"})
    key = "lora_unet_input_blocks_4_1_proj_in"
    network = Network("a", "sdxl", {key: LoRA(key, filled(4, 16), filled(16, 4))}, network.metadata)
    metadata = read_header(write_network(tmp_path / "a.safetensors", network)).metadata
    assert metadata["ss_sd_model_name"] == "x"
    assert metadata["ss_base_model_version"] == "sdxl_base_v0-9"
    assert metadata["ss_v2"] == "False"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


def test_hashes_are_those_of_sd_scripts(tmp_path, unet):
    """Against a recomputation from the file's bytes, as the WebUI's `addnet_hash_safetensors` does it."""
    network = network_for(unet)
    network = Network("a", "sd1", network.modules, {"ss_output_name": "a", "note": "not of the training"})
    path = write_network(tmp_path / "a.safetensors", network)
    content = path.read_bytes()
    header_length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + header_length])["__metadata__"]
    assert metadata["sshs_model_hash"] == hashlib.sha256(content[8 + header_length :]).hexdigest()

    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {k: v for k, v in metadata.items() if k.startswith("ss_")})
    assert len(content) > 0x110000, "the file is too small to have the bytes that the old hash is of"
    with open(path, "rb") as file:
        file.seek(0x100000)
        assert metadata["sshs_legacy_hash"] == hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    assert network_hashes(tensors, {"ss_output_name": "a"})[0] == metadata["sshs_model_hash"]


@pytest.mark.parametrize("written", ["ours", "sd-scripts", "none"])
def test_inspect_says_when_the_tensors_are_not_those_of_the_hash(tmp_path, unet, written):
    path = write_network(tmp_path / "a.safetensors", network_for(unet))
    if written == "sd-scripts":  # tensors and metadata of its own, and the hash by its rule
        tensors = {key: tensor.half() for key, tensor in safetensors.torch.load_file(path).items()}
        body = safetensors.torch.save(tensors)
        digest = hashlib.sha256(body[8 + int.from_bytes(body[:8], "little") :]).hexdigest()
        safetensors.torch.save_file(tensors, path, {"sshs_model_hash": digest, "ss_note": "x"})
    elif written == "none":
        safetensors.torch.save_file(safetensors.torch.load_file(path), path)
    assert inspect(path) == describe(path)

    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert describe(path)["notices"] == []
    if written == "none":
        assert inspect(path)["notices"] == []
    else:
        (notice,) = inspect(path)["notices"]
        assert "do not match its sshs_model_hash" in notice
        assert read_header(path).metadata["sshs_model_hash"][:12] in notice


def test_nothing_is_overwritten_or_left_half_written(tmp_path, monkeypatch):
    network = read_network(small_file(tmp_path / "in.safetensors"))
    path = write_network(tmp_path / "a.safetensors", network)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.safetensors"):
        write_network(path, network)
    write_network(path, network, dtype=torch.float16, overwrite=True)
    assert path.read_bytes() != before
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_network(path, network, overwrite=True)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "in.safetensors"]
    with pytest.raises(NetworkFileError, match="ends in"):
        write_network(tmp_path / "a.ckpt", network)


def test_unread_keys_are_kept_and_said(tmp_path, caplog):
    tensors = {**lora(16, 16), "scalar": torch.tensor(1.0), "w_norm": filled(16)}
    path = small_file(tmp_path / "a.safetensors", tensors)
    network = read_network(path)
    assert sorted(network.unread) == [f"{KEY}.scalar", f"{KEY}.w_norm"]
    assert "2 keys belong to no known module" in caplog.text
    assert sorted(describe(path)["unread"]) == sorted(network.unread)


@pytest.mark.parametrize(
    ("tensors", "module", "said"),
    [
        ({"lora_down.weight": filled(4, 16)}, KEY, "no network modules among its 1 keys.*lora_down"),
        (lora(16, 16), "lora_unet_double_blocks_0_img_attn_proj", "not a network for SD1, SD2 or SDXL"),
        ({"weight": filled(4, 4)}, "encoder.layers.0", "not a network for SD1, SD2 or SDXL"),
    ],
)
def test_files_that_are_no_network_are_refused(tmp_path, tensors, module, said):
    path = small_file(tmp_path / "strange.safetensors", tensors, module=module)
    with pytest.raises(NetworkFileError, match=rf"strange\.safetensors: {said}"):
        read_network(path)


def test_truncated_file_is_refused(tmp_path):
    path = small_file(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NetworkFileError, match="cut short"):
        read_network(path)


def test_peft_dora_is_by_output(tmp_path):
    tensors = {
        "lora_A.weight": filled(4, 16, 1, 1),
        "lora_B.weight": filled(16, 4, 1, 1),
        "lora_magnitude_vector": torch.ones(1, 16, 1, 1),
    }
    path = small_file(tmp_path / "a.safetensors", tensors, module="unet.down_blocks.0.attentions.0.proj_in")
    network = read_network(path)
    (module,) = network.modules.values()
    assert isinstance(module, DoRA)
    assert module.magnitude.shape == (16, 1, 1, 1)
    assert describe(path)["algorithms"] == ["dora", "lora"]


def test_describe_needs_no_torch(tmp_path, unet):
    network = network_for(unet)
    path = write_network(tmp_path / "a.safetensors", network)
    program = f"""
import json, sys
from lib_blocktrain.networks.contents import describe
found = describe({str(path)!r})
assert not {{"torch", "numpy", "safetensors"}} & sys.modules.keys()
print(json.dumps(found))
"""
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    found = json.loads(answer)
    assert (found["architecture"], found["algorithms"], found["rank"]) == ("sd1", ["lora"], 4)
    assert {block: count for block, count in found["blocks"].items() if count} == network.blocks
    assert found["blocks"]["BASE"] == 0
    assert list(found["blocks"])[:2] == ["BASE", "IN00"]
    assert found["metadata"]["sshs_model_hash"]


@pytest.mark.parametrize(
    ("algorithm", "ids", "rank"),
    [
        ("lora", ["lora"], 4),
        ("loha", ["loha"], 4),
        ("lokr w2", ["lokr"], 1),
        ("lokr whole", ["lokr"], None),
        ("glora first layout", ["glora"], 4),
        ("lokr dora", ["dora", "lokr"], 1),
        ("tlora", ["tlora"], 4),
        ("oft rescaled", ["oft"], None),
        ("boft", ["boft"], None),
        ("full", ["full"], None),
        ("norm", ["norm"], None),
        ("ia3 on output", ["ia3"], None),
    ],
)
def test_description_and_network_agree(tmp_path, unet, algorithm, ids, rank):
    path = write_network(
        tmp_path / "a.safetensors", network_for(unet, algorithm, layers=("down_blocks_0", "up_blocks_0"))
    )
    found, network = describe(path), read_network(path)
    assert (found["algorithms"], found["rank"], found["unread"]) == (ids, rank, [])
    assert {module.algorithm.id for module in network.modules.values()} == set(ids) - {"dora"}
    assert {block: count for block, count in found["blocks"].items() if count} == network.blocks


@pytest.mark.parametrize("layers", [ATTENTION, CONVOLUTIONS], ids=["lora", "locon"])
def test_diffusers_reads_our_files_alike(tmp_path, layers):
    """`load_lora_weights` of a real pipeline, which puts the file on the U-Net through PEFT."""
    pytest.importorskip("peft")
    unet = diffusers_unet()
    network = network_for(unet, layers=layers)
    path = write_network(tmp_path / "a.safetensors", network)
    with applied(unet, read_network(path)):
        ours = predict(unet)
    assert not torch.allclose(ours, predict(unet), atol=0.1)
    pipeline = pipeline_with(unet)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    assert torch.allclose(ours, predict(unet), atol=1e-4)


@pytest.mark.parametrize("alpha", [4, 3])
def test_diffusers_files_are_read_as_diffusers_means_them(tmp_path, alpha):
    """What the pipeline itself saves; an alpha other than the rank is in its metadata only."""
    peft = pytest.importorskip("peft")
    unet = diffusers_unet()
    unet.add_adapter(
        peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=["to_q", "to_out.0", "conv1"], init_lora_weights=False)
    )
    theirs = predict(unet)
    state = peft.get_peft_model_state_dict(unet)
    config = unet.peft_config["default"].to_dict()
    pipeline = pipeline_with(unet)
    pipeline.save_lora_weights(
        tmp_path, unet_lora_layers=state, weight_name="a.safetensors", unet_lora_adapter_metadata=config
    )
    unet.unload_lora()
    assert not torch.allclose(theirs, predict(unet), atol=0.1)
    network = read_network(tmp_path / "a.safetensors")
    assert not network.unread
    with applied(unet, network):
        assert torch.allclose(theirs, predict(unet), atol=1e-4)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr w2", "dora on output", "norm", "full"])
def test_lycoris_reads_our_files_alike(tmp_path, algorithm):
    lycoris = pytest.importorskip("lycoris")
    unet = diffusers_unet()
    network = network_for(unet, algorithm, layers=("mid_block", "up_blocks_2_attentions_0"))
    path = write_network(tmp_path / "a.safetensors", network)
    with applied(unet, read_network(path)):
        ours = predict(unet)
    assert not torch.allclose(ours, predict(unet), atol=0.01)
    theirs = {name.replace("lora_unet_", "lycoris_"): t for name, t in safetensors.torch.load_file(path).items()}
    wrapper, _ = lycoris.create_lycoris_from_weights(1.0, None, unet, weights_sd=theirs)
    assert len(wrapper.loras) == len(network.modules)
    for module in wrapper.loras:
        module.eval().apply_to()
    assert torch.allclose(ours, predict(unet), atol=2e-3)


def pipeline_with(unet):
    diffusers = pytest.importorskip("diffusers")
    return diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
