"""A desk, a preview and a page on the fake host of ``tests_ui``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tests_ui import FakeHost, Page, write_lora

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.ui.desk import Desk, First
from lib_blocktrain.ui.drawing import Studio
from lib_blocktrain.ui.jobs import Jobs
from lib_blocktrain.ui.library import Library
from lib_blocktrain.ui.preview import Preview
from lib_blocktrain.ui.shelf import Shelf


@pytest.fixture
def host(tmp_path) -> FakeHost:
    host = FakeHost(tmp_path)
    assert isinstance(host, Host)
    write_lora(host.lora_dirs[0] / "robot.safetensors", ss_output_name="robot")
    write_lora(host.lora_dirs[0] / "style.safetensors")
    return host


@pytest.fixture
def library(host) -> Library:
    library = Library(lambda: host.lora_dirs)
    library.refresh()
    return library


@pytest.fixture
def desk(host, library) -> Desk:
    return Desk(host, library, Shelf(lambda: host.presets_path), First(lora="robot"))


@pytest.fixture
def jobs(host) -> Iterator[Jobs]:
    jobs = Jobs(host)
    yield jobs
    host.gate.set()
    jobs.close()


@pytest.fixture
def preview(host, desk, library, jobs) -> Preview:
    return Preview(host, desk, Studio(host, library), jobs)


@pytest.fixture
def page(desk) -> Page:
    page = Page()
    page.take(desk.open(page.values))
    page.take({**desk.meet_model(page.values), "width": 64, "height": 64})  # less than the model's: quick
    return page
