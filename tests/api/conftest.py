"""A server with the API on the fake host of ``tests/ui``, and a client that speaks to it without a network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_blocktrain.api import run_config  # noqa: F401 - the first call imports these, which takes time
from lib_blocktrain.api.access import Access
from lib_blocktrain.api.routes import PREFIX, mount
from lib_blocktrain.workspace import analyses, drawing  # noqa: F401
from tests.fakes import SDXL_LAYERS, FakeHost, write_lora

ADDRESS = "http://127.0.0.1:7860"


class Client(TestClient):
    """A client of the API alone: paths are those behind the prefix."""

    def request(self, method, url, **options):
        return super().request(method, PREFIX + url, **options)


@pytest.fixture
def host(tmp_path) -> Iterator[FakeHost]:
    host = FakeHost(tmp_path)
    write_lora(host.lora_dirs[0] / "robot.safetensors", ss_output_name="robot")
    write_lora(host.lora_dirs[0] / "people" / "anna.safetensors")
    write_lora(host.lora_dirs[0] / "places" / "anna.safetensors")
    write_lora(host.lora_dirs[0] / "xl.safetensors", SDXL_LAYERS)
    yield host
    host.gate.set()


@pytest.fixture
def serve(host):
    """A client of the API on a host; ``headers`` go with every call."""

    def made(access: Access | None = None, headers: dict[str, str] | None = None, **options) -> Client:
        app = FastAPI()
        mount(app, options.pop("host", host), access or Access(), **options)
        return Client(app, base_url=ADDRESS, headers=headers or {})

    return made


@pytest.fixture
def client(serve) -> Client:
    return serve()


@pytest.fixture
def listening():
    """Put a client's application behind a real server at a free port; return its address."""
    import uvicorn

    running = []

    def started(client: Client) -> str:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(client.app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield started
    for server, thread in running:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def refused():
    """Check an answer that refuses: its status, JSON, a sentence with these words, nothing of Python's."""

    def check(answer, status: int, *words: str) -> None:
        assert answer.status_code == status, answer.text
        body = answer.json()
        assert set(body) == {"error", "detail"}
        assert "Traceback" not in body["detail"]
        assert 'File "' not in body["detail"]
        for word in words:
            assert word in body["detail"], body

    return check
