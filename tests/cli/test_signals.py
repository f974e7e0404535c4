"""SIGTERM and SIGHUP end a command as Ctrl+C does: what is trained is saved, what was made for a while is removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lib_blocktrain.cli.commands import ProgressBar
from lib_blocktrain.cli.environment import missing
from lib_blocktrain.cli.signals import Ended, ended_by_signals

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [
    pytest.mark.skipif(bool(missing("tab")), reason=f"not installed: {', '.join(missing('tab'))}"),
    pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP, and no SIGTERM that a process could handle"),
]
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_server_leaves_no_uploads(number, tmp_path):
    """The status is 128 + the signal, SIGHUP acting as SIGTERM; the folder of uploads is removed."""
    server = subprocess.Popen(
        [sys.executable, "-m", "lib_blocktrain", "--no-browser", "--port", "0", "--lora-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "http://127.0.0.1:" in server.stdout.readline()
        assert [*tmp_path.glob("blocktrain-*")]
    finally:
        server.send_signal(number)
        _, errors = server.communicate(timeout=60)
    status = 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
    assert (server.returncode, errors) == (status, "blocktrain: stopped\n")
    assert not [*tmp_path.glob("blocktrain-*")]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_is_saved(number, terminal, config, random_model, tmp_path):
    """Also where the terminal is gone, so that nothing can be written to it."""
    from lib_blocktrain.training.config import dumps
    from lib_blocktrain.training.runs import open_run

    (tmp_path / "tiny.json").write_text(dumps(replace(config, steps=5000)), "utf-8")
    code = (
        "import sys; from pathlib import Path; from lib_blocktrain.hosts import demo_model;"
        "from lib_blocktrain.cli import environment, main as m;"
        f"demo_model.MODEL = Path({str(random_model)!r}); m.ensure = lambda *a: None; sys.exit(m.main(sys.argv[1:]))"
    )
    folder = tmp_path / "run"
    training = subprocess.Popen(
        [sys.executable, "-c", code, "train", str(tmp_path / "tiny.json"), "--out", str(folder), "--json"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and training.poll() is None and not _has_step(folder):
            time.sleep(0.05)
        if not terminal:
            training.stderr.close()
            training.stderr = None
        training.send_signal(number)
        out, _ = training.communicate(timeout=120)
    finally:
        training.kill()
    assert json.loads(out)["ended"] == "stopped"
    run = open_run(folder)
    assert run.load_state()["step"] == json.loads(out)["step"] > 0
    assert run.status == "stopped"


def _has_step(folder: Path) -> bool:
    metrics = folder / "metrics.jsonl"
    return metrics.exists() and '"loss"' in metrics.read_text("utf-8")


def test_closing_a_terminal_is_no_wish_to_stop_what_a_server_trains():
    """`train --url` asks the server to stop its run on KeyboardInterrupt only (docs/api.md)."""
    with pytest.raises(Ended) as ended, ended_by_signals():
        signal.raise_signal(signal.SIGHUP)
    assert not isinstance(ended.value, KeyboardInterrupt)
    assert ended.value.status == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_nohup_is_obeyed():
    """A SIGHUP that the caller ignores stays ignored."""
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from lib_blocktrain.cli.signals import ended_by_signals\n"
        "with ended_by_signals():\n    signal.raise_signal(signal.SIGHUP)\n    print('goes on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "goes on\n"


def test_a_progress_bar_ends_nothing(monkeypatch):
    """The terminal of a command is closed: what it showed there goes nowhere, and the command goes on."""

    def write(_text):
        raise OSError(5, "Input/output error")

    closed = type("Closed", (), {"isatty": lambda self: True, "write": staticmethod(write), "flush": lambda self: None})
    monkeypatch.setattr(sys, "stderr", closed())
    bar = ProgressBar("training")
    for step in range(3):
        bar(step + 1, 3)
