"""`python -m lib_blocktrain` as typed: a server at 127.0.0.1 that stops on request."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lib_blocktrain.cli.environment import missing

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-m", "lib_blocktrain"]

pytestmark = pytest.mark.skipif(bool(missing("tab")), reason=f"not installed: {', '.join(missing('tab'))}")


def test_it_serves_and_ends(tmp_path):
    command = [*COMMAND, "--no-browser", "--port", "0", "--lora-dir", str(tmp_path)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        address = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        with urllib.request.urlopen(address, timeout=60) as page:
            assert b"gradio" in page.read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}), timeout=60)
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert "Traceback" not in errors


@pytest.mark.parametrize("option", ["--checkpoint", "--lora-dir"])
def test_a_mistyped_path_is_said(option, tmp_path):
    command = [*COMMAND, "--no-browser", option, str(tmp_path / "nosuch")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert "nosuch" in result.stderr
    assert "Traceback" not in result.stderr
