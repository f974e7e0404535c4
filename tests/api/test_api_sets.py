"""Sets of pictures over HTTP: made, filled, captioned, masked, with the passwords and roots of the other routes."""

from __future__ import annotations

import base64
import io
import time

import pytest
from PIL import Image

from lib_blocktrain.api import responses
from lib_blocktrain.api.access import Access
from lib_blocktrain.workspace import (
    picture_sets,  # noqa: F401 - the first call imports it, which takes time
    set_jobs,
)


def png(colour: str = "red", size=(80, 60), mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, colour).save(data, "PNG")
    return data.getvalue()


def test_from_an_empty_set_to_masked_and_captioned_pictures(client, host, refused):
    assert client.get("/sets").json() == []
    made = client.post("/sets", json={"name": "robot", "repeats": 5}).json()
    assert (made["set"], made["pictures"], made["repeats"]) == ("robot", 0, 5)
    refused(client.post("/sets", json={"name": "robot"}), 409, "'robot' already")
    refused(client.post("/sets", json={"name": "../up"}), 400, "../up")
    refused(client.post("/sets", json={}), 400, "name or open")
    files = [("files", ("a.png", png())), ("files", ("b.png", png("blue"))), ("files", ("../CON.png", png()))]
    added = client.post("/sets/robot/pictures", files=files).json()
    assert added["added"] == ["a.png", "b.png"]
    assert added["refused"][0][0] == "CON.png"
    refused(client.post("/sets/robot/pictures", files=[("other", ("c.png", png()))]), 400, "expected files in files")
    refused(client.post("/sets/robot/pictures", content=b"x"), 400, "multipart/form-data")
    refused(client.post("/sets/none/pictures", files=files), 404, "'none'")
    listing = client.get("/sets/robot", params={"size": 512}).json()
    first = listing["pictures"][0]
    assert (first["picture"], first["flags"], first["tokens"]) == ("robot/a.png", ["no caption", "small"], 1)
    assert listing["counts"]["no caption"] == 2

    small = client.get("/sets/robot/thumbnail", params={"picture": "robot/a.png", "v": first["version"]})
    assert small.headers["content-type"] == "image/jpeg"
    assert "immutable" in small.headers["cache-control"]
    tag = {"If-None-Match": small.headers["etag"]}
    assert client.get("/sets/robot/thumbnail", params={"picture": "robot/a.png"}, headers=tag).status_code == 304
    for picture in ("../../loras/robot.safetensors", "robot/../a.png", "", "/etc/passwd", "robot/a.txt"):
        refused(client.get("/sets/robot/thumbnail", params={"picture": picture}), 404, "there is no picture")
    refused(client.get("/sets/robot/thumbnail", params={"picture": "robot/a.png", "side": 9999}), 400, "side 9999")

    body = {"picture": "robot/a.png", "text": "robot, hat", "stamp": ""}
    assert client.post("/sets/robot/caption", json=body).json()["edits"][0]["after"] == "robot, hat"
    refused(client.post("/sets/robot/caption", json=body), 409, "a.txt: changed by another program")
    read = client.get("/sets/robot/caption", params={"picture": "robot/a.png"}).json()
    assert (read["caption"], read["tokens"], read["chunks"]) == ("robot, hat", 3, [0])
    operation = {"op": "trigger", "word": "ohwx"}
    change = {"operation": operation, "stamps": {"robot/a.png": read["stamp"]}}
    preview = client.post("/sets/robot/change", json={**change, "preview": True}).json()
    assert [edit["after"] for edit in preview["edits"]] == ["ohwx, robot, hat", "ohwx"]
    assert client.get("/sets/robot/caption", params={"picture": "robot/b.png"}).json()["caption"] is None
    assert client.post("/sets/robot/change", json=change).json()["edits"] == preview["edits"]
    refused(client.post("/sets/robot/change", json=change), 409, "a.txt")
    refused(client.post("/sets/robot/change", json={"operation": {"op": "rm"}}), 400, "'rm'")

    refused(client.get("/sets/robot/mask", params={"picture": "robot/a.png"}), 404, "no mask")
    client.post("/sets/robot/mask", json={"picture": "robot/a.png", "strokes": "[[0.3, 0.5, 0.5]]"})
    encoded = base64.b64encode(png("white", mode="L")).decode()
    client.post("/sets/robot/mask", json={"picture": "robot/b.png", "png": encoded})
    refused(client.post("/sets/robot/mask", json={"picture": "robot/b.png", "png": "ü"}), 400, "base64")
    mask = client.get("/sets/robot/mask", params={"picture": "robot/b.png"})
    with Image.open(io.BytesIO(mask.content)) as image:
        assert (image.size, image.getextrema()) == ((80, 60), (255, 255))
    client.post("/sets/robot/mask", json={"picture": "robot/b.png", "remove": True})
    client.post("/sets/robot/focus", json={"picture": "robot/a.png", "focus": [0.25, 0.5]})
    refused(client.post("/sets/robot/focus", json={"picture": "robot/a.png", "focus": [1]}), 400, "x and y")
    assert client.get("/sets/robot").json()["pictures"][0]["focus"] == [0.25, 0.5]
    assert client.get("/sets/robot/worth", params={"batch": 4}).json()["steps_an_epoch"] == 3
    titles = [past["title"] for past in client.get("/sets/robot/changes").json()]
    assert titles == [
        *("crop of a.png", "mask of b.png removed", "mask of b.png", "mask of a.png"),
        *("“ohwx” in front", "caption of a.png"),
    ]
    for _ in titles:
        assert client.post("/sets/robot/undo", json={}).status_code == 200
    refused(client.post("/sets/robot/undo", json={}), 400, "no change to take back")
    folder = host.output_dir / "datasets" / "robot" / "5_robot"
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png"]
    assert client.post("/sets/robot/repeats", json={"repeats": 2}).json()["repeats"] == 2


