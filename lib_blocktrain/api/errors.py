"""The error with which a route refuses a request, and what other errors mean to the client."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from lib_blocktrain.files import error_text

log = logging.getLogger(__name__)

_CODES = {400: "bad request", 401: "unauthorised", 404: "not found", 405: "not allowed", 409: "conflict"}


class ApiError(Exception):
    """A request that is answered with this status; ``code`` is for programs, the message for people."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


def not_found(message: str) -> ApiError:
    return ApiError(404, "not found", message)


def busy(message: str) -> ApiError:
    return ApiError(409, "busy", message)


def api_error(error: BaseException) -> ApiError:
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
    """What an error of the work itself means. The hosts' errors are imported here, since torch comes with them."""
    from lib_blocktrain.hosts.host import Cancelled, NoModel, OutOfMemory

    if isinstance(error, Cancelled):
        return ApiError(409, "interrupted", "interrupted before it was done")
    if isinstance(error, NoModel):
        return ApiError(409, "no model", error_text(error))
    if isinstance(error, FileExistsError):
        return ApiError(409, "conflict", error_text(error))
    if isinstance(error, FileNotFoundError):
        return ApiError(404, "not found", error_text(error))
    too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG  # a name from the client
    if isinstance(error, ValueError) or too_long:
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
    """One of pydantic's complaints: the field, the message, and the value if it is short."""
    field = ".".join(str(part) for part in problem["loc"] if part != "body")
    given = problem.get("input")
    value = f" (got {given!r})" if isinstance(given, (str, int, float, bool)) and len(repr(given)) < 80 else ""
    return f"{field or 'body'}: {problem['msg']}{value}"
