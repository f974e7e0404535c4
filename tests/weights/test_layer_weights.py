"""Weights for kinds of layers and over the steps: how they are written, which layers they reach, their values."""

from __future__ import annotations

import re

import pytest

from lib_blocktrain.blocks import BASE, REST, architecture, block_of
from lib_blocktrain.networks.keys import key_of
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.curves import read_strength
from lib_blocktrain.weights.elements import ELEMENTS, from_lbw, is_of
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.preset_strings import PresetStringError, change, parse
from tests.tiny_models import diffusers_sdxl_unet, diffusers_unet, ldm_sdxl_unet, ldm_unet

QUERY = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q"  # OUT03
FEED = "diffusion_model.output_blocks.3.1.transformer_blocks.0.ff.net.0.proj.weight"  # OUT03, as in Forge
PROJ = "diffusion_model_output_blocks_5_1_proj_in"  # OUT05, as in A1111


def layers(text: str, architecture_id: str = "sd1") -> LayerWeights:
    return parse(text, architecture_id, layers=True).layers


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("OUTD,OUT03.attn2=0.5,*.ff=0", "1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0,OUT03.attn2=0.5,*.ff=0"),
        ("*=1,OUT.attn2=0.5,OUT=2,OUT05.attn2=1", f"{'1,' * 14}{'2,' * 12}OUT05.attn2=1"),  # the later entry wins
        ("*=1,OUT.ff=0,IN.ff=0,OUT05.ff=1", f"{'1,' * 26}OUT00-OUT04.ff=0,OUT06-OUT11.ff=0,IN00-IN11.ff=0,OUT05.ff=1"),
        ("*.ff=0,*=1", f"{'1,' * 25}1"),
        ("OUT=1@0-0.4,0.3@0.4-1", f"{'1,' + '0,' * 13}{'1,' * 12}OUT00-OUT11=1@0-0.4,0.3@0.4-1"),
        ("*=0@0,1@1", f"1,{'0,' * 25}*=0@0,1@1 | rest=0"),  # the text encoder has no steps
        (f"{'1,' * 26}OUT05.ff=0 | rest=0.5", f"{'1,' * 26}OUT05.ff=0 | rest=0.5"),
        ("ALL,start=5,OUT.ff=0,stop=9", f"{'1,' * 26}OUT00-OUT11.ff=0,start=5,stop=9"),
        ("ALL,step=2-4,stop=7", f"{'1,' * 26}start=2,stop=7"),  # the later entry wins
        ("ALL,start=5,start=1", f"{'1,' * 25}1"),
        ("*=1,strength=0.5@1,0@0.25", f"{'1,' * 26}strength=0@0.25,0.5@1"),  # as loractl's, in order
        ("ALL,strength=1@0;0@10,start=3", f"{'1,' * 26}start=3,strength=1@0,0@10"),
    ],
)
def test_the_line_reads_back(text, line):
    found = layers(text)
    assert found.to_line() == line
    assert layers(line) == found
    assert found.to_line("MINE").startswith("MINE:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ALL,OUT.atn2=1", "'OUT.atn2': no such layer: expected attn1, attn2, ff, proj, conv.*character 5"),
        ("ALL,IN00.attn2=1", "no such layer"),
        ("ALL,OUT99.ff=1", "SD1 has no block 'OUT99'"),
        ("BASE=1@0-1", "BASE over the steps: the prompt is encoded before the first"),
        ("OUT=1@0-0.4,0.3@0.2", "'0.2' among ranges"),
        ("OUT=1@0-0.4,0.3@0.2-0.5", "expected ranges of the progress in order"),
        ("OUT=1@2", "'2': expected a progress of the sampling, 0 .* to 1"),
        ("OUT=1@0.5,0@0.2", "expected positions in order"),
        ("OUT=1,0.3@0.2", "'0.3@0.2': expected, for example"),
        ("OUT=x@0.2", "'x': expected a number"),
        ("start=5", "'start=5' alone: expected weights before it, such as ALL,start=5"),
        ("ALL,start=five", "start=five: expected a step, counted from 1 .character 5"),
        ("ALL,start=5,stop=5", "start=5 and stop=5: expected a stop after the start"),
        ("ALL,strength=x@0", "'x': expected a number"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(PresetStringError, match=message):
        parse(text, "sd1", layers=True)


@pytest.mark.parametrize("text", ["ALL,OUT03.attn2=0.5", "OUT=1@0-0.4", "ALL,start=5", "ALL,strength=0@0,1@1"])
def test_where_only_blocks_have_weights_the_reason_is_said(text):
    with pytest.raises(PresetStringError, match=r"one number for each block \(training has network.elements\)"):
        parse(text, "sd1")


def test_the_layers_of_an_element():
    """Counted on the real modules, in diffusers' and LDM's layout: the same layers in both."""
    for unets, architecture_id in (
        ((diffusers_unet(), ldm_unet()), "sd1"),
        ((diffusers_sdxl_unet(), ldm_sdxl_unet()), "sdxl"),
    ):
        names = [[n for n, layer in unet.named_modules() if hasattr(layer, "weight")] for unet in unets]
        for element in (*ELEMENTS, "attn", "attn2_to_v", "in_layers", "norm"):
            counts = [
                sum(is_of(element, block_of(name, architecture_id), name, architecture_id) for name in found)
                for found in names
            ]
            assert min(counts) > 0, element
            if architecture_id == "sd1":  # the LDM miniature of SDXL is less deep
                assert counts[0] == counts[1], element
        for name in names[0]:
            block, key = block_of(name, architecture_id), key_of(name, architecture_id, "unet")
            of = [e for e in ELEMENTS if is_of(e, block, name, architecture_id)]
            assert of == [e for e in ELEMENTS if is_of(e, block, key, architecture_id)]
            assert len(of) == (0 if block == REST or re.search(r"attentions.*norm", name) else 1)


def test_the_weight_of_a_layer():
    found = layers("*=1,OUT=0.7,OUT03.attn2=0.5,*.ff=0,OUT.proj=-1")
    assert found.weight("OUT03", QUERY) == 0.5
    assert found.weight("OUT03", FEED) == found.weight(BASE, "lora_te_text_model_encoder_layers_0_mlp_fc1") == 0
    assert found.weight("OUT05", PROJ) == -1
    assert found.weight("OUT05", PROJ.replace("proj_in", "transformer_blocks_0_attn1_to_q")) == 0.7
    assert found.weight(BASE, "lora_te_text_model_encoder_layers_0_self_attn_q_proj") == 1
    assert found.constant
    assert found.at(3, 10) is found


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("OUT=1@0-0.4,0.3@0.4-1", [1, 1, 0.3, 0.3, 0.3, 0.3]),  # six steps are at 0, 0.2, 0.4, ...
        ("OUT=1@0.2-0.6", [0, 1, 1, 0, 0, 0]),
        ("OUT=0@0,1@0.4", [0, 0.5, 1, 1, 1, 1]),
        ("OUT=2@0.2,1@0.6", [2, 2, 1.5, 1, 1, 1]),
        ("OUT=1@0.4,0@0.4", [1, 1, 0, 0, 0, 0]),  # a jump
        ("OUT=0.5@0-1", [0.5] * 6),
    ],
)
def test_curves(text, values):
    found = layers(f"ALL,{text}")
    seen = [found.at(step, 6).weight("OUT03", QUERY) for step in range(1, 7)]
    assert seen == pytest.approx(values)
    assert {found.at(step, 6).weight("IN01", QUERY) for step in range(1, 7)} == {1}
    assert not found.constant
    assert found.at(1).blocks == found.at(1, 1).blocks


