"""What another page, another name or a strange upload tries on the standalone server, over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("gradio")

import uvicorn

from lib_blocktrain.api.routes import PREFIX
from lib_blocktrain.server.app import UPLOADS, _private_uploads, application, build, listen
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, RunConfig
from tests.fakes import FakeHost, write_lora

SECRET = "nobody's business"
PRESET = {"name": "EVIL", "weights": "ALL", "architecture": "sd1"}
EVIL = "http://evil.example"


class Standalone:
    """The standalone server on the fake host, and what its folder holds."""

    def __init__(self, folder: Path):
        self.folder, self.host = folder, FakeHost(folder)
        write_lora(self.host.lora_dirs[0] / "robot.safetensors")
        (folder / "secret.txt").write_text(SECRET, "utf-8")
        self.run = runs.create(
            RunConfig("old", DatasetConfig((FolderConfig("x"),))), self.host.output_dir / "runs" / "old"
        )
        self.run.add_metrics({"step": 1, "event": "stopped"})
        blocks, self.tab = build(self.host)
        listener = listen(0)
        self.port = listener.getsockname()[1]
        application_ = application(blocks, self.tab, self.port)
        self._server = uvicorn.Server(uvicorn.Config(application_, log_level="critical", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def ask(self, method: str, path: str, body: bytes | None = None, host: str | None = None, **headers: str):
        """Status, headers and content; `content_type=...` and the like are headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{self.port}")
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        with suppress(OSError):  # it may be answered, and closed, before all is sent
            connection.send(body or b"")
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        assert SECRET.encode() not in found[2]
        return found

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self.tab.close()
        self.tab.runner.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Standalone]:
    with _private_uploads():
        server = Standalone(tmp_path_factory.mktemp("attacked"))
        yield server
        server.close()


CROSS = {"sec_fetch_site": "cross-site"}
FOREIGN = {
    "a form, as text": {"origin": EVIL, "content_type": "text/plain"},
    "a form, as a form": {"origin": EVIL, "content_type": "application/x-www-form-urlencoded"},
    "a script": {"origin": EVIL, "content_type": "application/json"},
    "a page without a name": {"origin": "null", "content_type": "application/json"},
    "another port of this machine": {"origin": "http://127.0.0.1:1", "content_type": "application/json"},
    "https": {"origin": "https://127.0.0.1", "content_type": "application/json"},
    "no origin, but the browser's word": {**CROSS, "content_type": "application/json"},
    "the same machine's other port": {"sec_fetch_site": "same-site", "content_type": "application/json"},
    "a foreign name": {"host": "evil.example", "content_type": "application/json"},
    "a name that begins like ours": {"host": "127.0.0.1.evil.example", "content_type": "application/json"},
}


