"""Presets over HTTP, and the form of all answers: JSON with a sentence, whatever was sent."""

from __future__ import annotations

import json
import time

import pytest

from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.weights.presets import shipped_presets

FACE = "FACE:1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0"


def test_save_list_delete(client, host, refused):
    body = {"name": "MINE", "weights": "OUT=0.5,BASE=1", "architecture": "sd1"}
    assert client.post("/presets", json=body).json() == {"done": "saved MINE"}
    refused(client.post("/presets", json={**body, "weights": "ALL"}), 409, "'MINE'", "replace")
    listed = {preset["name"]: preset for preset in client.get("/presets").json()["presets"]}
    assert set(listed) == {"MINE", *(preset.name for preset in shipped_presets())}
    assert listed["MINE"]["own"]
    assert not listed["ALL"]["own"]
    assert parse(listed["MINE"]["text"], "sd1").weights == parse("OUT=0.5,BASE=1", "sd1").weights
    assert client.post("/presets", json={**body, "weights": "ALL", "replace": True}).status_code == 200
    share = {**body, "weights": "OUT=0.5 | canvas=0.2", "replace": True}
    assert client.post("/presets", json=share).status_code == 200
    (mine,) = (preset for preset in client.get("/presets").json()["presets"] if preset["name"] == "MINE")
    assert parse(mine["text"], "sd1").area_share == 0.2
    assert client.delete("/presets/MINE").status_code == 200
    refused(client.delete("/presets/MINE"), 404, "'MINE'")
    refused(client.delete("/presets/ALL"), 409, "comes with the extension")
    hiding = {"name": "OUTD", "weights": "ALL", "architecture": "sd1"}
    refused(client.post("/presets", json=hiding), 409, "'OUTD' comes with the extension", "replace")
    refused(client.post("/presets", json={**body, "name": "n" * 121}), 400, "expected up to 120")
    assert client.post("/presets", json={**hiding, "replace": True}).status_code == 200


def test_lists_what_fits_and_what_cannot_be_read(client, host):
    host.presets_path.write_text("XL:" + ",".join(["1"] * 12) + "\nBROKEN:1,2,3\n", "utf-8")
    answer = client.get("/presets", params={"architecture": "sd1"}).json()
    assert "XL" not in {preset["name"] for preset in answer["presets"]}
    assert [problem["line"] for problem in answer["problems"]] == [2]
    assert "XL" in {preset["name"] for preset in client.get("/presets?architecture=sdxl").json()["presets"]}


def test_parse(client):
    answer = client.post("/presets/parse", json={"text": FACE, "architecture": "sd1"}).json()
    expected = parse(FACE, "sd1")
    assert answer["weights"] == {"BASE": 1.0, **expected.weights.values, "REST": 1.0}
    assert (answer["name"], answer["line"]) == ("FACE", expected.weights.to_line("FACE"))
    assert answer["notices"] == list(expected.notices) != []


def test_parse_knows_the_users_presets(client, host):
    host.presets_path.write_text("MINE:OUT=0.25\n", "utf-8")
    answer = client.post("/presets/parse", json={"text": "MINE", "architecture": "sd1"}).json()
    assert answer["weights"]["OUT11"] == 0.25


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"text": "NOSUCH", "architecture": "sd1"}, 400, ["NOSUCH"]),
        ({"text": "1,2,3", "architecture": "sd1"}, 400, ["3", "25"]),
        ({"text": FACE, "architecture": "sdxl"}, 400, ["17"]),
        ({"text": "R" + ",1" * 24, "architecture": "sd1"}, 400, ["R"]),
        ({"text": "\ud800", "architecture": "sd1"}, None, []),  # pydantic 2 itself refuses half a surrogate pair
        ({"text": "ALL", "architecture": "flux"}, 422, ["architecture"]),
        ({"text": "ALL"}, 422, ["architecture"]),
        ({"text": "ALL", "architecture": "sd1", "colour": 1}, 422, ["colour"]),
        ({"text": "A" * 100_001, "architecture": "sd1"}, 422, ["text"]),
        ([], 422, []),
        (None, 422, []),
    ],
)
def test_what_cannot_be_parsed(client, refused, body, status, words):
    answer = client.post("/presets/parse", content=json.dumps(body), headers={"Content-Type": "application/json"})
    refused(answer, status or answer.status_code, *words)
    assert 400 <= answer.status_code < 500


