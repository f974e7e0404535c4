"""Preset strings: every form is read, the canonical ones are written and read back, errors point at a character."""

import json
import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib_blocktrain.blocks import ARCHITECTURES, BLOCK_IDS, architecture
from lib_blocktrain.weights.block_weights import BlockWeights, kohya_entries
from lib_blocktrain.weights.preset_strings import FORMS, PresetStringError, parse
from lib_blocktrain.weights.presets import Preset
from lib_blocktrain.weights.text_spans import NUMBER
from tests.weights.test_block_weights import block_weights

LBW_17 = ["BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *(f"OUT{i:02}" for i in range(3, 12))]
LBW_12 = ["BASE", "IN04", "IN05", "IN07", "IN08", "M00", *(f"OUT{i:02}" for i in range(6))]
LBW_20 = ["BASE", *(f"IN{i:02}" for i in range(9)), "M00", *(f"OUT{i:02}" for i in range(9))]
SD1, SD2, SDXL = ARCHITECTURES
weights_in_sliders = st.floats(-1, 2)


def values(count, value="1"):
    return ",".join([value] * count)


def nonzero(weights):
    return {block_id for block_id, value in {"BASE": weights.base, **weights.values}.items() if value}


# --- lists of values


@pytest.mark.parametrize(
    ("architecture_id", "entries"),
    [
        (SD1, LBW_17),
        (SD2, LBW_17),
        (SDXL, LBW_12),
        (SDXL, LBW_20),
        (SDXL, LBW_20[1:]),
        (SD1, list(BLOCK_IDS)),
        (SD1, ["BASE", *BLOCK_IDS]),
    ],
)
def test_each_value_goes_to_its_block_and_the_rest_is_0(architecture_id, entries):
    ramp = [i + 1 for i in range(len(entries))]
    parsed = parse(f"A:{','.join(map(str, ramp))}", architecture_id)
    assert (parsed.name, parsed.form) == ("A", f"{len(entries)} values")
    assert [parsed.weights[block_id] for block_id in entries] == ramp
    omitted = {block_id for block_id in architecture(architecture_id).block_ids if block_id not in entries}
    assert {block_id for block_id, value in parsed.weights.values.items() if value == 0} == omitted
    assert parsed.weights.rest == 1
    if "BASE" not in entries:
        assert parsed.weights.base == 1


def test_what_a_short_form_leaves_out_is_said():
    (notice,) = parse(values(17), SD1).notices
    assert notice == "IN00, IN03, IN06, IN09-IN11, OUT00-OUT02 not in the 17-value form: set to 0"
    (notice,) = parse(values(12), SDXL).notices
    assert notice == "IN00-IN03, IN06, OUT06-OUT08 not in the 12-value form: set to 0"
    assert parse(values(26), SD1).notices == ()
    assert parse(values(25), SD1).notices == ("BASE not in the 25-value form: set to 1",)


@pytest.mark.parametrize("count", [25, 26])
def test_long_forms_on_sdxl_drop_six_blocks_and_say_so(count):
    ramp = [i + 1 for i in range(count)]
    parsed = parse(",".join(map(str, ramp)), SDXL)
    entries = [*(["BASE"] if count == 26 else []), *BLOCK_IDS]
    given_to = dict(zip(entries, ramp, strict=True))
    assert parsed.weights.values == {block_id: given_to[block_id] for block_id in architecture(SDXL).block_ids}
    assert parsed.notices[0] == "IN09-IN11, OUT09-OUT11 dropped: SDXL has 19 blocks"


@pytest.mark.parametrize(("architecture_id", "count"), [(SDXL, 17), (SD1, 12), (SD1, 19), (SD1, 20), (SD2, 20)])
def test_a_form_of_another_architecture_is_an_error(architecture_id, count):
    title = architecture(architecture_id).title
    with pytest.raises(PresetStringError, match=rf"{count} values are a form of .*: expected .* for {title}"):
        parse(f"A:{values(count)}", architecture_id)


@pytest.mark.parametrize(("count", "position"), [(2, 3), (24, 47), (27, 52), (61, 52)])
def test_wrong_lengths_are_never_padded_or_cut(count, position):
    with pytest.raises(PresetStringError, match=f"{count} values: expected 17, 25 or 26 for SD1") as caught:
        parse(values(count), SD1)
    assert caught.value.position == position


@pytest.mark.parametrize(
    "number", ["nan", "inf", "-inf", "1e999", "1_0", "٣", "0x1", "one", "", "1 1", "r", "X*2", "XX"]
)
def test_strange_values_are_refused_where_they_stand(number):
    text = f"A: {values(5)}, {number},{values(20)}"
    with pytest.raises(PresetStringError) as caught:
        parse(text, SD1, seed=1, x=1)
    where = text.index(f", {number},") + 2
    assert caught.value.position == where
    assert (repr(number) if number else "empty value") in str(caught.value)


def test_a_trailing_comma_is_refused():
    with pytest.raises(PresetStringError, match="empty value") as caught:
        parse(values(26) + ",", SD1)
    assert caught.value.position == 52


def test_the_message_counts_characters_from_1():
    with pytest.raises(PresetStringError, match=r"'b': expected a number \(character 3\)"):
        parse("1,b,2", SD1)


# --- random values


def test_random_values_come_from_the_seed_and_are_recorded():
    text = ",".join(["R", "U"] * 13)
    drawn = parse(text, SD1, seed=7)
    assert drawn == parse(text, SD1, seed=7) != parse(text, SD1, seed=8)
    everything = [drawn.weights.base, *drawn.weights.values.values()]
    assert all(0 <= value <= 1 for value in everything[::2])
    assert all(-0.5 <= value <= 1.5 for value in everything[1::2])
    assert len(drawn.notices) == 26
    assert drawn.notices[0] == f"BASE: R drawn as {everything[0]:g} (seed 7)"
    assert parse(drawn.weights.to_line(), SD1).weights == drawn.weights


def test_random_values_do_not_change_from_release_to_release():
    assert [parse(values(26, "R"), SD1, seed=1).weights[block_id] for block_id in ("BASE", "IN00", "OUT11")] == [
        0.134,
        0.847,
        0.422,
    ]


@pytest.mark.parametrize(("number", "expected"), [("X", 0.5), ("X+0.1", 0.6), ("X-.75", -0.25), ("X-1e-1", 0.4)])
def test_x(number, expected):
    parsed = parse(values(26, number), SD1, x=0.5)
    assert parsed.weights["M00"] == pytest.approx(expected)
    assert parsed.notices[0].startswith(f"BASE: {number} is ")


@pytest.mark.parametrize(
    ("number", "message"), [("R", "expected a seed"), ("U", "expected a seed"), ("X", "of x with it")]
)
def test_seed_and_x_are_asked_for(number, message):
    with pytest.raises(PresetStringError, match=message) as caught:
        parse(f"{values(3)},{number},{values(22)}", SD1)
    assert caught.value.position == 6


def test_x_that_is_no_number():
    with pytest.raises(PresetStringError, match="expected a number"):
        parse(values(26, "X"), SD1, x=math.nan)


# --- ranges


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IN04=0.5", {"BASE": 1, "IN04": 0.5}),
        ("BASE=0, IN10-OUT01 = 0.5", {"IN10": 0.5, "IN11": 0.5, "M00": 0.5, "OUT00": 0.5, "OUT01": 0.5}),
        ("BASE=0,OUT=1,OUT01-OUT11=0", {"OUT00": 1}),
        ("BASE=0,MID=2,IN=1,IN01-IN11=0", {"IN00": 1, "M00": 2}),
        ("BASE=0,M00=-1", {"M00": -1}),
    ],
)
def test_ranges(text, expected):
    weights = parse(text, SD1).weights
    assert {block_id: weights[block_id] for block_id in nonzero(weights)} == expected
    assert weights.rest == 1


