"""What is copied, pasted, exported and imported, as a page would do it."""

from __future__ import annotations

import html
import json

import pytest

from lib_blocktrain.ui.lora_controls import selection_of
from lib_blocktrain.ui.picture_sheets import Names
from lib_blocktrain.ui.preset_cards import FORMS, JSON, TAG
from lib_blocktrain.ui.remembered import selection_values, stored_selection
from lib_blocktrain.ui.share_handlers import ShareHandlers
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.weights.presets import from_link
from lib_blocktrain.weights.prompt_tags import read_tag, resolve
from lib_blocktrain.workspace.preset_store import PresetStore


@pytest.fixture
def sharing(controls):
    return ShareHandlers(controls)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0", ["17 values for SD1", "OUT03-OUT05 = 1", "set to 0"]),
        ("NAME:*=0.5", ["ranges", "NAME"]),
        ("OUTALL", ["preset", "OUTALL"]),
    ],
)
def test_paste_says_what_it_understands(sharing, page, text, words):
    page.values["paste"] = text
    page.take(sharing.explain(page.values))
    assert all(word in page.values["understood"] for word in words)
    assert page.properties["apply"]["interactive"]


def test_paste_points_at_the_character(sharing, page):
    page.values["paste"] = "NAME:1,0,huh" + ",0" * 14
    answer = sharing.explain(page.values)
    line, caret = answer["understood"].split("<pre")[1].split(">")[1].split("</pre")[0].split("\n")
    assert line[caret.index("^") :].startswith("huh")
    assert not answer["apply"]["interactive"]


def test_paste_out_of_range_is_said(sharing, page):
    page.values["paste"] = "OUT03=7"
    answer = sharing.explain(page.values)
    assert "OUT03 = 7.0: expected a number from -1 to 2" in answer["understood"]
    before = page.weights()
    page.take(sharing.apply(page.values))
    assert page.weights() == before


def test_markup_is_text(sharing, page):
    page.values["paste"] = "<img src=x onerror=alert(1)>"
    answer = sharing.explain(page.values)
    assert "<img" not in answer["understood"]
    assert "&lt;img" in answer["understood"]


def test_save_copy_paste(controls, sharing, page):
    page.values |= {"preset_name": "mine"}
    page.values["weights"] |= {"IN04": 0.3, "OUT03": -0.5}
    page.take(controls.save(page.values))
    assert page.values["preset"] == "mine"
    copy = sharing.copier("line")
    page.take(copy(page.values))
    line = page.values["line"]
    assert line.startswith("mine:")
    page.take(copy({**page.values, "preset_name": "mine", "weights": {**page.weights(), "IN04": 0.4}}))
    assert not page.values["line"].startswith("mine")
    assert "the preset mine has other weights" in page.values["share_message"]
    page.take(controls.use_text(page.values, "ALL")[0])
    assert page.values["weights"]["IN04"] == 1
    page.values["paste"] = line
    page.take(sharing.apply(page.values))
    assert (page.values["weights"]["IN04"], page.values["weights"]["OUT03"]) == (0.3, -0.5)


def test_a_pasted_name_is_for_the_pasted_weights_alone(controls, sharing, page):
    copy = sharing.copier("line")
    page.values["paste"] = "FACE:OUT03=1,IN04=0.5"
    page.take(sharing.apply(page.values))
    assert page.values["preset_name"] == "FACE"
    assert copy(page.values)["line"].startswith("FACE:")
    page.take(controls.use_text(page.values, "OUTD")[0])
    page.values["preset"] = "OUTD"  # as the page's script does
    page.take(copy(page.values))
    assert page.values["line"].startswith("OUTD:")
    assert "without the name FACE: what was pasted has other weights" in page.values["share_message"]
    page.take(copy({**page.values, "preset_name": "mine"}))  # a name that was typed
    assert page.values["line"].startswith("mine:")


