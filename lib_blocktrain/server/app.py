"""The standalone server: the tab at 127.0.0.1, for this machine's own browser and for nobody else."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported; nothing leaves the machine

import fastapi
import gradio as gr
import uvicorn

from lib_blocktrain.api.access import Access
from lib_blocktrain.api.routes import PREFIX, mount
from lib_blocktrain.files import DATA
from lib_blocktrain.hosts.host import Host
from lib_blocktrain.server.middleware import App, Bounded, LocalOnly, OwnContentOnly
from lib_blocktrain.ui import shim
from lib_blocktrain.ui.lora_controls import InitialState
from lib_blocktrain.ui.page import Page

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
UPLOADS = "GRADIO_TEMP_DIR"  # where gradio keeps them: else in a folder of the machine's, for everybody to read
FIRST_PORT, PORTS = 7870, 30  # tried one after the other; the WebUIs begin at 7860
FONTS = ("system-ui", "sans-serif")  # gradio's own themes ask a font server


def build(host: Host, first: InitialState | None = None) -> tuple[gr.Blocks, Page]:
    """The page on a host."""
    theme = gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace"))
    css = (DATA / "style.css").read_text("utf-8") + "footer { display: none !important; }"
    script = "\n".join(path.read_text("utf-8") for path in sorted((DATA / "javascript").glob("*.js")))
    with gr.Blocks(title="blocktrain", theme=theme, css=css, analytics_enabled=False) as blocks:
        tab = Page(host, first)
        tab.on_load(blocks)
        shim.on(blocks.load, None, {}, {}, js=f"() => {{\n{script}\n}}")
    return shim.queue(blocks), tab


def application(blocks: gr.Blocks, tab: Page, port: int) -> Callable[..., Awaitable[None]]:
    """The page and the API as an ASGI application that answers this machine only, and asks no other."""
    app = fastapi.FastAPI(title="blocktrain", docs_url=None, redoc_url=None, openapi_url=f"{PREFIX}/openapi.json")
    mount(
        app, tab.runner.host, Access(), runner=lambda: tab.runner, jobs=lambda: tab.jobs
    )  # first: the page answers all that is left
    app = gr.mount_gradio_app(app, blocks, path="/")
    return LocalOnly(Bounded(OwnContentOnly(app)), port)


def serve(
    host: Host,
    port: int | None = None,
    first: InitialState | None = None,
    opened: Callable[[str], object] | None = webbrowser.open,
) -> None:
    """Serve until interrupted; ``opened`` is called with the address once the page answers."""
    with _own_uploads():
        _serve(host, listen(port), first, opened)


def _serve(
    host: Host, listener: socket.socket, first: InitialState | None, opened: Callable[[str], object] | None
) -> None:
    port = listener.getsockname()[1]
    blocks, tab = build(host, first)
    server = _Server(application(blocks, tab, port))
    address = f"http://{ADDRESS}:{port}/"
    if opened is not None:
        threading.Thread(target=_open_when_started, args=(server, address, opened), daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        tab.close()
        tab.runner.close()


class _Server(uvicorn.Server):
    """uvicorn, which at its end lets go of the streams that gradio keeps as long as a page is open.

    They are told that the page has gone. uvicorn alone would wait for them, then cancel each with a traceback.
    """

    def __init__(self, app: App):
        self._app, self._ended = app, asyncio.Event()
        config = {"interface": "asgi3", "log_level": "warning", "timeout_graceful_shutdown": 2}
        super().__init__(uvicorn.Config(self._until_the_end, **config))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._ended.set()
        await super().shutdown(sockets)

    async def _until_the_end(self, scope, receive, send) -> None:
        async def heard() -> dict:
            waiting = [asyncio.ensure_future(wait) for wait in (receive(), self._ended.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                return waiting[0].result() if waiting[0].done() else {"type": "http.disconnect"}
            finally:
                for wait in waiting:
                    wait.cancel()

        await self._app(scope, heard if scope["type"] == "http" else receive, send)


@contextmanager
def _own_uploads() -> Iterator[None]:
    """Let gradio keep what is uploaded in a folder of this user alone, which goes when the server is stopped."""
    if UPLOADS in os.environ:  # somebody has chosen a place
        yield
        return
    with tempfile.TemporaryDirectory(prefix="blocktrain-", ignore_cleanup_errors=True) as folder:
        os.environ[UPLOADS] = folder
        try:
            yield
        finally:
            del os.environ[UPLOADS]


def listen(port: int | None, ports: Sequence[int] = range(FIRST_PORT, FIRST_PORT + PORTS)) -> socket.socket:
    """A socket at this port (0: any), or at the first free one; raises OSError with what to do."""
    for number in ports if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name != "nt":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, number))
            listener.listen()
        except OSError as error:
            listener.close()
            log.debug("port %d: %s", number, error)
        else:
            return listener
    asked = f"port {port}" if port is not None else f"ports {ports[0]} to {ports[-1]}"
    raise OSError(f"{asked} of {ADDRESS} cannot be used: give a free one with --port")


def _open_when_started(server: uvicorn.Server, address: str, opened: Callable[[str], object]) -> None:
    pause = threading.Event()
    while not server.started:
        if server.should_exit:
            return
        pause.wait(0.05)
    opened(address)