def test_ranges_say_what_they_left_out():
    parsed = parse("A:IN=1,OUT=1", SD1)
    assert (parsed.name, parsed.form) == ("A", "ranges")
    assert parsed.notices == ("M00 not named: set to 0", "BASE not named: set to 1")


def test_a_star_is_everything_and_later_entries_win():
    weights = parse("*=0.5,IN04=1,REST=0", SD1).weights
    assert weights == BlockWeights.uniform("sd1", 0.5).replace(IN04=1, REST=0)
    assert parse("*=0", SDXL).weights.off


def test_a_range_is_drawn_once():
    weights = parse("BASE=0,IN=R", SD1, seed=3).weights
    assert len({weights[f"IN{i:02}"] for i in range(12)}) == 1


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("IN04=1,IN12=1", 7, "SD1 has no block 'IN12'"),
        ("in04=1", 0, "'in04': expected IN00..OUT11, IN, MID, OUT, BASE, REST or *"),
        ("IN04-BASE=1", 5, "'BASE'"),
        ("OUT02-IN04=1", 0, "in the order of the forward pass"),
        ("IN01-IN02-IN03=1", 0, "a first and a last block"),
        ("IN04=1,,IN05=1", 7, "empty entry"),
        ("IN04=1,", 7, "empty entry"),
        ("IN04=1,0.5", 7, "'0.5': expected, for example"),
        ("IN04=", 5, "empty value"),
        ("IN04=1=2", 5, "'1=2': expected a number"),
        ("IN04=nan", 5, "'nan'"),
        (":IN04=1", 0, "no name before the colon"),
    ],
)
def test_ranges_that_cannot_be_read(text, position, message):
    with pytest.raises(PresetStringError) as caught:
        parse(text, SD1)
    assert message in str(caught.value)
    assert caught.value.position == position


