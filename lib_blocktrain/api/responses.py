"""The routes' class: checks the caller, limits the body, and answers every error as JSON, never with a traceback.

The same in every application: AUTOMATIC1111 has error handlers of its own, but only with ``--api``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from lib_blocktrain.api.access import Access
from lib_blocktrain.api.errors import ApiError, api_error
from lib_blocktrain.workspace.picture_thumbnails import Thumbnail

LARGEST_BODY = 1_000_000  # bytes
NOSNIFF = {"X-Content-Type-Options": "nosniff"}
CHECKED = "private, no-cache"  # Cache-Control of what is kept, and asked about each time
LARGEST_UPLOAD = 64 << 20  # bytes of a request that adds pictures


class AsciiJSON(JSONResponse):
    """JSON in ASCII, so that half a surrogate pair that a client sent can be sent back."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def thumbnail_response(request: Request, found: Thumbnail, cache: str = CHECKED) -> Response:
    """A thumbnail, or 304 where the caller has it."""
    headers = {**NOSNIFF, "ETag": f'"{found.tag}"', "Cache-Control": cache}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type="image/jpeg", headers=headers)


class OwnRoute(APIRoute):
    """A route of this API, told by its class from the others of the same application."""


def guarded(
    access: Access, *, writes: bool, public: bool, page: bool = False, largest: int = LARGEST_BODY
) -> type[OwnRoute]:
    """Return a class of routes that check the caller before they read the body, and answer errors as JSON.

    A body of more than ``largest`` bytes is refused.
    """

    class Guarded(OwnRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def respond(request: Request) -> Response:
                try:
                    access.check(request, writes=writes, public=public, page=page)
                    return await handle(await _with_body(request, largest))
                except Exception as error:  # noqa: BLE001 - the last place before the client
                    return _error_response(api_error(error))

            return respond

    return Guarded


def _error_response(error: ApiError) -> Response:
    return AsciiJSON({"error": error.code, "detail": str(error)}, error.status, error.headers)


async def _with_body(request: Request, largest: int) -> Request:
    """The same request with its body read; raises ApiError for more than so many bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > largest:
            raise ApiError(413, "too large", f"more than {largest} bytes were sent")
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:
            return await request.receive()
        is_read = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return Request(request.scope, receive)
