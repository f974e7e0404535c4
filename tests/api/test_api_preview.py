"""LoRAs and pictures over HTTP; waiting, "busy" and Interrupt."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from lib_blocktrain.hosts.host import Cancelled
from lib_blocktrain.networks.contents import describe
from lib_blocktrain.networks.files import read_network, write_network
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.workspace import lora_previews
from lib_blocktrain.workspace.images import read_infotext
from lib_blocktrain.workspace.jobs import MAX_WAITING, Job, Jobs

BODY = {"prompt": "a fox", "steps": 2, "width": 64, "height": 64}


def picture(answer) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["image"])))


def test_loras(client):
    assert {lora["name"] for lora in client.get("/loras").json()} == {"robot", "people/anna", "places/anna", "xl"}
    listed = {lora["name"]: lora for lora in client.get("/loras", params={"wait": 30}).json()}
    assert set(listed) == {"robot", "people/anna", "places/anna", "xl"}
    assert all(lora["known"] for lora in listed.values())
    assert client.get("/loras", params={"wait": 1000}).status_code == 422
    assert listed["robot"]["architecture"] == "sd1"
    assert [lora["name"] for lora in client.get("/loras", params={"search": "rob"}).json()] == ["robot"]
    rows = client.get("/loras/listing").json()  # as the page's script reads it
    assert {row[0] for row in rows["files"]} == set(listed)
    assert rows["all"]
    assert rows["complete"]
    later = client.get("/loras/listing", params={"since": rows["revision"]}).json()
    assert (later["all"], later["files"]) == (False, [])


@pytest.mark.parametrize("name", ["robot", "robot.safetensors", "people/anna"])
def test_inspect(client, host, name):
    path = host.lora_dirs[0] / f"{name.removesuffix('.safetensors')}.safetensors"
    assert client.get("/loras/inspect", params={"name": name}).json() == describe(path)


def test_inspect_names_a_file_whose_tensors_are_not_those_of_its_hash(client, host):
    path = host.lora_dirs[0] / "robot.safetensors"
    before = path.read_bytes()
    try:
        content = write_network(path, read_network(path), overwrite=True).read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        (notice,) = client.get("/loras/inspect", params={"name": "robot"}).json()["notices"]
    finally:
        path.write_bytes(before)
    assert "do not match its sshs_model_hash" in notice


@pytest.mark.parametrize("name", ["nobody", "../loras/robot", "/etc/passwd", "", "CON", "robot/../robot", "rob\0ot"])
def test_a_name_never_becomes_a_path(client, host, refused, name):
    refused(client.get("/loras/inspect", params={"name": name}), 404, "no LoRA")
    full = str(host.lora_dirs[0] / "robot.safetensors")
    refused(client.get("/loras/inspect", params={"name": full}), 404)
    refused(client.get("/loras/inspect", params={"name": "anna"}), 400, "people/anna", "places/anna")


def test_a_broken_file_is_said(client, host, refused):
    (host.lora_dirs[0] / "bad.safetensors").write_bytes(b"not one")
    refused(client.get("/loras/inspect?name=bad"), 400, "bad cannot be used")


def test_preview(client, host):
    lora = {"name": "robot", "weights": "OUTALL", "multiplier": 0.5}
    answer = client.post("/preview", json={**BODY, "negative": "fog", "seed": 7, "loras": [lora]})
    drawn, [request] = picture(answer), host.requests
    assert (request.prompt, request.negative, request.seed, request.sampler) == ("a fox", "fog", 7, "DDIM")
    [placement] = request.placements
    assert (placement.network.name, placement.multiplier) == ("robot", 0.5)
    assert placement.weights == parse("OUTALL", "sd1").weights
    body = answer.json()
    assert drawn.info["parameters"] == body["parameters"]
    read = read_infotext(body["parameters"])
    assert (read.prompt, read.negative, read.loras[0].name) == ("a fox", "fog", "robot")
    assert parse(read.loras[0].weights, "sd1").weights == placement.weights
    assert body["size"] == [64, 64]
    file = client.post("/preview", json={**BODY, "negative": "fog", "seed": 7, "loras": [lora], "answer": "png"})
    assert file.headers["content-type"] == "image/png"
    assert file.content == base64.b64decode(body["image"])


def test_what_the_host_says_of_a_picture_is_in_the_answer(client, host):
    host.says = "2 modules are left out"
    assert client.post("/preview", json={**BODY, "loras": [{"name": "robot"}]}).json()["notices"] == [
        "2 modules are left out"
    ]


def test_random_things_can_be_repeated(client):
    lora = {"name": "robot", "weights": ",".join(["R"] * 25)}
    first = client.post("/preview", json={**BODY, "seed": -1, "loras": [lora]}).json()
    again = client.post("/preview", json={**BODY, "seed": first["seed"], "loras": [lora]}).json()
    assert first == again


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"loras": [{"name": "nobody"}]}, 404, ["nobody"]),
        ({"loras": [{"name": "xl"}]}, 400, ["xl", "sdxl", "sd1"]),
        ({"loras": [{"name": "robot", "weights": "NOSUCH"}]}, 400, ["NOSUCH"]),
        ({"loras": [{"name": "robot", "weights": "1,2"}]}, 400, ["25"]),
        ({"loras": [{"name": "robot"}] * 17}, 422, ["loras"]),
        ({"loras": [{"name": "robot", "multiplier": 1e9}]}, 422, ["multiplier"]),
        ({"sampler": "Heun"}, 400, ["Heun", "DDIM"]),
        ({"width": 65}, 400, ["65", "multiple of 8"]),
        ({"height": 10**9}, 422, ["height"]),
        ({"steps": 0}, 422, ["steps"]),
        ({"steps": "many"}, 422, ["steps"]),
        ({"seed": 2**64}, 422, ["seed"]),
        ({"cfg": float("nan")}, None, ["cfg"]),
        ({"wait": float("inf")}, 422, ["wait"]),
        ({"prompt": None}, 422, ["prompt"]),
        ({"answer": "exe"}, 422, ["answer"]),
    ],
)
def test_what_cannot_be_drawn(client, host, refused, changes, status, words):
    answer = client.post(
        "/preview", content=json.dumps({**BODY, **changes}), headers={"Content-Type": "application/json"}
    )
    refused(
        answer, status or answer.status_code, *(word for word in words if word != "cfg" or answer.status_code == 422)
    )
    assert 400 <= answer.status_code < 500
    assert not host.requests


def test_without_a_model(client, host, refused):
    host.loaded = None
    refused(client.post("/preview", json=BODY), 409, "no checkpoint")


def test_a_failure_while_drawing(client, host, refused):
    for error, status in (
        (ValueError("a value"), 400),
        (OSError(28, "No space left on device"), 500),
        (MemoryError(), 507),
        (ZeroDivisionError("ours"), 500),
    ):
        host.fails = error
        refused(client.post("/preview", json=BODY), status)
    assert client.post("/preview", json=BODY).status_code == 200


@pytest.fixture
def address(client, listening) -> str:
    return listening(client) + "/blocktrain/v1"


def call(url: str, body: object = None) -> tuple[int, dict]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_busy_polling_and_interrupt(address, host):
    host.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(call, address + "/preview", BODY)
        until(lambda: host.requests)
        status, body = call(address + "/preview", {**BODY, "wait": 0})
        assert (status, body["error"]) == (409, "busy")
        assert "preview is in progress" in body["detail"]
        assert call(address + "/progress") == (
            200,
            {"busy": True, "what": "preview", "job": body_of(address)["job"], "text": "begins", "share": None},
        )
        assert call(address + "/interrupt", {})[1]["done"] == "preview ends before its next step"
        host.gate.set()
        status, body = first.result()
    assert (status, body["error"]) == (409, "interrupted")
    assert call(address + "/preview", BODY)[0] == 200
    assert call(address + "/progress")[1]["busy"] is False
    assert call(address + "/interrupt", {})[0] == 409


def test_a_job_of_the_page(serve, listening, host):
    """The page and the API share one queue: its job is in the progress, is waited for, and can be interrupted."""
    jobs = Jobs(host)
    address = listening(serve(jobs=lambda: jobs)) + "/blocktrain/v1"
    gate = threading.Event()

    def work(job: Job[None]) -> None:
        progress = job.progress("under the block weights", 1, 2)
        progress(1, 4)
        gate.wait(60)
        progress(2, 4)

    job = jobs.begin(work, "preview", 60)
    until(lambda: job.step is not None)
    assert call(address + "/progress")[1] == {
        "busy": True,
        "what": "preview",
        "job": job.id,
        "text": "step 1 of 4",
        "share": 0.625,
    }
    status, body = call(address + "/preview", {**BODY, "wait": 0})
    assert (status, body["error"]) == (409, "busy")
    assert "preview is in progress" in body["detail"]
    assert call(address + "/interrupt", {})[1]["done"] == "preview ends before its next step"
    gate.set()
    assert isinstance(job.error(), Cancelled)
    assert call(address + "/preview", BODY)[0] == 200
    jobs.close()


def body_of(address: str) -> dict:
    return call(address + "/progress")[1]


def test_who_gave_up_waiting_leaves_nothing(address, host):
    """The host's lock is someone else's: the caller hears so after its time, and its work is not done later."""
    with host.queued():
        status, body = call(address + "/preview", {**BODY, "wait": 0.3, "prompt": "given up"})
        assert (status, body["error"]) == (409, "busy")
        assert call(address + "/preview", {**BODY, "wait": 0, "prompt": "given up"})[0] == 409
    assert call(address + "/preview", BODY)[0] == 200
    assert [request.prompt for request in host.requests] == ["a fox"]


def test_ten_clients(address, host):
    """Everyone gets the right picture, one after the other; where too many wait, the rest hears so at once."""
    host.gate.clear()
    calls = MAX_WAITING + 4
    with ThreadPoolExecutor(calls) as threads:
        asked = [threads.submit(call, address + "/preview", {**BODY, "prompt": f"a {n}"}) for n in range(calls)]
        until(lambda: sum(future.done() for future in asked) >= 3)  # one draws, MAX_WAITING wait
        assert call(address + "/presets")[0] == 200
        host.gate.set()
        answers = [future.result() for future in asked]
    busy = [body for status, body in answers if status == 409]
    assert len(busy) == 3
    assert all(body["error"] == "busy" and str(MAX_WAITING) in body["detail"] for body in busy)
    for number, (status, body) in enumerate(answers):
        if status == 200:
            assert body["parameters"].startswith(f"a {number}\n")
    assert len({body["image"] for status, body in answers if status == 200}) == calls - 3


@pytest.fixture
def pictured(host):
    """A picture beside the LoRA "robot", as a path that the test may write to."""
    path = host.lora_dirs[0] / "robot.png"
    yield path
    path.unlink(missing_ok=True)


def thumbnail(client, **of):
    return client.get("/loras/thumbnail", **of)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("mode", "size"), [("RGB", (300, 900)), ("RGBA", (900, 20)), ("L", (5, 5)), ("P", (72, 72))])
def test_a_thumbnail_is_small_and_square(client, pictured, kind, mode, size):
    image = Image.new("RGB", size, (200, 30, 30)).convert(mode)
    (image.convert("RGB") if kind == "JPEG" else image).save(pictured, kind)
    client.get("/loras")
    answer = thumbnail(client, params={"name": "robot"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    small = Image.open(io.BytesIO(answer.content))
    assert (small.size, small.format, small.mode) == ((72, 72), "JPEG", "RGB")
    again = thumbnail(client, params={"name": "robot"}, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("content", [b"", b"<svg xmlns=''/>", b"GIF89a", b"%!PS-Adobe", b"x" * 99])
def test_what_is_no_picture_has_no_thumbnail(client, pictured, content):
    pictured.write_bytes(content)
    client.get("/loras")
    assert thumbnail(client, params={"name": "robot"}).status_code == 404


def test_a_picture_of_too_many_pixels_is_not_opened(client, pictured, monkeypatch):
    Image.new("1", (2000, 2000)).save(pictured)
    monkeypatch.setattr(lora_previews, "MAX_PIXELS", 10**6)
    client.get("/loras")
    assert thumbnail(client, params={"name": "robot"}).status_code == 404


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "robot.png", "robot/../../secret", "people", ""])
def test_a_thumbnail_is_that_of_a_listed_lora(client, host, pictured, name):
    Image.new("RGB", (9, 9)).save(pictured)
    Image.new("RGB", (9, 9)).save(host.lora_dirs[0].parent / "secret.png")
    client.get("/loras")
    assert thumbnail(client, params={"name": name}).status_code == 404


def test_recommended_weights_are_written_read_and_used(client, host, refused):
    card = {"name": "robot"}
    assert client.get("/loras/card", params=card).json()["recommended"] is None
    refused(client.post("/preview", json={**BODY, "loras": [{"name": "robot", "weights": "card"}]}), 400, "robot.json")
    path = host.lora_dirs[0] / "robot.json"
    path.write_text(json.dumps({"activation text": "a robot", "sd version": "SD1", "more": [1]}), "utf-8")
    body = {"name": "robot", "weights": "OUT=1,IN08=-0.5", "source": "analysis of robot", "canvas": 0.2}
    assert "robot.json recommends" in client.post("/loras/recommend", json=body).json()["done"]
    assert json.loads(path.read_text("utf-8"))["more"] == [1]
    said = client.get("/loras/card", params=card).json()
    assert (said["activation"], said["recommended"]["source"]) == ("a robot", "analysis of robot")
    assert "canvas=0.2" in said["recommended"]["text"]
    assert host.cards == [host.lora_dirs[0] / "robot.safetensors"]
    weights = parse("OUT=1,IN08=-0.5", "sd1").weights
    drawn = picture(client.post("/preview", json={**BODY, "loras": [{"name": "robot", "weights": "card"}]}))
    assert drawn.size == (64, 64)
    assert host.requests[-1].placements[0].weights == weights
    refused(client.post("/loras/recommend", json={**body, "weights": "17"}), 400, "17")
    for canvas, share in ((None, 0.3), (0.2, 0.2)):  # what is given beside the weights counts
        sent = {**body, "weights": "OUT=1|canvas=0.3", "canvas": canvas}
        assert client.post("/loras/recommend", json=sent).status_code == 200
        assert f"canvas={share}" in client.get("/loras/card", params=card).json()["recommended"]["text"]
    client.post("/loras/recommend", json={"name": "robot", "weights": None})
    assert set(json.loads(path.read_text("utf-8"))) == {"activation text", "sd version", "more"}
