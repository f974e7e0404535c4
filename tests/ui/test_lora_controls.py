"""The LoRA list, the sliders and the presets, as a page would use them."""

from __future__ import annotations

import json
import re
from html import unescape
from types import SimpleNamespace

import pytest

from lib_blocktrain.blocks import BLOCK_IDS
from lib_blocktrain.ui import remembered
from lib_blocktrain.ui.lora_controls import InitialState, LoraControls, selection_of
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS, LoraEntry, LoraSelection
from lib_blocktrain.workspace.preset_store import PresetStore
from tests.fakes import SDXL_LAYERS, FakeModel, write_lora


def data_of(page) -> dict:
    """What the page's script reads of the files."""
    return json.loads(unescape(re.search('data-json="([^"]*)"', page.values["lora_data"])[1]))


def choose(controls, page, *keys):
    page.use(*keys)
    return page.take(controls.choose(page.values))


def test_opening_chooses_the_first_lora(page):
    assert page.keys == ["robot"]
    assert [row[0] for row in data_of(page)["files"]] == ["robot", "style"]
    assert "IN04" in page.values["facts"]
    assert "ALL" in page.properties["grid_presets"]["choices"]


def test_opening_begins_with_the_first_weights_before_the_model_is_read(host, lora_index, page):
    host.loaded = None
    controls = LoraControls(
        host, lora_index, PresetStore(lambda: host.presets_path), InitialState(lora="style", weights="OUT03=0.5")
    )
    page.take(controls.open(page.values))
    assert page.values["selection"].active == "style"
    assert {block: value for block, value in page.weights().items() if value} == {"BASE": 1.0, "OUT03": 0.5}
    assert data_of(page)["folders"] == [str(host.lora_dirs[0])]


def test_what_was_kept_is_brought_back_before_the_model_is_read(host, controls, page, monkeypatch):
    """The page's buttons wait for it, and a model may take a minute."""

    def model():
        raise AssertionError("asked for the model")

    monkeypatch.setattr(host, "model", model)
    (host.lora_dirs[0] / "style.json").write_text('{"block weights": "OUT=1,IN=0"}')
    controls.lora_index.refresh()
    shown = controls.show(LoraSelection().choose(["style"]), before_model=True)
    assert "OUT=1,IN=0" in shown["facts"]
    assert 'data-block="IN04"' in shown["u_map"]


def test_the_page_is_open_even_where_bringing_back_fails(monkeypatch, caplog):
    handlers = []
    monkeypatch.setattr(remembered, "on", lambda event, handler, *others, **options: handlers.append(handler))
    w = {"kept_train": object(), "remembered_train": object()}
    widgets = SimpleNamespace(pick=lambda *names: {name: w[name] for name in names})

    def restore(stored):
        raise KeyError("steps")

    remembered.Memory("train", "here", []).on_load(None, widgets, restore, [])
    (handler,) = handlers
    changes = handler({"remembered_train": json.dumps({"version": 1, "values": {"train": {}}})})
    assert changes.keys() == {"kept_train"}
    assert "steps" in changes["kept_train"]
    assert "data-kept" not in changes["kept_train"]  # what marks the place as open
    assert "is not brought back" in caplog.text


def test_what_the_lora_lacks_is_greyed_with_the_reason(page):
    free = {block_id for block_id in WEIGHT_IDS if page.properties["weights"][block_id]["interactive"]}
    assert free == {"BASE", "IN04", "OUT03"}
    assert 'data-block="M00" data-side="M" data-absent="no layers in this LoRA"' in page.values["u_map"]


def test_what_the_model_lacks_is_greyed_with_the_reason(host, controls, page):
    host.loaded = FakeModel("sdxl")
    write_lora(host.lora_dirs[0] / "xl.safetensors", SDXL_LAYERS)
    page.take(controls.refresh(page.values))
    choose(controls, page, "xl")
    assert page.properties["weights"]["IN11"]["interactive"] is False
    assert page.properties["weights"]["OUT01"]["interactive"]
    assert set(BLOCK_IDS) <= page.properties["weights"].keys()


def test_a_lora_for_another_model_is_said(host, controls, page):
    write_lora(host.lora_dirs[0] / "xl.safetensors", SDXL_LAYERS)
    page.take(controls.refresh(page.values))
    choose(controls, page, "xl")
    assert "xl is for SDXL, and the loaded model is SD1" in page.values["lora_message"]


def test_a_damaged_file_cannot_be_used(host, controls, page):
    (host.lora_dirs[0] / "bad.safetensors").write_bytes(b"not a network at all")
    page.take(controls.refresh(page.values))
    choose(controls, page, "robot", "bad")
    assert page.keys == ["robot"]
    assert "bad cannot be used" in page.values["lora_message"]


