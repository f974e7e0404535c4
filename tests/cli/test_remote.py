"""Commands with ``--url``: the same as here, through a real server."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import pytest

from lib_blocktrain.__main__ import main
from lib_blocktrain.api.access import Access
from lib_blocktrain.cli import remote_commands
from lib_blocktrain.runner import Runner
from lib_blocktrain.workspace.images import read_png

PREVIEW = ["preview", "--prompt", "a fox", "--steps", "2", "--width", "64", "--height", "64", "--seed", "5"]


@pytest.fixture
def url(client, listening) -> str:
    return listening(client)


@pytest.fixture
def said(capsys):
    """Run a command; its status, what it wrote, and what it complained about."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            status = main(list(map(str, words)))
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_same_output(url, said, host, form):
    robot = host.lora_dirs[0] / "robot.safetensors"
    for words in (
        ["presets", "list", "--architecture", "sdxl"],
        ["presets", "parse", "FACE:1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0"],
        ["presets", "parse", "R" + ",1" * 24, "--seed", "3"],
        ["inspect", robot],
    ):
        here = said(*words, *form)
        assert here[0] == 0, here
        assert said(*words, *form, "--url", url) == here


@pytest.mark.parametrize(
    "words", [["presets", "parse", "NOSUCH"], ["presets", "parse", "1,2,3"], ["presets", "parse", "1,x" + ",1" * 23]]
)
def test_the_same_refusals(url, said, words):
    here = said(*words)
    assert here[0] == 2
    assert said(*words, "--url", url) == here


def test_preview(url, said, host, tmp_path):
    out = tmp_path / "x.png"
    words = [*PREVIEW, "--lora", "robot", "--weights", "OUTALL", "--multiplier", "0.5", "--out", out, "--url", url]
    status, text, _ = said(*words, "--json")
    assert (status, json.loads(text)["size"]) == (0, [64, 64])
    assert read_png(out).loras[0].multiplier == 0.5
    assert [request.seed for request in host.requests] == [5]
    assert said(*words)[1] == f"{out} (64x64, seed 5)\n"
    status, _, complaint = said(*PREVIEW, "--lora", "nobody", "--out", tmp_path / "y.png", "--url", url)
    assert (status, complaint) == (2, "blocktrain: there is no LoRA 'nobody' in the folders\n")
    assert not (tmp_path / "y.png").exists()


def test_passwords(serve, listening, said, monkeypatch):
    url = listening(serve(Access(credentials=(("anna", "ß:x"),))))
    words = ["presets", "list", "--url", url]
    status, _, complaint = said(*words)
    assert status == 2
    assert "password" in complaint
    assert said(*words, "--auth", "anna:ß:x")[0] == 0
    monkeypatch.setenv("BLOCKTRAIN_AUTH", "anna:ß:x")
    assert said(*words)[0] == 0
    assert said(*words, "--auth", "anna:no")[0] == 2


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:7860", ["expected an address"]),
        ("file:///etc/passwd", ["expected an address"]),
        ("http://anna:secret@127.0.0.1", ["--auth"]),
        ("http://127.0.0.1:1", ["does not answer"]),
    ],
)
def test_no_address(said, address, words):
    status, out, complaint = said("presets", "list", "--url", address)
    assert (status, out) == (2, "")
    assert len(complaint.splitlines()) == 1
    assert "secret" not in complaint
    for word in words:
        assert word in complaint


def test_a_server_of_another_kind(said):
    """Its page is no answer, and where it sends us the password does not go."""
    asked = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            where = self.path.endswith("architecture=sd1")
            self.send_response(302 if where else 404)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        for words in (["--architecture", "sd1"], []):
            status, _, complaint = said("presets", "list", *words, "--url", address, "--auth", "a:b")
            assert status == 2
            assert "expected a WebUI with this extension" in complaint
        server.shutdown()
    assert len(asked) == 2


class AtOnce(Runner):
    """Trains nothing: a run has ended as soon as it was begun, as its name says."""

    def begin(self) -> None:
        for run in self.queue():
            self._queue.remove(run)
            if run.config.name == "fails":
                run.add_metrics({"step": 1, "event": "failed", "reason": "no pictures"})
            else:
                run.add_metrics({"step": run.config.steps, "event": "finished", "smoothed": 0.25, "published": "x.st"})


@pytest.mark.parametrize(("name", "status"), [("works", 0), ("fails", 1)])
def test_train(serve, listening, said, host, tmp_path, name, status):
    runner = AtOnce(host)
    url = listening(serve(runner=lambda: runner))
    (tmp_path / "data").mkdir()
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"name": name, "dataset": {"folders": [{"path": "data"}]}}), "utf-8")
    found = said("train", file, "--steps", "7", "--json", "--url", url)
    assert found[0] == status, found
    [run] = runner.runs()
    assert (run.config.steps, run.config.dataset.folders[0].path) == (7, str(tmp_path / "data"))
    if status:
        assert found[2] == "blocktrain: no pictures\n"
        return
    data = json.loads(found[1])
    assert (data["ended"], data["step"], data["loss"], data["published"]) == ("finished", 7, 0.25, "x.st")
    status, table, _ = said("runs", "--url", url)
    assert (status, table.splitlines()[1].split()[1:4]) == (0, ["finished", "7/7", "0.2500"])
    assert said("runs", "--folder", "x", "--url", url)[0] == 2
    assert said("train", file, "--dry-run", "--url", url)[0] == 2
    status, _, complaint = said("train", "--resume", run.folder, "--url", url)
    assert (status, "finished" in complaint) == (2, True)
    (run.folder / "run.json").write_text("{")
    status, _, complaint = said("runs", "--url", url)
    assert (status, complaint.startswith(f"note: {run.folder.name}: "), "line 1: " in complaint) == (0, True, True)


def test_analyse(url, said, tmp_path):
    """Norms need no model."""
    pytest.importorskip("diffusers")  # without it the command would make its environment
    words = ["analyse", "--lora", "robot", "--method", "norms", "--keep", "strongest=1", "--preset", "FOUND"]
    status, text, complaint = said(*words, "--out", tmp_path / "found", "--json", "--url", url)
    assert status == 0, complaint
    data = json.loads(text)
    assert set(data["analysis"]["blocks"]) >= {"IN04", "OUT03"}
    assert data["preset"].startswith("FOUND:")
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"analysis.json", "analysis.csv", "preset.txt"}
    status, _, complaint = said("analyse", "--lora", "robot", "--out", tmp_path / "no", "--url", url)
    assert status == 2
    assert "prompt" in complaint


def test_what_follows_a_dot_is_a_part_of_a_name(tmp_path):
    """`style_v1.0` was sent as `style_v1`, which may be another LoRA."""
    file = tmp_path / "add_detail v1.5.safetensors"
    file.write_bytes(b"")
    names = [Path(name) for name in ("style_v1.0", "style_v1.0.safetensors", "sub/style_v1.0")]
    assert [remote_commands._server_name(path) for path in (*names, file)] == [
        "style_v1.0", "style_v1.0", "sub/style_v1.0", "add_detail v1.5",
    ]  # fmt: skip
