"""Events with ``latest``: whatever is slow, the last answer is for the last values."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from gradio3 import ROOT
from journeys import LONG

SERVER = """
import sys
import time
import gradio as gr
from lib_blocktrain.ui import shim

SECONDS = {"ab": 1.5, "abc": 0.3}  # the second answer takes longer than the third

def answer(values):
    time.sleep(SECONDS.get(values["typed"], 0.6))
    return {"answered": values["typed"]}

with shim.OwnPage() as page:
    typed = gr.Textbox(elem_id="typed", label="typed")
    answered = gr.Textbox(elem_id="answered", label="answered")
    shim.on(typed.input, answer, {"typed": typed}, {"answered": answered}, latest=True)
_, address, _ = shim.queue(page).launch(prevent_thread_lock=True, quiet=True)
print(address, file=sys.stderr, flush=True)
input()
"""


@pytest.fixture(scope="module")
def served_events(python) -> Iterator[str]:
    command = [str(python), "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        yield next(line for line in server.stderr if line.startswith("http")).strip()
        server.kill()


@pytest.mark.both_gradios
def test_the_last_answer_is_for_what_was_typed_last(served_events, browser):
    page = browser.new_page()
    page.set_default_timeout(LONG)
    page.goto(served_events)
    box, answered = page.locator("#typed textarea"), page.locator("#answered textarea")
    box.press_sequentially("ab", delay=100)  # ms: "b" while the answer for "a" is on its way
    page.wait_for_function("() => document.querySelector('#answered textarea').value === 'a'")
    page.wait_for_timeout(100)  # the answer for "ab" has begun
    box.press_sequentially("cd", delay=100)
    page.wait_for_function("() => document.querySelector('#answered textarea').value === 'abcd'")
    page.wait_for_timeout(1500)  # no earlier answer comes after it
    assert answered.input_value() == "abcd"
    page.close()
