"""A standalone server in each of two environments, gradio 4.40 and 3.41.2, and a page in Chromium.

A test is run under gradio 4; under both if it is marked ``both_gradios``, since what it does goes through gradio's own
events and widgets in more than one way, and all of them are with ``BLOCKTRAIN_BROWSER=all``.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gradio3
from journeys import Opened, new_context, serving, write_loras

IN_BOTH = (  # tests that are in the run of all tests under gradio 3, too
    "test_the_first_preview_is_one_click",
    "test_from_a_word_to_a_preset_to_a_picture",
    "test_from_a_folder_to_preview",
)


def pytest_generate_tests(metafunc) -> None:
    if "python" in metafunc.fixturenames:
        both = os.environ.get("BLOCKTRAIN_BROWSER") == "all" or metafunc.definition.get_closest_marker("both_gradios")
        marks = () if metafunc.definition.originalname in IN_BOTH else pytest.mark.long
        gradios = ["gradio4", pytest.param("gradio3", marks=marks)] if both else ["gradio4"]
        metafunc.parametrize("python", gradios, indirect=True, scope="session")


@pytest.fixture(scope="session")
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
    with serving(python, random_model, folder, "--lora", "robot") as address:
        yield address, folder


@pytest.fixture(scope="session")
def contexts() -> list:
    """Contexts to be used again, since each has compiled gradio's scripts: that is a second of every opening."""
    return []


@contextmanager
def opening(contexts: list, browser, served: tuple[str, Path]) -> Iterator[Opened]:
    opened = Opened(None, *served, contexts.pop() if contexts else new_context(browser))
    yield opened
    stop_runs(served[0])
    opened.leave()
    contexts.append(opened.context)


def stop_runs(address: str) -> None:
    """End the runs that a test has left: the next one on this server would wait for the model."""
    place = f"{address.rstrip('/')}/blocktrain/v1/runs"
    with urllib.request.urlopen(place, timeout=20) as answer:
        runs = json.load(answer)["runs"]
    for run in runs:
        if run["state"] in ("preparing", "training"):
            asked = urllib.request.Request(f"{place}/{run['name']}/stop", b'{"save": false}', method="POST")
            asked.add_header("Content-Type", "application/json")
            urllib.request.urlopen(asked, timeout=20).close()


@pytest.fixture
def opened(contexts, browser, served) -> Iterator[Opened]:
    """The tab in a browser of its own; at the end nothing was logged as an error, and nothing asked elsewhere."""
    with opening(contexts, browser, served) as opened:
        yield opened


@pytest.fixture
def second(contexts, browser, served) -> Iterator[Opened]:
    """The same tab in another browser."""
    with opening(contexts, browser, served) as opened:
        yield opened
