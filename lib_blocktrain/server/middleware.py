"""Who may speak to the standalone server, and whom its page may speak to: nobody but the two of them.

Without the first, any page in the same browser could press its buttons (Origin), show its pictures (Sec-Fetch-Site),
put it into a frame and let the user click there, and one whose name is made to point to 127.0.0.1 could read the
answers (Host; DNS rebinding). Without the second, gradio's page asks a content network, and a file that was uploaded
could be opened as a page of ours.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

App = Callable[..., Awaitable[None]]

NAMES = ("127.0.0.1", "localhost")
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
    b"; frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
FILE_POLICY = b"sandbox; default-src 'none'; frame-ancestors 'none'"  # of what was uploaded: a picture, never a page
FILES = ("/file=", "/file/")
CLOSED = ("/proxy=", "/monitoring", "/openapi.json", "/dev/")  # gradio's, and of no use here
LARGEST_REQUEST = 64 << 20  # bytes; gradio keeps what is uploaded
_STRANGE = re.compile(rb"<(script|link)\b[^>]*\b(?:src|href)=.https?://[^>]*>(?:\s*</script>)?")


class LocalOnly:
    """ASGI middleware that refuses a foreign Host, and a foreign page where the browser tells of one."""

    def __init__(self, app: App, port: int):
        self._app = app
        self.hosts = frozenset(f"{name}:{port}" for name in NAMES)
        self.origins = frozenset(f"http://{host}" for host in self.hosts)

    async def __call__(self, scope, receive, send) -> None:
        """Pass on what is allowed; answer 403 to the rest, and let a foreign websocket not open."""
        if scope["type"] not in ("http", "websocket") or self.allows(scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send, 403, "blocktrain answers its own page only")

    def allows(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether these headers, given as ASGI gives them, are of our own page."""
        hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
        if len(hosts) != 1 or hosts[0] not in self.hosts or not all(origin in self.origins for origin in origins):
            return False
        sites = _values(headers, b"sec-fetch-site")
        followed = _values(headers, b"sec-fetch-mode") == ["navigate"]  # a link to here, to be opened as a page
        in_frame = _values(headers, b"sec-fetch-dest") not in ([], ["document"])
        return all(site in ("same-origin", "none") for site in sites) or (followed and not in_frame)


class Bounded:
    """ASGI middleware that takes requests up to a size, and closes what of gradio is not used here."""

    def __init__(self, app: App, largest: int = LARGEST_REQUEST):
        self._app, self._largest = app, largest

    async def __call__(self, scope, receive, send) -> None:
        """Answer 413 to what says that it is too large; end what is, and did not say so."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        lengths = _values(scope["headers"], b"content-length")
        if scope["path"].startswith(CLOSED):
            await _refuse(send, 404, "there is nothing here")
        elif any(not length.isdecimal() or int(length) > self._largest for length in lengths):
            await _refuse(send, 413, f"expected up to {self._largest} bytes")
        else:
            await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Callable) -> Callable:
        taken = 0

        async def counted():
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= self._largest else {"type": "http.disconnect"}

        return counted


class OwnContentOnly:
    """ASGI middleware: gradio's page without what it would load from elsewhere, and policies that allow no other."""

    def __init__(self, app: App):
        self._app = app

    async def __call__(self, scope, receive, send) -> None:
        """Rewrite HTML; let everything else, streams too, pass as it comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: list[dict] = []  # the start of an HTML answer, until its body is whole
        body = bytearray()
        is_file = scope.get("path", "").startswith(FILES)

        async def rewritten(message) -> None:
            if message["type"] == "http.response.start" and is_file:
                more = [(b"content-security-policy", FILE_POLICY), (b"x-content-type-options", b"nosniff")]
                await send({**message, "headers": [*message["headers"], *more]})
            elif message["type"] == "http.response.start" and _is_html(message["headers"]):
                held.append(message)
            elif not held:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    page = _STRANGE.sub(b"", bytes(body))
                    await send({**held[0], "headers": _with_policy(held[0]["headers"], len(page))})
                    await send({"type": "http.response.body", "body": page})

        await self._app(scope, receive, rewritten)


async def _refuse(send: Callable, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{sentence}\n".encode()})


def _values(headers: list[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    return [value.decode("latin-1").lower() for name, value in headers if name.lower() == wanted]


def _is_html(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in headers)


def _with_policy(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode()), (b"content-security-policy", POLICY)]