def test_a_changed_preset_does_not_give_its_name(controls, sharing, page):
    """That would be read with the preset's own weights elsewhere. The preset that has them all does."""
    page.values["paste"] = "OUTD,OUT03=0.5 | canvas=0.2"
    page.take(sharing.apply(page.values))
    copy = sharing.copier("line")
    page.values["preset_name"] = ""
    line = copy(page.values)["line"]
    assert not line.startswith("OUTD")
    assert parse(line, "sd1").area_share == 0.2
    page.values["preset_name"] = "mine"
    page.take(controls.save(page.values))
    line = copy(page.values)["line"]
    assert line.startswith("mine:")
    assert parse(line, "sd1").area_share == 0.2


@pytest.mark.parametrize("name", ["a:b", "a#b", "a | b"])
def test_a_line_to_share_reads_back(sharing, page, name):
    page.values["preset_name"] = name
    answer = sharing.copier("line")(page.values)
    assert "blocktrain-failure" in answer["share_message"]
    assert answer["line"] == ""  # the page copies nothing, not what was copied before


def test_import_of_lbws_file(sharing, page, tmp_path):
    path = tmp_path / "lbwpresets.txt"
    path.write_text(
        "FACE2:1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0\nALL:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0\nBAD:1,2\nINS:1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0\n"
    )
    page.take(sharing.import_file({**page.values, "preset_file": path}))
    assert "1 presets added" in page.values["preset_message"]
    assert "line 3" in page.values["preset_message"]
    assert "ALL exists with other values" in page.values["preset_message"]
    assert "INS is here" not in page.values["preset_message"]
    assert "FACE2" in page.properties["grid_presets"]["choices"]
    assert 'data-name="FACE2"' in page.values["preset_cards"]


@pytest.mark.parametrize("form", [form for form in FORMS if form != TAG])
def test_every_form_reads_back_as_the_weights(sharing, page, form):
    page.values |= {"preset_name": "Müller & co 50 %"}
    page.values["weights"] |= {"IN04": 0.3, "OUT03": 0.125, "M00": 0}
    page.take(sharing.copier(form)(page.values))
    text = page.values["line"]
    page.values |= {"preset_name": ""}
    page.values["weights"] |= {"IN04": 1.0, "OUT03": 1.0, "M00": 1.0}
    page.values["paste"] = f"http://127.0.0.1:7870/{text}" if form == "link" else text
    page.take(sharing.explain(page.values))
    assert page.properties["apply"]["interactive"]
    assert page.values["understood"].startswith('<div class="blocktrain-seen"><svg')
    page.take(sharing.apply(page.values))
    assert [page.values["weights"][block_id] for block_id in ("IN04", "OUT03", "M00")] == [0.3, 0.125, 0]
    assert page.values["preset_name"] == ("Müller & co 50 %" if form in ("line", "link") else "")
    if form == JSON:
        assert BlockWeights.from_json(json.loads(text)).values["IN04"] == 0.3
    if form == "link":
        assert text.startswith("#blocktrain=")
        assert text.isascii()
        assert " " not in text


def test_weights_without_an_equivalent_are_refused(sharing, page):
    page.values["weights"] |= {"OUT03": -0.5}
    answer = sharing.copier("kohya")(page.values)
    assert "OUT03 = -0.5: a learning rate cannot be negative" in answer["share_message"]
    assert answer["line"] == ""


def test_a_tag_names_the_preset_and_what_has_changed(sharing, page):
    copy = sharing.copier(TAG)
    page.take(sharing.apply({**page.values, "paste": "OUTD"}))
    assert page.values["preset"] == "OUTD"
    page.use("robot", robot=0.8)
    assert copy(page.values)["line"] == "<lora:robot:0.8:bw=OUTD>"
    page.values["weights"] |= {"IN08": -0.4, "OUT10": 1.3}
    changed = copy(page.values)["line"]
    assert changed == "<lora:robot:0.8:bw=OUTD,IN08=-0.4,OUT10=1.3>"
    assert sharing.controls.presets.parse(changed, "sd1").weights["OUT10"] == 1.3
    page.take(sharing.apply({**page.values, "paste": changed}))
    assert (page.values["preset"], page.values["weights"]["IN08"]) == ("OUTD", -0.4)
    page.values["weights"] |= {f"IN{n:02}": 0.25 + n / 100 for n in range(12)}  # not near it any more
    values = copy(page.values)["line"]
    assert "OUTD" not in values
    assert sharing.controls.presets.parse(values, "sd1").weights["IN08"] == 0.33
    page.use()
    assert "no LoRA is chosen" in copy(page.values)["share_message"]


