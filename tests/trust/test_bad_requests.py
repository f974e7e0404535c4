"""Malformed requests to the API: each is answered, or refused with the reason, and never causes an error."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import strategies as st

from lib_blocktrain.api import run_config  # noqa: F401 - the first call imports it, which takes time
from lib_blocktrain.api.access import Access
from lib_blocktrain.api.routes import PREFIX, mount
from lib_blocktrain.hosts.host import Cancelled
from lib_blocktrain.runner import Runner
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, RunConfig
from lib_blocktrain.workspace import analyses
from tests.fakes import FakeHost, write_lora
from tests.trust.junk import JUNK, damaged_bytes, damaged_json
from tests.trust.tally import bounded, fuzz
from tests.trust.test_bad_input import RUN
from tests.trust.test_nothing_let_in import NAMES

ADDRESS = "http://127.0.0.1:7860"
LORA = {"name": "robot", "weights": "OUT=1,BASE=0.5", "multiplier": 0.8, "x": 0.5}
MASK = (  # white, of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)
PICTURE = base64.b64decode(MASK)
FEATURES = [{"box": [0.1, 0.1, 0.9, 0.9]}, {"mask": MASK}]
PREVIEW = {"prompt": "a robot", "negative": "", "seed": 3, "steps": 2, "cfg": 5.0, "sampler": "Euler"}
ANALYSE = {"lora": "robot", "method": "fast", "prompts": ["a robot"], "seeds": [0, 1], "cfg": 5.0, "weights": "ALL"}
BODIES = {
    "/presets/parse": {"text": "OUT=R", "architecture": "sd1", "seed": 1, "x": 0.5},
    "/prompt/write-weights": {"prompt": "a <lora:robot:1>", "weights": "robot: OUT=1"},
    "/prompt/fix-random": {"prompt": "<lora:robot:1:bw=R>", "parameters": "Steps: 2, Block weights: robot: 0.5"},
    "/prompt/tag": {
        "prompt": "a <lora:robot:1>",
        "position": 5,
        "change": {"strength": 0.5, "weights": "OUTD", "first": 2},
    },
    "/loras/recommend": {"name": "robot", "weights": "OUT=1", "source": "by hand", "canvas": 0.2},
    "/presets": {"name": "MINE", "weights": "OUT=1", "architecture": "sd1", "replace": True},
    "/preview": {**PREVIEW, "width": 64, "height": 64, "loras": [LORA], "answer": "json", "wait": 1},
    "/analyse": {
        **ANALYSE,
        "features": FEATURES,
        "width": 64,
        "height": 64,
        "multiplier": 1.0,
        "value": 0.0,
        "wait": 1,
    },
    "/runs": {"config": {**RUN, "dataset": {**RUN["dataset"], "folders": [{"path": "/pictures", "repeats": 2}]}}},
    "/sets": {"name": "mine", "repeats": 3},
    "/sets/robots/caption": {"picture": "robots/a.png", "text": "robot, hat", "stamp": ""},
    "/sets/robots/change": {
        "operation": {"op": "replace", "find": "robot", "replace": "hat", "whole_tag": True, "case": True},
        "pictures": ["robots/a.png"],
        "stamps": {"robots/a.png": ""},
        "preview": False,
    },
    "/sets/robots/mask": {"picture": "robots/a.png", "strokes": "[[0.2, 0.5, 0.5]]", "mode": "add", "remove": False},
    "/sets/robots/focus": {"picture": "robots/a.png", "focus": [0.5, 0.25]},
    "/sets/robots/repeats": {"repeats": 1, "label": "robots"},
    "/runs/old/stop": {"save": True},
    "/runs/old/weights": {"weights": "OUT=1"},
}
NAMED = (
    "/presets/{}",
    "/analyse/{}",
    "/runs/{}",
    "/runs/{}/files",
    "/runs/{}/files/metrics.jsonl",
    "/runs/old/files/{}",
    "/sets/{}",
    "/sets/{}/pictures",
    "/sets/{}/undo",
)
ASKED = {
    "/presets": ("architecture",),
    "/loras": ("search",),
    "/loras/inspect": ("name",),
    "/runs/old": ("since", "most"),
    "/sets/robots": ("size",),
    "/sets/robots/thumbnail": ("picture", "side"),
}
KINDS = (
    None,
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "image/png",
    "ü",
)


class Resting(Runner):
    """A runner whose runs wait for ever."""

    def begin(self) -> None:
        self.version += 1


class Server:
    """The API on a host of one LoRA and one run, and what lies on its disk."""

    def __init__(self, folder: Path):
        self.folder, self.host = folder, FakeHost(folder)
        write_lora(self.host.lora_dirs[0] / "robot.safetensors")
        run = runs.create(RunConfig("old", DatasetConfig((FolderConfig("x"),))), self.host.output_dir / "runs" / "old")
        run.add_metrics({"step": 1, "event": "stopped"})
        self.pictures = self.host.output_dir / "datasets"
        self.make_set()
        self.runner, app = Resting(self.host), FastAPI()
        mount(app, self.host, Access(), runner=lambda: self.runner)
        self.client = TestClient(app, base_url=ADDRESS)
        self.known = self.files()

    def make_set(self) -> None:
        folder = self.pictures / "robots" / "1_robots"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(PICTURE)

    def files(self) -> set[str]:
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}

    def clean(self) -> None:
        """Take away what requests that were taken have made; fail for anything but runs, presets, sets, a card."""
        made = self.files() - self.known
        allowed = ("out/runs/", "presets.txt", "out/datasets/", "out/blocktrain", "out/cache")
        made.discard("loras/robot.json")  # the card
        assert all(name.startswith(allowed) for name in made), made
        files = {path for path in self.pictures.rglob("*") if path.is_file()}
        assert {path.name for path in files} <= {"a.png", "a.txt", "a.mask.png", "blocktrain.json"}, files
        assert [path.read_bytes() for path in files if path.name == "a.png"] == [PICTURE]
        if files != {self.pictures / "robots" / "1_robots" / "a.png"} or len(list(self.pictures.iterdir())) > 1:
            shutil.rmtree(self.pictures)
            self.make_set()
        for path in (self.host.output_dir / "runs").iterdir():
            if path.name != "old":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.host.presets_path.unlink(missing_ok=True)
        (self.host.lora_dirs[0] / "robot.json").unlink(missing_ok=True)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    def found(host, request, report):
        raise Cancelled("what is asked can be asked")

    monkeypatch.setattr(analyses, "run_analysis", found)
    server = Server(tmp_path)
    yield server
    server.runner.close()


def judged(answer) -> str | None:
    """What was said against a request, None if it was taken; fail for an answer that is none of ours."""
    text = answer.text
    assert answer.status_code < 500, text
    assert "Traceback" not in text
    if answer.status_code < 400:
        return None
    said = answer.json()
    assert set(said) == {"error", "detail"}, said
    assert said["detail"].strip(), "it says nothing"
    assert len(said["detail"]) < 3000, said["detail"][:300]
    return said["detail"]


@contextmanager
def tried(tally, server: Server, name: str) -> Iterator[Callable[[object], str | None]]:
    """A case in bounded time and memory, after which nothing lies where it must not."""
    with tally.case(name) as case:

        def judge(answer) -> str | None:
            said = judged(answer)
            case.fault |= said is not None
            return said

        with bounded():
            yield judge
        server.clean()


@pytest.mark.parametrize("route", BODIES)
def test_damaged_bodies(tally, server, route):
    def check(body):
        with tried(tally, server, "bodies of requests") as judge:
            judge(server.client.post(PREFIX + route, content=json.dumps(body)))

    fuzz(damaged_json(BODIES[route]) | JUNK, check, tally.scale.examples // 4)


def places(value: object, at: tuple = ()) -> Iterator[tuple]:
    """Where in a body a value stands that is no other's container."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*at, key))
    if at and not isinstance(value, dict | list):
        yield at


