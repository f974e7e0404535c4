"""The prompt tag: what is read and refused, and the record of its weights in a picture's parameters."""

from __future__ import annotations

import pytest

from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import PresetStringError, parse
from lib_blocktrain.weights.presets import Preset
from lib_blocktrain.weights.prompt_tags import PageWeights, changed, read_tag, resolve, weights_in_tag
from lib_blocktrain.weights.tag_steps import SamplingStep, Steps, TagError
from lib_blocktrain.weights.tagged_prompts import (
    accordion_of,
    fix_random_weights,
    infotext_of,
    pasted,
    read_infotext_value,
    renamed,
    without,
    write_weights,
)

ALL = BlockWeights.uniform("sd1", 1.0)


def given(tag: str, **options) -> BlockWeights | None:
    return resolve(read_tag(tag.split(":")), "sd1", **options).weights


@pytest.mark.parametrize(
    ("tag", "weights"),
    [
        ("face:1:bw=OUTD", parse("OUTD", "sd1").weights),
        ("face:0.5:lbw=OUTD", parse("OUTD", "sd1").weights),
        ("face:1:bw=OUT=1,IN=0.5", parse("OUT=1,IN=0.5", "sd1").weights),  # "=" is in there twice
        ("face:te=1:unet=0.5:bw=" + ",".join(["1"] * 26), ALL),
        ("face:1", None),
        ("face:1:start=3", None),
    ],
)
def test_weights_of_a_tag(tag, weights):
    assert given(tag) == weights


def test_the_webui_reads_the_rest():
    tag = read_tag(["face", "0.8", "bw=OUTD", "te=0.5", "start=2", "dyn=4"])
    assert tag.plain == ("face", "0.8", "te=0.5", "dyn=4")
    assert read_tag(tag.items) == tag


@pytest.mark.parametrize(
    ("text", "acting"),
    [
        ("start=3", [3, 4, 5]),
        ("stop=3", [1, 2]),
        ("step=2-4", [2, 3]),
        ("start=2:stop=4", [2, 3]),
        ("start=0", [1, 2, 3, 4, 5]),
    ],
)
def test_steps(text, acting):
    steps = read_tag(["face", "1", *text.split(":")]).steps
    assert [step for step in range(1, 6) if step in steps] == acting


@pytest.mark.parametrize(
    ("text", "acting"),
    [
        ("start=3", [4, 5, 6]),
        ("stop=3", [1, 2, 3]),
        ("start=2:stop=4", [3, 4]),
        ("step=2-4", [3, 4]),
        ("start=1", [1, 2, 3, 4, 5, 6]),
        ("start=0:stop=2", [1, 2]),
    ],
)
def test_steps_of_lbw_are_those_of_lora_block_weight(text, acting):
    """It goes by the WebUI's count, which lags behind; what it does was seen in AUTOMATIC1111 (`tests/webui`)."""
    tag = read_tag(["face", "1", "lbw=OUTD", *text.split(":")])
    evaluations = [SamplingStep(step, reported=max(step - 1, 1)) for step in range(1, 7)]
    assert [step for step in evaluations if step in tag.steps] == acting
    assert read_tag(tag.items) == tag


def test_steps_of_lbw_within_a_step():
    """Heun's second evaluation in a step comes after the report of that step."""
    steps = read_tag(["face", "1", "lbw=OUTD", "start=3"]).steps
    evaluations = [SamplingStep(1, 1), SamplingStep(1, 1), SamplingStep(2, 1), SamplingStep(2, 2), SamplingStep(3, 2)]
    assert not any(step in steps for step in evaluations)
    assert SamplingStep(3, 3) in steps


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("face:1:bw=OUTX", "unknown preset 'OUTX'"),
        ("face:1:bw=1,2,3", "3 values"),
        ("face:1:bw=", "bw= is empty"),
        ("face:1:bw=ALL:lbw=NONE", "expected one of them"),
        ("face:1:bw=ALL:bw=NONE", "bw= is given twice"),
        ("face:1:bw=ALL:start=x", "start=x"),
        ("face:1:bw=ALL:step=5", "step=5-10"),
        ("face:1:bw=ALL:start=5:stop=5", "stop after the start"),
        ("face:one:bw=ALL", "multiplier=one"),
        ("face:1:bw=X", "'X'"),
        ("face:1:bw=R", "'R'"),
    ],
)
def test_what_is_wrong_is_refused_by_name(tag, said):
    with pytest.raises((TagError, PresetStringError), match=said):
        given(tag)


