"""What a WebUI expects of an extension: passwords, Reload UI, being disabled, a change of checkpoint meanwhile."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.error
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

from lib_blocktrain.training.status import ACTIVE_STATES
from tests.webui.process import PATIENCE, TRAINS
from tests.webui.running import LORA
from tests.webui.test_model import run, write_pictures

PROMPT = "a photo of a fox"
TAG = f"{PROMPT} <lora:{LORA}:1:bw=OUTD>"
MINE = {"name": "MINE", "weights": "OUT=1", "architecture": "sd1", "replace": True}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def refused(webui, route: str, body: dict | None = None) -> tuple[int, str]:
    """Return the status and the message of a refusal."""
    with pytest.raises(urllib.error.HTTPError) as answer:
        webui.call(f"/blocktrain/v1{route}", body)
    said = json.loads(answer.value.read())
    return answer.value.code, said["detail"]


def wait_until(there, what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < until, f"not {what} after {PATIENCE:g} s"
        time.sleep(0.2)


def trains(webui, name: str, after: int = 1) -> dict:
    """Wait until a run has made more steps than `after`, and return its status."""
    until = time.monotonic() + PATIENCE
    while (found := webui.standing(name))["step"] <= after or found["state"] != "training":
        assert time.monotonic() < until, found
        assert found["state"] in ("waiting", *ACTIVE_STATES), found
        time.sleep(0.2)
    return found


def loaded(webui) -> str:
    """Return the name of the checkpoint that pictures are drawn with."""
    webui.pixels(PROMPT)
    return webui.inside("checkpoint")


def once(webui) -> dict[str, int]:
    """Return how often this extension is registered in each of the WebUI's lists."""
    patches = {"a1111": 4, "forge": 2, "ersatz": 2}.get(webui.kind, 3)
    return {"callbacks": 7, "scripts": 1, "patches": patches, "axes": 5, "axes twice": 0}


def restart(webui) -> None:
    """Reload the UI, and wait until it is back."""
    starts = webui.log.read_text(errors="replace").count("Startup time")
    webui.inside("restart")
    wait_until(lambda: webui.log.read_text(errors="replace").count("Startup time") > starts, "reloaded")


@pytest.mark.kinds("a1111", *TRAINS)
def test_another_checkpoint_in_the_middle_of_a_run(weighed, exported, pictures):
    """It waits for the run, which cannot be resumed on it: the message names the run's own checkpoint.

    Forge and its forks note the choice at once, and load the checkpoint for the next picture or run.
    """
    other = exported.with_name("blocktrain-other.safetensors")
    for file in filter(Path.exists, map(exported.with_suffix, (".safetensors", ".yaml"))):
        shutil.copy(file, other.with_suffix(file.suffix))
    weighed.call("/sdapi/v1/refresh-checkpoints", {})
    name = weighed.call("/blocktrain/v1/runs", {"config": run(pictures, name="long", steps=2000, samples={})})["name"]
    trains(weighed, name)
    choosing = threading.Thread(target=weighed.use_checkpoint, args=[other.name])
    choosing.start()
    trains(weighed, name, weighed.standing(name)["step"] + 2)
    if weighed.kind == "a1111":
        assert choosing.is_alive()
    assert weighed.inside("checkpoint") == exported.stem
    weighed.call(f"/blocktrain/v1/runs/{name}/stop", {})
    assert weighed.ended(name)["state"] == "stopped"
    choosing.join(PATIENCE)
    try:
        assert loaded(weighed) == other.stem
        weighed.call(f"/blocktrain/v1/runs/{name}/resume", {})
        resumed = weighed.ended(name)
        assert resumed["state"] == "failed"
        assert f"started on '{exported.stem}', and '{other.stem}' is loaded" in resumed["reason"]
    finally:
        weighed.use_checkpoint(exported.name)
    weighed.call(f"/blocktrain/v1/runs/{name}/resume", {})
    trains(weighed, name, resumed["step"])
    weighed.call(f"/blocktrain/v1/runs/{name}/stop", {})
    assert weighed.ended(name)["state"] == "stopped"


@pytest.mark.kinds("a1111", *TRAINS)
def test_another_checkpoint_in_the_middle_of_an_analysis_and_a_preview(weighed, exported):
    """Both end on the model that they started with, and leave no trace in either."""
    other = exported.with_name("blocktrain-other.safetensors")
    before = weighed.inside("fingerprint")
    asked = {"prompt": PROMPT, "steps": 60, "width": 64, "height": 64, "loras": [{"name": LORA, "weights": "OUTD"}]}
    for work in (
        lambda: weighed.call("/blocktrain/v1/preview", asked)["model"],
        lambda: weighed.analysed(LORA, method="fast", prompts=[PROMPT])["state"],
    ):
        answers: list[str] = []
        working = threading.Thread(target=lambda work=work, answers=answers: answers.append(work()))
        working.start()
        wait_until(lambda: weighed.call("/blocktrain/v1/progress")["busy"], "begun")
        weighed.use_checkpoint(other.name)
        working.join(PATIENCE)
        assert answers in ([exported.stem], ["done"])
        assert loaded(weighed) == other.stem
        weighed.use_checkpoint(exported.name)
        assert loaded(weighed) == exported.stem
    after = weighed.inside("fingerprint")
    tensors = [found.pop("tensors") for found in (before, after)]
    assert [name for name in tensors[0] if tensors[0][name] != tensors[1].get(name)] == []
    assert {name: after[name] for name in after if name != "networks"} == {
        name: before[name] for name in before if name != "networks"
    }