def test_a_block_that_sdxl_lacks():
    with pytest.raises(PresetStringError, match=r"SDXL has no block 'IN09': expected IN00..OUT08"):
        parse("IN09=1", SDXL)


# --- names


def test_names_are_looked_up_with_case():
    mine = {"Face": Preset("Face", (SD1,), "IN04=1 | canvas=0.2", "mine")}
    parsed = parse(" Face ", SD1, presets=mine)
    assert (parsed.name, parsed.form, parsed.area_share) == ("Face", "preset", 0.2)
    assert parsed.notices[0].startswith("IN00-IN03")
    with pytest.raises(PresetStringError, match=r"unknown preset 'face': did you mean Face\?"):
        parse("face", SD1, presets=mine)


def test_unknown_names_list_what_is_near():
    with pytest.raises(PresetStringError, match="did you mean OUTALL"):
        parse("OUTAL", SD1)
    with pytest.raises(PresetStringError, match="FACE-OUT03-05 or FACE-NOT-OUT03-05"):
        parse("FACE", SD1)
    with pytest.raises(
        PresetStringError, match=r"'qqqq': the nearest of \d\d are ([\w-]+, ){2}[\w-]+ \(character 1\)$"
    ):
        parse("qqqq", SD1)
    with pytest.raises(PresetStringError) as raised:
        parse("ou", SD1, presets={name: Preset(name, (SD1,), "*=1") for name in ("AOUT", "BOUT", "COUT", "DOUT")})
    assert raised.value.message == "unknown preset 'ou': did you mean AOUT or BOUT or COUT?"


def test_names_of_another_architecture_are_not_offered():
    presets = {"FACEXL": Preset("FACEXL", (SDXL,), "*=1"), "LEFT": Preset("LEFT", (SD1,), "*=1")}
    with pytest.raises(PresetStringError, match="the nearest of 1 are LEFT"):
        parse("FACEX", SD1, presets=presets)
    with pytest.raises(PresetStringError, match="there is no preset for SD1"):
        parse("FACEX", SD1, presets={})


