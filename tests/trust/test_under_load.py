"""Ten clients of the standalone server preview, analyse and look, over HTTP, while runs are trained and paused."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("gradio")

import uvicorn
from torch import nn

from lib_blocktrain.api.routes import PREFIX
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.server.app import application, build, listen
from lib_blocktrain.training.config_json import write
from tests.browser.journeys import write_loras
from tests.trust.whole import Whole

CLIENTS = 10
PATIENCE = 300  # seconds for one answer: longer than any, so that only a deadlock fails by it
MOST_MEANWHILE = 150  # answers to others while the page is asked for
STEPS = 6
AGAIN = 0.5  # seconds until somebody who was told "busy" asks for something else
LOOKS = (
    "/",
    f"{PREFIX}/progress",
    f"{PREFIX}/runs",
    f"{PREFIX}/runs/{{run}}?since=1",
    f"{PREFIX}/loras",
    f"{PREFIX}/presets",
)
SMALL = {"width": 64, "height": 64}
LORA = {"name": "robot", "weights": "OUT=1,BASE=0"}
PREVIEWS = (
    {"prompt": "a fox", "steps": 2, "seed": 1, **SMALL},
    {"prompt": "a robot", "steps": 2, "seed": 2, **SMALL, "loras": [LORA]},
    {"prompt": "a robot", "steps": 2, "seed": 2, **SMALL, "loras": [{**LORA, "weights": "IN=1,BASE=0.5"}]},
)
ANALYSES = (
    {"lora": "robot", "method": "norms"},
    {"lora": "style", "method": "fast", "prompts": ["a robot"], "seeds": [0], **SMALL},
)


class Queue:
    """Who holds a host's queue, and which layer was called by anybody else."""

    def __init__(self, host: StandaloneHost, unet: nn.Module):
        self._layers = {id(module) for module in unet.modules()}
        self._enter, host.queued = host.queued, self.queued
        self.holder, self.calls, self.strangers = None, 0, 0

    @contextmanager
    def queued(self) -> Iterator[None]:
        with self._enter():
            self.holder = threading.get_ident()
            try:
                yield
            finally:
                self.holder = None

    def called(self, module: nn.Module, inputs: object) -> None:
        if id(module) in self._layers:
            self.calls += 1
            self.strangers += self.holder != threading.get_ident()


class Server:
    """The standalone server at a port of this machine."""

    def __init__(self, host: StandaloneHost):
        blocks, self.tab = build(host)
        listener = listen(0)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            application(blocks, self.tab, self.port), log_level="error", timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        self.answered = self.right = 0

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError as error:
            raise AssertionError(f"no answer to {method} {path} in {PATIENCE} seconds") from error
        finally:
            connection.close()
        self.answered += 1
        return answer.status, json.loads(content) if path.startswith(PREFIX) and "files" not in path else content

    def told(self, method: str, path: str, body: object = None) -> Any:
        """What is answered to a request that must be taken."""
        status, content = self.ask(method, PREFIX + path, body)
        assert status in (200, 202), content
        return content

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self.tab.close()
        self.tab.runner.close()


@pytest.fixture
def host(random_model, tmp_path) -> StandaloneHost:
    write_loras(random_model, tmp_path / "loras")
    host = StandaloneHost(output_dir=tmp_path / "out", lora_dirs=(tmp_path / "loras",))
    host.use(load_demo(random_model))
    return host


@pytest.fixture
def server(host) -> Iterator[Server]:
    server = Server(host)
    yield server
    server.close()


def preview(server: Server, body: dict, wait: float) -> tuple[int, Any]:
    status, answer = server.ask("POST", f"{PREFIX}/preview", {**body, "wait": wait})
    return status, (answer["image"], answer["parameters"]) if status == 200 else answer


def analyse(server: Server, body: dict, wait: float) -> tuple[int, Any]:
    """The figures of an analysis; the time that it took is its own."""
    status, answer = server.ask("POST", f"{PREFIX}/analyse", {**body, "wait": wait})
    if status != 202:
        return status, answer
    end = time.monotonic() + PATIENCE
    while (found := server.told("GET", f"/analyse/{answer['job']}"))["state"] == "running":
        assert time.monotonic() < end, "the analysis does not end"
        time.sleep(0.05)
    assert found["state"] == "done", found
    return 200, [{**analysis, "seconds": None} for analysis in found["analyses"]]


QUESTIONS: tuple[tuple[Callable, dict], ...] = (
    *((preview, body) for body in PREVIEWS),
    *((analyse, body) for body in ANALYSES),
)