@pytest.fixture(scope="module")
def guarded(another, exported):
    """A WebUI with passwords, for its API and for its page."""
    with another("--api-auth=api:secret", "--gradio-auth=page:word", auth="api:secret") as found:
        found.use_checkpoint(exported.name)
        yield found


def test_passwords(guarded):
    """Either password and the page's own login give access; nothing else does."""
    assert guarded.call("/blocktrain/v1/presets")["presets"]
    assert guarded.called_as("page:word", "/blocktrain/v1/runs")["runs"] == []
    for auth in (None, "api:wrong", "page:secret"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            guarded.called_as(auth, "/blocktrain/v1/runs")
    login = urllib.parse.urlencode({"username": "page", "password": "word"}).encode()
    assert guarded.logged_in(login, "/blocktrain/v1/presets", MINE)["done"] == "saved MINE"
    wrong = urllib.parse.urlencode({"username": "page", "password": "no"}).encode()
    with pytest.raises(urllib.error.HTTPError, match=r"40[01]"):
        guarded.logged_in(wrong, "/blocktrain/v1/presets", MINE)
    paths = guarded.call("/openapi.json")["paths"]
    assert paths["/blocktrain/v1/runs"]["post"]["security"] == [{"HTTPBasic": []}]


@pytest.mark.kinds("a1111", *TRAINS)
def test_reload_ui(guarded, pictures):
    """It interrupts, which pauses a run. Afterwards everything is registered once, and the run can be resumed."""
    before, threads = guarded.pixels(TAG), guarded.inside("threads")
    name = guarded.call("/blocktrain/v1/runs", {"config": run(pictures, name="long", steps=5000, samples={})})["name"]
    trains(guarded, name)
    for _ in range(2):
        restart(guarded)
        assert guarded.inside("registered") == once(guarded)
        paused = guarded.ended(name)
        assert paused["state"] == "paused"
        guarded.call(f"/blocktrain/v1/runs/{name}/resume", {})
        trains(guarded, name, paused["step"])
    guarded.call(f"/blocktrain/v1/runs/{name}/stop", {})
    assert guarded.ended(name)["state"] == "stopped"
    assert np.array_equal(guarded.pixels(TAG), before)
    ours = {thread for thread in guarded.inside("threads") if "blocktrain" in thread}
    assert len(ours) <= len({thread for thread in threads if "blocktrain" in thread}) + 2


def test_switched_off(guarded):
    """Nothing of it is left after the reload; enabled again, everything is registered once."""
    plain = guarded.pixels(TAG.replace(":bw=OUTD", ""))
    weighed = guarded.pixels(TAG)
    assert guarded.inside("replaced_functions")
    guarded.call("/sdapi/v1/options", {"disabled_extensions": ["sd-webui-blocktrain"]})
    try:
        restart(guarded)
        assert guarded.inside("registered") == dict.fromkeys(once(guarded), 0)
        assert not guarded.inside("replaced_functions")
        assert not [path for path in guarded.call("/openapi.json")["paths"] if path.startswith("/blocktrain/v1")]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            guarded.call("/blocktrain/v1/presets")
        assert np.array_equal(guarded.pixels(TAG.replace(":bw=OUTD", "")), plain)
    finally:
        guarded.call("/sdapi/v1/options", {"disabled_extensions": []})
        restart(guarded)
    assert guarded.inside("registered") == once(guarded)
    assert np.array_equal(guarded.pixels(TAG), weighed)


@pytest.fixture(scope="module")
def listening(another, exported):
    """A WebUI that listens to other machines without a password."""
    with another("--listen") as found:
        found.use_checkpoint(exported.name)
        yield found


def test_listening_without_a_password(listening, pictures):
    """Reading and drawing work as in the WebUI itself; what changes anything is off, and says how to enable it."""
    assert listening.call("/blocktrain/v1/presets")["presets"]
    asked = {"prompt": PROMPT, "steps": 1, "width": 64, "height": 64}
    assert listening.call("/blocktrain/v1/preview", asked)["size"] == [64, 64]
    for route, body in (
        ("/presets", MINE),
        ("/runs", {"config": run(pictures)}),
        ("/runs/x/stop", {}),
        ("/interrupt", {}),
    ):
        status, said = refused(listening, route, body)
        assert status == 403
        assert "--api-auth USER:PASSWORD" in said
        assert "blocktrain_api_open" in said
    listening.call("/sdapi/v1/options", {"blocktrain_api_open": True})
    assert listening.call("/blocktrain/v1/presets", MINE)["done"] == "saved MINE"
    status, said = refused(listening, "/runs", {"config": run(pictures)})
    assert status == 400
    assert "blocktrain_dataset_dirs" in said
