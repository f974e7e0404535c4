"""What the standalone server does with requests that are large, slow, or want it to fetch something; over a socket."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

pytest.importorskip("gradio")

from fastapi.testclient import TestClient

from lib_blocktrain.api.routes import PREFIX
from lib_blocktrain.server import app, connections, middleware
from lib_blocktrain.server.middleware import Bounded, OwnContentOnly
from tests.fakes import FakeHost

PORT = 7870
HOST = f"127.0.0.1:{PORT}"
QUICK = 0.3  # seconds


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[tuple[object, object]]:
    with app._private_uploads():
        blocks, tab = app.build(FakeHost(tmp_path_factory.mktemp("host")))
        yield blocks, tab
        tab.close()
        tab.runner.close()


@pytest.fixture(scope="module")
def client(page) -> TestClient:
    return TestClient(app.application(*page, PORT), base_url=f"http://{HOST}", raise_server_exceptions=False)


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The address of another server, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["http://evil.example/x", "https://evil.example/x", "HTTP://evil.example", "//evil"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_file_leads_elsewhere(client, method, path):
    answer = client.request(method, f"/file={path}", follow_redirects=False)
    assert answer.status_code in (403, 404)
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("location", "status"),
    [
        (b"/runs/", 307),
        (f"http://{HOST}/runs/".encode(), 307),
        (b"http://evil.example/", 403),
        (b"//evil.example/", 403),
        (rb"/\evil.example/", 403),
        (b"https://127.0.0.1:7870/", 403),
        (b"javascript:alert(1)", 403),
        (b"http://[", 403),
    ],
)
def test_redirects(location, status):
    async def redirect(scope, receive, send):
        await send({"type": "http.response.start", "status": 307, "headers": [(b"location", location)]})
        await send({"type": "http.response.body", "body": b""})

    client = TestClient(OwnContentOnly(redirect), base_url=f"http://{HOST}")
    assert client.get("/", follow_redirects=False).status_code == status


@pytest.mark.parametrize("path", ["/queue/join", "/run/predict", "/api/x", f"{PREFIX}/presets"])
def test_only_uploads_may_be_large(client, path):
    text = json.dumps({"data": "x" * 999_900}).encode()
    assert client.post(path, content=text, headers={"content-type": "application/json"}).status_code != 413
    for content in (text + b" " * 200, iter([text, b" " * 200])):
        answer = client.post(path, content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, "1000000 bytes" in answer.text) == (413, True)


def test_an_upload_may_be_large(client):
    assert client.post("/upload", files={"files": ("a.png", bytes(5 << 20))}).status_code == 200


@pytest.mark.parametrize(
    "wanted",
    ["bytes=0-99999999", "bytes=0-1", "bytes=-5", "bytes=1-2-3", "bytes=²-³", "bytes=" + ",".join(["0-"] * 3000)],
)
def test_no_answer_is_in_parts(client, wanted):
    [path] = client.post("/upload", files={"files": ("a.txt", b"0123456789")}).json()
    answer = client.get(f"/file={path}", headers={"range": wanted.encode("latin-1")}, timeout=20)
    assert (answer.status_code, answer.content) == (200, b"0123456789")


def test_a_body_that_stops_coming():
    answered = []

    async def reads(scope, receive, send):
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        answered.append(message)

    async def ask() -> None:
        parts = [{"type": "http.request", "body": b"a", "more_body": True}]

        async def receive():
            return parts.pop() if parts else await asyncio.sleep(60)

        scope = {"type": "http", "path": "/queue/join", "headers": []}
        await Bounded(reads, longest_pause=QUICK)(scope, receive, send)

    thread = threading.Thread(target=asyncio.run, args=(ask(),))  # Playwright may keep a loop in this one
    thread.start()
    thread.join(20)
    assert answered[0]["status"] == 408
    assert b"nothing came for 0.3 seconds" in answered[1]["body"]


def test_streams_wait_as_long_as_they_like():
    """The pause is one in the body of a request; after it, the server waits for the client to leave."""

    async def streams(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    answered, messages = [], [{"type": "http.request", "body": b""}]

    async def receive():
        if messages:
            return messages.pop()
        await asyncio.sleep(3 * QUICK)
        return {"type": "http.disconnect"}

    async def send(message):
        answered.append(message)

    scope = {"type": "http", "path": "/queue/data", "headers": []}
    thread = threading.Thread(target=asyncio.run, args=(Bounded(streams, longest_pause=QUICK)(scope, receive, send),))
    thread.start()
    thread.join(20)
    assert answered[0]["status"] == 200


@pytest.fixture
def port(client, monkeypatch) -> Iterator[int]:
    """The standalone server's application, with a short patience, at a port of its own."""
    monkeypatch.setattr(connections.ImpatientProtocol, "longest_head", QUICK)
    listener = app.listen(0)
    server = app._Server(client.app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(20)


def said_of(port: int, blocks, value: object) -> str:
    """Press a button with a value as its inputs; return what the queue says."""
    files = {part["id"] for part in blocks.config["components"] if part["type"] == "uploadbutton"}
    function = next(f for f in blocks.config["dependencies"] if files & set(f["inputs"]) and f["backend_fn"])
    data = [value if number in files else None for number in function["inputs"]]
    body = {"data": data, "fn_index": function["id"], "session_hash": "x", "event_data": None, "trigger_id": None}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/queue/join", json.dumps(body), {"Host": HOST, "Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, bool(answer.read())) == (200, True)
    connection.request("GET", "/queue/data?session_hash=x", headers={"Host": HOST})
    lines = iter(connection.getresponse().readline, b"")
    said = next(line for line in lines if b"process_completed" in line)
    connection.close()
    return said.decode()


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
def test_no_address_is_fetched_as_the_path_of_a_file(port, page, elsewhere, scheme):
    address, asked = elsewhere
    url = address.replace("http", scheme) + "/secret.png"
    said = said_of(port, page[0], {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}})
    assert json.loads(said.removeprefix("data:"))["success"] is False
    assert asked == []


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
def test_a_request_that_does_not_arrive(port, begun):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(begun)
        start = time.monotonic()
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""
        assert time.monotonic() - start < 10


def test_a_second_request_that_does_not_arrive(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 403")
        connection.sendall(b"GET / HT")
        with suppress(ConnectionResetError):
            while connection.recv(10_000):
                pass


def test_a_slow_answer_is_waited_for(monkeypatch):
    async def slow(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await asyncio.sleep(4 * QUICK)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    monkeypatch.setattr(connections.ImpatientProtocol, "longest_head", QUICK)
    listener = app.listen(0)
    server = app._Server(slow)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=20)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"done"
    server.should_exit = True
    thread.join(20)


def test_the_limits():
    assert (middleware.LARGEST_BODY, middleware.LARGEST_UPLOAD) == (1_000_000, 64 << 20)
    assert connections.LONGEST_HEAD == 10
    assert middleware.LONGEST_PAUSE == 30
