"""What the WebUIs have in common: steps of an image, checkpoints of runs by name, which WebUI this is."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from lib_blocktrain.hosts import live_picture
from lib_blocktrain.hosts.host import Cancelled
from lib_blocktrain.hosts.webui import integration
from lib_blocktrain.server import webui as webui_server
from tests.hosts.fake_webui import Processing, module


@pytest.fixture
def webui(monkeypatch, tmp_path):
    """Stand-ins of the modules that `steps` and `folders` import; those two are imported again inside, and after it."""
    state = SimpleNamespace(interrupted=False)
    state.interrupt = lambda: setattr(state, "interrupted", True)
    options = SimpleNamespace(data={"blocktrain_output_dir": str(tmp_path)})
    shared = module("modules.shared", state=state, opts=options, cmd_opts=SimpleNamespace(lora_dir="loras"))
    paths = module("modules.paths", data_path=str(tmp_path))
    contents = {"modules": module("modules", shared=shared, paths=paths), "modules.shared": shared}
    networks = module("networks", available_networks={}, available_network_aliases={"known": None})
    network = module("network", NetworkOnDisk=lambda name, path: SimpleNamespace(name=name, filename=path))
    for name, content in {**contents, "modules.paths": paths, "networks": networks, "network": network}.items():
        monkeypatch.setitem(sys.modules, name, content)
    for name in ("steps", "folders"):
        monkeypatch.delitem(sys.modules, f"lib_blocktrain.hosts.webui.{name}", raising=False)
    from lib_blocktrain.hosts.webui import folders, steps

    yield SimpleNamespace(steps=steps, folders=folders, shared=shared, networks=networks, root=tmp_path)
    for name in ("steps", "folders"):
        sys.modules.pop(f"lib_blocktrain.hosts.webui.{name}", None)
        vars(sys.modules["lib_blocktrain.hosts.webui"]).pop(name, None)


def denoiser(p, step: int, steps: int, total_steps: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(p=p, step=step, steps=steps, total_steps=total_steps)


@pytest.mark.parametrize(
    ("step", "steps", "total", "expected"), [(0, 4, None, 1), (3, 4, 4, 4), (5, 4, 8, 3), (0, None, None, 1)]
)
def test_step_counts_from_1_and_once_for_two_evaluations(webui, step, steps, total, expected):
    assert webui.steps.current_step(denoiser(None, step, steps, total)) == expected


def test_steps_reach_progress_until_it_raises(webui):
    seen, p = [], SimpleNamespace(steps=3)

    def progress(done, total):
        seen.append((done, total))
        if done == 1:
            raise Cancelled("enough")

    listener = webui.steps.listen(p, progress, None)
    for step in range(3):
        webui.steps.report_step(denoiser(p, step, 3))
    assert seen == [(0, 3), (1, 3)]
    assert webui.shared.state.interrupted
    assert isinstance(listener.error, Cancelled)


def test_live_pictures_are_the_webuis_own_where_it_makes_some(webui, monkeypatch):
    monkeypatch.setattr(live_picture, "INTERVAL", 0)
    monkeypatch.setattr(live_picture, "SHARE", 1)
    state, options, shown, p = webui.shared.state, webui.shared.opts, [], SimpleNamespace(steps=3)
    state.id_live_preview = 0

    def decode():
        state.id_live_preview += 1
        state.current_image = f"picture {state.id_live_preview}"

    state.do_set_current_image = decode
    for enabled, every in ((False, 10), (True, -1), (True, 10)):
        options.live_previews_enable, options.show_progress_every_n_steps = enabled, every
        webui.steps.listen(p, lambda done, total: None, shown.append)
        for step in range(3):
            webui.steps.report_step(denoiser(p, step, 3))
    assert shown == ["picture 1", "picture 2"]  # not before the first step, when it would be that of the last image
    state.do_set_current_image = lambda: None  # the WebUI notes its errors, and makes none
    webui.steps.report_step(denoiser(p, 1, 3))
    assert len(shown) == 2


def test_an_image_that_is_not_ours_is_left_alone(webui):
    webui.steps.report_step(denoiser(SimpleNamespace(steps=3), 0, 3))
    assert not webui.shared.state.interrupted


def test_the_newest_checkpoint_of_a_name_is_registered(webui):
    for age, run in enumerate(("new", "old")):
        for name in ("face-000100", "known"):
            path = webui.root / "runs" / run / "checkpoints" / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (1000 - age, 1000 - age))
    webui.folders.register_checkpoints({"face-000100", "known", "missing"})
    newest = webui.root / "runs" / "new" / "checkpoints" / "face-000100.safetensors"
    assert {name: entry.filename for name, entry in webui.networks.available_networks.items()} == {
        "face-000100": str(newest)
    }
    assert set(webui.networks.available_network_aliases) == {"known", "face-000100"}


def test_a_checkpoint_of_a_newer_run_or_none_replaces_the_one_found_first(webui):
    """The name is known then, and went on naming the first file, even after that was deleted."""
    paths = [webui.root / "runs" / run / "checkpoints" / "face-000100.safetensors" for run in ("first", "second")]
    for age, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 + age, 1000 + age))
        webui.folders.register_checkpoints({"face-000100"})
        entry = webui.networks.available_networks["face-000100"]
        assert entry.filename == str(path)
    webui.folders.register_checkpoints({"face-000100"})
    assert webui.networks.available_networks["face-000100"] is entry
    for path in paths:
        path.unlink()
    webui.folders.register_checkpoints({"face-000100"})
    assert (webui.networks.available_networks, set(webui.networks.available_network_aliases)) == ({}, {"known"})


@pytest.mark.parametrize(
    ("present", "by_parameter", "expected"),
    [
        ({"modules.sd_hijack", "modules.lowvram"}, False, "A1111"),
        ({"modules.sd_hijack", "modules.lowvram", "modules_forge", "backend"}, False, "Forge"),
        ({"modules.sd_hijack", "modules_forge", "backend"}, True, "Neo"),
        ({"modules.sd_hijack", "modules.lowvram", "modules_forge"}, False, "ReForge"),
        ({"modules.sd_hijack", "modules.sd_checkpoint"}, False, "SD.Next, which"),
        (set(), False, "found none of modules_forge"),
    ],
)
def test_detected_by_modules(monkeypatch, present, by_parameter, expected):
    monkeypatch.setattr(integration, "_can_import", lambda name: name in present)
    monkeypatch.setattr(integration, "_merges_by_parameter", lambda: by_parameter)
    if " " in expected:
        with pytest.raises(integration.UnknownWebUI, match=expected):
            integration.detect()
    else:
        assert type(integration.detect()).__name__ == expected


def test_steps_that_cannot_be_entered_are_said_once_an_image(webui, monkeypatch):
    """In its parameters, on the page and in the log, and not as a traceback for every step."""

    def enter_step(step):
        raise AttributeError("no such patches")

    monkeypatch.setattr(integration.Integration, "lora", SimpleNamespace(enter_step=enter_step))
    p = Processing(steps=3)
    for step in range(3):
        params = SimpleNamespace(denoiser=denoiser(p, step, 3), x=torch.zeros(1, 4, 8, 8), sampling_step=step)
        integration.Integration().on_cfg_denoiser(params)
    said = "weights over the steps, start= and stop= do not act: AttributeError: no such patches"
    assert p.extra_generation_params == {"Block weights problem": said}
    assert list(p.comments) == [f"Block weights: {said}"]


def test_the_accordions_text_is_for_the_api_only():
    """What the page pastes has its weights in the prompt by then."""
    parameters = {"Prompt": "cat <lora:face:1>", "Block weights": f"face: {','.join(['0.5'] * 26)}"}
    assert webui_server.accordion_text(parameters) == f"<lora:face>: {','.join(['0.5'] * 26)}"
    webui_server.paste(SimpleNamespace(presets=dict), parameters)
    assert webui_server.accordion_text(parameters) is None
    assert webui_server.accordion_text({"Prompt": "cat <lora:face:1>"}) is None
