"""What the scripts of Pictures ask: each question is carried out once, and every refusal is an answer."""

from __future__ import annotations

import html
import json
import re

import pytest
from PIL import Image

from lib_blocktrain.ui.dataset_handlers import FOLDERS, NAME, TOML, DatasetHandlers
from lib_blocktrain.workspace.picture_sets import PictureSets


@pytest.fixture
def handlers(host):
    sets = PictureSets(host)
    yield DatasetHandlers(sets)
    sets.close()


def answer_of(changes) -> dict:
    return json.loads(html.unescape(re.search(r'data-json="([^"]*)"', changes["dataset_answer"])[1]))


def ask(handlers, number: int, what: str, **values) -> dict:
    question = json.dumps({"page": "p", "number": number, "what": what, **values})
    return answer_of(handlers.answer({"dataset_ask": question, "dataset_files": None, "train_form": {}}))


def test_a_question_is_carried_out_once(handlers):
    first = ask(handlers, 1, "create", name="robot")
    assert first["set"]["name"] == "robot"
    assert ask(handlers, 1, "create", name="robot") == first
    assert "robot" in ask(handlers, 2, "create", name="robot")["error"]
    assert [one["name"] for one in ask(handlers, 3, "sets")["sets"]] == ["robot"]


@pytest.mark.parametrize(
    ("what", "values", "said"),
    [
        ("fly", {}, "expected one of sets, create"),
        ("create", {"name": "../x"}, "cannot name a file"),
        ("create", {"name": 3}, "name '3': expected text"),
        ("listing", {"set": "nowhere"}, "nowhere"),
        ("listing", {"set": "nowhere", "size": "64"}, "nowhere"),
        ("focus", {"set": "nowhere", "picture": "a", "focus": [1]}, "expected two numbers"),
        ("apply", {"set": "nowhere", "operation": []}, "operation '[]': expected an object"),
        ("paint", {"set": "nowhere", "picture": "a", "png": "data:image/png;base64,???"}, ""),
        ("repeats", {"set": "nowhere"}, "expected a whole number"),
    ],
)
def test_a_refusal_is_an_answer(handlers, what, values, said):
    assert said in ask(handlers, 1, what, **values)["error"]


@pytest.mark.parametrize("text", [None, "", "{oops", "[]", '{"number": "1"}', "[" * 100_000])
def test_what_the_script_does_not_write_is_answered_too(handlers, text):
    changes = handlers.answer({"dataset_ask": text, "dataset_files": None, "train_form": {}})
    assert not changes or "error" in answer_of(changes)


def test_files_are_added_and_the_set_is_used_in_train(handlers, tmp_path):
    ask(handlers, 1, "create", name="robot")
    files = [tmp_path / "0.bin", tmp_path / "1.bin"]
    Image.new("RGB", (64, 64), "red").save(files[0], format="PNG")
    files[1].write_text("no picture")
    question = {"page": "p", "number": 2, "set": "robot", "names": ["folder/a.png", "CON.png"]}
    values = {"dataset_ask": json.dumps(question), "dataset_files": files, "train_form": {}}
    added = answer_of(handlers.add(values))
    assert (added["added"], [name for name, _ in added["refused"]]) == (["a.png"], ["CON.png"])
    wrong = {**values, "dataset_ask": json.dumps({**question, "number": 3, "names": ["a.png"]})}
    assert "2 files came for 1 names" in answer_of(handlers.add(wrong))["error"]

    used = {"dataset_ask": json.dumps({"page": "p", "number": 4, "set": "robot"}), "train_form": {NAME: ""}}
    changes = handlers.use({**used, "dataset_files": None})
    assert changes["train_form"] == {FOLDERS: handlers.sets.folders_for_training("robot"), TOML: "", NAME: "robot"}
    assert changes["tabs"] == {"selected": "Train"}
    named = json.dumps({"page": "p", "number": 5, "set": "robot"})
    changes = handlers.use({"dataset_ask": named, "dataset_files": None, "train_form": {NAME: "mine"}})
    assert NAME not in changes["train_form"]

    probed = json.dumps({"page": "p", "number": 8, "set": "robot"})
    changes = handlers.probe({"dataset_ask": probed, "dataset_files": None, "train_form": {}})
    assert changes["probe_folder"] == handlers.sets.folders_for_training("robot")
    assert changes["tabs"] == {"selected": "Analyse"}

    ask(handlers, 6, "create", name="empty")
    refused = json.dumps({"page": "p", "number": 7, "set": "empty"})
    changes = handlers.use({"dataset_ask": refused, "dataset_files": None, "train_form": {NAME: ""}})
    assert "no pictures yet" in answer_of(changes)["error"]
    assert set(changes) == {"dataset_answer"}