def test_the_share_of_the_canvas_goes_along_while_the_weights_are_its(controls, sharing, page):
    page.values |= {"paste": "face:OUT03=1,IN04=0.5,BASE=1|arch=sd1 canvas=0.12"}
    copy = sharing.copier("line")
    page.take(sharing.apply(page.values))
    page.take(copy(page.values))
    assert parse(page.values["line"], "sd1").area_share == 0.12
    page.take(controls.save(page.values))
    page.values["paste"] = ""
    assert controls.presets.parse("face", "sd1").area_share == 0.12
    page.take(copy(page.values))  # the preset that was saved is chosen
    assert parse(page.values["line"], "sd1").area_share == 0.12
    page.values["preset_name"] = ""
    page.take(copy(page.values))
    assert page.values["line"].startswith("face:")
    page.values["weights"]["OUT03"] = 0.9  # the menu still says face, and these are other weights
    page.take(copy(page.values))
    assert parse(page.values["line"], "sd1").area_share is None
    assert "face" not in page.values["line"]


def test_an_exported_file_is_taken_over_whole(controls, sharing, page, tmp_path):
    page.values["export"] = "of an earlier click"
    said = page.take(sharing.export(page.values))
    assert "no presets of your own yet" in said["preset_message"]
    assert page.values["export"] == ""  # it was downloaded again
    controls.presets.own.path.write_text(
        "# mine\nface:OUT03=1|arch=sd1 canvas=0.12  # the face, from a crop\nxl:*=0.5|arch=sdxl\nboth:OUT=1\n", "utf-8"
    )
    page.take(sharing.export(page.values))
    assert "3 presets of your own" in page.values["preset_message"]
    path = tmp_path / "blocktrain-presets.txt"
    path.write_text(page.values["export"], "utf-8")
    other = PresetStore(lambda: tmp_path / "other.txt")
    count, problems = other.import_file(path)
    assert (count, problems) == (3, ())
    assert other.own.read().presets == controls.presets.own.read().presets
    assert other.own.read().presets["face"].purpose == "the face, from a crop"


def test_what_was_deleted_can_be_pasted_back(controls, sharing, page):
    page.values |= {"preset_name": "mine"}
    page.values["weights"] |= {"IN04": 0.3}
    page.take(controls.save(page.values))
    page.take(controls.delete(page.values))
    page.values |= {"paste": page.values["preset_message"].split("paste ")[1].split("</p>")[0]}
    page.values["weights"] |= {"IN04": 1.0}
    page.take(sharing.apply(page.values))
    assert page.values["weights"]["IN04"] == 0.3
    assert page.values["preset_name"] == "mine"


def test_a_bad_link_is_shown_as_it_was_read(sharing, page):
    page.values["paste"] = "#blocktrain=FACE:1,0,o%6Fps"
    shown = sharing.explain(page.values)["understood"]
    line, caret = shown.split("<pre")[1].split(">")[1].split("</pre")[0].split("\n")
    assert line[caret.index("^") :].startswith("oops")
    assert from_link("NAME:1,2 # no link") == "NAME:1,2 # no link"


