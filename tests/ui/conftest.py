"""A desk, a preview and a page on the fake host of `tests.fakes`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.ui.lora_controls import InitialState, LoraControls
from lib_blocktrain.ui.preview_handlers import PreviewHandlers
from lib_blocktrain.workspace.drawing import PreviewRenderer
from lib_blocktrain.workspace.jobs import Jobs
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.preset_store import PresetStore
from tests.fakes import FakeHost, Page, write_lora


@pytest.fixture
def host(tmp_path) -> FakeHost:
    host = FakeHost(tmp_path)
    assert isinstance(host, Host)
    write_lora(host.lora_dirs[0] / "robot.safetensors", ss_output_name="robot")
    write_lora(host.lora_dirs[0] / "style.safetensors")
    return host


@pytest.fixture
def library(host) -> LoraIndex:
    library = LoraIndex(lambda: host.lora_dirs)
    library.refresh()
    return library


@pytest.fixture
def desk(host, library) -> LoraControls:
    return LoraControls(host, library, PresetStore(lambda: host.presets_path), InitialState(lora="robot"))


@pytest.fixture
def jobs(host) -> Iterator[Jobs]:
    jobs = Jobs(host)
    yield jobs
    host.gate.set()
    jobs.close()


@pytest.fixture
def preview(host, desk, library, jobs) -> PreviewHandlers:
    return PreviewHandlers(host, desk, PreviewRenderer(host, library), jobs)


@pytest.fixture
def page(desk) -> Page:
    page = Page()
    page.take(desk.open(page.values))
    page.take({**desk.meet_model(page.values), "width": 64, "height": 64})  # less than the model's: quick
    return page