def test_values_survive_a_change_of_lora(controls, page):
    page.values["weights"]["IN04"] = 0.25
    choose(controls, page)
    assert page.values["weights"]["IN04"] == 0.25
    choose(controls, page, "style")
    assert page.values["weights"]["IN04"] == 0.25


def test_the_name_of_a_bake_stays_until_another_lora_is_active(controls, page):
    assert page.values["bake_name"] == "robot-weighted"
    page.values["bake_name"] = "my name"
    page.use("robot", robot=0.5)
    page.take(controls.choose(page.values))
    assert page.values["bake_name"] == "my name"
    page.take(controls.follow_model(page.values))  # after Refresh
    assert page.values["bake_name"] == "my name"
    page.use("robot", "style")
    page.take(controls.choose(page.values))
    assert page.values["bake_name"] == "style-weighted"


def test_each_lora_keeps_its_own(controls, page):
    page.values["weights"] |= {"OUT03": 0.5}
    page.use("robot", "style", robot=0.8)
    page.take(controls.choose(page.values))
    assert page.values["selection"].active == "style"
    page.values["weights"] |= {"OUT03": -1.0}
    page.use("robot", "style", active="robot", style=1.5)
    page.take(controls.choose(page.values))
    assert page.values["weights"]["OUT03"] == 0.5
    selection = page.values["selection"]
    assert (selection.active, selection.shown.strength) == ("robot", 0.8)
    assert selection.entries["style"].weights["OUT03"] == -1.0
    assert selection.entries["style"].strength == 1.5


def test_analyse_follows_the_active_lora(controls, page):
    """It took the first of the list, which in a WebUI is any; what was chosen there stays until another is active."""
    choose(controls, page, "robot", "style")
    assert page.values["analyse_lora"] == "style"
    assert page.properties["analyse_lora"]["choices"] == ["robot", "style"]
    page.values["analyse_lora"] = "robot"  # by hand, in Analyse
    page.use("robot", "style", style=0.5)
    page.take(controls.choose(page.values))
    assert page.values["analyse_lora"] == "robot"
    choose(controls, page)
    assert page.values["analyse_lora"] == "robot"
    page.take(controls.use_exactly({"style": LoraEntry()}))  # a run's result, a picture of the history, a prompt's tag
    assert page.values["analyse_lora"] == "style"


@pytest.mark.parametrize("handler", ["choose", "follow_model"])
def test_a_slider_moved_while_an_event_is_handled_stays(controls, page, handler):
    """The answer for the LoRA whose weights are shown already moves no slider."""
    page.values |= {"loras": page.values["loras"].replace('"muted": false', '"muted": true'), "restored": False}
    answer = getattr(controls, handler)(page.values)
    page.values["weights"] = {**page.values["weights"], "OUT03": 0.3}  # before the answer has come
    page.take(answer)
    assert page.values["weights"]["OUT03"] == 0.3
    assert selection_of(page.values).entries["robot"].muted
    assert page.properties["weights"]["IN05"]["interactive"] is False


@pytest.mark.parametrize("handler", ["show_model", "refresh", "follow_model"])
def test_a_lora_chosen_while_the_model_is_loaded_stays(controls, page, handler):
    """The late answer made the first LoRA the active one again, and the second's weights were taken for its own."""
    page.values["weights"]["OUT03"] = 0.5
    answer = getattr(controls, handler)(page.values)
    choose(controls, page, "robot", "style")
    page.values["weights"]["OUT03"] = -1.0
    page.take(answer)
    selection = selection_of(page.values)
    assert (selection.active, page.keys) == ("style", ["robot", "style"])
    assert {key: entry.weights["OUT03"] for key, entry in selection.entries.items()} == {"robot": 0.5, "style": -1.0}


def test_each_lora_keeps_its_weights_though_the_server_has_forgotten_them(controls, page):
    """A State is lost with the server, or after an hour's sleep: all LoRAs got the weights on the sliders."""
    page.take(controls.use_exactly({"robot": LoraEntry(0.8, changes="start=5"), "style": LoraEntry(muted=True)}))
    page.values["weights"]["OUT03"] = 0.5
    listed = json.loads(page.values["loras"])
    listed["loras"][1]["weights"] |= {"OUT03": -1.0}  # as the page's script writes them when another becomes active
    page.values |= {"loras": json.dumps(listed), "weight_changes": "start=5", "selection": LoraSelection()}
    found = selection_of(page.values)
    assert [*found.entries] == ["robot", "style"]
    robot, style = found.entries.values()
    assert (found.active, robot.strength, robot.weights["OUT03"], robot.changes) == ("robot", 0.8, 0.5, "start=5")
    assert (style.weights["OUT03"], style.muted, style.changes) == (-1.0, True, "")
    listed["active"] = "style"  # now the sliders show the ones of the LoRA before until this is answered
    page.take(controls.choose({**page.values, "loras": json.dumps(listed)}))
    assert page.values["weights"]["OUT03"] == -1.0
    assert page.values["selection"].entries["robot"].weights["OUT03"] == 1.0


