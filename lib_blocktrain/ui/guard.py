"""Who may speak to the standalone server, and whom its page may speak to: nobody but the two of them.

Without the first, any page in the same browser could press its buttons (Origin), and one whose name is made to point
to 127.0.0.1 could read the answers (Host; DNS rebinding). Without the second, gradio's page asks a content network.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

App = Callable[..., Awaitable[None]]

NAMES = ("127.0.0.1", "localhost")
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
)
_STRANGE = re.compile(rb"<(script|link)\b[^>]*\b(?:src|href)=.https?://[^>]*>(?:\s*</script>)?")


class LocalOnly:
    """ASGI middleware that refuses a foreign Host, and a foreign Origin where there is one."""

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
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"blocktrain answers its own page only\n"})

    def allows(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether these headers, given as ASGI gives them, are of our own page."""
        hosts = [value.decode("latin-1").lower() for name, value in headers if name.lower() == b"host"]
        origins = [value.decode("latin-1").lower() for name, value in headers if name.lower() == b"origin"]
        return len(hosts) == 1 and hosts[0] in self.hosts and all(origin in self.origins for origin in origins)


class OwnContentOnly:
    """ASGI middleware: gradio's page without what it would load from elsewhere, and a policy that allows no other."""

    def __init__(self, app: App):
        self._app = app

    async def __call__(self, scope, receive, send) -> None:
        """Rewrite HTML; let everything else, streams too, pass as it comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: list[dict] = []  # the start of an HTML answer, until its body is whole
        body = bytearray()

        async def rewritten(message) -> None:
            if message["type"] == "http.response.start" and _is_html(message["headers"]):
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


def _is_html(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in headers)


def _with_policy(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode()), (b"content-security-policy", POLICY)]