def test_a_preset_with_changes():
    base = parse("OUTD", SD1).weights
    parsed = parse("OUTD,IN08=-0.4,OUT10=1.3", SD1)
    assert parsed.weights == base.replace({"IN08": -0.4, "OUT10": 1.3})
    assert (parsed.name, parsed.form) == ("OUTD", "preset with changes")
    assert parse("MINE:OUTD,BASE=0.5", SD1).name == "MINE"
    assert parse("MINE:OUTD,BASE=0.5", SD1).weights == base.replace({"BASE": 0.5})
    for text, message in (
        ("OUTDD,IN08=1", "unknown preset 'OUTDD': did you mean OUTD"),
        ("OUTD,IN08", "'OUTD': expected a number"),
        ("OUTD,IN08=1,huh", "'huh': expected, for example"),
        ("IN04,OUT=1", "'IN04': expected, for example, IN04=0.5"),
        ("OUTD,IN99=1", "SD1 has no block 'IN99'"),
    ):
        with pytest.raises(PresetStringError, match=message):
            parse(text, SD1)


def test_presets_of_another_architecture_and_broken_ones():
    with pytest.raises(PresetStringError, match="preset 'POSE' is for SD1 and SD2, not for SDXL"):
        parse("POSE", SDXL)
    broken = {"A": Preset("A", (SD1,), "1,2"), "B": Preset("B", (SD1,), "A"), "R": Preset("R", (SD1,), values(26, "R"))}
    for name, message in (("A", "2 values"), ("B", "unknown preset 'A'"), ("R", "expected a seed")):
        with pytest.raises(PresetStringError, match=rf"preset '{name}': .*{message}") as caught:
            parse(f"  {name}", SD1, presets=broken)
        assert caught.value.position == 2


def test_what_a_name_may_hold():
    assert parse(f"Bob's [2] : {values(26)}", SD1).name == "Bob's [2]"
    assert parse("A:mid_lr_weight=1", SD1).name == "A"


def test_one_number_is_no_name():
    with pytest.raises(PresetStringError, match="1 value: expected 17"):
        parse("0.5", SD1)


# --- attributes and comments


def test_attributes():
    parsed = parse(f"A:{values(20)} | arch=sdxl canvas=0.12 rest=0.5 author=me", SDXL)
    assert parsed.attributes == {"arch": "sdxl", "canvas": "0.12", "rest": "0.5", "author": "me"}
    assert (parsed.area_share, parsed.weights.rest) == (0.12, 0.5)
    assert parsed.notices == ("author=me not known here: ignored",)
    assert parse(values(26), SD1).area_share is None


def test_the_blocks_of_sd1_and_sd2_are_the_same():
    assert parse(f"{values(26)} | arch=sd2", SD1).notices == ("made for SD2, whose blocks SD1 has too",)


def test_a_comment_ends_the_string():
    assert parse(f"A:{values(26)} # | arch=sdxl", SD1) == parse(f"A:{values(26)}", SD1)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("arch=sdxl", "made for SDXL: expected SD1"),
        ("arch=flux", "unknown architecture 'flux'"),
        ("arch=", "'arch=' after '|'"),
        ("sdxl", "'sdxl' after '|'"),
        ("arch=sd1 arch=sd1", "arch is given twice"),
        ("canvas=0", "canvas=0: expected a share"),
        ("canvas=1.5", "canvas=1.5: expected a share"),
        ("canvas=x", "'x': expected a number"),
        ("rest=x", "'x': expected a number"),
    ],
)
def test_attributes_that_cannot_be_read(tail, message):
    with pytest.raises(PresetStringError) as caught:
        parse(f"{values(26)} | {tail}", SD1)
    assert message in str(caught.value)
    assert 54 <= caught.value.position < 54 + len(tail)


# --- kohya's network_args