def test_weights_are_written_into_a_prompt(client):
    sent = {"prompt": "a <lora:robot:0.8>, <lora:fox:1:bw=ALL>", "weights": "robot: OUT=1\nNONE"}
    answer = client.post("/prompt/write-weights", json=sent)
    assert answer.json() == {"prompt": "a <lora:robot:0.8:bw=OUT=1>, <lora:fox:1:bw=NONE>"}
    assert client.post("/prompt/write-weights", json={**sent, "weights": ""}).json()["prompt"] == sent["prompt"]


def test_random_weights_get_a_pictures_values(client):
    sent = {
        "prompt": "<lora:robot:1:bw=R,1>, <lora:fox:1:bw=OUTD>",
        "parameters": 'a\nSteps: 2, Block weights: "robot: 0.25,1; fox: 1,0", Version: 1',
    }
    answer = client.post("/prompt/fix-random", json=sent)
    assert answer.json() == {"prompt": "<lora:robot:1:bw=0.25,1>, <lora:fox:1:bw=OUTD>"}


def test_a_long_prompt_with_many_lines_takes_no_minute(client):
    prompt = "".join(f"<lora:a{number}:1>" for number in range(6000))
    lines = "\n".join(f"a{number}: ALL" for number in range(6000))
    began = time.monotonic()
    answer = client.post("/prompt/write-weights", json={"prompt": prompt, "weights": lines})
    assert answer.json()["prompt"].count(":bw=ALL>") == 6000
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"text": 1e999, "architecture": "sd1"}',
        b"NaN",
        b'{"a": ' + b"9" * 9999,
    ],
)
def test_what_is_no_json(client, content):
    answer = client.post("/presets/parse", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error", "detail"}


def test_too_much_is_not_read(client, refused):
    sent = 0

    def pieces():
        nonlocal sent
        for _ in range(1000):
            sent += 100_000
            yield b" " * 100_000

    refused(client.post("/presets/parse", content=pieces()), 413, "1000000 bytes")


@pytest.mark.parametrize("name", ["A:B", "", "A\nB", "A,B", "A#", "x" * 1001, " A|"])
def test_names_that_no_line_could_hold(client, host, refused, name):
    answer = client.post("/presets", json={"name": name, "weights": "ALL", "architecture": "sd1"})
    refused(answer, 422 if len(name) > 1000 else 400)
    assert not host.presets_path.exists()


def test_an_answer_of_a_fault_has_no_traceback(client, host, monkeypatch, refused):
    from lib_blocktrain.workspace.lora_index import LoraIndex

    def fails(self):
        raise KeyError("something of ours")

    monkeypatch.setattr(LoraIndex, "refresh", fails)
    refused(client.get("/loras"), 500, "KeyError", "console")


def test_the_openapi_page(serve, client):
    from lib_blocktrain.api.access import Access

    schema = client.app.openapi()
    paths = schema["paths"]
    assert {"/blocktrain/v1/presets", "/blocktrain/v1/preview", "/blocktrain/v1/analyse"} <= set(paths)
    assert all(operation["tags"] == ["blocktrain"] for path in paths.values() for operation in path.values())
    sent = schema["components"]["schemas"]
    assert {"weights", "meaning", "rank"} <= set(sent["NetworkConfig"]["properties"])
    locked = serve(Access(credentials=(("a", "b"),))).app.openapi()
    assert "HTTPBasic" in str(locked["paths"]["/blocktrain/v1/runs"]["post"]["security"])


def test_mounting_again_replaces(client, host):
    from lib_blocktrain.api.access import Access
    from lib_blocktrain.api.routes import mount

    before = [route.path for route in client.app.routes]
    mount(client.app, host, Access(credentials=(("a", "b"),)))
    assert sorted(route.path for route in client.app.routes) == sorted(before)
    assert client.get("/presets").status_code == 401
