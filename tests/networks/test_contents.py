"""What a file is by its header: other models' networks are refused as what they are, in every spelling in use."""

import pytest
import safetensors.torch
import torch

from lib_blocktrain.analysis.similar import Profile, of_file, rank
from lib_blocktrain.networks.adapters import NetworkModuleError
from lib_blocktrain.networks.contents import describe
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.networks.header import NetworkFileError
from tests.networks.cases import filled

CLIP_L = "text_model.encoder.layers.0.self_attn.q_proj"
TE1, TE2 = (f"lora_te{number}_{CLIP_L.replace('.', '_')}" for number in (1, 2))
FLUX, SD3, ANY = "Flux or a model built like it", "SD3", "a diffusion transformer"

# The modules of a file by the program that writes it: sd-scripts, diffusers, OneTrainer, ComfyUI, XLabs, musubi-tuner.
FOREIGN = {
    "Flux, sd-scripts": (FLUX, ["lora_unet_double_blocks_0_img_attn_proj", "lora_unet_single_blocks_1_linear1", TE1]),
    "Flux, only single": (FLUX, [TE1, "lora_unet_single_blocks_7_linear2"]),
    "Flux, diffusers": (
        FLUX,
        [
            "transformer.transformer_blocks.1.attn.to_q",
            "transformer.single_transformer_blocks.1.attn.to_q",
            f"text_encoder.{CLIP_L}",
        ],
    ),
    "Flux, OneTrainer": (FLUX, ["lora_transformer_single_transformer_blocks_3_attn_to_q", TE1]),
    "Flux, ComfyUI": (
        FLUX,
        ["diffusion_model.double_blocks.0.img_attn.qkv", f"text_encoders.clip_l.transformer.{CLIP_L}"],
    ),
    "Flux, PEFT": (FLUX, ["base_model.model.single_transformer_blocks.0.proj_mlp"]),
    "SD3, sd-scripts": (SD3, ["lora_unet_joint_blocks_0_x_block_attn_qkv", TE1, TE2]),
    "SD3, ComfyUI": (
        SD3,
        ["diffusion_model.joint_blocks.0.x_block.attn.qkv", f"text_encoders.clip_g.transformer.{CLIP_L}"],
    ),
    "SD3, diffusers": (ANY, ["transformer.transformer_blocks.1.attn.add_q_proj", f"text_encoder_2.{CLIP_L}"]),
    "SD3, OneTrainer": (ANY, ["lora_transformer_transformer_blocks_1_attn_to_q", TE1, TE2]),
    "PixArt, diffusers": (ANY, ["transformer.transformer_blocks.1.attn2.to_k"]),
    "T5 beside CLIP": ("SD3 or Flux", [TE1, "lora_te3_encoder_block_0_layer_0_SelfAttention_q"]),
    "Wan, ComfyUI": ("Wan", ["diffusion_model.blocks.0.self_attn.q", "diffusion_model.time_embedding.0"]),
    "Wan, musubi-tuner": ("Wan", ["lora_unet_blocks_0_cross_attn_k"]),
    "Anima, sd-scripts": ("Anima", ["lora_unet_blocks_0_self_attn_q_proj", "lora_unet_blocks_0_mlp_layer1"]),
    "Anima, ComfyUI": ("Anima", ["diffusion_model.llm_adapter.blocks.0.cross_attn.q_proj"]),
    "Z-Image, ComfyUI": ("Lumina, Z-Image", ["diffusion_model.layers.0.attention.qkv"]),
    "an unknown U-Net beside CLIP": ("a U-Net that is none of these", ["lora_unet_layers_0_attn_qkv", TE1]),
    "an unknown U-Net, and a name like ours": (
        "a U-Net that is none of these",
        [f"lora_te_{CLIP_L.replace('.', '_')}", "unet.time_embedding.linear_1", "unet.layers.0.attn.qkv"],
    ),
}


def file_of(path, modules, names=("lora_down.weight", "lora_up.weight")):
    shapes = ((4, 16), (16, 4))
    tensors = {f"{module}.{n}": filled(*s) for module in modules for n, s in zip(names, shapes, strict=True)}
    safetensors.torch.save_file(tensors, path)
    return path