@pytest.mark.parametrize(
    "text",
    [
        "down_lr_weight={down} mid_lr_weight=0.5 up_lr_weight={up}",
        "down_lr_weight={down}, mid_lr_weight=0.5, up_lr_weight={up}",
        '--network_args "down_lr_weight={down}" "mid_lr_weight=0.5" "up_lr_weight={up}"',
        'network_args = ["down_lr_weight={down}", "mid_lr_weight=0.5", \'up_lr_weight={up}\']',
        "down_lr_weight='{down}' \\\n  mid_lr_weight=\"0.5\" \\\n  up_lr_weight = {up}",
        '["up_lr_weight={up}", "down_lr_weight={down}", "mid_lr_weight=0.5",]',
    ],
)
def test_learning_rates_as_people_paste_them(text):
    down, up = "0,0,0,0.25,1,1,1,1,1,1,1,2", "1,1,1,1,1,1,1,1,1,0,0,1.5"
    parsed = parse(text.format(down=down, up=up), SD1)
    expected = [*map(float, down.split(",")), 0.5, *map(float, up.split(","))]
    assert list(parsed.weights.values.values()) == expected
    assert parsed.form == "kohya network_args"
    assert parsed.notices == ("BASE is not in kohya's arguments: set to 1",)


@pytest.mark.parametrize(
    ("curve", "formula"),
    [
        ("sine", lambda i, n: math.sin(math.pi * i / (n - 1) / 2)),
        ("cosine+.25", lambda i, n: math.cos(math.pi * i / (n - 1) / 2) + 0.25),
        ("linear", lambda i, n: i / (n - 1)),
        ("reverse_linear+1", lambda i, n: 1 - i / (n - 1) + 1),
        ("zeros+0.5", lambda i, n: 0.5),
    ],
)
@pytest.mark.parametrize(("architecture_id", "count"), [(SD1, 12), (SDXL, 9)])
def test_curves(curve, formula, architecture_id, count):
    parsed = parse(f"up_lr_weight={curve}", architecture_id)
    expected = [formula(i, count) for i in range(count)]
    assert list(parsed.weights.values.values())[-count:] == pytest.approx(expected, abs=1e-12)
    assert parsed.notices[:2] == ("down_lr_weight is not given: set to 1", "mid_lr_weight is not given: set to 1")


def test_zero_threshold():
    parsed = parse("down_lr_weight=linear block_lr_zero_threshold=0.2", SD1)
    assert [parsed.weights[f"IN{i:02}"] for i in range(4)] == [0, 0, 0, pytest.approx(3 / 11)]
    assert "IN01, IN02 not above block_lr_zero_threshold=0.2: set to 0" in parsed.notices


def test_kohya_drops_negative_rates_and_so_it_is_said():
    parsed = parse("mid_lr_weight=-0.5", SD1)
    assert parsed.weights["M00"] == 0
    assert "M00 not above block_lr_zero_threshold=0: set to 0" in parsed.notices


def test_sdxl_counts_its_middle_three_times():
    assert parse("mid_lr_weight=0.5,0.5,.5", SDXL).weights["M00"] == 0.5
    with pytest.raises(PresetStringError, match=r"'0.6' for M00, which was 0.5 before") as caught:
        parse("mid_lr_weight=0.5,0.6,0.5", SDXL)
    assert caught.value.position == 18


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("block_dims={dims}", {"IN04": 0.5, "OUT11": 1}),
        ("block_dims={dims} network_dim=16", {"IN04": 0.25, "OUT11": 0.5}),
        ("block_dims={dims} block_alphas={ones}", {"IN04": 0.5, "OUT11": 1}),  # equal alphas tell nothing
        ("block_dims={dims} block_alphas={alphas} network_alpha=4", {"IN04": 0.25, "OUT11": 1}),
        ("block_alphas={alphas}", {"IN04": 0.25, "OUT11": 1}),
    ],
)
def test_block_dims_and_alphas(text, weight):
    dims, alphas, ones = ["8"] * 25, ["4"] * 25, ["1"] * 25
    dims[4], alphas[4] = "4", "1"
    parsed = parse(text.format(dims=",".join(dims), alphas=",".join(alphas), ones=",".join(ones)), SD1)
    assert {block_id: parsed.weights[block_id] for block_id in weight} == weight