def put(body: dict, at: tuple, value: object) -> dict:
    """The body with another value at a place."""
    copied = json.loads(json.dumps(body))
    inner = copied
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return copied


def names(said: str | None, *fields: object, value: object) -> bool:
    """Whether what was said has one of the fields, or the value; that a run rests is said of no value at all."""
    if said is None or said.startswith("old is stopped") or "not being trained" in said:
        return True
    shown = [repr(value)[1:12], str(value)[:12] or "nothing"]
    return any(isinstance(field, str) and field in said for field in fields) or any(text in said for text in shown)


@pytest.mark.parametrize("route", BODIES)
def test_one_wrong_value_is_named(tally, server, route):
    """Whoever sends one thing that is wrong is told which, by its field or by its value."""
    body = BODIES[route]

    def check(pair):
        at, value = pair
        with tried(tally, server, "bodies with one wrong value") as judge:
            said = judge(server.client.post(PREFIX + route, content=json.dumps(put(body, at, value))))
            assert names(said, *at[-2:], value=value), f"{at} = {value!r}: {said!r}"

    fuzz(st.tuples(st.sampled_from(list(places(body))), JUNK), check, tally.scale.examples // 4)


@pytest.mark.parametrize("route", BODIES)
def test_bodies_that_are_no_json(tally, server, route):
    valid = json.dumps(BODIES[route]).encode()

    def check(pair):
        content, kind = pair
        with tried(tally, server, "bodies of bytes") as judge:
            headers = {} if kind is None else {"Content-Type": kind.encode()}
            judge(server.client.post(PREFIX + route, content=content, headers=headers))

    fuzz(
        st.tuples(damaged_bytes([valid]) | st.binary(max_size=60), st.sampled_from(KINDS)), check, tally.scale.examples
    )


@pytest.mark.parametrize(
    "content",
    [b"[" * 500_000, b"{" * 500_000, b'{"a":' * 150_000, b" " * 2_000_000, b'{"text": "' + b"x" * 900_000 + b'"}',
     b'{"config": {"name": ' + b"9" * 900_000 + b"}}", b'{"config": ' + b"[" * 900 + b"]" * 900 + b"}",
     b"\0" * 900_000],
    ids=lambda content: f"{content[:12]!r} {len(content)}",
)  # fmt: skip
def test_enormous_bodies(tally, server, content):
    for route in BODIES:
        with tried(tally, server, "enormous bodies") as judge:
            assert judge(server.client.post(PREFIX + route, content=content))


def test_names_in_addresses(tally, server):
    """Of presets, runs, files and analyses, by every method."""

    def check(drawn):
        place, name, method = drawn
        with tried(tally, server, "names in addresses") as judge:
            path = PREFIX + place.format(quote(name, safe="", errors="surrogatepass"))
            judge_plain(server.client.request(method, path), judge)

    methods = st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"])
    fuzz(st.tuples(st.sampled_from(NAMED), NAMES, methods), check, tally.scale.examples)


def judge_plain(answer, judge: Callable[[object], object]) -> None:
    """Judge an answer; those to addresses and methods that are not ours are the framework's, and say little."""
    if answer.status_code in (404, 405) and (not answer.content or set(answer.json()) == {"detail"}):
        return
    judge(answer)


def test_questions_in_addresses(tally, server):
    def check(drawn):
        route, values = drawn
        with tried(tally, server, "questions in addresses") as judge:
            asked = zip(ASKED[route], values)
            query = "&".join(f"{name}={quote(str(value), errors='surrogatepass')}" for name, value in asked)
            said = judge(server.client.get(f"{PREFIX}{route}?{query}"))
            assert any(names(said, name, value=value) for name, value in zip(ASKED[route], values)), said

    values = st.tuples(NAMES | st.integers().map(str), NAMES | st.integers(-5, 20_000).map(str))
    fuzz(st.tuples(st.sampled_from(list(ASKED)), values), check, tally.scale.examples // 2)


def test_metrics_that_were_written_by_nobody(tally, server):
    """Damaged records are read past; what is shown of them is JSON."""
    path = server.host.output_dir / "runs" / "old" / "metrics.jsonl"
    row = {
        "step": 1,
        "loss": 0.5,
        "norms": {"OUT09": 1.0},
        "event": "started",
        "reason": "x",
        "published": "a.safetensors",
    }

    def check(rows):
        with tried(tally, server, "records of a run over HTTP") as judge:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
            judge(server.client.get(f"{PREFIX}/runs/old?since=0"))
            judge(server.client.get(f"{PREFIX}/runs"))

    fuzz(st.lists(damaged_json(row), max_size=3), check, tally.scale.examples // 4)
