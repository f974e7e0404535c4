"""Runs over HTTP: what may be asked, what may be read, and a run from its start to its file."""

from __future__ import annotations

import io
import json
import os
import time

import pytest
from PIL import Image

from lib_blocktrain.api.access import Access
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, RunConfig, load
from lib_blocktrain.training.plan import read_weights
from lib_blocktrain.training.runs import create
from lib_blocktrain.weights.preset_strings import parse

SECRET = b"nobody's business"


@pytest.fixture
def pictures(tmp_path):
    """A folder in kohya's layout, two pictures of 64 pixels."""
    import numpy as np

    place = tmp_path / "data" / "1_thing"
    place.mkdir(parents=True)
    for number in range(2):
        colours = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(colours).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text("a photo of a robot", "utf-8")
    return place.parent


@pytest.fixture
def body(pictures):
    dataset = {"folders": [{"path": str(pictures)}], "size": 64}
    network = {"rank": 2, "weights": "OUT09=1,OUT10=0.5,OUT11=1"}
    return {"name": "tiny", "dataset": dataset, "network": network, "steps": 2, "save_every": 1, "save_dtype": "fp32"}


@pytest.fixture
def run(host, pictures):
    """A run that was begun, with all that a run leaves behind."""
    config = RunConfig("old", DatasetConfig(folders=(FolderConfig(str(pictures)),)), steps=9)
    run = create(config, host.output_dir / "runs" / "old-1")
    for row in ({"event": "started", "step": 0}, {"step": 1, "loss": 0.5}, {"step": 1, "norms": {"OUT09": 1.0}}):
        run.add_metrics(row)
    run.add_metrics({"step": 2, "loss": float("nan"), "smoothed": 0.5})
    run.add_metrics({"step": 2, "event": "stopped"})
    for path in (run.result, run.checkpoint(1), run.sample(1, 0)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(path.name.encode())
    run.state_path.write_bytes(SECRET)
    return run


def test_status_and_metrics_since_a_step(client, run, refused):
    listed = client.get("/runs").json()
    assert [(r["name"], r["state"], r["step"], r["steps"]) for r in listed["runs"]] == [("old-1", "stopped", 2, 9)]
    assert (listed["queue"], listed["held"]) == ([], False)
    whole = client.get("/runs/old-1").json()
    assert [row["step"] for row in whole["metrics"]] == [0, 1, 1, 2, 2]
    assert whole["metrics"][3]["loss"] == "nan"
    assert (whole["run"]["loss"], whole["run"]["smoothed"]) == (None, 0.5)
    assert [row["step"] for row in client.get("/runs/old-1?since=1").json()["metrics"]] == [2, 2]
    first = client.get("/runs/old-1?most=2").json()
    assert ([row["step"] for row in first["metrics"]], first["more"]) == ([0, 1, 1], True)  # a step is never cut
    refused(client.get("/runs/nobody"), 404, "nobody")
    assert listed["damaged"] == {}


def test_a_run_that_cannot_be_read_is_named(client, run, refused):
    (run.folder / "run.json").write_text("{")
    listed = client.get("/runs").json()
    assert (listed["runs"], list(listed["damaged"])) == ([], ["old-1"])
    assert "run.json: line 1: " in listed["damaged"]["old-1"]
    refused(client.get("/runs/old-1"), 400, "run.json: line 1: ")


def test_files(client, run):
    names = {"metrics.jsonl", "old.safetensors", "checkpoints/old-000001.safetensors", "samples/000001-00.png"}
    assert {file["name"] for file in client.get("/runs/old-1/files").json()} == names
    for name in names:
        answer = client.get(f"/runs/old-1/files/{name}")
        assert answer.content == (run.folder / name).read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "html" not in answer.headers["content-type"]


def test_a_sample_is_reduced(client, run, refused):
    Image.new("RGB", (64, 32), "teal").save(run.sample(2, 0))
    answer = client.get("/runs/old-1/files/samples/000002-00.png?side=16")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (16, 8)
    refused(client.get("/runs/old-1/files/samples/000001-00.png?side=16"), 409, "no picture")
    assert client.get("/runs/old-1/files/metrics.jsonl?side=16").content == run.metrics_path.read_bytes()


def test_where_nothing_can_be_trained_that_is_said_first(client, host, refused):
    host.no_training = "this WebUI cannot train here"
    config = {"name": "x", "dataset": {"folders": [{"path": "no absolute path"}]}}
    refused(client.post("/runs", json={"config": config}), 409, host.no_training)


def test_title_and_notes(client, run, refused):
    assert client.get("/runs/old-1").json()["run"]["title"] == "old"
    told = client.post("/runs/old-1/about", json={"title": "the <b>half</b> one", "notes": "too\nsoft"}).json()
    assert (told["name"], told["title"], told["notes"]) == ("old-1", "the <b>half</b> one", "too\nsoft")
    told = client.post("/runs/old-1/about", json={"title": ""}).json()
    assert (told["title"], told["notes"]) == ("old", "too\nsoft")
    refused(client.post("/runs/old-1/about", json={"title": "two\nlines"}), 400, "expected one line")


def test_a_waiting_run_is_moved_and_deleted(client, run, host, refused):
    names = ["old-1"]
    for number in (2, 3):
        create(run.config, host.output_dir / "runs" / f"old-{number}")
        names.append(f"old-{number}")
    (host.output_dir / "runs" / "queue.json").write_text(json.dumps(names))
    assert client.post("/runs/old-3/move", json={"place": 1}).json()["queue"] == ["old-3", "old-1", "old-2"]
    places = {told["name"]: told["place"] for told in client.get("/runs").json()["runs"]}
    assert places == {"old-3": 1, "old-1": 2, "old-2": 3}
    refused(client.post("/runs/old-3/move", json={"place": 4}), 409, "expected 1 to 3")
    assert "is deleted" in client.delete("/runs/old-3").json()["done"]
    assert not (host.output_dir / "runs" / "old-3").exists()
    assert client.get("/runs").json()["queue"] == ["old-1", "old-2"]
    refused(client.post("/runs/old-3/move", json={"place": 1}), 404, "old-3")
    refused(client.delete("/runs/old-3"), 404, "old-3")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("run.json", 404),
        ("state.safetensors", 404),
        (".lock", 404),
        ("samples", 404),
        ("samples/link.png", 404),
        ("checkpoints/link.safetensors", 404),
        ("%2e%2e/secret.png", 400),
        ("samples/%2e%2e/state.safetensors", 400),
        ("%2fetc%2fpasswd", 400),
        ("%2F%2Fhost%2Fshare", 400),
        ("samples//000001-00.png", 400),
        ("samples%5c000001-00.png", 400),
        ("C:%5cwindows", 400),
        ("CON", 400),
        ("samples/nul.png", 400),
        ("samples/com1", 400),
        ("old.safetensors::$DATA", 400),
        ("old.safetensors%00.png", 400),
        ("", 400),
    ],
)
def test_nothing_else_is_read(client, run, host, refused, name, status):
    outside = host.output_dir / "runs" / "secret.png"
    outside.write_bytes(SECRET)
    (run.folder / "samples" / "link.png").symlink_to(outside)
    (run.folder / "checkpoints" / "link.safetensors").symlink_to(run.state_path)
    answer = client.get(f"/runs/old-1/files/{name}")
    assert SECRET not in answer.content
    refused(answer, status)