def test_a_gate_takes_the_unet_only_and_elements_too():
    found = layers("ALL,OUT.attn2=0.5,*.ff=2,IN=0@0,1@1").with_gates(read_strength("1@0,0@1"))
    middle, last = found.at(3, 5), found.at(5, 5)
    assert (middle.weight("OUT03", QUERY), middle.weight("OUT03", FEED), middle.weight("IN01", "x")) == (0.25, 1, 0.25)
    assert (middle.blocks["M00"], middle.blocks.base, middle.blocks.rest) == (0.5, 1, 0.5)
    assert last.weight("OUT03", FEED) == last.weight("OUT05", PROJ) == 0
    assert last.weight(BASE, "lora_te_text_model_encoder_layers_0_mlp_fc1") == 2


def test_steps_and_strength_act_on_all_layers_of_the_unet():
    found = layers("ALL,BASE=0.5,OUT03=2,OUT.ff=0.5,start=3,stop=8,strength=0@0,1@1")
    for step in range(1, 22):
        inside = float(3 <= step < 8) * (step - 1) / 20
        at = found.at(step, 21)
        assert at.blocks.base == 0.5
        assert at.weight("OUT03", QUERY) == pytest.approx(2 * inside)
        assert at.weight("OUT03", FEED) == pytest.approx(0.5 * inside)
        assert at.weight("IN01", QUERY) == pytest.approx(inside)
    assert not found.constant
    assert change(found, "OUT03=1").gates == found.gates


