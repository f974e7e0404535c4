"""Which requests the standalone server accepts, and what its page may load."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib_blocktrain.server.middleware import LocalOnly, OwnContentOnly

PAGE = b'<html><script src="https://cdn.example/x.js" async></script><script src="./own.js"></script></html>'


def answer(app, headers: dict[str, str], kind: str = "http") -> list[dict]:
    """What an application sends back."""
    sent = []

    async def receive():
        return {"type": f"{kind}.connect" if kind == "websocket" else "http.request"}

    async def send(message):
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    # In a thread: the browser tests' Playwright keeps an event loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, app({"type": kind, "headers": raw}, receive, send)).result()
    return sent


async def page(scope, receive, send):
    start = {"type": "http.response.start", "status": 200}
    await send(
        {**start, "headers": [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(PAGE))]}
    )
    await send({"type": "http.response.body", "body": PAGE[:30], "more_body": True})
    await send({"type": "http.response.body", "body": PAGE[30:]})


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:7870"}, 200),
        ({"host": "localhost:7870", "origin": "http://localhost:7870"}, 200),
        ({"host": "127.0.0.1:7870", "origin": "http://127.0.0.1:7870"}, 200),
        ({"host": "evil.example:7870"}, 403),
        ({"host": "127.0.0.1:7871"}, 403),
        ({"host": "127.0.0.1.evil.example:7870"}, 403),
        ({}, 403),
        ({"host": "127.0.0.1:7870", "origin": "https://evil.example"}, 403),
        ({"host": "127.0.0.1:7870", "origin": "http://127.0.0.1:8080"}, 403),
        ({"host": "127.0.0.1:7870", "origin": "null"}, 403),
    ],
)
def test_host_and_origin(headers, status):
    assert answer(LocalOnly(page, 7870), headers)[0]["status"] == status


def test_two_hosts_are_refused():
    assert not LocalOnly(page, 7870).allows([(b"host", b"127.0.0.1:7870"), (b"Host", b"evil.example")])


def test_a_foreign_websocket_does_not_open():
    sent = answer(LocalOnly(page, 7870), {"host": "127.0.0.1:7870", "origin": "http://evil.example"}, "websocket")
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_the_page_loads_nothing_from_elsewhere():
    start, body = answer(OwnContentOnly(page), {})
    headers = dict(start["headers"])
    assert body["body"] == b'<html><script src="./own.js"></script></html>'
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    assert b"default-src 'self'" in headers[b"content-security-policy"]


def test_the_page_has_its_name_before_the_scripts_and_gradio_after_them():
    from lib_blocktrain.server.app import FIRST, _head, _scripts

    async def empty(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"<head></head><body> <gradio-app></gradio-app></body>"})

    _, body = answer(OwnContentOnly(empty, _head(), FIRST, _scripts()), {})
    head, first, rest = body["body"].decode().partition(FIRST)
    assert first
    assert head.endswith("</style></head><body> ")
    assert rest.startswith("<gradio-app></gradio-app><script>")
    assert rest.endswith("</script></body>")


def test_other_answers_stream_as_they_come():
    async def events(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"https://", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    assert len(answer(OwnContentOnly(events), {})) == 3


def test_listening():
    pytest.importorskip("gradio")
    from lib_blocktrain.server.app import listen

    with listen(0) as first:
        assert first.getsockname()[0] == "127.0.0.1"
        taken = first.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {taken} .*--port"):
            listen(taken)
        with socket.socket() as spare:
            spare.bind(("127.0.0.1", 0))
            free = spare.getsockname()[1]
        with listen(None, (taken, free)) as second:
            assert second.getsockname()[1] == free
