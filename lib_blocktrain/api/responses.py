"""Answers and refusals: always JSON, the latter with a sentence and never with a traceback.

The same in every application: AUTOMATIC1111 puts handlers of its own on errors, but only where ``--api`` is given.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lib_blocktrain.api.access import Access
from lib_blocktrain.api.errors import ApiError
from lib_blocktrain.files import error_text

log = logging.getLogger(__name__)

LARGEST_BODY = 1_000_000  # bytes
_CODES = {400: "bad request", 401: "unauthorised", 404: "not found", 405: "not allowed", 409: "conflict"}


class Answer(JSONResponse):
    """JSON in ASCII: what a client sent comes back whole, half of a surrogate pair too."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def refusal(error: BaseException) -> Answer:
    """The answer to a request that ended in this error."""
    found = refused_by(error)
    return Answer({"error": found.code, "detail": str(found)}, found.status, found.headers)


def refused_by(error: BaseException) -> ApiError:
    """What an error means to the client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return ApiError(422, "invalid", "; ".join(map(_problem, error.errors()[:5])))
    if isinstance(error, HTTPException):
        code = _CODES.get(error.status_code, "refused")
        return ApiError(error.status_code, code, str(error.detail), getattr(error, "headers", None))
    return _of_work(error)


def _of_work(error: BaseException) -> ApiError:
    """What the work itself ended in; the hosts' errors are imported when one has been raised, torch with them."""
    from lib_blocktrain.hosts.host import Cancelled, NoModel, OutOfMemory

    if isinstance(error, Cancelled):
        return ApiError(409, "interrupted", "interrupted before it was done")
    if isinstance(error, NoModel):
        return ApiError(409, "no model", error_text(error))
    if isinstance(error, FileExistsError):
        return ApiError(409, "conflict", error_text(error))
    if isinstance(error, FileNotFoundError):
        return ApiError(404, "not found", error_text(error))
    if isinstance(error, ValueError):
        return ApiError(400, "bad request", error_text(error) or type(error).__name__)
    if isinstance(error, (OutOfMemory, MemoryError)):
        return ApiError(507, "out of memory", error_text(error) or "there is too little memory")
    if isinstance(error, OSError):
        return ApiError(500, "failed", error_text(error))
    log.error("the API failed", exc_info=error)
    return ApiError(
        500, "failed", f"unexpected {type(error).__name__}: {error} (the console has the details; please report it)"
    )


def _problem(problem: Mapping[str, Any]) -> str:
    """One of pydantic's complaints: where, what, and the value if it is short."""
    where = ".".join(str(part) for part in problem["loc"] if part != "body")
    given = problem.get("input")
    value = f" (got {given!r})" if isinstance(given, (str, int, float, bool)) and len(repr(given)) < 80 else ""
    return f"{where or 'body'}: {problem['msg']}{value}"


class OwnRoute(APIRoute):
    """A route of this API, to tell it from others in the same application."""


def guarded(access: Access, *, writes: bool) -> type[OwnRoute]:
    """Return the class of routes that look at who calls before they read what is sent, and answer errors as JSON."""

    class Guarded(OwnRoute):
        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    access.check(request, writes)
                    return await handle(await _with_body(request))
                except Exception as error:  # noqa: BLE001 - the last place before the client: nothing passes
                    return refusal(error)

            return answer

    return Guarded


async def _with_body(request: Request) -> Request:
    """The same request with its body read; raises Refused where there is too much of it."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise ApiError(413, "too large", f"more than {LARGEST_BODY} bytes were sent")
    read = False

    async def receive() -> dict[str, Any]:
        nonlocal read
        if read:
            return await request.receive()
        read = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return Request(request.scope, receive)
