"""The standalone server: the page and the API at 127.0.0.1, for this machine alone."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported: it would send usage data

import fastapi
import gradio as gr
import uvicorn
from filelock import FileLock, Timeout
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib_blocktrain.api.access import Access
from lib_blocktrain.api.routes import PREFIX, mount
from lib_blocktrain.files import DATA
from lib_blocktrain.hosts.host import Host
from lib_blocktrain.server.connections import ImpatientProtocol, fetch_nothing
from lib_blocktrain.server.middleware import Bounded, LocalOnly, OwnContentOnly
from lib_blocktrain.ui import shim
from lib_blocktrain.ui.lora_controls import InitialState
from lib_blocktrain.ui.page import Page

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
UPLOADS = "GRADIO_TEMP_DIR"  # where gradio keeps them; its default is a folder that every user of the machine can read
_UPLOADS_PREFIX, _UPLOADS_LOCK = "blocktrain-uploads-", "lock"  # of a server's folder, and the file in it that it locks
FIRST_PORT, PORTS = 7870, 30  # tried in turn; the WebUIs' are from 7860 on
# The page is the whole window: no margin around it.
OWN_PAGE = """
footer { display: none !important; }
.gradio-container { max-width: none !important; padding: 0 !important; }
.gradio-container > .main > .wrap { gap: 0; }
#blocktrain_first {
    position: fixed; inset: 0 0 auto; display: flex; gap: 8px; align-items: center; height: 47px; padding: 0 16px;
    border-bottom: 1px solid color-mix(in srgb, currentcolor 14%, transparent);
    font: 700 15px system-ui, sans-serif; pointer-events: none;
}
#blocktrain_first::after { content: "Block weights"; }
body:has(#blocktrain_head) > #blocktrain_first { display: none; }
"""
# The page's name, in the place that it has later: shown while gradio builds the page.
FIRST = (
    '<div id="blocktrain_first" aria-hidden="true"><svg width="20" height="20" viewBox="0 0 20 20"><path d="'
    'M3 3v8a7 7 0 0 0 14 0V3" fill="none" stroke="currentColor" stroke-width="3.2" stroke-linecap="round"/></svg></div>'
)
FONTS = ("system-ui", "sans-serif")  # gradio's own themes load fonts from a server


def build(host: Host, initial: InitialState | None = None) -> tuple[gr.Blocks, Page]:
    """Build the page on a host."""
    theme = gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace"))
    with shim.OwnPage(title="blocktrain", theme=theme, analytics_enabled=False) as blocks:
        page = Page(host, initial)
        page.on_load(blocks)
    return shim.queue(blocks), page


def languages() -> list[str]:
    """The names of the translations, such as ja_JP."""
    return sorted(path.stem for path in (DATA / "localizations").glob("*.json"))


def _head() -> str:
    """The style sheet as an element of the page's head."""
    return "".join(("<style>", (DATA / "style.css").read_text("utf-8"), OWN_PAGE, "</style>"))


def _scripts(language: str | None = None) -> str:
    """The scripts and a translation as an element; gradio's own script, which is deferred, runs after it."""
    scripts = "\n".join(path.read_text("utf-8") for path in sorted((DATA / "javascript").glob("*.js")))
    if language is not None:
        words = json.loads((DATA / "localizations" / f"{language}.json").read_text("utf-8"))
        # as a WebUI has it; "<" written so that no text ends the element
        scripts = f"window.localization = {json.dumps(words)};\n".replace("<", "\\u003c") + scripts
    return f"<script>{scripts}</script>"


def application(blocks: gr.Blocks, page: Page, port: int, language: str | None = None) -> ASGIApp:
    """The page and the API as an application that answers this machine only, and loads nothing from elsewhere."""
    app = fastapi.FastAPI(title="blocktrain", docs_url=None, redoc_url=None, openapi_url=f"{PREFIX}/openapi.json")
    # Before the page, which answers every other path.
    mount(
        app,
        page.runner.host,
        Access(),
        runner=lambda: page.runner,
        jobs=lambda: page.jobs,
        loras=lambda: page.lora_index,
        sets=lambda: page.picture_sets,
    )
    fetch_nothing()
    app = gr.mount_gradio_app(app, blocks, path="/")
    return LocalOnly(Bounded(OwnContentOnly(app, _head(), FIRST, _scripts(language))), port)


def serve(
    host: Host,
    port: int | None = None,
    initial: InitialState | None = None,
    on_start: Callable[[str], object] | None = webbrowser.open,
    language: str | None = None,
) -> None:
    """Serve until interrupted; ``on_start`` is called with the address once the page answers.

    ``language`` is one of `languages`; without it the page is in English.
    """
    with _private_uploads():
        _serve(host, listen(port), initial, on_start, language)


def _serve(
    host: Host,
    listener: socket.socket,
    initial: InitialState | None,
    on_start: Callable[[str], object] | None,
    language: str | None,
) -> None:
    port = listener.getsockname()[1]
    blocks, page = build(host, initial)
    server = _Server(application(blocks, page, port, language))
    address = f"http://{ADDRESS}:{port}/"
    threading.Thread(target=page.lora_index.refresh, daemon=True).start()  # headers are read before a browser asks
    if on_start is not None:
        threading.Thread(target=_call_when_started, args=(server, address, on_start), daemon=True).start()
    with _closing(page):
        server.run(sockets=[listener])


@contextmanager
def _closing(page: Page) -> Iterator[None]:
    """Close at the end all that belongs to a page: each even where one before raises, as a second Ctrl+C does."""
    with ExitStack() as closing:  # the last one is called first
        closing.callback(page.runner.close)
        closing.callback(page.picture_sets.close)
        closing.callback(page.lora_index.close)
        closing.callback(page.close)
        closing.callback(page.runner.pause)  # the run saves itself meanwhile, and frees the model for what waits
        yield


class _Server(uvicorn.Server):
    """uvicorn, which on shutdown ends the streams that gradio keeps open as long as a page is.

    Each is told that its client has disconnected. uvicorn alone would wait for them, then cancel each with a traceback.
    """

    def __init__(self, app: ASGIApp):
        self._app, self._ended = app, asyncio.Event()
        super().__init__(
            uvicorn.Config(
                self._until_shutdown,
                interface="asgi3",
                http=ImpatientProtocol,
                log_level="warning",
                timeout_graceful_shutdown=2,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ended.set()
        await super().shutdown(sockets)

    async def _until_shutdown(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            message, end = asyncio.ensure_future(receive()), asyncio.ensure_future(self._ended.wait())
            try:
                await asyncio.wait((message, end), return_when=asyncio.FIRST_COMPLETED)
                return message.result() if message.done() else {"type": "http.disconnect"}
            finally:
                message.cancel()
                end.cancel()

        await self._app(scope, received if scope["type"] == "http" else receive, send)


@contextmanager
def _private_uploads() -> Iterator[None]:
    """Let gradio keep uploads in a folder of this user alone, removed when the server ends.

    If it is killed, the next one removes them.
    """
    if UPLOADS in os.environ:  # the user's choice
        yield
        return
    _remove_old_uploads(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=_UPLOADS_PREFIX, ignore_cleanup_errors=True) as folder,
        FileLock(Path(folder) / _UPLOADS_LOCK),  # the operating system frees the lock of a killed process
    ):
        uploads = Path(folder) / "uploads"
        uploads.mkdir(mode=0o700)  # gradio would make one that others can read
        os.environ[UPLOADS] = str(uploads)
        try:
            yield
        finally:
            del os.environ[UPLOADS]


def _remove_old_uploads(parent: Path) -> None:
    """Remove this user's folders of uploads whose server was killed: those with a lock that nobody holds."""
    for folder in parent.glob(f"{_UPLOADS_PREFIX}*"):
        lock = folder / _UPLOADS_LOCK
        with suppress(OSError, Timeout):
            if folder.is_symlink() or lock.is_symlink() or not lock.is_file() or not _is_own(folder):
                continue
            with FileLock(lock, timeout=0):
                pass
            shutil.rmtree(folder)
            log.info("removed %s, which a killed server had left", folder)


def _is_own(folder: Path) -> bool:
    return os.name == "nt" or folder.lstat().st_uid == os.getuid()


def listen(port: int | None, ports: Sequence[int] = range(FIRST_PORT, FIRST_PORT + PORTS)) -> socket.socket:
    """A socket at this port (0: any), or at the first free one; raises OSError that names ``--port``."""
    for number in ports if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name != "nt":  # on Windows it would let two servers share a port
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


def _call_when_started(server: uvicorn.Server, address: str, on_start: Callable[[str], object]) -> None:
    pause = threading.Event()
    while not server.started:
        if server.should_exit:
            return
        pause.wait(0.05)
    on_start(address)
