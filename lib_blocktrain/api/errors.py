"""The error with which a route refuses a request."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """A request that is answered with this status: ``code`` is for programs, the sentence for people."""

    def __init__(self, status: int, code: str, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.code, self.headers = status, code, dict(headers or {})


def not_found(what: str) -> ApiError:
    """There is nothing of this name."""
    return ApiError(404, "not found", what)


def busy(what: str) -> ApiError:
    """The model is in use; the sentence says by whom."""
    return ApiError(409, "busy", what)
