"""The LoRA controls, the handlers of Preview and a page, on the fake host of `tests.fakes`."""

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
def lora_index(host) -> LoraIndex:
    lora_index = LoraIndex(lambda: host.lora_dirs)
    lora_index.refresh()
    return lora_index


@pytest.fixture
def controls(host, lora_index) -> LoraControls:
    return LoraControls(host, lora_index, PresetStore(lambda: host.presets_path), InitialState(lora="robot"))


@pytest.fixture
def jobs(host) -> Iterator[Jobs]:
    jobs = Jobs(host)
    yield jobs
    host.gate.set()
    jobs.close()


@pytest.fixture
def preview(host, controls, lora_index, jobs) -> PreviewHandlers:
    return PreviewHandlers(host, controls, PreviewRenderer(host, lora_index), jobs)


@pytest.fixture
def page(controls) -> Page:
    page = Page()
    page.take(controls.open(page.values))
    page.take({**controls.show_model(page.values), "width": 64, "height": 64})  # less than the model's: quick
    page.take(controls.follow_model(page.values))
    return page