def test_edit_in_the_tab_brings_the_loras_their_weights_and_the_prompt(sharing, page, host):
    def sent(**request):
        page.values["edited"] = json.dumps(request)
        return page.take(sharing.edit(page.values))

    sent(prompt="a fox <lora:style:0.7:bw=OUTD> <lora:robot:1>, red <lora:gone:1>", negative="blur", weights="IN=0.5")
    selection = page.values["selection"]
    assert list(selection.entries) == ["style", "robot"]
    assert selection.entries["style"].strength == 0.7
    assert (selection.entries["style"].weights["OUT03"], selection.entries["style"].weights["OUT09"]) == (1, 0)
    assert selection.entries["robot"].weights["IN04"] == 0.5  # the accordion's are for those without their own
    assert page.values["prompt"].split() == ["a", "fox", ",", "red"]
    assert page.values["negative"] == "blur"
    assert "not in the folders: gone" in page.values["status"]
    (host.lora_dirs[0] / "spoilt.safetensors").write_bytes(b"no header")
    sharing.controls.lora_index.refresh()
    sent(prompt="a fox <lora:spoilt:1> <lora:robot:1>", negative="", weights="")
    assert list(page.values["selection"].entries) == ["robot"]
    assert "spoilt cannot be used: " in page.values["status"]
    sent(prompt="a cat", negative="", weights="OUT=0.25")
    assert page.values["weights"]["OUT03"] == 0.25
    assert page.values["prompt"] == "a cat"
    sent(prompt="<lora:robot:1:bw=NOSUCHPRESET>", negative="", weights="")
    assert "unknown preset" in page.values["status"]
    assert page.values["prompt"] == "a cat"


def test_edit_in_the_tab_loses_nothing_in_silence(sharing, page, controls):
    """Steps, a strength over them and one of the text encoder's own are in the tab; the tag from it says the same."""

    def sent(prompt):
        page.values["edited"] = json.dumps({"prompt": prompt, "negative": "", "weights": ""})
        said = page.take(sharing.edit(page.values))["status"]
        return page.values["selection"].entries.get("robot"), html.unescape(str(said))

    entry, said = sent("<lora:robot:0.7:bw=OUTD,OUT.ff=0:start=3:stop=9>")
    assert entry.changes == page.values["weight_changes"] == "OUT00-OUT11.ff=0,start=3,stop=9"
    assert "start=3,stop=9 under “Kinds of layers, steps”" in said
    acting = entry.acting("sd1")
    assert [acting.at(step, 20).weight("OUT03", "attn1") for step in (1, 2, 3, 8, 9)] == [0, 0, 1, 1, 0]
    tag = sharing.copier("tag")(page.values)["line"]
    assert tag == "<lora:robot:0.7:bw=OUTD,OUT00-OUT11.ff=0,start=3,stop=9>"
    again = sent(tag)[0]
    assert again == entry

    entry, _ = sent("<lora:robot:1:lbw=OUTD:start=3:stop=9>")  # LoRA Block Weight counts from one step later
    assert entry.changes == "start=4,stop=10"
    entry, _ = sent("<lora:robot:0.5@0,1@0.5:bw=ALL>")
    assert (entry.strength, entry.weights["BASE"], entry.changes) == (1, 0.5, "strength=0.5@0,1@0.5")
    assert [entry.acting("sd1").at(s, 21).blocks["IN04"] for s in (1, 6, 11, 21)] == [0.5, 0.75, 1, 1]
    entry, said = sent("<lora:robot:0.25:0.5:dyn=4:w=OUTD>")
    assert (entry.strength, entry.weights["BASE"], entry.weights["IN04"]) == (0.5, 0.5, 1)
    assert "robot: dyn=4 is not taken over" in said
    assert "w=OUTD' is ignored: expected bw=" in said
    assert "w=OUTD is not taken" not in said
    entry, _ = sent("<lora:robot:te=0.8:unet=0>")
    assert (entry.strength, entry.weights["BASE"], entry.weights["IN04"]) == (0.8, 1, 0)
    assert "BASE = 5.0: expected a number from -1 to 2" in sent("<lora:robot:1:0.2>")[1]
    assert "expected one strength over the steps" in sent("<lora:robot:0@0,1@1:bw=ALL,strength=1@0,0@1>")[1]
    # a LoRA with steps alone has them in the tag of its pictures, too
    sent("<lora:robot:1:stop=5>")
    assert page.values["selection"].entries["robot"].changes == "stop=5"
    names = Names(page.values["selection"], {}, {"robot": "ALL,stop=5"}, {"robot": "robot"})
    assert names.tags() == "<lora:robot:1:bw=ALL,stop=5>"
    card = sharing.recommend(page.values)["share_message"]
    assert "stop=5: here every block has one number" in card