def test_jobs_of_a_set(client, host, refused, monkeypatch):
    """What they find is tested with a model in `workspace/test_set_jobs.py`."""

    def find_mask(host, sets, key, picture, word, progress):
        progress(1, 2)
        if word == "nothing":
            raise ValueError("it changes nothing")
        return set_jobs.FoundMask(png("white", mode="L"), 1.0)

    monkeypatch.setattr(set_jobs, "find_mask", find_mask)
    client.post("/sets", json={"name": "robot"})
    client.post("/sets/robot/pictures", files=[("files", ("a.png", png()))])

    def ended(answer) -> dict:
        assert answer.status_code == 202
        for _ in range(400):
            found = client.get(f"/sets/robot/jobs/{answer.json()['job']}").json()
            if found["state"] != "running":
                return found
            time.sleep(0.01)
        raise AssertionError(found)

    asked = {"picture": "robot/a.png", "word": "hat"}
    found = ended(client.post("/sets/robot/find-mask", json=asked))["result"]
    assert found["share"] == 1
    saved = client.post("/sets/robot/mask", json={"picture": "robot/a.png", "png": found["png"]})
    assert saved.json()["title"] == "mask of a.png"
    failed = ended(client.post("/sets/robot/find-mask", json={**asked, "word": "nothing"}))
    assert (failed["state"], failed["detail"]) == ("failed", "it changes nothing")
    host.loaded = None
    assert "no checkpoint" in ended(client.post("/sets/robot/probe", json={"pictures": 2}))["detail"]
    refused(client.post("/sets/robot/find-mask", json={**asked, "picture": "robot/b.png"}), 404, "no picture")
    refused(client.post("/sets/robot/find-mask", json={**asked, "word": ""}), 422, "word")
    refused(client.post("/sets/none/probe", json={}), 404, "'none'")
    refused(client.post("/sets/robot/probe", json={"pictures": 1}), 422, "pictures")
    refused(client.get("/sets/robot/jobs/none"), 404, "there is no job")


def test_roots_passwords_and_limits(serve, tmp_path, refused):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png())
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "b.png").write_bytes(png())
    client = serve(Access(dataset_dirs=lambda: [tmp_path / "pictures"]))
    opened = client.post("/sets", json={"open": str(tmp_path / "pictures")}).json()
    assert (opened["kind"], opened["pictures"]) == ("folder", 1)
    refused(client.post("/sets", json={"open": str(tmp_path / "private")}), 400, "expected something in")
    assert client.post(f"/sets/{opened['set']}/close", json={}).json()["done"]
    assert client.get("/sets").json() == []
    client.post("/sets", json={"name": "robot"})
    large = [("files", ("a.png", b"x" * (responses.LARGEST_BODY + 1000)))]
    added = client.post("/sets/robot/pictures", files=large).json()  # more than other routes take
    assert added["refused"][0][0] == "a.png"
    locked = serve(Access(credentials=(("a", "b"),)))
    assert locked.get("/sets/robot/thumbnail", params={"picture": "robot/a.png"}).status_code == 401
    exposed = serve(Access(exposed=True))
    assert exposed.get("/sets").status_code == 200
    for path in ("/sets/robot/caption", "/sets/robot/pictures", "/sets/robot/undo", "/sets"):
        refused(exposed.post(path), 403, "nothing can be changed")


def test_an_own_set_is_trained_where_roots_are_set(serve, host, refused):
    """A run through the API may take the sets that were made here, besides the folders of the setting."""
    client = serve(Access(dataset_dirs=list))
    client.post("/sets", json={"name": "robot", "repeats": 5})
    folder = str(host.output_dir / "datasets" / "robot")
    config = {"name": "r", "steps": 1, "network": {"weights": "OUT=1"}, "optimizer": {"lr": 0.1}}
    answer = client.post("/runs", json={"config": {**config, "dataset": {"folders": [{"path": folder}]}}})
    assert "expected something in" not in answer.text
    other = client.post("/runs", json={"config": {**config, "dataset": {"folders": [{"path": str(host.output_dir)}]}}})
    refused(other, 400, "expected something in")


@pytest.mark.parametrize("key", ["..", "%2e%2e", "..%2F..", "~000000000000", "%00", "CON", "x" * 500])
def test_keys_in_addresses(client, key, refused):
    client.post("/sets", json={"name": "robot"})
    answer = client.get(f"/sets/{key}")
    assert answer.status_code in (404, 405)