@pytest.mark.parametrize("weights", [3, [], {"OUT03": 1}, dict.fromkeys(WEIGHT_IDS, "1"), dict.fromkeys(WEIGHT_IDS, 9)])
def test_weights_of_a_list_are_checked(controls, page, weights):
    listed = {"loras": [{"key": "robot", "strength": 1, "muted": False, "weights": weights}], "active": "robot"}
    page.values["loras"] = json.dumps(listed)
    with pytest.raises(ValueError, match="expected a number"):
        selection_of(page.values)


def test_saving_over_a_preset_replaces_ones_own_only(controls, page):
    page.values |= {"preset_name": "mine"}
    page.values["weights"] |= {"IN04": 0.3}
    page.take(controls.save(page.values))
    assert (page.values["preset"], page.values["preset_name"]) == ("mine", "")
    page.values["weights"] |= {"IN04": 0.9}
    page.take(controls.save_over(page.values))
    assert "Saved mine" in page.values["preset_message"]
    assert controls.presets.parse("mine", "sd1").weights["IN04"] == 0.9
    page.values["preset"] = "OUTALL"
    page.take(controls.save_over(page.values))
    assert "comes with the extension" in page.values["preset_message"]


def test_saving_over_a_preset_keeps_its_purpose_and_says_for_what_it_is_no_more(controls, page):
    path = controls.presets.own.path
    path.write_text("mine:OUT=1,IN=0 # long hair\nsdone:OUT=1 | arch=sd1 # small\n", "utf-8")
    assert "sdxl" in controls.presets.own.read().presets["mine"].architectures
    page.values["preset"] = "mine"
    page.take(controls.save_over(page.values))
    mine = controls.presets.own.read().presets["mine"]
    assert (mine.purpose, "sdxl" in mine.architectures) == ("long hair", False)
    assert "Saved mine" in page.values["preset_message"]
    assert "no longer for SDXL" in page.values["preset_message"]
    page.values["preset"] = "sdone"
    page.take(controls.save_over(page.values))
    assert controls.presets.own.read().presets["sdone"].purpose == "small"
    assert "no longer" not in page.values["preset_message"]


def test_a_saved_preset_is_not_replaced_unasked(controls, page):
    page.values |= {"preset_name": "mine"}
    page.values["weights"] |= {"IN04": 0.3}
    page.take(controls.save(page.values))
    page.values["weights"]["IN04"] = 0.9
    page.values["preset_name"] = "mine"
    page.take(controls.save(page.values))
    assert "already" in page.values["preset_message"]
    assert controls.presets.parse("mine", "sd1").weights["IN04"] == 0.3
    page.values["preset_replace"] = True
    page.take(controls.save(page.values))
    assert controls.presets.parse("mine", "sd1").weights["IN04"] == 0.9
    assert page.values["preset_replace"] is False


def test_rename_and_delete(controls, page):
    page.values["preset_name"] = "mine"
    page.take(controls.save(page.values))
    page.values["preset_name"] = "ours"
    page.take(controls.rename(page.values))
    assert page.values["preset"] == "ours"
    page.take(controls.delete(page.values))
    assert page.values["preset"] == ""
    assert "ours" not in page.properties["grid_presets"]["choices"]


@pytest.mark.parametrize("button", ["rename", "delete"])
@pytest.mark.parametrize(("preset", "word"), [("OUTALL", "comes with the extension"), (None, "no preset is selected")])
def test_shipped_presets_stay(controls, page, button, preset, word):
    page.values |= {"preset": preset, "preset_name": "x"}
    page.take(getattr(controls, button)(page.values))
    assert word in page.values["preset_message"]


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a,b", "#a"])
def test_names_that_no_preset_can_have(controls, page, name):
    page.values["preset_name"] = name
    page.take(controls.save(page.values))
    assert "blocktrain-failure" in page.values["preset_message"]
    assert not controls.presets.own.path.exists()


def test_without_a_model_weights_still_work(host, controls, page):
    host.loaded = None
    page.take(controls.use_text(page.values, "OUTALL")[0])
    assert page.values["weights"]["OUT03"] == 1
    assert page.values["weights"]["IN04"] == 0
    said = controls.show_model(page.values)
    assert ">No model<" in said["model_line"]  # the header has room for no more
    assert "no checkpoint is loaded" in said["lora_message"]


def test_the_models_size_is_taken(controls, page):
    """Once: Refresh threw away what was set by hand."""
    changes = page.take(controls.show_model({**page.values, "shown_side": 0}))
    assert (changes["width"], changes["height"]) == (128, 128)
    assert "fake · SD1, 25 blocks" in changes["model_line"]
    assert "width" not in controls.show_model(page.values)
    assert "width" not in controls.show_model({**page.values, "shown_side": 0, "restored": True})
    assert controls.show_model({**page.values, "shown_side": 512, "restored": True})["width"] == 128