def test_recommending_writes_the_card_and_shows_it(sharing, controls, host, page):
    page.use()
    page.take(controls.choose(page.values))
    assert "no LoRA is chosen" in sharing.recommend(page.values)["share_message"]
    card = host.lora_dirs[0] / "robot.json"
    card.write_text('{"notes": "mine", "block weights": "OUTD"}', "utf-8")
    controls.lora_index.refresh()
    page.use("robot")
    page.take(controls.choose(page.values))
    page.values["weights"]["OUT05"] = 0.25
    said = page.take(sharing.recommend(page.values))
    assert "before: OUTD" in said["share_message"]
    written = json.loads(card.read_text("utf-8"))
    assert (written["notes"], parse(written["block weights"], "sd1").weights["OUT05"]) == ("mine", 0.25)
    assert written["block weights from"] == "set by hand in Block weights"
    assert "set by hand" in page.values["facts"]
    assert host.cards == [host.lora_dirs[0] / "robot.safetensors"]
    # Edit in the tab: a prompt that asks for the card
    page.values["edited"] = json.dumps({"prompt": "<lora:robot:0.5:bw=card> a fox", "negative": "", "weights": ""})
    page.take(sharing.edit(page.values))
    entry = page.values["selection"].entries["robot"]
    assert (entry.strength, entry.weights["OUT05"], entry.weights["OUT06"]) == (0.5, 0.25, 1.0)


def test_kinds_of_layers_and_steps(page, controls, sharing, preview, host):
    """The field under the sliders: pasted, drawn, remembered, copied, saved, and refused where blocks count."""
    page.values["paste"] = "OUTD,OUT03.attn2=0.5,IN=1@0-0.4"
    page.take(sharing.explain(page.values))
    assert "then OUT03.attn2=0.5,IN00-IN11=1@0-0.4" in page.values["understood"]
    page.take(sharing.apply(page.values))
    assert page.values["weight_changes"] == "OUT03.attn2=0.5,IN00-IN11=1@0-0.4"
    page.take(controls.explain_changes(page.values))
    assert "in place of the sliders: OUT03.attn2=0.5" in page.values["weight_changes_said"]
    wanted = parse(page.values["paste"], "sd1", layers=True).layers
    *_, ended = preview.compare(page.values)
    assert host.requests[-1].placements[0].weights == wanted
    kept = selection_values(page.values)
    assert stored_selection(controls, kept)[0].shown.acting("sd1") == wanted
    page.take(sharing.copier("tag")(page.values))
    tag = page.values["line"].removeprefix("<lora:").removesuffix(">").split(":")
    assert resolve(read_tag(tag), "sd1").weights == wanted
    page.take(sharing.copier("json")(page.values))
    assert "hold one number for each block" in page.values["share_message"]
    page.values["preset_name"] = "MINE"
    page.take(controls.save(page.values))
    assert controls.presets.parse("MINE", "sd1", layers=True).layers == wanted
    assert "OUT03.attn2=0.5" in page.values["preset_cards"]
    page.values["weight_changes"] = "OUT03.atn2=0.5"
    page.take(controls.explain_changes(page.values))
    assert "no such layer" in page.values["weight_changes_said"]
    *_, ended = preview.compare(page.values)
    assert "no such layer" in ended["status"]
    with pytest.raises(ValueError, match="every block has one number"):
        selection_of(page.values).shown.blocks_alone("sd1")
