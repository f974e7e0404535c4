"""The block tables against the real U-Nets: the PyPI `ldm` package and diffusers, on the meta device."""

import sys
from functools import cache
from pathlib import Path
from runpy import run_path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import pytest

from lib_blocktrain.blocks import (
    ARCHITECTURES,
    BASE,
    BLOCK_IDS,
    REST,
    UnknownLayerError,
    architecture,
    block_of,
    detect_architecture,
    diffusers_to_ldm,
    ldm_to_diffusers,
)

# The published U-Net configurations: runwayml/stable-diffusion-v1-5, stabilityai/stable-diffusion-2-1,
# stabilityai/stable-diffusion-xl-base-1.0 (what differs from diffusers' defaults).
_SD = {"block_out_channels": (320, 640, 1280, 1280), "sample_size": 64}
DIFFUSERS_CONFIGS = {
    "sd1": _SD | {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": _SD | {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
# stable-diffusion-sdkit's UNetModel is SD2's code: it has one transformer depth for the whole U-Net and no
# `label_emb` over a vector, so SDXL is built ten deep everywhere and compared without what SDXL does not have.
_LDM = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": 2}
LDM_CONFIGS = {
    "sd1": {"channel_mult": (1, 2, 4, 4), "attention_resolutions": (4, 2, 1), "context_dim": 768, "num_heads": 8},
    "sd2": {
        "channel_mult": (1, 2, 4, 4),
        "attention_resolutions": (4, 2, 1),
        "context_dim": 1024,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
    },
    "sdxl": {
        "channel_mult": (1, 2, 4),
        "attention_resolutions": (4, 2),
        "context_dim": [2048] * 10,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "transformer_depth": 10,
    },
}
IDS = tuple(ARCHITECTURES)


@cache
def diffusers_unet(architecture_id):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(**DIFFUSERS_CONFIGS[architecture_id])


@cache
def ldm_unet(architecture_id):
    torch = pytest.importorskip("torch")
    openaimodel = pytest.importorskip("ldm.modules.diffusionmodules.openaimodel")
    # The package is installed without its dependencies; its U-Net asks omegaconf for the name of a type only.
    omegaconf = {"omegaconf": ModuleType("omegaconf"), "omegaconf.listconfig": SimpleNamespace(ListConfig=list)}
    with patch.dict(sys.modules, omegaconf), torch.device("meta"):
        return openaimodel.UNetModel(
            **_LDM, **LDM_CONFIGS[architecture_id], use_spatial_transformer=True, legacy=False, use_checkpoint=False
        )


def shapes(unet):
    return {name: tuple(parameter.shape) for name, parameter in unet.named_parameters()}


def leaves(unet):
    return [name for name, module in unet.named_modules() if not list(module.children())]


def count_by_block(names, architecture_id):
    counts = dict.fromkeys(architecture(architecture_id).block_ids, 0)
    for name in names:
        counts[block_of(name, architecture_id)] += 1
    return counts


def test_the_25_blocks():
    assert len(BLOCK_IDS) == 25
    assert architecture("sd1").block_ids == architecture("sd2").block_ids == BLOCK_IDS
    assert len(architecture("sdxl").block_ids) == 19
    assert set(architecture("sdxl").block_ids) < set(BLOCK_IDS)


@pytest.mark.parametrize("architecture_id", IDS)
@pytest.mark.parametrize("unet_of", [diffusers_unet, ldm_unet])
def test_every_leaf_layer_has_one_block_or_rest(architecture_id, unet_of):
    known = {*architecture(architecture_id).block_ids, REST}
    found = {block_of(name, architecture_id) for name in leaves(unet_of(architecture_id))}
    assert found == known


@pytest.mark.parametrize("architecture_id", IDS)
def test_a_layer_belongs_to_the_module_that_its_block_names(architecture_id):
    unet = ldm_unet(architecture_id)
    inside = set()
    for block in architecture(architecture_id).blocks:
        names = {f"{block.ldm}.{name}" for name in leaves(unet.get_submodule(block.ldm))}
        assert {block_of(name, architecture_id) for name in names} == {block.id}
        inside |= names
    outside = set(leaves(unet)) - inside
    assert {block_of(name, architecture_id) for name in outside} == {REST}


@pytest.mark.parametrize("architecture_id", IDS)
def test_ldm_and_diffusers_agree_layer_by_layer(architecture_id):
    ours, theirs = shapes(ldm_unet(architecture_id)), shapes(diffusers_unet(architecture_id))
    if architecture_id == "sdxl":
        ours = {name: shape for name, shape in ours.items() if is_in_sdxl(name)}
        theirs = {name: shape for name, shape in theirs.items() if not name.startswith("add_embedding")}
    assert {ldm_to_diffusers(name, architecture_id): shape for name, shape in ours.items()} == theirs
    assert {diffusers_to_ldm(name, architecture_id): shape for name, shape in theirs.items()} == ours
    for name in ours:
        assert block_of(name, architecture_id) == block_of(ldm_to_diffusers(name, architecture_id), architecture_id)


def is_in_sdxl(ldm_name):
    try:
        ldm_to_diffusers(ldm_name, "sdxl")
    except UnknownLayerError:
        assert "transformer_blocks" in ldm_name  # 2 deep where the built U-Net is 10 deep
        return False
    return True


def test_sdxl_label_embedding():
    names = [name for name in shapes(diffusers_unet("sdxl")) if name.startswith("add_embedding")]
    ldm = sorted(diffusers_to_ldm(name, "sdxl") for name in names)
    assert ldm == ["label_emb.0.0.bias", "label_emb.0.0.weight", "label_emb.0.2.bias", "label_emb.0.2.weight"]
    assert sorted(ldm_to_diffusers(name, "sdxl") for name in ldm) == sorted(names)


@pytest.mark.parametrize("architecture_id", IDS)
def test_parts_are_named_in_both_spellings(architecture_id):
    theirs = dict(diffusers_unet(architecture_id).named_modules())
    for block in architecture(architecture_id).blocks:
        for part in block.parts:
            assert part.diffusers in theirs
            assert ldm_to_diffusers(part.ldm, architecture_id) == part.diffusers
            assert diffusers_to_ldm(part.diffusers, architecture_id) == part.ldm


@pytest.mark.parametrize(
    ("architecture_id", "lora", "locon"), [("sd1", 192, 278), ("sd2", 192, 278), ("sdxl", 722, 788)]
)
def test_modules_that_lora_and_locon_reach(architecture_id, lora, locon):
    """As kohya's `create_modules` finds them: Linear and Conv2d inside the modules of these classes."""
    unet = diffusers_unet(architecture_id)
    inside = {"Transformer2DModel": set(), "ResnetBlock2D": set(), "Downsample2D": set(), "Upsample2D": set()}
    for name, module in unet.named_modules():
        if type(module).__name__ in inside:
            layers = [(f"{name}.{inner}", layer) for inner, layer in module.named_modules()]
            inside[type(module).__name__] |= {
                inner for inner, layer in layers if type(layer).__name__ in ("Linear", "Conv2d")
            }
    attention = inside["Transformer2DModel"]
    blocks = architecture(architecture_id).blocks
    assert count_by_block(attention, architecture_id) == {block.id: block.lora_modules for block in blocks}
    everything = set().union(*inside.values())
    assert count_by_block(everything, architecture_id) == {block.id: block.locon_modules for block in blocks}
    assert (len(attention), len(everything)) == (lora, locon)


@pytest.mark.parametrize("architecture_id", IDS)
def test_channels_resolution_and_cost_against_a_forward_pass(architecture_id):
    torch = pytest.importorskip("torch")
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    attention_processor = pytest.importorskip("diffusers.models.attention_processor")
    unet, known = diffusers_unet(architecture_id), architecture(architecture_id)
    unet.set_attn_processor(attention_processor.AttnProcessor())  # plain matrix products, which the counter knows
    side = known.native_size // 8
    seen = {}

    def watch(part):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            (_, *taken), (_, *given) = args[0].shape, output.shape
            seen[part.diffusers] = (taken[0], side // taken[1], given[0], side // given[1])

        return unet.get_submodule(part.diffusers).register_forward_hook(hook)

    handles = [watch(part) for block in known.blocks for part in block.parts]
    counter = flop_counter.FlopCounterMode(display=False, depth=4)
    with counter, torch.no_grad(), torch.device("meta"):
        conditions = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
        context = torch.zeros(1, 77, known.context_width)
        unet(torch.zeros(1, 4, side, side), torch.zeros(1), context, added_cond_kwargs=conditions)
    for handle in handles:
        handle.remove()

    flops = {name.partition(".")[2]: sum(count.values()) for name, count in counter.get_flop_counts().items()}
    for block in known.blocks:
        first, last = seen[block.parts[0].diffusers], seen[block.parts[-1].diffusers]
        assert (*first[:2], *last[2:]) == (block.channels_in, block.resolution_in, block.channels, block.resolution_out)
        share = 100 * sum(flops[name] for name in block.diffusers) / counter.get_total_flops()
        assert block.forward_share == pytest.approx(share, abs=0.011)


@pytest.mark.parametrize("architecture_id", IDS)
def test_skip_partners_add_up(architecture_id):
    known = architecture(architecture_id)
    count = len(known.blocks) // 2
    before = dict(zip(known.block_ids[1:], known.block_ids, strict=False))
    for i in range(count):
        shrinking, growing = known.block(f"IN{i:02}"), known.block(f"OUT{count - 1 - i:02}")
        assert (shrinking.skip, growing.skip) == (growing.id, shrinking.id)
        assert shrinking.resolution_out == growing.resolution_in
        assert growing.channels_in == known.block(before[growing.id]).channels + shrinking.channels
    assert known.block("M00").skip is None


def test_facts_of_the_tutorial():
    """The lists that the tutorial gives: 16 blocks of a LoRA; 21 of a LyCORIS, if its own four are set aside."""
    sd1 = architecture("sd1")
    lora = [block.id for block in sd1.blocks if block.lora_modules]
    assert lora == [f"IN{i:02}" for i in (1, 2, 4, 5, 7, 8)] + ["M00"] + [f"OUT{i:02}" for i in range(3, 12)]
    aside = [block.id for block in sd1.blocks if block.layers in (("conv",), ("down",))]
    assert aside == ["IN00", "IN03", "IN06", "IN09"]
    assert [sd1.block(block).skip for block in aside] == ["OUT11", "OUT08", "OUT05", "OUT02"]


NAMES = [
    ("input_blocks.4.1.proj_in", "sd1", "IN04"),
    ("model.diffusion_model.input_blocks.4.1.proj_in.weight", "sd1", "IN04"),
    ("diffusion_model.middle_block.1.norm", "sdxl", "M00"),
    ("diffusion_model_output_blocks_11_1_proj_out", "sd2", "OUT11"),  # A1111's network_layer_name
    ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "sd1", "IN04"),
    ("unet.up_blocks.0.attentions.1.transformer_blocks.9.ff.net.2.lora_A.weight", "sdxl", "OUT01"),
    ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight", "sd1", "IN04"),
    ("lora_unet_down_blocks_2_downsamplers_0_conv.alpha", "sd1", "IN09"),
    ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight", "sdxl", "IN04"),
    ("lora_unet_output_blocks_2_2_conv.hada_w1_a", "sdxl", "OUT02"),
    ("lora_unet_mid_block_resnets_1_conv2.lokr_w1", "sd1", "M00"),
    ("lora_unet_conv_in.lora_down.weight", "sd1", "IN00"),
    ("lora_unet_conv_out.diff", "sd1", REST),
    ("lora_unet_time_embedding_linear_1.lora_down.weight", "sd1", REST),
    ("oft_unet_input_blocks_1_0_in_layers_2.oft_blocks", "sdxl", "IN01"),
    ("base_model.model.mid_block.attentions.0.proj_in.lora_B.weight", "sd1", "M00"),
    ("base_model.model.unet.up_blocks.3.resnets.2.conv1.lora_A.default.weight", "sd1", "OUT11"),
    ("lycoris_down_blocks_3_resnets_1_conv1.lokr_w1", "sd1", "IN11"),
    ("out.2.weight", "sd1", REST),
    ("out.0", "sdxl", REST),
    ("time_embed", "sd1", REST),
    ("label_emb.0.2", "sdxl", REST),
    ("add_embedding.linear_2.bias", "sdxl", REST),
    ("conv_norm_out", "sd1", REST),
    ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "sd1", BASE),
    ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", "sdxl", BASE),
    ("lora_te2_text_projection.lora_down.weight", "sdxl", BASE),
    ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", "sd1", BASE),
    ("text_encoder_2.text_model.encoder.layers.31.mlp.fc2.lora_B.weight", "sdxl", BASE),
    ("base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "sd1", BASE),
    ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", "sd2", BASE),
    ("conditioner.embedders.1.model.ln_final.weight", "sdxl", BASE),
    ("1_model_transformer_resblocks_0_mlp_c_fc", "sdxl", BASE),  # A1111's network_layer_name
    ("lycoris_text_model_encoder_layers_0_mlp_fc1.lokr_w1", "sd1", BASE),
]


@pytest.mark.parametrize(("name", "architecture_id", "block"), NAMES)
def test_block_of_any_name(name, architecture_id, block):
    assert block_of(name, architecture_id) == block


@pytest.mark.parametrize("architecture_id", IDS)
def test_block_of_kohya_keys_of_a_whole_unet(architecture_id):
    for name in leaves(diffusers_unet(architecture_id)):
        assert block_of(f"lora_unet_{name.replace('.', '_')}.alpha", architecture_id) == block_of(name, architecture_id)


@pytest.mark.parametrize(
    ("name", "architecture_id"),
    [
        ("input_blocks.9.0.op", "sdxl"),  # a block that SDXL lacks
        ("lora_unet_down_blocks_3_resnets_0_conv1.alpha", "sdxl"),
        ("lora_unet_output_blocks_0_1_proj_in.alpha", "sd1"),  # an attention that SD1 lacks
        ("add_embedding.linear_1", "sd1"),
        ("down_blocks.1", "sd1"),  # three blocks
        ("first_stage_model.decoder.conv_in.weight", "sd1"),
        ("input_blocks.12.0", "sd1"),
        ("outer.0", "sd1"),
        ("", "sd1"),
    ],
)
def test_unknown_layers_are_refused_by_name(name, architecture_id):
    with pytest.raises(UnknownLayerError, match=f"{name!r} is no layer of {architecture(architecture_id).title}"):
        block_of(name, architecture_id)


def test_the_error_tells_whose_layer_it_is():
    with pytest.raises(UnknownLayerError, match="it is one of SD1 or SD2"):
        block_of("input_blocks.9.0.op", "sdxl")
    with pytest.raises(UnknownLayerError, match="it is one of SDXL"):
        ldm_to_diffusers("input_blocks.4.1.transformer_blocks.1.norm1", "sd1")


@pytest.mark.parametrize(
    "name",
    [
        "input_blocks.4",
        "input_blocks.4.0.in_layers.1",
        "label_emb.0.0",
        "conv_in",
        "",
    ],
)
def test_names_without_a_diffusers_twin_are_refused(name):
    with pytest.raises(UnknownLayerError):
        ldm_to_diffusers(name, "sd1")


def test_skip_convolutions_of_other_widths_have_names_too():
    """A miniature's channels may grow in IN10, where SD1's do not."""
    assert ldm_to_diffusers("input_blocks.10.0.skip_connection", "sd1") == "down_blocks.3.resnets.0.conv_shortcut"


def test_unknown_architecture_and_block():
    with pytest.raises(ValueError, match=r"'sd3': expected one of sd1, sd2, sdxl"):
        architecture("sd3")
    with pytest.raises(ValueError, match="SDXL has no block 'IN09'"):
        architecture("sdxl").block("IN09")
    with pytest.raises(ValueError, match="sd3"):
        block_of("conv_in", "sd3")


@pytest.mark.parametrize("architecture_id", IDS)
@pytest.mark.parametrize("unet_of", [diffusers_unet, ldm_unet])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_detect_by_a_whole_unet(architecture_id, unet_of, prefix):
    found = {prefix + name: shape for name, shape in shapes(unet_of(architecture_id)).items()}
    assert detect_architecture([*found, "first_stage_model.conv_in.weight"], found) == architecture_id
    expected = "sd1" if architecture_id == "sd2" else architecture_id
    assert detect_architecture(found) == expected


DETECTED = [
    (["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"], (4, 768), "sd1"),
    (["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"], (4, 1024), "sd2"),
    (["lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k.lora_down.weight"], (4, 2048), "sdxl"),
    (["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"], (4, 2048), "sdxl"),
    (["unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight"], (4, 1024), "sd2"),
    (["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v.hada_w2_b"], (4, 1024), "sd2"),
    # a miniature's context: the names decide
    (["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"], (4, 128), "sd1"),
    (["lora_unet_down_blocks_3_resnets_0_conv1.lora_down.weight"], None, "sd1"),
    (["unet.up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.lora_A.weight"], None, "sdxl"),  # a B-LoRA
    (["lora_unet_input_blocks_4_1_proj_in.lora_down.weight"], None, "sdxl"),  # kohya's custom
    (["lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn1_to_q.alpha"], None, "sdxl"),
    (["lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha"], None, "sdxl"),
    (["lora_te_text_model_encoder_layers_22_mlp_fc1.alpha"], None, "sd2"),
    (["lora_te_text_model_encoder_layers_11_mlp_fc1.alpha"], None, "sd1"),
    (["cond_stage_model.model.transformer.resblocks.0.ln_1.weight"], None, "sd2"),
]


@pytest.mark.parametrize(("keys", "shape", "architecture_id"), DETECTED)
def test_detect_by_few_keys(keys, shape, architecture_id):
    assert detect_architecture(keys, dict.fromkeys(keys, shape) if shape else None) == architecture_id


def test_detect_by_lokr_factors():
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    whole = {f"{stem}.lokr_w1": (8, 32), f"{stem}.lokr_w2": (160, 32)}
    decomposed = {f"{stem}.lokr_w1_b": (4, 32), f"{stem}.lokr_w2_b": (4, 32)}
    assert detect_architecture(whole, whole) == detect_architecture(decomposed, decomposed) == "sd2"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "cannot tell SD1 or SD2 or SDXL apart by 0 keys"),
        (["double_blocks.0.img_attn.qkv.weight"], "double_blocks.0.img_attn"),
        (["unet.mid_block.attentions.0.proj_in.lora_A.weight"], "mid_block.attentions.0.proj_in"),
        (
            ["input_blocks.9.0.op.weight", "output_blocks.0.1.proj_in.weight"],
            "output_blocks.0.1.proj_in.weight' is not",
        ),
    ],
)
def test_detect_refuses_with_a_key(keys, message):
    with pytest.raises(ValueError, match=message):
        detect_architecture(keys)


def test_the_page_is_written_from_the_tables():
    root = Path(__file__).resolve().parent.parent
    page = run_path(str(root / "docs" / "make_blocks.py"))["table"]()
    assert (root / "docs" / "blocks.md").read_text(encoding="utf-8") == page
