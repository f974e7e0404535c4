"""ASGI middleware of the standalone server: only its own page may call it, and that page may load nothing else.

Without the first rule, any page in the same browser could press the buttons (Origin), show the images (Sec-Fetch-Site),
or put the page into a frame and have the user click there, and a page whose name is made to point to 127.0.0.1 could
read the answers (Host; DNS rebinding). Without the second, gradio's page asks a content delivery network, and an
uploaded file could be opened as a page of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RawHeaders = Iterable[tuple[bytes, bytes]]

NAMES = ("127.0.0.1", "localhost")
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
    b"; frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
FILE_POLICY = b"sandbox; default-src 'none'; frame-ancestors 'none'"  # of an uploaded file: an image, never a page
FILES = ("/file=", "/file/")
CLOSED = ("/proxy=", "/monitoring", "/openapi.json", "/dev/")  # gradio's, and not used here
LARGEST_REQUEST = 64 << 20  # bytes; gradio keeps what is uploaded
_FOREIGN = re.compile(rb"<(script|link)\b[^>]*\b(?:src|href)=.https?://[^>]*>(?:\s*</script>)?")


class LocalOnly:
    """Refuses a foreign Host, and a foreign page where the browser tells of one.

    Starlette's TrustedHostMiddleware looks at the Host's name alone: not at its port, at a second Host, at Origin or at
    Sec-Fetch-Site.
    """

    def __init__(self, app: ASGIApp, port: int):
        self._app = app
        self.hosts = frozenset(f"{name}:{port}" for name in NAMES)
        self.origins = frozenset(f"http://{host}" for host in self.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 to what is not allowed; close a websocket before it opens."""
        if scope["type"] not in ("http", "websocket") or self.allows(scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("blocktrain answers its own page only\n", 403)(scope, receive, send)

    def allows(self, headers: RawHeaders) -> bool:
        """Whether a request with these headers comes from our own page, or opens it."""
        headers = list(headers)
        hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
        if len(hosts) != 1 or hosts[0] not in self.hosts or not all(origin in self.origins for origin in origins):
            return False
        sites = _values(headers, b"sec-fetch-site")
        opens_page = _values(headers, b"sec-fetch-mode") == ["navigate"]  # as a link on another page does
        in_frame = _values(headers, b"sec-fetch-dest") not in ([], ["document"])
        return all(site in ("same-origin", "none") for site in sites) or (opens_page and not in_frame)


class Bounded:
    """Limits the size of requests, and closes those paths of gradio's that are not used here."""

    def __init__(self, app: ASGIApp, largest: int = LARGEST_REQUEST):
        self._app, self._largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 to a request that says it is too large; end one that is, and did not say so."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        lengths = _values(scope["headers"], b"content-length")
        if scope["path"].startswith(CLOSED):
            await PlainTextResponse("there is nothing here\n", 404)(scope, receive, send)
        elif any(not length.isdecimal() or int(length) > self._largest for length in lengths):
            await PlainTextResponse(f"expected up to {self._largest} bytes\n", 413)(scope, receive, send)
        else:
            await self._app(scope, self._limited(receive), send)

    def _limited(self, receive: Receive) -> Receive:
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message if received <= self._largest else {"type": "http.disconnect"}

        return limited


class OwnContentOnly:
    """Removes from gradio's page what it would load from elsewhere, and sets policies that forbid it."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrite HTML; pass on everything else, streams included, as it comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        starts: list[Message] = []  # the start of an HTML response, held back until its body is complete
        body = bytearray()
        is_file = scope.get("path", "").startswith(FILES)

        async def rewritten(message: Message) -> None:
            if message["type"] == "http.response.start" and is_file:
                more = [(b"content-security-policy", FILE_POLICY), (b"x-content-type-options", b"nosniff")]
                await send({**message, "headers": [*message["headers"], *more]})
            elif message["type"] == "http.response.start" and _is_html(message["headers"]):
                starts.append(message)
            elif not starts:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    page = _FOREIGN.sub(b"", bytes(body))
                    await send({**starts[0], "headers": _with_policy(starts[0]["headers"], len(page))})
                    await send({"type": "http.response.body", "body": page})

        await self._app(scope, receive, rewritten)


def _values(headers: RawHeaders, wanted: bytes) -> list[str]:
    return [value.decode("latin-1").lower() for name, value in headers if name.lower() == wanted]


def _is_html(headers: RawHeaders) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in headers)


def _with_policy(headers: RawHeaders, length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode()), (b"content-security-policy", POLICY)]