@pytest.mark.parametrize("who", FOREIGN)
@pytest.mark.parametrize("path", [f"{PREFIX}/presets", "/queue/join", "/run/predict", "/upload"])
def test_nobody_else_writes(tally, server, who, path):
    with tally.case("requests of other pages", fault=True):
        assert server.ask("POST", path, json.dumps(PRESET).encode(), **FOREIGN[who])[0] == 403
        assert not server.host.presets_path.exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}, 200),
        ({"sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 200),
        ({**CROSS, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 200),  # a link to here
        ({**CROSS, "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, 403),
        ({**CROSS, "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, 403),
        ({**CROSS, "sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"}, 403),
        ({"host": "evil.example"}, 403),
    ],
)
def test_nobody_else_reads(tally, server, headers, status):
    for path in ("/", f"{PREFIX}/runs"):
        with tally.case("requests of other pages", fault=status == 403):
            assert server.ask("GET", path, **headers)[0] == status


def test_the_page_is_in_no_frame(tally, server):
    with tally.case("requests of other pages", fault=True):
        assert "frame-ancestors 'none'" in server.ask("GET", "/")[1]["content-security-policy"]


READ = (
    *("/file=/etc/passwd", "/file={}/secret.txt", "/file=requirements/run.txt", "/file=../../../../etc/passwd"),
    *("/file/etc/passwd", "/file=file:///etc/passwd", "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
    *("/static/../../../../etc/passwd", "/assets/..%2f..%2f..%2f..%2fetc/passwd", "/proxy=http://127.0.0.1:1/"),
    *("/proxy=https://example.org/", "/monitoring", "/openapi.json", "/docs", "/dev/reload", "/.env", "/run.json"),
    *(f"{PREFIX}/../../../../etc/passwd", f"{PREFIX}/runs/..%2f..%2fsecret.txt", f"{PREFIX}/runs/old/files/run.json"),
    *(f"{PREFIX}/runs/old/files/%2e%2e/%2e%2e/%2e%2e/secret.txt", f"{PREFIX}/loras/inspect?name=../secret"),
)


@pytest.mark.parametrize("path", READ)
def test_no_other_file_is_served(tally, server, path):
    with tally.case("files of others", fault=True):
        assert server.ask("GET", path.format(server.folder))[0] in (400, 403, 404)


def multipart(name: str, content: bytes) -> tuple[bytes, str]:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def upload(server: Standalone, name: str, content: bytes) -> tuple[int, list[str]]:
    body, kind = multipart(name, content)
    status, _, answer = server.ask("POST", "/upload", body, content_type=kind)
    return status, json.loads(answer) if status == 200 else []


@pytest.mark.parametrize(
    "name", ["../../../../blocktrain-pwned.txt", "/blocktrain-pwned.txt", "..\\blocktrain-pwned.txt"]
)
def test_an_upload_stays_in_its_folder(tally, server, name):
    with tally.case("uploads", fault=True):
        status, paths = upload(server, name, b"x")
        assert status in (200, 400)
        folder = Path(os.environ[UPLOADS]).resolve()
        assert all(Path(path).resolve().parent.parent == folder for path in paths), paths
        assert os.name == "nt" or folder.stat().st_mode & 0o077 == 0, "others of this machine can read it"
        assert not Path("/blocktrain-pwned.txt").exists()


@pytest.mark.parametrize("name", ["page.html", "picture.svg", "script.js"])
def test_an_upload_is_no_page(tally, server, name):
    with tally.case("uploads", fault=True):
        _, (path,) = upload(server, name, b"<script>window.blocktrainHacked = 1</script>")
        status, headers, _ = server.ask("GET", f"/file={quote(path)}")
        assert status == 200
        assert "sandbox" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_an_upload_has_a_limit(tally, server):
    with tally.case("uploads", fault=True):
        assert upload(server, "large.png", bytes(65 << 20))[0] == 413
        body, kind = multipart("large.png", bytes(70 << 20))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        with suppress(OSError):  # as above
            pieces = (body[place : place + (1 << 20)] for place in range(0, len(body), 1 << 20))
            connection.request("POST", "/upload", pieces, {"Content-Type": kind}, encode_chunked=True)
            assert connection.getresponse().status >= 400
        connection.close()
        assert server.ask("GET", f"{PREFIX}/progress")[0] == 200


def test_a_foreign_path_is_no_upload(tally, server):
    """The events that take a file take what was uploaded, whatever path a request names."""
    config = json.loads(server.ask("GET", "/config")[2])
    widgets = {widget["id"]: widget for widget in config["components"]}
    tried = 0
    for event in config["dependencies"]:
        kinds = [widgets[number]["type"] for number in event["inputs"]]
        if not {"uploadbutton", "file", "image"} & set(kinds):
            continue
        file = {"path": str(server.folder / "secret.txt"), "meta": {"_type": "gradio.FileData"}, "orig_name": "a.txt"}
        data = [
            file if kind in ("uploadbutton", "file", "image") else widgets[number]["props"].get("value")
            for kind, number in zip(kinds, event["inputs"])
        ]
        body = json.dumps({"data": data, "fn_index": event["id"], "session_hash": "x"}).encode()
        with tally.case("files of others", fault=True):
            status, _, _ = server.ask("POST", "/run/predict", body, content_type="application/json")
            assert status >= 400
        tried += 1
    assert tried >= 3


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "..\\evil", "CON", "a\nB:OUT=1", "a:b", "a|b", "x" * 900])
def test_a_preset_is_a_line_and_no_file(tally, server, name):
    before = set(server.folder.rglob("*"))
    body = json.dumps({**PRESET, "name": name}).encode()
    with tally.case("names that become files", fault=True):
        status, _, answer = server.ask("POST", f"{PREFIX}/presets", body, content_type="application/json")
        assert set(server.folder.rglob("*")) - before <= {server.host.presets_path}
        if status == 200:
            presets = json.loads(server.ask("GET", f"{PREFIX}/presets")[2])
            assert [preset["name"] for preset in presets["presets"] if preset["own"]] == [name.strip()]
            assert server.ask("DELETE", f"{PREFIX}/presets/{quote(name, safe='')}")[0] == 200
        else:
            assert status == 400, answer
    server.host.presets_path.unlink(missing_ok=True)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_that_comes_between(tally, server, monkeypatch, what):
    """Between the list of a run's files and the opening of one, it, or its folder, becomes a link to elsewhere."""
    from lib_blocktrain.api import run_routes

    samples, elsewhere = server.run.folder / "samples", server.folder / "elsewhere"
    for folder in (samples, elsewhere):
        folder.mkdir(exist_ok=True)
        (folder / "a.png").write_text(SECRET if folder == elsewhere else "picture", "utf-8")

    open_file = run_routes.open_file

    def opened(file):
        moved = samples / "a.png" if what == "file" else samples
        moved.rename(server.run.folder / "moved")
        moved.symlink_to(elsewhere / "a.png" if what == "file" else elsewhere)
        return open_file(file)

    path = f"{PREFIX}/runs/old/files/samples/a.png"
    assert server.ask("GET", path)[2] == b"picture"
    with tally.case("files of others", fault=True), monkeypatch.context() as patch:
        patch.setattr(run_routes, "open_file", opened)
        assert server.ask("GET", path)[0] >= 400
    (samples / "a.png" if what == "file" else samples).unlink()
    (server.run.folder / "moved").rename(samples / "a.png" if what == "file" else samples)
