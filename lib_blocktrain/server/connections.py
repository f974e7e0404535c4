"""What the standalone server does with slow connections, and how it is kept from fetching anything itself."""

from __future__ import annotations

import asyncio

import httpx
from gradio import processing_utils
from uvicorn.protocols.http.h11_impl import H11Protocol

LONGEST_HEAD = 10.0  # seconds for the lines and headers of a request, from when the connection is open


class ImpatientProtocol(H11Protocol):
    """Closes a connection on which no whole head of a request comes in time.

    uvicorn's own time-out is for a connection that is idle between two requests: a single byte ends it.
    """

    longest_head = LONGEST_HEAD
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head, if this is a part of one."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout of a closed connection."""
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering or self.transport.get_protocol() is not self:  # a websocket has another
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.longest_head, self.transport.abort)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _NothingFetched(httpx.BaseTransport, httpx.AsyncBaseTransport):
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        raise ValueError(f"{str(request.url)[:200]!r}: expected an uploaded file; nothing is fetched from a server")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)


def fetch_nothing() -> None:
    """Keep gradio from fetching a URL that a request gives as the path of a file, as gradio 4 does for any."""
    processing_utils.sync_client = httpx.Client(transport=_NothingFetched())
    processing_utils.async_client = httpx.AsyncClient(transport=_NothingFetched())
