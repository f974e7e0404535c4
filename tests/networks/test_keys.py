"""Every spelling of a name in a network file becomes kohya's."""

import pytest

from lib_blocktrain.blocks import UnknownLayerError
from lib_blocktrain.networks.keys import algorithm_of, component_of, key_of, modules_in, split_key

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OUT = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
DOTTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TE_Q = "text_model_encoder_layers_0_self_attn_q_proj"

SPELLINGS = [
    # kohya
    ("sd1", f"{Q}.lora_down.weight", Q, "lora_down.weight"),
    ("sd1", f"{Q}.alpha", Q, "alpha"),
    ("sd1", "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_A.weight", Q, "lora_down.weight"),
    ("sd1", "lora_unet_output_blocks_2_1_conv.diff", "lora_unet_up_blocks_0_upsamplers_0_conv", "diff"),
    ("sd1", "lora_unet_input_blocks_4_0_in_layers_2.hada_w1_a", "lora_unet_down_blocks_1_resnets_0_conv1", "hada_w1_a"),
    ("sd1", "lora_unet_time_embed_0.diff_b", "lora_unet_time_embedding_linear_1", "diff_b"),
    ("sd2", f"lora_te_{TE_Q}.lora_up.weight", f"lora_te_{TE_Q}", "lora_up.weight"),
    ("sd1", f"lora_te1_{TE_Q}.lora_up.weight", f"lora_te_{TE_Q}", "lora_up.weight"),
    (
        "sd1",
        "oft_unet_mid_block_attentions_0_proj_in.oft_blocks",
        "lora_unet_mid_block_attentions_0_proj_in",
        "oft_blocks",
    ),
    ("sdxl", "lora_unet_output_blocks_2_2_conv.alpha", "lora_unet_output_blocks_2_2_conv", "alpha"),
    ("sdxl", "lora_unet_up_blocks_0_upsamplers_0_conv.alpha", "lora_unet_output_blocks_2_2_conv", "alpha"),
    ("sdxl", "lora_unet_label_emb_0_0.alpha", "lora_unet_label_emb_0_0", "alpha"),
    ("sdxl", f"lora_te2_{TE_Q}.alpha", f"lora_te2_{TE_Q}", "alpha"),
    # diffusers, old and new
    ("sd1", f"unet.{DOTTED}.processor.to_q_lora.down.weight", Q, "lora_down.weight"),
    ("sd1", f"unet.{DOTTED}.processor.to_out_lora.up.weight", OUT, "lora_up.weight"),
    ("sd1", f"{DOTTED}.processor.to_q_lora.up.weight", Q, "lora_up.weight"),
    ("sd1", f"unet.{DOTTED}.to_q.lora.down.weight", Q, "lora_down.weight"),
    ("sd1", f"unet.{DOTTED}.to_out.0.lora_B.weight", OUT, "lora_up.weight"),
    ("sd1", f"unet.{DOTTED}.to_q.alpha", Q, "alpha"),
    (
        "sd1",
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight",
        f"lora_te_{TE_Q}",
        "lora_down.weight",
    ),
    (
        "sdxl",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
        f"lora_te2_{TE_Q}",
        "lora_up.weight",
    ),
    (
        "sdxl",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        f"lora_te1_{TE_Q}",
        "lora_down.weight",
    ),
    # PEFT
    ("sd1", f"base_model.model.{DOTTED}.to_q.lora_A.weight", Q, "lora_down.weight"),
    ("sd1", f"base_model.model.{DOTTED}.to_q.lora_B.default.weight", Q, "lora_up.weight"),
    ("sd1", f"unet.base_model.model.{DOTTED}.to_q.lora_magnitude_vector.default.weight", Q, "dora_scale"),
    ("sd1", f"unet.{DOTTED}.to_q.lora_magnitude_vector", Q, "dora_scale"),
    (
        "sd1",
        "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        f"lora_te_{TE_Q}",
        "lora_down.weight",
    ),
    # LyCORIS, ComfyUI, OpenCLIP
    ("sd1", "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lokr_w1", Q, "lokr_w1"),
    ("sd1", f"lycoris_{TE_Q}.lokr_w2_a", f"lora_te_{TE_Q}", "lokr_w2_a"),
    ("sd1", "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight", Q, "lora_up.weight"),
    (
        "sdxl",
        "lora_te2_transformer_resblocks_0_mlp_c_fc.alpha",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "alpha",
    ),
    ("sdxl", "1_model_transformer_resblocks_0_attn_q_proj.alpha", f"lora_te2_{TE_Q}", "alpha"),
    *(
        (architecture, f"{prefix}{module}.lora_up.weight", f"lora_{component}_{TE_Q}", "lora_up.weight")
        for module in ("text_model.encoder.layers.0.self_attn.q_proj",)
        for architecture, prefix, component in (
            ("sdxl", "text_encoders.clip_l.transformer.", "te1"),  # ComfyUI's own, as its "Save LoRA" writes them
            ("sdxl", "text_encoders.clip_g.transformer.", "te2"),
            ("sdxl", "clip_l.transformer.", "te1"),
            ("sdxl", "clip_g.transformer.", "te2"),
            ("sd1", "text_encoders.clip_l.transformer.", "te"),
            ("sd2", "text_encoders.clip_h.transformer.", "te"),
            ("sd2", "clip_h.transformer.", "te"),
            ("sdxl", "clip_l.", "te1"),  # OneTrainer's OMI
            ("sdxl", "clip_g.", "te2"),
            ("sdxl", "lora_te2_", "te2"),
            ("sdxl", "conditioner.embedders.0.transformer.", "te1"),  # the checkpoint's
            ("sd1", "cond_stage_model.transformer.", "te"),
        )
    ),
    ("sdxl", "text_encoders.clip_g.transformer.text_projection.diff", "lora_te2_text_projection", "diff"),
    ("sdxl", "clip_g.text_projection.diff", "lora_te2_text_projection", "diff"),
    (
        "sdxl",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.q_proj.alpha",
        f"lora_te2_{TE_Q}",
        "alpha",
    ),
    # OneTrainer's OMI: LDM's U-Net below "unet"
    ("sdxl", "unet.output_blocks.2.2.conv.alpha", "lora_unet_output_blocks_2_2_conv", "alpha"),
]