def test_lora_block_weight_keeps_its_own_tags():
    items = ["face", "1", "lbw=NOBODY KNOWS", "start=x"]
    tag = read_tag(items, reads_lbw=False)
    assert tag.plain == tuple(items)
    assert tag.weights is None
    assert read_tag(["face", "1", "bw=OUTD", "start=2"], reads_lbw=False).steps == Steps(2)
    assert read_tag(["face", "0.5@0,1@0.5"], reads_lbw=False).strength == "0.5@0,1@0.5"  # it would drop the LoRA


def test_random_values_come_from_the_seed_and_are_said():
    values = "bw=" + ",".join(["R"] * 17)
    one, again, other = (resolve(read_tag(["face", "1", values]), "sd1", seed=seed) for seed in (1, 1, 2))
    assert one.weights == again.weights != other.weights
    assert any("drawn" in notice for notice in one.notices)
    fixed = resolve(read_tag(one.fixed.items), "sd1")
    assert fixed.weights == one.weights  # means the same without a seed


def test_accordion_and_axes():
    page = PageWeights("OUTD\nface: INALL")
    outd, inall, none = (parse(name, "sd1").weights for name in ("OUTD", "INALL", "NONE"))
    loras = ("face", "hair")
    assert given("face:1", page=page, loras=loras) == inall
    assert given("hair:1", page=page, loras=loras) == outd
    assert given("hair:1:bw=ALL", page=page, loras=loras) == ALL
    assert given("hair:1:bw=ALL", page=PageWeights(instead="NONE")) == none
    assert given("hair:1:bw=OUTD", page=PageWeights(changes=("OUT03=0.5", "IN02+OUT09=2"))) == outd.replace(
        {"OUT03": 0.5, "IN02": 2.0, "OUT09": 2.0}
    )
    assert given("hair:1", page=PageWeights(changes=("OUT03=0",))) == ALL.replace(OUT03=0.0)


def test_a_shared_line_in_the_accordion_is_for_every_lora():
    line = "MINE:" + ",".join(["0.5"] * 26)
    assert given("face:1", page=PageWeights(line), loras=("face",)).base == 0.5


def test_a_lora_may_have_the_name_of_a_preset():
    assert given("OUTD:1", page=PageWeights("OUTD"), loras=("OUTD",)) == parse("OUTD", "sd1").weights


def test_changes_keep_what_they_do_not_name():
    weights = parse("1,0.25,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0 | rest=0.5", "sd1").weights
    assert changed(weights, "MID=0.5") == weights.replace(M00=0.5)
    assert changed(ALL, "BASE=0").base == 0
    off = changed(changed(changed(ALL, "IN=0"), "OUT=0"), "MID+BASE=0")
    assert off.off
    with pytest.raises(PresetStringError, match="IN99"):
        changed(weights, "IN99=0")


def test_infotext_round_trip():
    resolved = [
        resolve(read_tag(f"{name}:1:bw={weights}".split(":")), "sd1")
        for name, weights in (("a; b", "OUTD"), ("c", "ALL"))
    ]
    value = infotext_of(resolved)
    assert read_infotext_value(value) == {"a; b": resolved[0].weights.to_line(), "c": ALL.to_line()}
    assert infotext_of([resolve(read_tag(["a", "1"]), "sd1")]) is None


def test_pasting_brings_back_the_values():
    presets = {"MINE": Preset("MINE", ("sd1",), "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0")}
    mine = parse("MINE", "sd1", presets=presets).weights.to_line()
    other = ALL.replace(OUT03=0.3).to_line()
    prompt = "cat <lora:a:1:bw=MINE> (x:1.2) <lora:b:0.5:lbw=R,R:start=2> <lora:c:1> <lora:d:1>"
    value = f"a: {mine}; b: {other}; c: {other}"
    expected = f"cat <lora:a:1:bw=MINE> (x:1.2) <lora:b:0.5:lbw={other}:start=2> <lora:c:1:bw={other}> <lora:d:1>"
    assert pasted(prompt, value, presets) == expected
    changed_presets = {"MINE": Preset("MINE", ("sd1",), "ALL=1")}
    assert f"<lora:a:1:bw={mine}>" in pasted(prompt, value, changed_presets)


