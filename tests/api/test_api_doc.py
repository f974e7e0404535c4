"""Every command of docs/api.md, word for word, against a server with the standalone host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "browser"))

from journeys import write_loras
from PIL import Image

from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.runner import Runner

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "api.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:7860"  # in the text
PATIENCE = 180  # seconds

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def commands() -> list[str]:
    """What stands in the text for a shell, one command each; its own comments and line breaks in it."""
    lines = [line[4:] for line in TEXT.splitlines() if line.startswith("    ")]
    joined: list[str] = []
    for line in lines:
        if line.startswith("  "):
            joined[-1] += "\n" + line
        else:
            joined.append(line)
    return [command for command in joined if re.match(r"curl |[A-Z]+=", command)]


@pytest.fixture
def server(serve, listening, random_model, tmp_path) -> Iterator[tuple[str, Runner]]:
    folder = tmp_path / "standalone"
    folder.mkdir()
    write_loras(random_model, folder / "loras")
    host = StandaloneHost(output_dir=folder / "out", lora_dirs=[folder / "loras"])
    host.use(load_demo(random_model))
    runner = Runner(host)
    yield listening(serve(host=host, runner=lambda: runner)), runner
    runner.close()


def test_word_for_word(server, tmp_path):
    address, runner = server
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    (tmp_path / ".curlrc").write_text('silent\nshow-error\nfail-with-body\nnoproxy = "*"\n')
    variables, ran = [], 0
    for command in commands():
        if "curl" not in command:
            variables.append(command.replace(ADDRESS, address))
            continue
        if "/weights" in command or "/pause" in command:
            wait_for(runner, "training")
        if "/resume" in command:
            wait_for(runner, "paused")
        script = "\n".join([*variables, command])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if "/interrupt" in command and done.returncode:
            assert json.loads(done.stdout)["error"] == "conflict", command  # nothing goes on at that moment
        else:
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if "-o " not in command and "-O " not in command:
                json.loads(done.stdout)
        ran += 1
    assert ran >= 20
    with Image.open(tmp_path / "robot.png") as picture:
        assert "LoRA 1: robot" in picture.text["parameters"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert "started" in [row.get("event") for row in rows]


def wait_for(runner: Runner, state: str) -> None:
    """Wait until the newest run stands so, as a person would."""
    until = time.monotonic() + PATIENCE
    while (status := runner.status(runner.runs()[0])).state != state:
        assert time.monotonic() < until, status
        assert status.state not in ("failed", "diverged"), status
        time.sleep(0.1)
