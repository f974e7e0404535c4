"""The chip in the header: which run it names, and in which state."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_blocktrain.ui.job_chip import JobChip

ROOT = Path(__file__).resolve().parent.parent.parent


def chip(state: str) -> str:
    """The chip of a held queue with one run in this state."""
    run = SimpleNamespace(folder=Path("runs/robot"), config=SimpleNamespace(name="robot"))
    runner = SimpleNamespace(
        current=None, held=True, queue=lambda: [run], status=lambda _run: SimpleNamespace(state=state)
    )
    return str(JobChip(runner).poll({})["job_chip"])


@pytest.mark.parametrize("state", ["paused", "waiting"])
def test_a_held_queue_is_in_the_state_of_its_first_run(state):
    """A paused run was called waiting here, and paused in Runs."""
    assert f'data-state="{state}"' in chip(state)
    assert f">{state}<" in chip(state)


def test_no_emoji_on_the_page():
    """A pause sign was an orange emoji in the header: signs are icons, or characters of every text font."""
    emoji = re.compile("[\u231a-\u231b\u23e9-\u23fa\ufe0f\U0001f000-\U0001faff]")
    files = [*ROOT.glob("lib_blocktrain/ui/*.py"), *ROOT.glob("javascript/*.js"), ROOT / "style.css"]
    found = {file.name: emoji.findall(file.read_text("utf-8")) for file in files}
    assert not {name: signs for name, signs in found.items() if signs}