def test_tags_are_taken_out_and_renamed():
    prompt = "cat <lora:a:1:bw=OUTD>, <lyco:b:0.5> <hypernet:a:1>"
    assert without(prompt, {"a"}) == ("cat , <lyco:b:0.5> <hypernet:a:1>", ["a"])
    assert renamed(prompt, {"a"}, "a-000100") == "cat <lora:a-000100:1:bw=OUTD>, <lyco:b:0.5> <hypernet:a:1>"


VALUES = ",".join(["0.5"] * 26)


@pytest.mark.parametrize(
    ("tags", "text", "written"),
    [
        ("<lora:face:1>, <lyco:hair:0.5>", "OUTD", "<lora:face:1:bw=OUTD>, <lyco:hair:0.5:bw=OUTD>"),
        ("<lora:face:1> <lora:hair:1>", "hair: OUTD", "<lora:face:1> <lora:hair:1:bw=OUTD>"),
        ("<lora:face:1> <lora:hair:1>", "OUTD\n\n face : INALL \n", "<lora:face:1:bw=INALL> <lora:hair:1:bw=OUTD>"),
        ("<lora:face:1:bw=ALL:start=2>", "OUTD", "<lora:face:1:start=2:bw=OUTD>"),
        ("<lora:face:1:lbw=ALL:te=0.5>", "OUTD", "<lora:face:1:te=0.5:bw=OUTD>"),
        ("<lora:face:1:lbw=ALL:step=2-5>", "OUTD", "<lora:face:1:step=2-5:lbw=OUTD>"),  # counts otherwise than bw=
        ("<lora:face:1>", f"MINE:{VALUES}", f"<lora:face:1:bw={VALUES}>"),
        ("<lora:face:1>", f"face: MINE:{VALUES}", f"<lora:face:1:bw={VALUES}>"),
        ("<lora:face:1>", "IN=0.5,OUT=1 | rest=0", "<lora:face:1:bw=IN=0.5,OUT=1 | rest=0>"),
        ("<lora:face:1:bw=ALL>", " \n", "<lora:face:1:bw=ALL>"),
        ("<lora:face:1>", '{"weights": {"IN00": 1}}', "<lora:face:1>"),  # has colons
        ("<hypernet:face:1>", "OUTD", "<hypernet:face:1>"),
        ("<lora:face:1>", "face:", "<lora:face:1>"),
        ("<lora:OUTD:1>", "OUTD", "<lora:OUTD:1:bw=OUTD>"),  # a LoRA with a preset's name
    ],
)
def test_the_accordions_weights_are_written_into_the_tags(tags, text, written):
    assert write_weights(f"cat (x:1.2) {tags} dog", text) == f"cat (x:1.2) {written} dog"


def test_the_accordions_text_for_a_pictures_parameters():
    """Only for LoRAs without weights in their tags, and only for those by name: another prompt's LoRAs get none."""
    prompt, value = "cat <lora:face:1> <lora:hair:1:bw=OUTD> <lyco:hat:1:te=0>", f"face: {VALUES}; hair: 1; hat: OUTD"
    text = accordion_of(prompt, value)
    assert text == f"<lora:face>: {VALUES}\n<lora:hat>: OUTD"
    assert PageWeights(text).for_loras({"face", "other"}) == {"face": VALUES, "other": None}
    assert write_weights("<lora:face:1> <lora:other:1>", text) == f"<lora:face:1:bw={VALUES}> <lora:other:1>"
    assert accordion_of(write_weights(prompt, text), value) == ""
    assert accordion_of(prompt, "") == ""


RANDOM = ",".join(["R", *["1"] * 25])


@pytest.mark.parametrize(
    ("tags", "fixed"),
    [
        (f"<lora:face:1:bw={RANDOM}:start=2>", f"<lora:face:1:bw={VALUES}:start=2>"),
        ("<lyco:face:1:lbw=OUT=U>", f"<lyco:face:1:bw={VALUES}>"),
        ("<lyco:face:1:lbw=OUT=U:stop=2>", f"<lyco:face:1:lbw={VALUES}:stop=2>"),
        (
            f"<lora:face:1:bw={RANDOM}> <lora:hair:1:bw={RANDOM}>",
            f"<lora:face:1:bw={VALUES}> <lora:hair:1:bw={RANDOM}>",
        ),
        ("<lora:face:1:bw=OUTD>", "<lora:face:1:bw=OUTD>"),  # holds letters, but is no random value
        ("<lora:face:1>", "<lora:face:1>"),
    ],
)
def test_random_values_are_fixed_by_the_parameters_of_the_picture(tags, fixed):
    quoted = f'cat\nSteps: 20, Hires block weights: "face: 9", Block weights: "face: {VALUES}", Version: v1'
    assert fix_random_weights(f"cat {tags}", quoted) == f"cat {fixed}"


