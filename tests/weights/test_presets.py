"""The presets that come with the extension, and presets on disk."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib_blocktrain.blocks import ARCHITECTURES, architecture
from lib_blocktrain.files import LONGEST_NAME
from lib_blocktrain.weights.preset_files import PresetFile, read_lbw_presets, read_presets
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.weights.presets import GRADES, Preset, shipped_presets

SHIPPED = {preset.name: preset for preset in shipped_presets()}
PAIRS = [(preset.name, architecture_id) for preset in SHIPPED.values() for architecture_id in preset.architectures]


def on(name, architecture_id="sd1"):
    weights = parse(name, architecture_id).weights
    return [block_id for block_id, value in weights.values.items() if value]


def blocks(text):
    """Write "IN1-2 M OUT3" for a list of block ids."""
    ids = []
    for part in text.split():
        side = part.rstrip("0123456789-")
        first, _, last = part[len(side) :].partition("-")
        ids += ["M00"] if side == "M" else [f"{side}{i:02}" for i in range(int(first), int(last or first) + 1)]
    return ids


# --- shipped


@pytest.mark.parametrize(("name", "architecture_id"), PAIRS)
def test_shipped_presets_can_be_read(name, architecture_id):
    parsed = parse(name, architecture_id)
    assert (parsed.name, parsed.form) == (name, "preset")
    assert parse(parsed.weights.to_line(name), architecture_id).weights == parsed.weights


def test_shipped_presets_say_what_they_are_for_and_why():
    assert len(SHIPPED) == len(shipped_presets())
    for preset in (each for named in SHIPPED.values() for each in named.each):
        assert preset.purpose
        assert preset.source
        assert preset.grade in GRADES
        assert set(preset.architectures) <= set(ARCHITECTURES)


@pytest.mark.parametrize("architecture_id", ARCHITECTURES)
def test_all_and_none_mean_everything_everywhere(architecture_id):
    """LoRA Block Weight's 17-value ALL switches OUT00-OUT02 of SDXL off."""
    assert set(parse("ALL", architecture_id).weights.values.values()) == {1}
    assert parse("ALL", architecture_id).weights.base == parse("ALL", architecture_id).weights.rest == 1
    assert parse("NONE", architecture_id).weights.off
    assert set(parse("ALL0.5", architecture_id).weights.values.values()) == {0.5}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("INS", "IN1-2 IN4"),
        ("IND", "IN5 IN7-8"),
        ("INALL", "IN1-2 IN4-5 IN7-8"),
        ("MIDD", "IN5 IN7-8 M OUT3-6"),
        ("OUTD", "OUT3-6"),
        ("OUTS", "OUT7-11"),
        ("OUTALL", "OUT3-11"),
        ("LORA-16", "IN1-2 IN4-5 IN7-8 M OUT3-11"),
        ("LYCORIS-21", "IN1-2 IN4-5 IN7-8 IN10-11 M OUT0-11"),
        ("FACE-OUT03-05", "OUT3-5"),
        ("FACE-NOT-OUT03-05", "IN1-2 IN4-5 IN7-8 M OUT6-11"),
        ("POSE", "IN8 M OUT3-4"),
        ("PALETTE", "OUT6-11"),
        ("REDUCEFIT", "OUT3-11"),
        ("STRUCTURE", "IN7-8 M OUT3-5"),
        ("APPEARANCE", "IN1-2 OUT9-11"),
    ],
)
def test_blocks_of_shipped_presets(name, expected):
    assert on(name) == blocks(expected)
    assert set(parse(name, "sd1").weights.values.values()) == {0, 1}


@pytest.mark.parametrize(
    ("name", "block_id"), [("B-LORA-CONTENT", "OUT00"), ("B-LORA-STYLE", "OUT01"), ("INSTANTSTYLE-LAYOUT", "IN08")]
)
def test_sdxl_presets_have_one_block_and_nothing_else(name, block_id):
    weights = parse(name, "sdxl").weights
    assert on(name, "sdxl") == [block_id]
    assert weights.base == weights.rest == 0
    assert SHIPPED[name].grade == "A"


