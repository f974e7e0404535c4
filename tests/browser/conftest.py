"""A standalone server in each of two environments, gradio 4.40 and 3.41.2, and a page in Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gradio3
from journeys import Opened, write_loras

HERE = Path(__file__).resolve().parent
CHROMIUM = os.environ.get("BLOCKTRAIN_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def pytest_collection_modifyitems(items):
    """Skip, with the reason, where there is no browser; the WebUI's own tests need none."""
    if Path(CHROMIUM).exists():
        return
    reason = "Chromium is not installed (Debian: apt-get install chromium)"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=["gradio4", "gradio3"])
def python(request) -> Path:
    """The interpreter of an environment with this gradio."""
    if request.param == "gradio3":
        return gradio3.python()
    gradio = pytest.importorskip("gradio")
    if not gradio.__version__.startswith("4."):
        pytest.skip(f"gradio {gradio.__version__} is installed, not 4")
    return Path(sys.executable)


@pytest.fixture(scope="session")
def served(python, random_model, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the folder with its ``loras`` and its ``out``."""
    folder = tmp_path_factory.mktemp("served")
    write_loras(random_model, folder / "loras")
    command = [str(python), str(HERE / "serve.py"), "--model", str(random_model), "--lora", "robot"]
    command += ["--lora-dir", str(folder / "loras"), "--output", str(folder / "out")]
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            address = server.stdout.readline().strip()
            assert address, (folder / "log.txt").read_text("utf-8")
            yield address, folder
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def opened(served, browser) -> Iterator[Opened]:
    """The tab in a browser of its own; at the end nothing was logged as an error, and nothing asked elsewhere."""
    opened = Opened(browser, *served)
    yield opened
    opened.close()


@pytest.fixture
def second(served, browser) -> Iterator[Opened]:
    """The same tab in another browser."""
    opened = Opened(browser, *served)
    yield opened
    opened.close()