def test_parameters_that_name_no_values_fix_nothing():
    prompt = "<lora:face:1:bw=R>"
    assert fix_random_weights(prompt, "Block weights: face: OUTD, Steps: 20") == "<lora:face:1:bw=OUTD>"  # not quoted
    for infotext in ("", "cat\nSteps: 20", 'Block weights: "face: \\x"', "Block weights problem: face: none"):
        assert fix_random_weights(prompt, infotext) == prompt


FACE = "1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0"


@pytest.mark.parametrize("key", ["bw", "lbw", "LBW", "Bw"])
@pytest.mark.parametrize("weights", [f"FACE:{FACE}", "FACE:OUT=1,BASE=1", "FACE:OUT03-OUT05=1", "FACE:*=0.5,OUT=1"])
def test_weights_with_a_name_are_weights(key, weights):
    """What *Copy* gives has a name; the host cuts a tag at its colons."""
    tag = read_tag(["a", "1", *f"{key}={weights}".split(":"), "start=3"])
    assert (tag.plain, tag.weights, tag.steps.first) == (("a", "1"), weights, 3)
    assert read_tag(":".join(tag.items).split(":")) == tag
    assert resolve(tag, "sd1").weights == parse(weights, "sd1").weights
    prompt = f"x <lora:a:1:{key}={weights}:te=0.5>"
    assert write_weights(prompt, "OUTD") == "x <lora:a:1:te=0.5:bw=OUTD>"


def test_random_weights_with_a_name_are_fixed():
    prompt = "<lora:a:1:bw=MINE:R,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1>"
    assert fix_random_weights(prompt, "Block weights: a: 0.5") == "<lora:a:1:bw=0.5>"


@pytest.mark.parametrize("item", ["0.8", "te=0.5", "unet=1", "foo=3", "hr=OFF"])
def test_what_follows_weights_and_is_none_stays_with_the_host(item):
    tag = read_tag(["a", "bw=OUTD", item])
    assert (tag.plain, tag.weights) == (("a", item), "OUTD")


@pytest.mark.parametrize(
    ("items", "ignored"),
    [
        (["a", "1", "w=OUTD"], "'w=OUTD' is ignored: expected bw=, such as bw=OUTD"),
        (["a", "1", f"weights={FACE}"], "is ignored: expected bw="),
        (["a", "1", "bw=OUTD", "lora_weights=ALL"], "'lora_weights=ALL' is ignored"),
    ],
)
def test_weights_under_another_name_are_said_to_be_ignored(items, ignored):
    [notice] = read_tag(items).notices
    assert ignored in notice


@pytest.mark.parametrize("items", [["a", "1"], ["a", "te=0.5", "unet=1", "dyn=8"], ["a", "1", "foo=3"]])
def test_other_items_are_not_spoken_of(items):
    assert read_tag(items).notices == ()


@pytest.mark.parametrize(
    ("text", "weights", "x"),
    [
        ("<lora:x:1:lbw=OUTALL>", "OUTALL", None),
        (" <lyco:a b:0.5:0.8:bw=FACE:1,0:x=0.3>\n", "FACE:1,0", 0.3),
        ("OUTALL", "OUTALL", None),
        ("<lora:x:1:bw=OUTD> a robot", "<lora:x:1:bw=OUTD> a robot", None),
    ],
)
def test_a_whole_tag_gives_its_weights(text, weights, x):
    assert weights_in_tag(text) == (weights, x)


@pytest.mark.parametrize("text", ["<lora:x:1>", "<lora:x:1:bw=>", "<lora:x:1:bw=A:lbw=B>"])
def test_a_whole_tag_without_weights_is_refused(text):
    with pytest.raises(PresetStringError, match="expected"):
        weights_in_tag(text)