CLASSIC = ("INS", "IND", "INALL", "MIDD", "OUTD", "OUTS", "OUTALL")


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_presets_mean_the_same_depth_on_sdxl(name):
    """IN blocks are the same in both; OUT blocks of the same depth have skip connections from the same IN block."""
    partners = {block.skip: block.id for block in architecture("sdxl").blocks if block.id.startswith("OUT")}
    there = {"M00": "M00", **{block_id: block_id for block_id in partners}}
    there |= {block.id: partners[block.skip] for block in architecture("sd1").blocks if block.skip in partners}
    assert on(name, "sdxl") == [there[block_id] for block_id in on(name)]
    for block_id in on(name):
        if block_id != "M00":  # the bottom is at 1/8 of the latent's side on SD1, at 1/4 on SDXL
            one, other = architecture("sd1").block(block_id), architecture("sdxl").block(there[block_id])
            assert (one.resolution_in, one.resolution_out) == (other.resolution_in, other.resolution_out)
    assert parse(name, "sdxl").weights.base == parse(name, "sd1").weights.base == 1
    assert set(parse(name, "sdxl").weights.values.values()) == {0, 1}
    sdxl = SHIPPED[name].on("sdxl")
    assert (sdxl.architectures, sdxl.grade) == (("sdxl",), "-")
    assert "SD1" in sdxl.purpose
    assert SHIPPED[name].on("sd2") is SHIPPED[name]
    assert [each.architectures for each in SHIPPED[name].each] == [("sd1", "sd2"), ("sdxl",)]


def test_character_without_style_is_what_users_of_sdxl_report():
    assert on("CHARACTER-NOT-STYLE", "sdxl") == ["OUT00", "OUT01"]
    assert SHIPPED["CHARACTER-NOT-STYLE"].grade == "C"
    assert "B-LORA-STYLE" in SHIPPED["CHARACTER-NOT-STYLE"].purpose


def test_lora_16_is_what_a_lora_reaches():
    assert on("LORA-16") == [block.id for block in architecture("sd1").blocks if block.lora_modules]


def test_the_two_faces_contradict_each_other_and_say_so():
    first, second = SHIPPED["FACE-OUT03-05"], SHIPPED["FACE-NOT-OUT03-05"]
    assert second.name in first.purpose
    assert first.name in second.purpose
    assert not set(on(first.name)) & set(on(second.name))


# --- on disk

FILE = """\
# mine
HAIR:1,0,0,0,0,0,0,0,1,1,0,0,0,0,0,0,0 | arch=sd1 canvas=0.1  # long hair

BAD:1,2,3
XL:1,1,1,1,1,1,1,1,1,1,1,1
nothing
RANGE:IN04-OUT02=0.5
"""


@pytest.fixture
def preset_file(tmp_path):
    path = tmp_path / "presets.txt"
    path.write_text(FILE, encoding="utf-8")
    return PresetFile(path)


def text_of(preset_file):
    return preset_file.path.read_bytes().decode("utf-8")


def test_a_file_is_read_line_by_line(preset_file):
    found = preset_file.read()
    assert list(found.presets) == ["HAIR", "XL", "RANGE"]
    # sd2 has sd1's blocks, but this line says for which it was made; both can use it
    assert found.presets["HAIR"].architectures == ("sd1", "sd2")
    assert found.presets["HAIR"].purpose == "long hair"
    assert found.presets["XL"].architectures == ("sdxl",)
    assert found.presets["RANGE"].architectures == ("sd1", "sd2", "sdxl")
    assert [str(problem) for problem in found.problems] == [
        "line 4: 3 values: expected 17, 25 or 26 for SD1 (character 10)",
        "line 6: 'nothing': expected NAME:values (character 1)",
    ]
    assert [(problem.text, problem.position) for problem in found.problems] == [("BAD:1,2,3", 9), ("nothing", 0)]
    assert parse("HAIR", "sd1", presets=found.presets).area_share == 0.1


def test_no_file_holds_nothing(tmp_path):
    assert PresetFile(tmp_path / "none.txt").read().presets == {}


def test_put_replaces_one_line_or_adds_one(preset_file):
    preset_file.put(Preset("XL", ("sdxl",), "*=1"), Preset("NEW", (), "M00=1", "the middle"))
    expected = FILE.replace("XL:1,1,1,1,1,1,1,1,1,1,1,1", "XL:*=1") + "NEW:M00=1  # the middle\n"
    assert text_of(preset_file) == expected
    assert preset_file.read().presets["NEW"].purpose == "the middle"


def test_rename_and_delete_touch_one_line(preset_file):
    preset_file.rename("HAIR", "LONG HAIR")
    preset_file.delete("XL")
    assert text_of(preset_file) == FILE.replace("HAIR:", "LONG HAIR:").replace("XL:1,1,1,1,1,1,1,1,1,1,1,1\n", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.delete("GONE"), "no preset 'GONE'"),
        (lambda f: f.rename("GONE", "X"), "no preset 'GONE'"),
        (lambda f: f.rename("XL", "HAIR"), "'HAIR' already"),
        (lambda f: f.rename("XL", "A:B"), "'A:B'"),
        (lambda f: f.rename("XL", "A\nB"), "cannot name"),
        (lambda f: f.rename("XL", "#XL"), "'#XL' cannot name a preset"),
        (lambda f: f.put(Preset("A", (), "1,2")), "2 values"),
        (lambda f: f.put(Preset("A,B", (), "*=1")), "'A,B' cannot name"),
        (lambda f: f.put(Preset("A", (), "*=1", "two\nlines")), "does not read back"),
        (lambda f: f.put(Preset("A", (), "*=1 # x", "y")), "does not read back"),
    ],
)
def test_changes_that_cannot_be_read_back_leave_the_file_alone(preset_file, change, message):
    with pytest.raises(ValueError, match=message):
        change(preset_file)
    assert text_of(preset_file) == FILE
    assert [path.name for path in preset_file.path.parent.iterdir()] == ["presets.txt"]


