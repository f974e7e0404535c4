"""A connection to a server on this machine that can be broken, as by a proxy or a network that fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PART = 65536


class Breakable:
    """Passes on what comes at `port`, a free one of as many digits as the server's, which each side sees as its own."""

    def __init__(self, server: int):
        self.server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections that there are; new ones are accepted."""
        while self._sockets:
            with suppress(OSError):
                self._sockets.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                browser, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self.server))
                self._sockets += [browser, server]
                ports = [f":{number}".encode() for number in (self.port, self.server)]
                threading.Thread(target=_pass_on, args=(browser, server, *ports), daemon=True).start()
                threading.Thread(target=_pass_on, args=(server, browser, *reversed(ports)), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, old: bytes, new: bytes) -> None:
    """Pass on all that comes, with the ports exchanged: the server answers its own page only."""
    with suppress(OSError):
        while part := source.recv(PART):
            target.sendall(part.replace(old, new))
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def breakable(address: str) -> Iterator[tuple[Breakable, str]]:
    """Yield a breakable connection to the server at this address, and the address for a browser."""
    server = address.rstrip("/").rpartition(":")[2]
    through = Breakable(int(server))
    try:
        yield through, address.replace(server, str(through.port))
    finally:
        through.close()