def test_a_missing_whole_is_said():
    parsed = parse(f"block_dims={values(24, '8')},4", SD1)
    assert parsed.notices[0] == "network_dim is not given: the largest of block_dims, 8, counts as weight 1"


def test_dims_that_do_not_follow_the_alphas_are_said():
    text = f"block_dims={values(12, '8')},{values(13, '4')} network_dim=8 network_alpha=4 block_alphas="
    assert parse(f"{text}{values(12, '4')},{values(13, '2')}", SD1).notices == (
        "BASE is not in kohya's arguments: set to 1",
    )
    parsed = parse(f"{text}{values(12, '2')},{values(13, '4')}", SD1)
    assert (parsed.weights["IN00"], parsed.weights["OUT11"]) == (0.5, 1)
    assert parsed.notices[0] == "block_dims do not follow block_alphas: the weights are those of block_alphas"


def test_the_ends_of_sdxl_block_dims_are_rest():
    parsed = parse(f"block_dims=0,{values(21, '4')},0", SDXL)
    assert parsed.weights.rest == 0
    assert set(parsed.weights.values.values()) == {1}
    with pytest.raises(PresetStringError, match="'4' for REST, which was 0 before"):
        parse(f"block_dims=0,{values(22, '4')}", SDXL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("down_lr_weight=0.5", "1 value: expected 12 or one of sine"),
        (f"down_lr_weight={values(11)}", "11 values: expected 12"),
        (f"up_lr_weight={values(13)}", "13 values: expected 12"),
        (f"up_lr_weight={values(12)},", "empty value"),
        (f'"up_lr_weight={values(12)}," "mid_lr_weight=1"', "empty value"),
        ("mid_lr_weight=sine", "'sine': expected a number"),
        ("mid_lr_weight=", "empty value"),
        ("down_lr_weight=sine+x", "'x': expected a number"),
        ("down_lr_weight=tangent", "'tangent': expected a number"),
        ("mid_lr_weight=1 mid_lr_weight=1", "mid_lr_weight is given twice"),
        ("hello mid_lr_weight=1", "'hello': expected key=value"),
        ('mid_lr_weight="1" hello', "'hello': expected key=value"),
        (f"block_dims={values(23)}", "23 values: expected 25"),
        (f"block_dims={values(24)},0.5", "OUT11 = 0.5 in block_dims"),
        (f"block_dims={values(24)},-1", "OUT11 = -1 in block_dims"),
        (f"block_alphas={values(24)},0", "OUT11 = 0 in block_alphas"),
        (f"block_dims={values(25)} network_dim=0", "network_dim = 0: expected more than 0"),
        (f"block_dims={values(25)} mid_lr_weight=1", "block_dims and mid_lr_weight together"),
    ],
)
def test_kohya_arguments_that_cannot_be_read(text, message):
    with pytest.raises(PresetStringError) as caught:
        parse(text, SD1)
    assert message in str(caught.value)
    assert 0 <= caught.value.position <= len(text)


def test_other_arguments_are_said_to_be_ignored():
    assert parse("mid_lr_weight=1 conv_dim=4 algo=lora", SD1).notices[2] == "conv_dim, algo not about blocks: ignored"


# --- JSON