@pytest.mark.parametrize(("title", "modules"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("reversed_order", [False, True])
def test_other_models_are_refused_as_what_they_are(tmp_path, title, modules, reversed_order):
    path = file_of(tmp_path / "foreign.safetensors", modules[::-1] if reversed_order else modules)
    for read in (read_network, describe):
        with pytest.raises(NetworkFileError, match=rf"not a network for SD1, SD2 or SDXL: .*{title}"):
            read(path)
    assert title in of_file(path).problem


def test_flux_as_xlabs_writes_it(tmp_path):
    names = [f"double_blocks.0.processor.{part}_lora1.{side}.weight" for part in "qkv" for side in ("down", "up")]
    safetensors.torch.save_file({name: torch.ones(4, 4) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(NetworkFileError, match=FLUX):
        describe(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("architecture", "modules"),
    [
        ("sdxl", [TE1, TE2]),
        ("sd1", ["lora_unet_mid_block_attentions_0_proj_in", "lora_unet_motion_modules_0_proj"]),
        ("sdxl", ["unet.up_blocks.0.attentions.1.transformer_blocks.9.attn1.to_q"]),
        ("sd1", ["lora_unet_time_embedding_linear_1", f"lora_te_{CLIP_L.replace('.', '_')}"]),
    ],
)
def test_ours_are_not_taken_for_others(tmp_path, architecture, modules):
    assert describe(file_of(tmp_path / "ours.safetensors", modules))["architecture"] == architecture


@pytest.mark.parametrize(
    "prefixes",
    [
        ("text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer."),
        ("clip_l.transformer.", "clip_g.transformer."),
        ("clip_l.", "clip_g."),
        ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.transformer."),
    ],
)
def test_both_text_encoders_of_sdxl_in_other_tools_keys(tmp_path, prefixes):
    """Without a layer of the U-Net, the second encoder tells SDXL."""
    network = read_network(file_of(tmp_path / "both.safetensors", [prefix + CLIP_L for prefix in prefixes]))
    assert network.architecture == "sdxl"
    assert sorted(network.modules) == [TE1, TE2]


def test_clip_g_alone_is_sdxls_second(tmp_path):
    network = read_network(file_of(tmp_path / "g.safetensors", [f"text_encoders.clip_g.transformer.{CLIP_L}"]))
    assert (network.architecture, list(network.modules)) == ("sdxl", [TE2])


def test_clip_h_is_sd2s(tmp_path):
    assert describe(file_of(tmp_path / "h.safetensors", [f"clip_h.transformer.{CLIP_L}"]))["architecture"] == "sd2"


NOTHING_KNOWN = {
    "half of a LoRA": {f"{TE1}.lora_down.weight": (4, 16)},
    "alphas only": {f"{TE1}.alpha": ()},
    "a checkpoint": {"model.diffusion_model.middle_block.1.proj_in.weight": (16, 16)},
    "embeddings and alphas": {"bundle_emb.face.string_to_param.*": (4, 16), f"{TE2}.alpha": ()},
    "one tensor of a LoHa": {"lora_unet_mid_block_resnets_0_conv1.hada_w1_a": (4, 4), f"{TE1}.alpha": ()},
}


@pytest.mark.parametrize("shapes", NOTHING_KNOWN.values(), ids=NOTHING_KNOWN)
def test_a_file_with_nothing_known_in_it_is_an_error_for_everyone(tmp_path, shapes):
    path = tmp_path / "empty.safetensors"
    safetensors.torch.save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    said = rf"empty\.safetensors: (no network modules among its {len(shapes)} keys|not a network for)"
    for read in (read_network, describe):
        with pytest.raises(NetworkFileError, match=said):
            read(path)
    profile = of_file(path)
    assert profile.problem
    assert rank(Profile("sought", architecture="sd1"), [profile]).matches == ()


@pytest.mark.parametrize(
    ("up", "said"),
    [(torch.ones(16, 5), "shapes"), (torch.full((16, 4), torch.nan), "not finite")],
    ids=["factors that do not fit", "NaN"],
)
def test_what_the_reader_refuses_is_not_ranked(tmp_path, up, said):
    path = tmp_path / "broken.safetensors"
    key = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{key}.lora_down.weight": filled(4, 16), f"{key}.lora_up.weight": up}
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(NetworkModuleError, match=said):
        read_network(path)
    assert said in of_file(path).problem