@pytest.mark.parametrize(("architecture", "source", "key", "tensor"), SPELLINGS)
def test_spelling(architecture, source, key, tensor):
    module, found = split_key(source)
    assert (key_of(module, architecture), found) == (key, tensor)
    assert key_of(key, architecture) == key, "a key is its own spelling"


@pytest.mark.parametrize("source", ["bundle_emb.face.string_to_param.*", "epoch", "lora_unet_x"])
def test_what_names_no_tensor(source):
    assert split_key(source) is None


def test_unknown_layer_is_refused():
    with pytest.raises(UnknownLayerError, match="double_blocks"):
        key_of("lora_unet_double_blocks_0_img_attn_proj", "sd1")


def test_components():
    assert [component_of(key) for key in (Q, f"lora_te_{TE_Q}", f"lora_te1_{TE_Q}", f"lora_te2_{TE_Q}")] == [
        "unet",
        "te",
        "te1",
        "te2",
    ]


def test_modules_in_a_file():
    sources = [f"{Q}.lora_down.weight", f"{Q}.alpha", "bundle_emb.face.vec", "lora_unet_nowhere.alpha"]
    modules, unread = modules_in(sources, "sd1")
    assert modules == {Q: {"lora_down.weight": sources[0], "alpha": sources[1]}}
    assert unread == sources[2:]


def test_one_tensor_in_two_spellings_is_refused():
    with pytest.raises(ValueError, match="same tensor of"):
        modules_in([f"{Q}.lora_down.weight", f"unet.{DOTTED}.to_q.lora_A.weight"], "sd1")


@pytest.mark.parametrize(
    ("shapes", "algorithm", "rank"),
    [
        ({"lora_down.weight": (4, 16), "lora_up.weight": (32, 4), "alpha": ()}, "lora", 4),
        ({"hada_w1_a": (32, 4), "hada_w1_b": (4, 16), "hada_w2_a": (32, 4), "hada_w2_b": (4, 16)}, "loha", 4),
        ({"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 4)}, "lokr", 2),
        ({"lokr_w1": (4, 4), "lokr_w2": (8, 4)}, "lokr", None),
        ({"a1.weight": (16, 3), "a2.weight": (3, 16), "b1.weight": (32, 3), "b2.weight": (3, 16)}, "glora", 3),
        (
            {
                "a1.weight": (4, 8, 1, 1),
                "a2.weight": (8, 4, 1, 1),
                "b1.weight": (320, 8, 1, 1),
                "b2.weight": (8, 4, 3, 3),
            },
            "glora",
            8,
        ),
        ({"a1.weight": (8, 4), "a2.weight": (4, 8), "b1.weight": (8, 4), "b2.weight": (9, 8)}, "glora", 8),
        ({"oft_blocks": (8, 4, 4)}, "oft", None),
        ({"oft_blocks": (3, 8, 4, 4)}, "boft", None),
        ({"diff": (32, 16)}, "full", None),
        ({"diff_b": (32,)}, "full", None),
        ({"w_norm": (32,), "b_norm": (32,)}, "norm", None),
        ({"weight": (32,), "on_input": ()}, "ia3", None),
        ({"q_layer.weight": (4, 16), "p_layer.weight": (32, 4), "lambda_layer": (1, 4), "alpha": ()}, "tlora", 4),
    ],
)
def test_algorithms_are_told_by_names_and_shapes(shapes, algorithm, rank):
    found = algorithm_of(shapes)
    assert (found.id, found.rank(shapes)) == (algorithm, rank)


@pytest.mark.parametrize(
    "shapes", [{"lora_down.weight": (4, 16)}, {"alpha": ()}, {"weight": (4,)}, {"hada_w1_a": (4, 4)}]
)
def test_incomplete_modules_are_none(shapes):
    assert algorithm_of(shapes) is None