def test_json():
    parsed = parse(json.dumps(BlockWeights.uniform("sd1", 0.5).to_json(), indent=1), SD1)
    assert (parsed.weights, parsed.form) == (BlockWeights.uniform("sd1", 0.5), "JSON")
    bare = parse(json.dumps(dict.fromkeys(BLOCK_IDS, 1)), SD1)
    assert bare.weights == BlockWeights("sd1", dict.fromkeys(BLOCK_IDS, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON: Expecting property name"),
        ('{"IN00": 1}', "no value for IN01"),
        ('{"architecture": "sdxl", "weights": {}}', "made for SDXL: expected SD1"),
        ('{"architecture": [], "weights": {}}', "unknown architecture"),
        ('{"weights": {"IN00": 1, "IN00": 1}}', "'IN00' is given twice"),
        ('{"weights": 1}', "expected"),
        (json.dumps(dict.fromkeys(BLOCK_IDS, math.nan)), "IN00 = nan"),
        (json.dumps(dict.fromkeys(BLOCK_IDS, "1")), "IN00 = '1'"),
        (json.dumps(dict.fromkeys(BLOCK_IDS, 1)).replace("1", "1" * 500), "expected"),
        ('{"a":' * 3_000, "JSON"),
        (json.dumps(dict.fromkeys(BLOCK_IDS, 1)) + " x", "'x' after the JSON object"),
    ],
)
def test_json_that_cannot_be_read(text, message):
    with pytest.raises(PresetStringError, match=r"JSON|made for|unknown architecture") as caught:
        parse(text, SD1)
    assert message in str(caught.value)
    assert 0 <= caught.value.position <= len(text)


# --- properties


@settings(deadline=None)
@given(block_weights(), st.sampled_from([None, "A", "my preset", "ALL"]), st.booleans(), st.none() | st.floats(0.01, 1))
def test_the_canonical_line_reads_back_exactly(weights, name, with_architecture, area_share):
    line = weights.to_line(name, with_architecture=with_architecture, area_share=area_share)
    parsed = parse(line, weights.architecture)
    assert (parsed.weights, parsed.name, parsed.area_share, parsed.notices) == (weights, name, area_share, ())


@settings(deadline=None)
@given(block_weights())
def test_json_reads_back_exactly(weights):
    assert parse(json.dumps(weights.to_json()), weights.architecture).weights == weights


@settings(deadline=None)
@given(block_weights(values=st.floats(0, 2), outside=False))
def test_learning_rates_read_back_exactly(weights):
    assert parse(" ".join(weights.to_kohya()), weights.architecture).weights == weights.replace(BASE=1)


@settings(deadline=None)
@given(block_weights(values=st.sampled_from([0, 0.25, 0.5, 1, 2]), outside=False), st.booleans())
def test_dims_and_alphas_read_back(weights, scales_ranks):
    """Exactly, since these weights times 16 and 8 are exact; SDXL's REST is among them."""
    entries = [weights[block_id] for block_id in kohya_entries(weights.architecture)]
    dims = [round(weight * 16) if scales_ranks else 16 * bool(weight) for weight in entries]
    lists = {
        "block_dims": dims,
        "block_alphas": [weight * 8 for weight in entries],
        "network_dim": [16],
        "network_alpha": [8],
    }
    arguments = [f"{name}={','.join(map(str, numbers))}" for name, numbers in lists.items()]
    assert parse(" ".join(arguments), weights.architecture).weights == weights


@settings(deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.sampled_from(list(ARCHITECTURES)), st.data())
def test_every_form_puts_every_value_where_it_belongs(count, architecture_id, data):
    numbers = data.draw(st.lists(weights_in_sliders, min_size=count, max_size=count))
    text = data.draw(st.sampled_from([",", ", ", " ,\t"])).join(map(repr, numbers))
    form = FORMS[count]
    if architecture_id not in form.architectures:
        with pytest.raises(PresetStringError, match=f"{count} values are a form of"):
            parse(text, architecture_id)
        return
    weights = parse(text, architecture_id).weights
    there = ("BASE", *architecture(architecture_id).block_ids)
    assert all(
        weights[block_id] == value for block_id, value in zip(form.entries, numbers, strict=True) if block_id in there
    )
    assert nonzero(weights) <= {*form.entries, "BASE"}


