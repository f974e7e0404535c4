"""What several tests share: a small random model in the demo's format, a browser."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The shell is the same browser without the windows around the page, and opens a page in a fifth of the time.
CHROMIUM = (
    os.environ.get("BLOCKTRAIN_CHROMIUM")
    or shutil.which("chromium-headless-shell")
    or shutil.which("chromium")
    or "/usr/bin/chromium"
)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


# Folders and files, the longest first.
LONG = ("gpu", "test_documents.py", "browser", "benchmarks", "trust", "cli", "demo", "training")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``long`` from a run of all tests.

    Begin with what takes longest, so that no core waits for one file at the end.
    """
    asked = {(config.rootpath / argument).resolve() for argument in config.args}
    if asked == {ROOT / "tests"} and not os.environ.get("BLOCKTRAIN_LONG"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: next((places[p] for p in (item.path, *item.path.parents) if p in places), len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell lets what it starts in the background ignore SIGINT, nohup SIGHUP; so would all that the tests start."""
    handlers = {signal.SIGINT: signal.default_int_handler}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = signal.SIG_DFL
    for number, handler in handlers.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def random_networks():
    """The demo's networks with random weights; layers that start at zero are filled, or nothing would react."""
    import torch

    from demo.networks import VAE, TextConfig, TextEncoder, UNet

    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # whichever tests ran before
        networks = {"unet": UNet(), "vae": VAE(), "text": TextEncoder(TextConfig(vocabulary=101))}
    with torch.no_grad():
        for network in networks.values():
            for parameter in network.eval().requires_grad_(False).parameters():
                noise = torch.randn(parameter.shape, generator=generator) * 0.02
                parameter.copy_((parameter + noise).half().float())  # exact in half precision, as the files are
    return networks


@pytest.fixture(scope="session")
def random_model(tmp_path_factory, random_networks) -> Path:
    """A model folder as ``demo/pack.py`` writes it, of random weights, with the demo's own tokenizer."""
    from demo.pack import write_model
    from demo.tokens import Vocabulary

    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(ROOT / "demo" / "model" / "tokenizer", folder / "tokenizer")
    write_model(folder, random_networks, Vocabulary(folder / "tokenizer").rows, 1.25)
    return folder


@pytest.fixture
def embedded(random_model, monkeypatch) -> Path:
    """The random model in the place of the demo model."""
    from lib_blocktrain.hosts import demo_model

    monkeypatch.setattr(demo_model, "MODEL", random_model)
    return random_model


@pytest.fixture
def ldm_unet(monkeypatch):
    """Stability's ``UNetModel``. The package is installed alone; it wants omegaconf for the name of a type only."""
    module = pytest.importorskip("ldm.modules.diffusionmodules.openaimodel")
    monkeypatch.setitem(sys.modules, "omegaconf", ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.listconfig", SimpleNamespace(ListConfig=list))
    return module.UNetModel


@pytest.fixture(scope="session")
def browser():
    """Chromium: one for the session, since Playwright's synchronous calls can be started only once in a thread."""
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium-headless-shell)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=OPTIONS)
        yield browser
        browser.close()
