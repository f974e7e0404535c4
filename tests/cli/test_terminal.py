"""What a file from outside has in its names and metadata is shown on the terminal, never obeyed by it."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from lib_blocktrain.cli import terminal
from lib_blocktrain.cli.main import main
from tests.fakes import write_lora

CLEAR, TITLE, CSI, TURNED = "\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "\u202e"
HOSTILE = f"robot{CLEAR}{TITLE}{CSI}{TURNED}\rfor sd1\x7f"
STEERS = "\x1b\x07\x9b\u202e\r\x7f"


@pytest.fixture
def hostile(tmp_path):
    """A LoRA whose name and metadata would clear the screen, set the window's title and forge a line."""
    path = tmp_path / "robot\x1b[31m\u202e\nfor sdxl.safetensors"
    try:
        write_lora(path, **{"ss_output_name": HOSTILE, "note": "a\n  rank: 4096", f"key{CLEAR}": "x"})
    except OSError:
        pytest.skip("no file can have this name here")
    return path


def test_inspect_shows_what_would_steer_the_terminal(hostile, capsys):
    assert main(["inspect", str(hostile)]) == 0
    shown = capsys.readouterr().out
    assert not set(STEERS) & set(shown)
    assert "\\u001b[2J\\u001b]0;owned\\u0007\\u009b31m\\u202e\\u000dfor sd1\\u007f" in shown
    assert "a\\n  rank: 4096" in shown
    assert shown.startswith("robot\\u001b[31m\\u202e\\nfor sdxl.safetensors: ")


def test_json_says_the_same(hostile, capsys):
    assert main(["inspect", str(hostile), "--json"]) == 0
    shown = capsys.readouterr().out
    assert not set(STEERS) & set(shown)
    assert json.loads(shown)["metadata"]["ss_output_name"] == HOSTILE


def test_an_error_shows_the_name(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / f"missing{CLEAR}{CSI}.safetensors")]) == 2
    shown = capsys.readouterr().err
    assert not set(STEERS) & set(shown)
    assert "missing\\u001b[2J\\u009b31m.safetensors" in shown


def test_the_log_shows_names_and_tracebacks():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(terminal.VisibleFormatter("%(message)s"))
    log = logging.Logger("of this test")
    log.addHandler(handler)
    log.warning("%s is broken", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
    assert not set(STEERS) & set(stream.getvalue())
    assert "\nTraceback" in stream.getvalue()


def test_the_commands_log_so(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    level = root.level
    try:
        terminal.log_to_stderr(logging.WARNING)
        logging.getLogger("lib_blocktrain.x").warning("a%sb", CLEAR)
    finally:
        root.setLevel(level)
    assert sys.stderr.getvalue() == "a\\u001b[2Jb\n"


def test_other_text_stays():
    text = "ein Röboter, ロボット, 🤖\n\tname: 1"
    assert terminal.visible(text) == text
    assert terminal.visible("\ud800").encode() == b"\\ud800"


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--json"]])
def test_a_stream_without_unicode_gets_every_character(tmp_path, monkeypatch, command):
    """Redirected on Windows, stdout is cp1252: the command's answer was lost in a traceback."""
    path = tmp_path / "robot.safetensors"
    write_lora(path, note="顔 \U0001f916")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "cp1252"))
    assert main([*command, str(path)]) == 0
    sys.stdout.flush()
    said = raw.getvalue().decode("cp1252")
    assert "\\u9854" in said
    if "--json" in command:
        assert "顔 \U0001f916" in str(json.loads(said))