_PIECES = [
    *"0123456789.,:;=|#{}[]\"'+-*RUXe \n\\_",
    "IN",
    "OUT04",
    "M00",
    "BASE",
    "REST",
    "ALL",
    "nan",
    "arch=",
    "canvas=",
]
_PIECES += [
    "down_lr_weight=",
    "mid_lr_weight=",
    "block_dims=",
    "block_alphas=",
    "network_args",
    "sine",
    '"weights"',
    "1,1,1,1,",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(_PIECES)).map("".join) | st.text(), st.sampled_from(list(ARCHITECTURES)))
@example("mid_lr_weight\u3000=1", "sd1")
@example("\u2003", "sd1")
@example("block_dims=" + values(25, "0"), "sd1")
@example("block_alphas=" + values(25, "1e-320"), "sd1")
@example("block_dims=" + values(25) + " network_dim=1e-320", "sd1")
@example("A:" + "X+1e308," * 25 + "X", "sd1")
def test_any_text_is_read_or_refused_at_a_character(text, architecture_id):
    refused = None
    try:
        weights = parse(text, architecture_id, seed=0, x=1e308).weights
    except PresetStringError as error:
        refused = error
    if refused:
        assert 0 <= refused.position <= len(text)
        assert str(refused).endswith(f"(character {refused.position + 1})")
    else:
        assert parse(weights.to_line(), architecture_id).weights == weights


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_characters=":,|=#[\"'{RUX", exclude_categories=["Z", "C"]), min_size=1, max_size=50),
    st.integers(0, 25),
)
def test_a_strange_value_is_named_and_pointed_at(strange, place):
    if re.fullmatch(NUMBER, strange):
        return
    items = ["1"] * 26
    items[place] = strange
    with pytest.raises(PresetStringError) as caught:
        parse("A:" + ",".join(items), "sd1")
    assert caught.value.position == 2 + 2 * place
    assert repr(strange) in str(caught.value)


def test_an_unknown_architecture_is_the_callers_mistake():
    with pytest.raises(ValueError, match="'sd3'") as caught:
        parse("ALL", "sd3")
    assert not isinstance(caught.value, PresetStringError)


@pytest.mark.parametrize("text", ["OUT09", "IN04-OUT02", "OUT", "MID", "BASE", " OUT03 # a note"])
def test_blocks_alone_are_read_as_1(text):
    target = text.partition("#")[0].strip()
    parsed = parse(text, "sd1")
    assert parsed.weights == parse(f"{target}=1", "sd1").weights
    assert f"{target} is read as {target}=1" in parsed.notices


def test_blocks_alone_that_the_architecture_lacks_are_refused():
    with pytest.raises(PresetStringError, match="unknown preset 'OUT09'"):
        parse("OUT09", "sdxl")


@pytest.mark.parametrize(
    ("text", "wide", "meant", "position"),
    [
        ("1，0，0", "，", ",", 1),
        ("OUT=１", "１", "1", 4),
        ("FACE：1,0", "：", ":", 4),
        ("OUT＝1", "＝", "=", 3),
        ("IN=1、OUT=1", "、", ",", 4),
        ("ＯＵＴＤ", "Ｏ", "O", 0),
    ],
)
def test_full_width_characters_are_named(text, wide, meant, position):
    hint = f"'{wide}' is a full-width character: expected '{meant}' at character {position + 1} "
    with pytest.raises(PresetStringError, match=re.escape(hint)):
        parse(text, "sd1")


def test_a_full_width_character_leaves_the_value_and_its_place_in_the_error():
    with pytest.raises(PresetStringError, match=r"'0！': expected a number") as raised:
        parse("A:1,0！" + ",1" * 24, "sd1")
    assert raised.value.position == 4


def test_a_name_may_be_of_full_width():
    presets = {"顔，１": Preset("顔，１", ("sd1",), "OUT=1,BASE=1")}
    assert parse("顔，１", "sd1", presets=presets).weights == parse("OUT=1,BASE=1", "sd1").weights