def trained(server: Server, config: dict, then: Callable[[str], object] = lambda name: None) -> bytes:
    """Train a run to its end, whatever is done to it on the way; return its file."""
    name = server.told("POST", "/runs", {"config": config})["name"]
    then(name)
    end = time.monotonic() + PATIENCE
    while (run := server.told("GET", f"/runs/{name}?most=1")["run"])["state"] != "finished":
        assert time.monotonic() < end, run
        assert run["state"] not in ("failed", "diverged"), run
        if run["state"] == "paused":
            server.told("POST", f"/runs/{name}/resume")
        time.sleep(0.05)
    content = server.ask("GET", f"{PREFIX}/runs/{name}/files/{config['name']}.safetensors")[1]
    return content[8 + int.from_bytes(content[:8], "little") :]  # behind the header, in which are the times


def paused(server: Server, name: str) -> None:
    """Pause a run once, if it is not over before."""
    status, answer = server.ask("POST", f"{PREFIX}/runs/{name}/pause")
    assert status in (200, 409), answer


def client(server: Server, number: int, requests: int, expected: list, run: Callable[[], str]) -> Counter:
    """One client's requests: how many were right, busy, or looks; fail for any other."""
    rng, counted = random.Random(number), Counter()
    for _ in range(requests):
        if rng.random() < 0.5:
            place = rng.randrange(len(QUESTIONS))
            ask, body = QUESTIONS[place]
            status, answer = ask(server, body, rng.choice([0, 0.5, 5]))
            if status == 200:
                assert answer == expected[place], f"{body}: not the answer of a quiet server"
                counted["right"] += 1
                server.right += 1
            else:
                assert (status, answer["error"]) == (409, "busy"), answer
                assert len(answer["detail"]) > 20
                counted["busy"] += 1
                time.sleep(AGAIN)
        else:
            before = server.answered
            path = rng.choice(LOOKS).replace("{run}", run())
            status, _ = server.ask("GET", path)
            assert status == 200, path
            counted["looks"] += 1
            counted["meanwhile"] = max(counted["meanwhile"], server.answered - before)
    return counted


@pytest.mark.long
def test_ten_clients(tally, server, host, config, monkeypatch):
    model = host.model()
    whole = Whole({"unet": model.unet, "vae": model.pipeline.vae, **model.text_encoders})
    queue = Queue(host, model.unet)
    asked = write(config)
    asked.update(name="quiet", steps=STEPS, save_every=2)
    for folder in asked["dataset"]["folders"]:
        folder["path"] = str(Path(folder["path"]).resolve())
    expected = [ask(server, body, 60)[1] for ask, body in QUESTIONS]
    assert [ask(server, body, 60)[1] for ask, body in QUESTIONS] == expected, "it does not repeat itself when quiet"
    quiet = trained(server, asked)
    hook = nn.modules.module.register_module_forward_pre_hook(queue.called)
    try:
        with ThreadPoolExecutor(CLIENTS) as clients:
            last = next(run["name"] for run in server.told("GET", "/runs")["runs"])
            work = [
                clients.submit(client, server, number, tally.scale.requests, expected, lambda: last)
                for number in range(CLIENTS)
            ]
            rounds = 0
            while rounds == 0 or not all(one.done() for one in work):
                found = trained(server, {**asked, "name": f"loud-{rounds}"}, lambda name: paused(server, name))
                assert found == quiet, "the run did not end as it does when nobody else is there"
                rounds, before = rounds + 1, server.right
                while server.right < before + CLIENTS and not all(one.done() for one in work):
                    time.sleep(0.05)  # the others' turn
            counted = sum((one.result() for one in work), Counter())
            meanwhile = max(one.result()["meanwhile"] for one in work)
    finally:
        hook.remove()
    with tally.case("requests under load"):
        assert queue.strangers == 0, "a layer was called by somebody who did not hold the queue"
        assert queue.calls > 1000
        assert counted["right"] > 0
        assert counted["busy"] > 0
        assert meanwhile <= MOST_MEANWHILE, "the page was kept waiting"
        assert [ask(server, body, 60)[1] for ask, body in QUESTIONS] == expected
        whole.check()
    requests = sum(counted[name] for name in ("right", "busy", "looks"))
    tally.rows["requests under load"].cases += requests - 1
    tally.measured.append(
        f"under load: {CLIENTS} clients, {requests} requests, {counted['right']} drawn or analysed, all right,"
        f" {counted['busy']} busy, {counted['looks']} looks, with at most {meanwhile} answers to others meanwhile;"
        f" {rounds} runs trained meanwhile, all with the bytes of a quiet one"
    )