@pytest.mark.parametrize("name", ["..", "%2e%2e", "linked", ".", "old-1%2f..%2fold-1", "%5c", "CON", "queue.json"])
def test_a_runs_name_never_becomes_a_path(client, run, name, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "run.json").write_bytes((run.folder / "run.json").read_bytes())
    (run.folder.parent / "linked").symlink_to(tmp_path / "elsewhere")
    for path in (f"/runs/{name}/files", f"/runs/{name}/files/metrics.jsonl", f"/runs/{name}"):
        assert client.get(path).status_code in (404, 200 if path == "/runs/." or name == ".." else 404)
    assert client.post(f"/runs/{name}/resume").status_code in (404, 405)


def test_a_folder_of_links_is_not_followed(client, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.png").write_bytes(SECRET)
    for file in (run.folder / "samples").iterdir():
        file.unlink()
    (run.folder / "samples").rmdir()
    (run.folder / "samples").symlink_to(elsewhere)
    assert not [file for file in client.get("/runs/old-1/files").json() if file["name"].startswith("samples")]
    assert client.get("/runs/old-1/files/samples/x.png").status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"optimizer": {"name": "os.system"}}, 400, ["os.system", "AdamW"]),
        ({"checkpoint": "/etc/passwd"}, 400, ["checkpoint", "the model that is loaded"]),
        ({"name": "../x"}, 400, ["../x"]),
        ({"name": "CON"}, 400, ["CON"]),
        ({"dataset": {"folders": [{"path": "/etc"}]}}, 400, ["/etc", "data"]),
        ({"dataset": {"folders": [{"path": "../.."}]}}, 400, ["../.."]),
        ({"dataset": {"folders": [{"path": "leads-out"}]}}, 400, ["leads-out"]),
        ({"dataset": {"folders": [{"path": ".", "mask_folder": "/etc"}]}}, 400, ["/etc"]),
        ({"dataset": {"folders": [{"path": "."}], "cache": "/tmp/cache"}}, 400, ["cache"]),
        ({"dataset": {"folders": [{"path": "."}], "validation": [{"path": "/etc"}]}}, 400, ["/etc"]),
        ({"dataset": {"toml": "outside.toml"}}, 400, ["/etc"]),
        ({"dataset": {"folders": [{"path": "nul\0"}]}}, 400, []),
        ({"dataset": {"folders": [{"path": "long" * 100}]}}, 400, []),
        ({"dataset": {"toml": "long" * 100}}, 400, []),
        ({"steps": 0}, 400, ["steps"]),
        ({"steps": "many"}, 422, ["steps"]),
        ({"network": {"rnk": 4}}, 422, ["rnk"]),
        ({"network": {"meaning": "colour"}}, 422, ["meaning"]),
    ],
)
def test_what_no_run_may_be(serve, host, body, pictures, refused, changes, status, words):
    if "toml" in str(changes):
        pytest.importorskip("tomllib")
    (pictures / "leads-out").symlink_to("/etc")
    (pictures / "outside.toml").write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "/etc"\n', "utf-8")
    client = serve(Access(dataset_dirs=lambda: [pictures]))
    refused(client.post("/runs", json={"config": {**body, **changes}}), status, *words)
    assert not list((host.output_dir / "runs").glob("*/run.json"))


