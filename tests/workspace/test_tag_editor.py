"""The tag at the cursor, and its text after a change."""

from __future__ import annotations

import pytest

from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.preset_store import PresetStore
from lib_blocktrain.workspace.tag_editor import TagChange, TagEditor
from tests.fakes import FakeHost, write_lora

FOX = "a \U0001f98a <lora:{}> b"


@pytest.fixture
def editor(tmp_path):
    host = FakeHost(tmp_path)
    write_lora(host.lora_dirs[0] / "robot.safetensors", ss_output_name="alias")
    return TagEditor(LoraIndex(lambda: host.lora_dirs), PresetStore(lambda: host.presets_path))


def after(editor, tag: str, **change) -> str:
    found = editor.edit(FOX.format(tag), 8, TagChange(**change))
    assert found.text.startswith("<lora:")
    assert (found.start, found.stop) == (5, 12 + len(tag))  # the fox counts as two, before the change
    return found.text[6:-1]


def test_the_cursor_finds_its_tag(editor):
    prompt = FOX.format("robot:0.5:bw=OUTD:start=3")
    for position in (5, 10, 5 + len("<lora:robot:0.5:bw=OUTD:start=3>")):
        found = editor.edit(prompt, position)
        assert (found.name, found.strength, found.preset, found.first, found.end) == ("robot", 0.5, "OUTD", 3, 0)
        assert found.values == dict(parse("OUTD", "sd1").weights.with_base)
    assert editor.edit(prompt, 4) is None
    assert editor.edit(prompt, len(prompt)) is None
    assert editor.edit("<lora:robot", 8) is None
    assert editor.edit(FOX.format("alias:1"), 8).lacks
    unknown = editor.edit(FOX.format("nobody:1:bw=NOPE"), 8)
    assert (unknown.values, unknown.problem[:14]) == (None, "unknown preset")
    assert "not in the folders" in unknown.notices[-1]


@pytest.mark.parametrize(
    ("tag", "change", "expected"),
    [
        ("robot", {"strength": 0.7}, "robot:0.7"),
        ("robot:1:dyn=4", {"strength": 0.7}, "robot:0.7:dyn=4"),
        ("robot:1", {"weights": "OUTD"}, "robot:1:bw=OUTD"),
        ("robot:1:lbw=OUTD:x=2", {"weights": ""}, "robot:1"),
        ("robot:1:bw=OUTD", {"first": 2, "end": 5}, "robot:1:bw=OUTD:start=2:stop=5"),
        ("robot:1:step=2-5", {"end": 0}, "robot:1:start=2"),
        ("robot:1:lbw=OUTD:start=3", {"end": 5}, "robot:1:lbw=OUTD:start=3:stop=5"),
    ],
)
def test_a_change_changes_nothing_else(editor, tag, change, expected):
    assert after(editor, tag, **change) == expected


def test_values_become_the_shortest_text(editor):
    values = dict(parse("OUTD,IN08=-0.4", "sd1").weights.with_base)
    assert after(editor, "robot:1:bw=OUTD", values=values) == "robot:1:bw=OUTD,IN08=-0.4"
    assert after(editor, "robot:1:bw=OUTD", values=dict.fromkeys(values, 1.0)) == "robot:1"
    # what is said of kinds of layers and of steps stays
    rules = "robot:1:bw=OUTD,IN04.attn2=0.5,OUT03=1@0-0.5"
    assert after(editor, rules, values={**dict(parse("OUTD", "sd1").weights.with_base), "OUT03": 1.0, "IN08": 0.5}) == (
        f"{rules},IN08=0.5"
    )
    assert "IN04.attn2=0.5 stays" in editor.edit(FOX.format(rules), 8).notices[-2]
    assert editor.edit(FOX.format("robot:0.5@0,1@0.5"), 8).fixed == "0.5@0,1@0.5 in the tag"
    with pytest.raises(ValueError, match="IN00"):
        after(editor, "robot:1", values={"OUT03": 1.0})


@pytest.mark.parametrize(
    ("tag", "change", "words"),
    [
        ("robot:1:bw=OUTD:bw=OUTD", {}, "given twice"),
        ("robot:1", {"first": 5, "end": 3}, "expected a stop after the start"),
        ("robot:1", {"weights": "OUTD>x"}, "cannot stand in a tag"),
    ],
)
def test_what_cannot_be_is_said(editor, tag, change, words):
    with pytest.raises(ValueError, match=words):
        after(editor, tag, **change)