def test_strengths_over_the_steps_as_loractl_has_them():
    """sorted_positions and calculate_weight of cheald/sd-webui-loractl, in its own tests."""
    assert [read_strength("0.5@0,1@1").at(step, 11) for step in (1, 6, 11)] == [0.5, 0.75, 1]
    assert [read_strength("0.75@0;0.5@3;1~6").at(step, 30) for step in (1, 4, 7, 10)] == [0.75, 0.5, 1, 1]  # in steps
    assert [read_strength("1@6,0.5@3,1@0").at(step, 30) for step in (1, 4, 7)] == [1, 0.5, 1]  # sorted
    assert [read_strength("0.5@5,1.0@10").at(step, 30) for step in (1, 6, 9, 16)] == [0.5, 0.5, 0.8, 1]
    assert read_strength("0@0,1").at(5, 9) == 0.5  # without a position: at the end
    with pytest.raises(PresetStringError, match="'x': expected a number"):
        read_strength("x@0")


@pytest.mark.parametrize(
    ("lbwe", "changes"),
    [
        ("ATTNDEEPON", "IN05-OUT05.attn=1"),
        ("PROJDEEPOFF", "IN05-OUT05.proj=0,IN05-OUT05.ff_net_0_proj=0"),
        ("XYZ", "*=1"),
        ("IN05-OUT05 BASE:attn1 ff:0.5,:attn:2", None),
        ("NOT IN00-OUT10::0", "BASE=0,OUT11=0"),
    ],
)
def test_lists_of_elements_of_lora_block_weight(lbwe, changes):
    found = from_lbw(lbwe)
    assert changes in (None, found)
    assert change(LayerWeights(BlockWeights.uniform("sd1", 1.0)), found)


@pytest.mark.parametrize(
    ("lbwe", "weights"),  # of ratiodealer in scripts/lora_block_weight.py b403cb7, for a block weight of 1
    [
        (":attn:0", {"attn1_to_q": 0, "attn2_to_v": 0, "ff_net_0_proj": 1, "proj_in": 1, "text": 0}),
        (":proj:0", {"attn1_to_q": 1, "ff_net_0_proj": 0, "ff_net_2": 1, "proj_in": 0, "text": 0}),
        (":attn1:0", {"attn1_to_q": 0, "attn2_to_v": 1, "text": 1}),
        ("OUT03-OUT05:ff:0", {"ff_net_0_proj": 0, "ff_net_2": 0, "attn1_to_q": 1, "text": 1}),
        ("IN00-IN11::0", {"ff_net_0_proj": 1, "text": 1}),
    ],
)
def test_lbwe_reaches_the_layers_that_it_reaches_there(lbwe, weights):
    found = change(LayerWeights(BlockWeights.uniform("sd1", 1.0)), from_lbw(lbwe))
    for inner, expected in weights.items():
        transformer = "" if inner.startswith("proj") else "transformer_blocks_0_"
        name = f"diffusion_model_output_blocks_4_1_{transformer}{inner}"
        block = "OUT04"
        if inner == "text":
            block, name = BASE, "transformer_text_model_encoder_layers_3_self_attn_q_proj"
        assert found.weight(block, name) == expected, inner


@pytest.mark.parametrize(
    ("lbwe", "message"),
    [
        ("ATTNON", "lbwe=ATTNON: expected ATTNDEEPON, .*or what it stands for, such as IN05-OUT05:attn:0"),
        ("OUT:attn", "expected BLOCKS:ELEMENTS:VALUE"),
        (":attn:x", "'x': expected a number"),
        (":NOT attn:1", "NOT before elements is not read"),
        ("NOT X::1", "expected blocks such as IN05-OUT05"),
    ],
)
def test_lists_of_elements_that_cannot_be_read(lbwe, message):
    with pytest.raises(PresetStringError, match=message):
        from_lbw(lbwe)


def test_changes_to_layer_weights():
    before = layers("ALL,OUT.ff=0,IN=1@0-0.5")
    after = change(before, "OUT05=0.5,M00.attn2=0")
    assert after.to_line().endswith("OUT00-OUT04.ff=0,OUT06-OUT11.ff=0,IN00-IN11=1@0-0.5,M00.attn2=0")
    assert after.blocks["OUT05"] == 0.5
    assert len(architecture("sd1").block_ids) == 25
