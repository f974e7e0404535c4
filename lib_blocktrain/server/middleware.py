"""ASGI middleware of the standalone server: only its own page may call it, and that page may load nothing else.

Without the first rule, any page in the same browser could press the buttons (Origin), show the images (Sec-Fetch-Site),
or put the page into a frame and have the user click there, and a page whose name is made to point to 127.0.0.1 could
read the answers (Host; DNS rebinding). Without the second, gradio's page asks a content delivery network, and an
uploaded file could be opened as a page of ours.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib_blocktrain.api.responses import LARGEST_BODY, LARGEST_UPLOAD

RawHeaders = Iterable[tuple[bytes, bytes]]

NAMES = ("127.0.0.1", "localhost")
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
    b"; frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
FILE_POLICY = b"sandbox; default-src 'none'; frame-ancestors 'none'"  # of an uploaded file: an image, never a page
FILES = ("/file=", "/file/")
CLOSED = ("/proxy=", "/monitoring", "/openapi.json", "/dev/")  # gradio's, and not used here
UPLOAD = re.compile(r"/upload/?|/blocktrain/v1/sets/[^/]*/pictures")  # gradio's, and the API's
LONGEST_PAUSE = 30.0  # seconds, in the body of a request
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
    """Limits a request's size and the pauses in it, and closes those paths of gradio's that are not used here.

    Only what is uploaded may be large: JSON is read in the thread that answers everything. No answer is in parts,
    since with the header Range gradio sends the end of a file for ever, and Starlette takes minutes over many ranges.
    """

    def __init__(self, app: ASGIApp, largest: int = LARGEST_UPLOAD, longest_pause: float = LONGEST_PAUSE):
        self._app, self._largest, self._longest_pause = app, largest, longest_pause

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 to a request that is too large, 408 to one that stops coming."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        largest = self._largest if UPLOAD.fullmatch(scope["path"]) else min(self._largest, LARGEST_BODY)
        lengths = _values(scope["headers"], b"content-length")
        if scope["path"].startswith(CLOSED):
            await PlainTextResponse("there is nothing here\n", 404)(scope, receive, send)
        elif any(not length.isdecimal() or int(length) > largest for length in lengths):
            await _too_large(largest)(scope, receive, send)
        else:
            headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"range"]
            await _Request(receive, send, largest, self._longest_pause).answer(self._app, {**scope, "headers": headers})


class _Request:
    """One request whose body is counted and timed while the application reads it."""

    def __init__(self, receive: Receive, send: Send, largest: int, longest_pause: float):
        self._receive, self._send = receive, send
        self._largest, self._longest_pause = largest, longest_pause
        self._received, self._is_whole, self._is_answered = 0, False, False
        self._refusal: PlainTextResponse | None = None

    async def answer(self, app: ASGIApp, scope: Scope) -> None:
        """Have the application answer; if its body is refused, answer with that instead."""
        with suppress(ClientDisconnect):
            await app(scope, self._received_part, self._send_answer)
        if self._refusal is not None and not self._is_answered:
            self._refusal.headers["connection"] = "close"
            await self._refusal(scope, self._receive, self._send)

    async def _received_part(self) -> Message:
        try:
            message = await asyncio.wait_for(self._receive(), None if self._is_whole else self._longest_pause)
        except asyncio.TimeoutError:
            self._refusal = PlainTextResponse(f"nothing came for {self._longest_pause:g} seconds\n", 408)
            return {"type": "http.disconnect"}
        self._received += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._received > self._largest:
            self._refusal = _too_large(self._largest)
            return {"type": "http.disconnect"}
        return message

    async def _send_answer(self, message: Message) -> None:
        if self._refusal is None or self._is_answered:
            self._is_answered = True
            await self._send(message)


def _too_large(largest: int) -> PlainTextResponse:
    return PlainTextResponse(f"expected up to {largest} bytes\n", 413)


class OwnContentOnly:
    """Removes from gradio's page what it would load from elsewhere, and sets policies that forbid it.

    ``head``, ``first`` and ``last`` are HTML for the end of the page's head and for the beginning and end of its body:
    gradio itself would add styles and scripts after it has drawn the page. An answer that sends the browser elsewhere
    is refused: gradio does that for any URL after `/file=`.
    """

    def __init__(self, app: ASGIApp, head: str = "", first: str = "", last: str = ""):
        self._app = app
        self._added = [
            (before, added.encode() + before)
            for before, added in ((b"</head>", head), (b"<gradio-app", first), (b"</body>", last))
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrite HTML, refuse redirects; pass on everything else, streams included, as it comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        starts: list[Message] = []  # the start of an HTML response, held back until its body is complete
        body = bytearray()
        is_file = scope.get("path", "").startswith(FILES)

        is_refused = False

        async def rewritten(message: Message) -> None:
            nonlocal is_refused
            if is_refused:
                return
            if message["type"] == "http.response.start" and _leads_elsewhere(scope["headers"], message["headers"]):
                is_refused = True
                await PlainTextResponse("blocktrain leads to no other address\n", 403)(scope, receive, send)
            elif message["type"] == "http.response.start" and is_file:
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
                    for before, added in self._added:
                        page = page.replace(before, added, 1)
                    await send({**starts[0], "headers": _with_policy(starts[0]["headers"], len(page))})
                    await send({"type": "http.response.body", "body": page})

        await self._app(scope, receive, rewritten)


def _values(headers: RawHeaders, wanted: bytes) -> list[str]:
    return [value.decode("latin-1").lower() for name, value in headers if name.lower() == wanted]


def _leads_elsewhere(request: RawHeaders, answer: RawHeaders) -> bool:
    """Whether an answer's Location has another host than the request; browsers read a backslash as a slash."""
    hosts = ["", *_values(request, b"host")]
    try:
        locations = [urlsplit(value.replace("\\", "/").strip()) for value in _values(answer, b"location")]
    except ValueError:  # such as http://[
        return True
    return any(at.netloc not in hosts or at.scheme not in ("", "http") for at in locations)


def _is_html(headers: RawHeaders) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in headers)


def _with_policy(headers: RawHeaders, length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode()), (b"content-security-policy", POLICY)]