def test_a_write_that_fails_leaves_the_file_alone(preset_file, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        preset_file.delete("XL")
    assert text_of(preset_file) == FILE
    assert [path.name for path in preset_file.path.parent.iterdir()] == ["presets.txt"]


def test_other_encodings_are_carried_through(preset_file):
    preset_file.path.write_bytes(b"\xef\xbb\xbfA:*=1\r\n\x83\x65:*=1\r\n# \xff\r\nB:*=0\r\n")
    found = preset_file.read()
    assert list(found.presets) == ["A", "B"]
    assert [str(problem) for problem in found.problems] == ["line 2: not UTF-8 (character 1)"]
    preset_file.put(Preset("C", (), "*=2"))
    preset_file.delete("B")
    assert preset_file.path.read_bytes() == b"A:*=1\r\n\x83\x65:*=1\r\n# \xff\r\nC:*=2\r\n"


def test_a_file_without_a_last_line_break(preset_file):
    preset_file.path.write_text("A:*=1", encoding="utf-8")
    preset_file.put(Preset("B", (), "*=0"))
    assert text_of(preset_file) == "A:*=1\nB:*=0\n"


def test_the_last_of_a_name_counts_and_all_are_renamed_and_deleted(preset_file):
    preset_file.path.write_text("A:*=1\nB:*=1\nA:*=0\n", encoding="utf-8")
    found = preset_file.read()
    assert found.presets["A"].text == "*=0"
    assert [str(problem) for problem in found.problems] == ["line 3: A is also in line 1: this one counts"]
    preset_file.rename("A", "C")
    assert list(preset_file.read().presets) == ["C", "B"]
    preset_file.delete("C")
    assert text_of(preset_file) == "B:*=1\n"


_characters = st.characters(exclude_characters=":,|=#\"'[{\n\r\ufeff", exclude_categories=["Cs"])
_names = st.text(_characters, min_size=1, max_size=LONGEST_NAME).filter(lambda name: name == name.strip())


@settings(deadline=None)
@given(st.dictionaries(_names, st.sampled_from(["*=1", ",".join("1" * 26), "M00=R | canvas=0.5", "mid_lr_weight=1"])))
@example({"n" * LONGEST_NAME: "*=1"})
def test_whatever_is_put_is_read(tmp_path_factory, texts):
    preset_file = PresetFile(tmp_path_factory.mktemp("presets") / "presets.txt")
    preset_file.put(*(Preset(name, (), text) for name, text in texts.items()))
    found = preset_file.read()
    assert {name: preset.text for name, preset in found.presets.items()} == texts
    assert found.problems == ()


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_as_presets(text):
    for found in (read_presets(text), read_lbw_presets(text)):
        assert all(1 <= problem.line <= text.count("\n") + 1 for problem in found.problems)


# --- LoRA Block Weight's file


def test_lbwpresets():
    text = "\n".join(
        [
            "NONE:" + ",".join("0" * 17),
            " FACE :" + ",".join("1" * 17),
            "#OFF:" + ",".join("1" * 17),
            "ALSO-OFF:" + ",".join("1" * 17) + " # comment",
            "XL12:" + ",".join("1" * 12),
            "XL20:" + ",".join("R" * 20),
            "LYCO:" + ",".join(["X-0.5"] * 26),
            "FLUXALL:" + ",".join("1" * 61),
            "SHORT:1,1",
            "FACE:" + ",".join("0" * 17),
            "",
        ]
    )
    found = read_lbw_presets(text)
    assert list(found.presets) == ["NONE", "FACE", "XL12", "XL20", "LYCO"]
    assert set(found.presets["FACE"].text) == {"0", ","}
    assert [str(problem) for problem in found.problems] == [
        "line 8: 61 values are for Flux: skipped",
        "line 9: 2 values: expected 17, 25 or 26 for SD1 (character 10)",
        "line 10: FACE is also in line 2: this one counts",
    ]


def test_the_menu_begins_with_what_users_know():
    names = [preset.name for preset in shipped_presets()]
    assert names[:10] == ["NONE", "ALL", "INS", "IND", "INALL", "MIDD", "OUTD", "OUTS", "OUTALL", "ALL0.5"]
