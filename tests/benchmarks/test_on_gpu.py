"""The benchmark for a machine with a GPU, on a CPU: all of its parts in miniature, and that it may stop at any time."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks import on_gpu
from benchmarks.gpu import wheels
from benchmarks.gpu.parts import BY_NAME, PARTS, Clock, share
from benchmarks.gpu.results import PASSED, Reporter, Results, read_event

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent.parent
SLOW = {"compile"}  # traces the whole U-Net; its program has a test of its own


@pytest.fixture
def results() -> Results:
    return Results(["hooks", "vae", "analysis"], {})


def arguments(folder: Path, minutes: float = 1.0) -> argparse.Namespace:
    return argparse.Namespace(minutes=minutes, dry_run=True, out=folder)


@pytest.mark.skipif(
    os.environ.get("BLOCKTRAIN_GPU") != "all", reason="takes a minute and a half: set BLOCKTRAIN_GPU=all"
)
def test_dry_run_does_every_part(tmp_path):
    for package in ("diffusers", "transformers"):
        pytest.importorskip(package)
    parts = [part.name for part in PARTS if part.name not in SLOW]
    command = [sys.executable, "benchmarks/on_gpu.py", "--dry-run", "--minutes", "9", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--parts", ",".join(parts)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert {name: part["state"] for name, part in found["parts"].items()} == dict.fromkeys(parts, "done")
    assert not found["failures"]
    tables = [table for part in found["parts"].values() for table in part["tables"].values()]
    rows = [row for table in tables for row in table.get("rows", ())]
    assert sum(row.get(PASSED) is True for row in rows) >= 20
    markdown = (tmp_path / "tables.md").read_text("utf-8")
    assert all(f"### {BY_NAME[name].title}" in markdown for name in parts)


def test_a_wrong_result_is_seen(monkeypatch, capsys):
    """Weights that are not merged are another reference than hooks, and the check says so."""
    pytest.importorskip("diffusers")
    import torch

    from benchmarks.gpu import checks
    from tests.tiny_models import diffusers_unet

    unet = diffusers_unet()
    network = checks.some_network(unet, "lora")
    monkeypatch.setattr(checks, "predicted", lambda unet, side: unet(*inputs, return_dict=False)[0].detach())
    inputs = torch.ones(1, 4, 16, 16), torch.tensor([500]), torch.ones(1, 7, 24)
    for reference in (checks.merged, lambda *_: nullcontext()):
        monkeypatch.setattr(checks, "merged", reference)
        checks._compare(Reporter(), unet, network, 16, "fp32", "lora")
    first, second = (read_event(line)["cells"][PASSED] for line in capsys.readouterr().out.splitlines())
    assert first
    assert not second


def fake_workers(monkeypatch, *scripts: str) -> list[list[str]]:
    """Let workers be these scripts, one after the other; return the parts that each was given."""
    given: list[list[str]] = []

    def start(names, seconds, dry, packages):
        given.append(list(names))
        script = (
            f"from benchmarks.gpu.results import Reporter\nimport os, time\nr = Reporter()\n{scripts[len(given) - 1]}"
        )
        return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(on_gpu, "start", start)
    return given


BEGIN = "r.send('begin', part={0!r}, state='running', limit={1})\n"
END = "r.send('end', part={0!r}, state='done', seconds=1)\n"


def test_a_part_that_ends_its_process_costs_only_itself(monkeypatch, results, tmp_path):
    crash = BEGIN.format("hooks", 9) + "r.row('A', x=1.5)\nos._exit(3)"
    rest = "".join(BEGIN.format(name, 9) + END.format(name) for name in ("vae", "analysis"))
    given = fake_workers(monkeypatch, crash, rest)
    on_gpu.run(results, arguments(tmp_path))
    assert given == [["hooks", "vae", "analysis"], ["vae", "analysis"]]
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))["parts"]
    assert [part["state"] for part in found.values()] == ["stopped", "done", "done"]
    assert "exit code 3" in found["hooks"]["reason"]
    assert found["hooks"]["tables"]["A"]["rows"] == [{"x": 1.5}]
    assert "| 1.5 |" in (tmp_path / "tables.md").read_text("utf-8")


def test_a_part_that_hangs_is_killed(monkeypatch, results, tmp_path):
    monkeypatch.setattr(on_gpu, "GRACE", 1.0)
    hangs = BEGIN.format("hooks", 0.5) + "time.sleep(600)"
    rest = "".join(BEGIN.format(name, 30) + END.format(name) for name in ("vae", "analysis"))
    fake_workers(monkeypatch, hangs, rest)
    began = time.monotonic()
    on_gpu.run(results, arguments(tmp_path))
    assert time.monotonic() - began < 60
    assert [part["state"] for part in results.parts.values()] == ["stopped", "done", "done"]


def test_a_worker_that_cannot_start_is_said_once(monkeypatch, results, tmp_path, capsys):
    fake_workers(monkeypatch, "os._exit(1)")
    on_gpu.run(results, arguments(tmp_path))
    assert {part["state"] for part in results.parts.values()} == {"failed"}
    assert "exit code 1" in capsys.readouterr().out


def test_files_are_whole_when_it_is_stopped(tmp_path):
    """Stopped after its first row, the JSON is read and the tables have that row."""
    pytest.importorskip("diffusers")
    command = [sys.executable, "-u", "benchmarks/on_gpu.py", "--dry-run", "--parts", "vae,gradients", "--out"]
    process = subprocess.Popen([*command, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert any("VAE holds" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))["parts"]
    assert found["vae"]["tables"]
    assert found["gradients"]["state"] in ("waiting", "running")
    assert "holds in fp16" in (tmp_path / "tables.md").read_text("utf-8")


def test_what_lacks_a_package_is_said_and_skipped(monkeypatch, capsys):
    pytest.importorskip("diffusers")
    from benchmarks.gpu import worker
    from benchmarks.gpu.parts import Part
    from benchmarks.gpu.sizes import DRY

    worker.do(Part("vae", "VAE", 1, "checks:vae", ("torch", "no_such_package")), Reporter(), DRY, 5.0)
    end = read_event(capsys.readouterr().out.splitlines()[-1])
    assert (end["state"], end["reason"]) == ("skipped", "not installed: no_such_package")


def test_what_fails_is_said_and_is_wrong(monkeypatch, capsys):
    pytest.importorskip("diffusers")
    from benchmarks.gpu import checks, worker
    from benchmarks.gpu.sizes import DRY

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(checks, "vae", broken)
    worker.do(BY_NAME["vae"], Reporter(), DRY, 5.0)
    results = Results(["vae"], {})
    for line in capsys.readouterr().out.splitlines():
        results.take("vae", read_event(line))
    assert results.failures == ["vae: RuntimeError: CUDA error: misaligned address"]
    assert "broken" in "".join(results.parts["vae"]["traceback"])


def test_time_that_is_not_used_goes_to_the_others():
    assert share(PARTS[0], PARTS, 480) == pytest.approx(480 * PARTS[0].seconds / sum(p.seconds for p in PARTS))
    assert share(PARTS[-1], PARTS[-1:], 480) == 480
    clock = Clock(0.01)
    time.sleep(0.02)
    assert clock.over


def test_wheels_of_what_is_there_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match="no wheels"):
        wheels.missing(tmp_path)
    for name in ("torch-2.9.0-cp311", "nvidia_cublas-1-py3", "pillow-10.4.0-cp311", "no_such-1.0-py3-none-any"):
        (tmp_path / f"{name}.whl").touch()
    assert wheels.missing(tmp_path) == ["no_such"]
    (failed,) = wheels.install(tmp_path, tmp_path / "packages")
    assert failed.startswith("no_such: ")