def test_files_that_are_gone_are_said(host, controls, page):
    (host.lora_dirs[0] / "robot.safetensors").unlink()
    page.take(controls.refresh(page.values))
    page.take(controls.follow_model(page.values))
    assert "robot no longer in the folders" in page.values["lora_message"]
    assert page.keys == []
    assert page.values["selection"].entries == {}


@pytest.mark.parametrize("value", [None, 3, "1", float("nan"), True])
def test_sliders_from_a_browser_are_checked(controls, page, value):
    page.values["weights"]["IN04"] = value
    answer = controls.choose(page.values)
    assert "IN04 = " in answer["lora_message"]
    assert "selection" not in answer


def ask(controls, page, **question) -> dict:
    page.values["lora_ask"] = json.dumps(question)
    return page.take(controls.answer(page.values))


def test_the_page_asks_for_what_has_changed(host, controls, page):
    controls.lora_index.wait(30)
    ask(controls, page, since=0)
    first = data_of(page)
    assert (first["all"], first["complete"]) == (True, True)
    ask(controls, page, since=first["revision"])
    assert (data_of(page)["all"], data_of(page)["files"]) == (False, [])
    (host.lora_dirs[0] / "robot.json").write_text(json.dumps({"activation text": "a Robot, green"}))
    controls.lora_index.refresh()
    controls.lora_index.wait(30)
    ask(controls, page, since=first["revision"])
    row = next(row for row in data_of(page)["files"] if row[0] == "robot")
    assert row[3:] == [1, "sd1", "SD1", "lora", "rank 2", 2, 0, "", 0, "robot  a robot, green"]


def test_a_card_has_the_users_words_as_text(host, controls, page):
    text = {
        "activation text": "<b>x</b>, robot",
        "preferred weight": 0.8,
        "notes": "two\nlines",
        "negative text": "blur",
        "block weights": "OUT=1,IN=0,start=5",
    }
    (host.lora_dirs[0] / "style.json").write_text(json.dumps(text))
    controls.lora_index.refresh()
    card = ask(controls, page, card="style")["lora_card"]
    assert 'data-use="prompt" data-value="&lt;b&gt;x&lt;/b&gt;, robot"' in card
    assert 'data-use="negative" data-value="blur"' in card
    assert 'data-use="strength" data-value="0.8"' in card
    use = json.loads(unescape(re.search('data-use="weights" data-value="([^"]*)"', card)[1]))
    assert (use["weights"]["OUT11"], use["weights"]["IN04"], use["changes"]) == (1, 0, "start=5")
    assert "two\nlines" in card
    assert "<b>x" not in card
    text["block weights"] = "no such preset"
    (host.lora_dirs[0] / "style.json").write_text(json.dumps(text))
    controls.lora_index.refresh()
    card = ask(controls, page, card="style")["lora_card"]
    assert "blocktrain-failure" in card
    assert 'data-use="weights"' not in card


def test_a_card_of_nothing_is_an_error(controls, page):
    """It is the answer to its key: the page asks for a card until there is one."""
    for key in ("../robot", "/etc/passwd"):
        card = ask(controls, page, card=key)["lora_card"]
        assert f'data-key="{key}"' in card
        assert "there is no LoRA" in card


def test_a_card_that_is_asked_for_again_is_a_new_one(controls, page):
    """The page notices no text that it has already."""
    assert ask(controls, page, card="style")["lora_card"] != ask(controls, page, card="style")["lora_card"]


def test_what_a_card_is_not_asked_for_with(controls, page):
    page.values["lora_ask"] = "[1]"
    assert "expected a question" in controls.answer(page.values)["lora_message"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "expected JSON"),
        ("[]", "expected JSON"),
        ('{"loras": [{"key": "robot"}], "active": null}', "expected JSON"),
        ('{"loras": [{"key": "robot", "strength": 9, "muted": false}], "active": null}', "strength of robot = 9"),
        ('{"loras": [{"key": "robot", "strength": "1", "muted": false}], "active": null}', "strength of robot = '1'"),
        ('{"loras": [{"key": "robot", "strength": 1, "muted": 0}], "active": null}', "muted = 0"),
        ('{"loras": [{"key": "nobody", "strength": 1, "muted": false}], "active": null}', "there is no LoRA 'nobody'"),
    ],
)
def test_a_list_that_cannot_be_used_is_put_back(controls, page, text, said):
    before = page.values["loras"]
    page.values["loras"] = text
    page.take(controls.choose(page.values))
    assert said in unescape(page.values["lora_message"])
    assert page.values["loras"] == before