@pytest.mark.parametrize(
    ("tag", "weights"),
    [
        ("face:1:bw=OUTD,OUT03.attn2=0.5", "OUTD,OUT03.attn2=0.5"),
        ("face:1:bw=OUTD,IN08=-0.4", "OUTD,IN08=-0.4"),
        ("face:1:bw=OUT=1@0-0.4,0.3@0.4-1", "OUT=1@0-0.4,0.3@0.4-1"),
        ("face:1:lbw=OUTD:lbwe=ATTNDEEPOFF", "OUTD,IN05-OUT05.attn=0"),
        ("face:1:lbwe=ATTNDEEPOFF", "*=1,IN05-OUT05.attn=0"),  # works without lbw= there, too
        (
            "face:1:lbw=OUTD:lbwe=IN05-OUT04 BASE:attn1:0.8,:ff:0:x=1",
            "OUTD,IN05-OUT04.attn1=0.8,IN.ff=0,MID.ff=0,OUT.ff=0",
        ),
        ("face:lbwe=OUT05::0.5:lbw=OUTD", "OUTD,OUT05=0.5"),
    ],
)
def test_kinds_of_layers_and_steps_in_tags(tag, weights):
    found = resolve(read_tag(tag.split(":")), "sd1")
    assert found.weights == parse(weights, "sd1", layers=True).acting
    assert read_infotext_value(infotext_of([found])) == {"face": found.weights.to_line()}
    assert resolve(read_tag(found.fixed.items), "sd1").weights == found.weights
    assert pasted("<lora:face:1>", infotext_of([found])) == f"<lora:face:1:bw={found.weights.to_line()}>"


@pytest.mark.parametrize("lbwe", ["lbwe=ATTNON", "lbwe=ATTNON:0.8", "lbwe=OUT:attn", "lbwe=OUT99:attn:1"])
def test_what_lbwe_cannot_say_leaves_the_lora_out(lbwe):
    with pytest.raises(ValueError, match="expected"):
        resolve(read_tag(["face", "1", *lbwe.split(":")]), "sd1")


@pytest.mark.parametrize(
    ("tag", "plain", "values"),
    [
        ("a:0.5@0,1@0.5", ["a", "0.5", "1"], [0.5, 0.75, 1, 1, 1]),
        ("a:1:0.5@0,1@0.5", ["a", "1", "1"], [0.5, 0.75, 1, 1, 1]),
        ("a:te=0.4:unet=0@0;1@1:dyn=8", ["a", "0.4", "1", "dyn=8"], [0, 0.25, 0.5, 0.75, 1]),
        ("a:te=0.5@0,1@1", ["a", "0.5", "1"], [0.5, 0.625, 0.75, 0.875, 1]),
        ("a:0.5@0,1@1:0.8", ["a", "0.5", "0.8"], [1] * 5),
        ("a:1@0,0@2", ["a", "1", "1"], [1, 0.5, 0, 0, 0]),  # steps
        ("a:0.5@0,1@1:bw=OUT=1@0-0.5:start=2", ["a", "0.5", "1"], [0, 0.625, 0, 0, 0]),
    ],
)
def test_strength_over_the_steps_as_loractl_has_it(tag, plain, values):
    found = resolve(read_tag(tag.split(":")), "sd1")
    layers = found.layers("sd1")
    assert list(found.tag.plain) == plain
    assert [layers.at(step, 5).blocks["OUT05"] for step in range(1, 6)] == values
    assert layers.at(3, 5).blocks.base == 1
    again = read_tag(found.tag.items)
    assert (again.plain, again.gates, again.items) == (found.tag.plain, found.tag.gates, found.tag.items)


def test_strengths_that_cannot_be_read():
    with pytest.raises(TagError, match="'x': expected a number"):
        read_tag(["a", "x@0,1@1"])
    [notice] = read_tag(["a", "0.5@0,1@1", "hr=0.6"]).notices
    assert "'hr=0.6' is ignored" in notice or "hr=0.6 is ignored" in notice


def test_changes_of_an_axis_reach_kinds_of_layers_and_steps():
    assert changed(ALL, "OUT03+OUT04=0.5") == ALL.replace({"OUT03": 0.5, "OUT04": 0.5})
    assert changed(ALL, "OUT.ff=0") == parse("ALL,OUT.ff=0", "sd1", layers=True).layers
    assert (
        changed(ALL, "IN+OUT=1@0-0.4,0.3@0.4-1")
        == parse("ALL,IN=1@0-0.4,0.3@0.4-1,OUT=1@0-0.4,0.3@0.4-1", "sd1", layers=True).layers
    )
    before = changed(changed(ALL, "OUT.ff=0"), "OUT05=0.5")
    assert before == parse("ALL,OUT.ff=0,OUT05=0.5", "sd1", layers=True).layers
    with pytest.raises(PresetStringError, match="no such layer"):
        changed(ALL, "OUT.atn2=0")