def test_a_run_has_the_weights_of_the_users_own_presets(client, host, body, refused):
    """As the page and the other routes have them: training knows those that come with the program alone."""
    host.presets_path.write_text("MINE:OUT09=0.5\nOUTD:OUT11=1\n", "utf-8")
    with host.queued():  # they wait
        for text in ("MINE", "OUTD"):
            config = {**body, "network": {"weights": text}}
            assert client.post("/runs", json={"config": config}).status_code == 202
        made = [load(path / "run.json").network for path in sorted((host.output_dir / "runs").glob("tiny-*"))]
        assert [read_weights(network, "sd1")[0] for network in made] == [
            parse(text, "sd1").weights for text in ("OUT09=0.5", "OUT11=1")
        ]
        for text, said in (("NOSUCH", "unknown preset"), ("OUT=3", "expected 0 to 2 in training")):
            config = {**body, "network": {"weights": text}}
            refused(client.post("/runs", json={"config": config}), 400, said)
        for run in client.get("/runs").json()["queue"]:
            client.post(f"/runs/{run}/stop")


def test_what_cannot_be_done_now(client, run, refused):
    refused(client.post("/runs/old-1/stop"), 409, "nothing to stop")
    refused(client.post("/runs/old-1/pause"), 409, "nothing to pause")
    refused(client.post("/runs/old-1/resume", json={"earlier_state": True}), 409, "no earlier state of this run")
    refused(client.post("/runs/old-1/weights", json={"weights": "ALL"}), 409, "not being trained")
    refused(client.post("/runs/old-1/weights", json={"weights": "NOSUCH"}), 400, "NOSUCH")


@pytest.mark.skipif(os.name == "nt", reason="a POSIX clock")
def test_a_run_from_its_start_to_its_file(serve, body, pictures, random_model, tmp_path, refused):
    """On the random model: busy while it holds the model, paused and resumed, then its file as it lies on disk."""
    pytest.importorskip("diffusers")
    from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
    from lib_blocktrain.networks.files import read_network

    host = StandaloneHost(output_dir=tmp_path / "out", lora_dirs=(tmp_path / "loras",))
    host.use(load_demo(random_model))
    client = serve(Access(dataset_dirs=lambda: [pictures]), host=host)

    def state(*states: str) -> dict:
        end = time.monotonic() + 240
        while (run := client.get(f"/runs/{name}").json()["run"])["state"] not in states:
            assert time.monotonic() < end, run
            time.sleep(0.1)
        return run

    with host.queued():  # the run waits for someone else's work
        started = client.post("/runs", json={"config": body})
        assert started.status_code == 202, started.text
        name = started.json()["name"]
        refused(client.post("/preview", json={"prompt": "a fox"}), 409, name, "being trained")
        going = client.get("/progress").json()
        assert (going["busy"], going["what"], going["job"]) == (True, "training", name)
        assert client.post(f"/runs/{name}/pause").json()["state"] == "pausing"
    assert state("paused")["reason"] == "paused through the API"
    assert client.get("/runs").json()["held"]
    assert client.post(f"/runs/{name}/resume").status_code == 200
    ended = state("finished", "failed", "diverged")
    assert (ended["state"], ended["step"]) == ("finished", 2), ended
    rows = client.get(f"/runs/{name}?since=1").json()["metrics"]
    assert {row["step"] for row in rows} == {2}
    file = client.get(f"/runs/{name}/files/tiny.safetensors").content
    written = tmp_path / "downloaded.safetensors"
    written.write_bytes(file)
    assert {block for block, count in read_network(written).blocks.items() if count} == {"OUT09", "OUT10", "OUT11"}
    assert "tiny" in {lora["name"] for lora in client.get("/loras").json()}
    assert json.loads(client.get(f"/runs/{name}/files/metrics.jsonl").text.splitlines()[0])
