"""What the scripts of Pictures ask: each question is carried out once, and every refusal is an answer."""

from __future__ import annotations

import html
import json
import re
import time

import pytest
from PIL import Image

from lib_blocktrain.ui import dataset_jobs
from lib_blocktrain.ui.dataset_handlers import FOLDERS, NAME, TOML, WEIGHTS, DatasetHandlers
from lib_blocktrain.ui.dataset_jobs import DatasetJobs
from lib_blocktrain.workspace.picture_sets import PictureSets
from lib_blocktrain.workspace.set_jobs import FoundMask


@pytest.fixture
def handlers(host, jobs, controls):
    sets = PictureSets(host)
    yield DatasetHandlers(sets, DatasetJobs(host, sets, jobs), lambda text: controls.presets.parse(text, "sd1"))
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
        ("find mask", {"set": "nowhere", "picture": "a", "word": "hat"}, "there is no set"),
        ("find mask", {"set": "nowhere", "picture": "a"}, "word 'None': expected text"),
        ("probe set", {"set": "nowhere"}, "there is no set"),
        ("job", {"job": "x"}, "not known any more"),
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


def test_folders_that_are_not_open_are_glanced_at(handlers, tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder, count in zip(folders, (3, 2)):
        folder.mkdir()
        for number in range(count):
            Image.new("RGB", (80, 64), "red").save(folder / f"{number}.png")
    (folders[0] / "0.png").write_bytes(b"no picture")
    asked = {"paths": list(map(str, folders)), "shown": 3}
    answer = ask(handlers, 1, "glance", **asked)
    assert answer["pictures"] == 5
    assert [url[:23] for url in answer["thumbnails"]] == ["data:image/jpeg;base64,"] * 3
    assert ask(handlers, 2, "sets")["sets"] == []  # they stay closed
    assert ask(handlers, 3, "glance", **{**asked, "shown": -1})["thumbnails"] == []
    assert "expected a folder of pictures" in ask(handlers, 4, "glance", paths=[str(tmp_path / "three")])["error"]


def end_of(handlers, job: str, first: int) -> dict:
    for number in range(first, first + 200):
        answer = ask(handlers, number, "job", job=job)
        if answer["state"] not in ("waiting", "running"):
            return answer
        time.sleep(0.05)
    raise AssertionError(answer)


def test_jobs_are_followed_cancelled_and_end_when_nobody_asks(handlers, host, monkeypatch, tmp_path):
    ask(handlers, 1, "create", name="robot")
    Image.new("RGB", (64, 64), "red").save(host.output_dir / "datasets/robot/10_robot/a.png")

    def find_mask(host, sets, key, picture, word, progress):
        if word == "nothing":
            raise ValueError("it changes nothing")
        for done in range(3):
            progress(done, 3)
            assert host.gate.wait(20)
        return FoundMask(b"PNG", 0.25)

    monkeypatch.setattr(dataset_jobs, "find_mask", find_mask)
    asked = {"set": "robot", "picture": "robot/a.png"}
    found = end_of(handlers, ask(handlers, 2, "find mask", **asked, word="hat")["job"], 100)
    assert (found["state"], found["result"]["share"]) == ("done", 0.25)
    assert found["result"]["mask"].startswith("data:image/png;base64,")
    failed = end_of(handlers, ask(handlers, 3, "find mask", **asked, word="nothing")["job"], 400)
    assert (failed["state"], failed["problem"]) == ("failed", "it changes nothing")

    for number, unseen in ((5, False), (8, True)):
        host.gate.clear()
        job = ask(handlers, number, "find mask", **asked, word="hat")["job"]
        while ask(handlers, time.monotonic_ns(), "job", job=job)["state"] == "waiting":
            time.sleep(0.01)
        if unseen:
            monkeypatch.setattr(dataset_jobs, "UNSEEN", -1.0)
        else:
            assert ask(handlers, number + 1, "cancel", job=job).keys() == {"page", "number"}
        host.gate.set()
        assert end_of(handlers, job, 1000 * number)["state"] == "cancelled"


def test_weights_go_to_train_and_are_to_be_found_again_for_another_share(handlers, host):
    def weigh(number: int, weights: str) -> dict:
        asked = json.dumps({"page": "w", "number": number, "weights": weights})
        return handlers.weigh({"dataset_ask": asked, "dataset_files": None, "train_form": {}})

    changes = weigh(1, "OUTALL")
    assert changes["train_form"][WEIGHTS].startswith("OUTALL:1,0,0,")
    assert answer_of(changes)["weights"] == changes["train_form"][WEIGHTS]
    refused = weigh(2, "NOTHING")
    assert "NOTHING" in answer_of(refused)["error"]
    assert set(refused) == {"dataset_answer"}

    ask(handlers, 1, "create", name="robot")
    folder = host.output_dir / "datasets/robot/10_robot"
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    Image.new("L", (64, 64), 255).save(folder / "a.mask.png")
    weights = "FACE:" + ",".join(["1"] * 26) + " | canvas=0.1"
    worth = ask(handlers, 2, "worth", set="robot", weights=weights)
    assert worth["worth"]["canvas_share"] == 1
    assert "more than twofold apart" in worth["retest"]
    for number, other in enumerate(("", "nonsense", weights.replace("0.1", "0.9"))):
        assert ask(handlers, 3 + number, "worth", set="robot", weights=other)["retest"] == ""
