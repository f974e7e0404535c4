"""The editor of a prompt's tag, in Chromium, on a stand-in of the WebUI's txt2img with the real routes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from journeys import LONG

pytestmark = pytest.mark.long

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = """<!doctype html><html><head><link rel="stylesheet" href="style.css">
<meta name="viewport" content="width=device-width"><style>
:root { --background-fill-primary: #fff; --background-fill-secondary: #f6f6f8; --body-text-color: #1f2937;
  --border-color-primary: #d5d8de; --input-background-fill: #fff; }
.dark { --background-fill-primary: #111827; --background-fill-secondary: #1f2937; --body-text-color: #f3f4f6;
  --border-color-primary: #374151; --input-background-fill: #1f2937; background: #0b0f19; }
body { font: 14px sans-serif; } textarea { width: 90%; height: 90px; }
</style><script>
  var opts = { blocktrain_tag_key: "Alt+B", blocktrain_tag_menu: true };
  var typed = 0, interrupted = 0;
  const gradioApp = () => document;
  document.addEventListener("keydown", (event) => { interrupted += event.key === "Escape"; });
</script></head><body><div id="txt2img_prompt"><textarea></textarea></div>
<script>document.querySelector("textarea").addEventListener("input", (event) => { typed += Boolean(event.inputType); });
</script><script src="prompt_popover.js"></script><script src="prompt_tag.js"></script></body></html>"""


@pytest.fixture
def address(tmp_path) -> Iterator[str]:
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import FileResponse, HTMLResponse

    from lib_blocktrain.api.access import Access
    from lib_blocktrain.api.routes import mount
    from tests.fakes import FakeHost, write_lora

    host = FakeHost(tmp_path)
    write_lora(host.lora_dirs[0] / "robot.safetensors")
    (host.lora_dirs[0] / "robot.json").write_text('{"block weights": "OUT=1,IN04=0.33 | arch=sd1"}', "utf-8")
    app = FastAPI()
    mount(app, host, Access())
    app.get("/")(lambda: HTMLResponse(PAGE))
    app.get("/favicon.ico")(lambda: HTMLResponse(""))
    app.get("/style.css")(lambda: FileResponse(ROOT / "style.css"))
    app.get("/{name}.js")(lambda name: FileResponse(ROOT / "javascript" / f"{name}.js"))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


class Prompt:
    def __init__(self, page):
        self.page, self.area, self.box = page, page.locator("textarea"), page.locator(".blocktrain-tag-pop")

    def put(self, text: str, cursor: str) -> None:
        """Type a prompt, and put the cursor into it, after these words."""
        self.area.fill(text)
        self.area.evaluate(
            "(area, at) => area.setSelectionRange(at, at)", self.utf16(text[: text.index(cursor)] + cursor)
        )

    @staticmethod
    def utf16(text: str) -> int:
        return len(text.encode("utf-16-le")) // 2

    def wait(self, text: str) -> None:
        same = "(text) => document.querySelector('textarea').value === text"
        try:
            self.page.wait_for_function(same, arg=text)
        except Exception as error:
            said = self.box.locator("p").all_inner_texts()
            raise AssertionError(f"{self.area.input_value()!r}, {said}: expected {text!r}") from error

    def slider(self, name: str):
        return self.box.get_by_role("slider", name=name, exact=True)


def test_on_a_slow_server_one_editor_opens(browser, address):
    """The key held or pressed again, and right clicks: two opened, and the first could not be closed."""
    page = browser.new_page()
    page.set_default_timeout(LONG)
    page.goto(address)
    questions, prompt = [], Prompt(page)
    page.route("**/prompt/tag", lambda route: questions.append(route))
    prompt.put("a fox <lora:robot:1>", "<lora:rob")
    for _ in range(3):  # without a release the key is held
        page.keyboard.down("Alt")
        page.keyboard.down("b")
    page.wait_for_timeout(200)
    assert len(questions) == 1
    page.keyboard.up("b")
    page.keyboard.press("b")
    page.keyboard.up("Alt")
    for _ in range(2):
        prompt.area.click(button="right", position={"x": 90, "y": 12})
    page.wait_for_timeout(200)
    assert len(questions) == 4
    for route in reversed(questions):
        route.continue_()
    prompt.box.first.wait_for()
    page.wait_for_timeout(500)
    assert prompt.box.count() == 1
    page.keyboard.press("Escape")
    assert prompt.box.count() == 0
    page.close()


def test_a_tag_is_edited_where_it_stands(browser, address, tmp_path):
    context = browser.new_context(viewport={"width": 1000, "height": 800}, has_touch=True)
    page, problems = context.new_page(), []
    page.set_default_timeout(LONG)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    prompt = Prompt(page)
    before, after = "a fox \U0001f98a, <lora:other:1> ", ", (sharp:1.2) <lora:other:0.5:bw=OUTD>"

    def tag(text: str) -> str:
        return before + text + after

    # the key; nothing outside of a tag
    prompt.put(tag("<lora:robot:1>"), "a fox")
    page.keyboard.press("Alt+b")
    prompt.put(tag("<lora:robot:1>"), "<lora:rob")
    page.keyboard.press("Alt+b")
    prompt.box.wait_for()
    assert prompt.box.locator("header b").inner_text() == "robot"
    assert page.locator(".blocktrain-tag-pop").count() == 1
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Strength"
    # strength by the keyboard, blocks by their sliders; one that the LoRA lacks is off
    page.keyboard.press("ArrowLeft")
    prompt.wait(tag("<lora:robot:0.95>"))
    lacking = prompt.slider("IN00")
    assert lacking.is_disabled()
    assert "no layers" in lacking.locator("..").get_attribute("title")
    prompt.box.get_by_role("combobox").select_option("OUTD")
    prompt.wait(tag("<lora:robot:0.95:bw=OUTD>"))
    assert (prompt.slider("OUT03").input_value(), prompt.slider("IN04").input_value()) == ("1", "0")
    prompt.slider("IN04").focus()
    page.keyboard.press("1")
    prompt.wait(tag("<lora:robot:0.95:bw=OUTD,IN04=1>"))
    prompt.slider("OUT03").evaluate(
        """(slider) => { slider.dispatchEvent(new PointerEvent("pointerdown"));
            slider.value = -0.25;
            for (const name of ["input", "change"]) slider.dispatchEvent(new Event(name)); }"""
    )
    prompt.wait(tag("<lora:robot:0.95:bw=OUTD,IN04=1,OUT03=-0.25>"))
    # the card: its exact numbers stay when another block is moved
    prompt.box.get_by_role("combobox").select_option("card")
    prompt.wait(tag("<lora:robot:0.95:bw=card>"))
    prompt.slider("OUT03").focus()
    page.keyboard.press("0")
    prompt.wait(tag("<lora:robot:0.95:bw=card,OUT03=0>"))
    # steps; a wrong one is said, and changes nothing
    prompt.box.get_by_label("From step").fill("3")
    prompt.box.get_by_label("Until before step").fill("9")
    page.keyboard.press("Tab")
    prompt.wait(tag("<lora:robot:0.95:bw=card,OUT03=0:start=3:stop=9>"))
    prompt.box.get_by_label("Until before step").fill("2")
    page.keyboard.press("Tab")
    prompt.box.get_by_role("alert").get_by_text("expected a stop after the start").wait_for()
    # no other extension took the changes for typing; Escape closes, and interrupts nothing
    assert page.evaluate("typed") == 2  # the two prompts that were typed
    page.keyboard.press("Escape")
    assert prompt.box.count() == 0
    assert page.evaluate("interrupted") == 0
    end = prompt.utf16(before + "<lora:robot:0.95:bw=card,OUT03=0:start=3:stop=9>")
    assert page.evaluate("[document.activeElement.tagName, document.activeElement.selectionEnd]") == ["TEXTAREA", end]
    # the browser's own undo
    page.keyboard.press("Control+z")
    prompt.wait(tag("<lora:robot:0.95:bw=card,OUT03=0:start=3>"))
    for _ in range(8):
        page.keyboard.press("Control+z")
    assert page.evaluate("document.querySelector('textarea').value").startswith(tag("<lora:robot:1>")[:20])
    # a right click, which another extension may have taken; a press elsewhere closes
    prompt.put("<lora:robot:1:bw=NOPE>", "<lora")
    prompt.area.click(button="right", position={"x": 60, "y": 12})
    prompt.box.get_by_role("alert").get_by_text("unknown preset").wait_for()
    page.mouse.click(900, 700)
    assert prompt.box.count() == 0
    # a tag that is selected whole, as after the browser's undo: the click leaves the selection as it is
    prompt.put("a fox <lora:robot:1:bw=OUTD>, red", "<lora")
    prompt.area.evaluate("(area) => { area.focus(); area.setSelectionRange(6, 29); }")
    prompt.area.click(button="right", position={"x": 100, "y": 12})
    prompt.box.wait_for()
    page.mouse.click(900, 700)
    page.evaluate("document.querySelector('textarea').addEventListener('contextmenu', (e) => e.preventDefault())")
    prompt.area.click(button="right", position={"x": 60, "y": 12})
    page.wait_for_timeout(1000)  # the editor opens with the server's answer
    assert prompt.box.count() == 0
    # a phone, in the dark: the whole editor is on the page, and nothing scrolls sideways
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("document.body.classList.add('dark')")
    prompt.put("<lora:robot:0.8:bw=OUTD,IN04=-0.5>", "bw=")
    page.keyboard.press("Alt+b")
    box = prompt.box.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844.5
    assert prompt.box.evaluate("(box) => box.scrollWidth <= box.clientWidth")
    assert problems == []
    context.close()
