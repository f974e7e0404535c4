"""What a person does in the tab, in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

SECOND = 1000  # Playwright counts milliseconds
LONG = int(os.environ.get("BLOCKTRAIN_PATIENCE", "60")) * SECOND  # on a busy machine of two cores
NOISE = re.compile("Too many arguments provided")  # gradio 4's own


def write_loras(model: Path, folder: Path) -> None:
    """Two LoRAs on the model's attention layers: "robot", which acts on the text encoder too, and "style"."""
    from lib_blocktrain.hosts.standalone import load_demo
    from lib_blocktrain.networks.keys import key_of

    loaded = load_demo(model)
    folder.mkdir()
    for number, (name, components) in enumerate({"robot": {"unet", "te"}, "style": {"unet"}}.items()):
        generator = torch.Generator().manual_seed(number)
        tensors = {}
        for component, module in {"unet": loaded.unet, **loaded.text_encoders}.items():
            for path, layer in module.named_modules():
                wanted = ".attn" in path or ".mlp.fc" in path
                if wanted and component in components and isinstance(layer, torch.nn.Linear):
                    key = key_of(path, "sd1", component)
                    down = torch.randn(4, layer.in_features, generator=generator)
                    tensors[f"{key}.lora_down.weight"] = down * 0.3
                    tensors[f"{key}.lora_up.weight"] = torch.randn(layer.out_features, 4, generator=generator) * 0.3
                    tensors[f"{key}.alpha"] = torch.tensor(4.0)
        tags = json.dumps({"10_robot": {"robot": 90, "<b>bold</b>": 3}})
        save_file(tensors, folder / f"{name}.safetensors", {"ss_output_name": name, "ss_tag_frequency": tags})


@contextmanager
def serving(python: Path, model: Path, folder: Path, *arguments: str) -> Iterator[str]:
    """Yield the address of a standalone server on ``model``, with the folder's ``loras`` and ``out``."""
    words = ["--model", str(model), "--lora-dir", str(folder / "loras"), "--output", str(folder / "out"), *arguments]
    address, log = folder / "address.txt", folder / "log.txt"
    address.unlink(missing_ok=True)
    waiting = forking(python)
    waiting.stdin.write(json.dumps([str(address), str(log), words]) + "\n")
    waiting.stdin.flush()
    server = int(waiting.stdout.readline())
    try:
        while not (address.exists() and address.read_text("utf-8").endswith("\n")):
            assert lives(server), log.read_text("utf-8")
            time.sleep(0.05)
        yield address.read_text("utf-8").strip()
    finally:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGTERM)
        ended = time.monotonic() + 30
        while lives(server):
            assert time.monotonic() < ended, f"the server does not end: {log.read_text('utf-8')}"
            time.sleep(0.05)
        said = log.read_text("utf-8")
        assert "closed" in said.splitlines(), f"the server did not close what it had opened: {said}"


@cache
def forking(python: Path) -> subprocess.Popen:
    """Return a process of this interpreter that has imported everything, and forks the servers: see serve.py."""
    command = [str(python), str(Path(__file__).with_name("serve.py")), "--fork"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def new_context(browser):
    """A browser of its own: nothing in it is shared with another."""
    permissions = ["clipboard-read", "clipboard-write"]
    return browser.new_context(viewport={"width": 1280, "height": 900}, permissions=permissions)


class Opened:
    """The tab in a browser of its own."""

    def __init__(self, browser, address: str, folder: Path, context=None):
        self.address, self.folder = address, folder
        self.problems: list[str] = []
        self.context = context or new_context(browser)
        self.page = self.context.new_page()
        self.page.set_default_timeout(LONG)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}\n{error.stack}"))
        self.page.on("request", lambda request: self._asked(request.url, address))
        self.page.goto(address)
        self.page.wait_for_selector("#blocktrain_model_line .blocktrain-note")
        self.page.wait_for_function("window.blocktrain?.loras?.store.complete")

    def another(self) -> Opened:
        """The same page in another tab of this browser."""
        return Opened(None, self.address, self.folder, self.context)

    def close(self) -> None:
        self.context.close()
        assert not self.problems

    def leave(self) -> None:
        """Close the pages, and remove what they have stored: the context is as new, but for what it has compiled."""
        for page in self.context.pages:
            page.close()
        blank = self.context.new_page()
        stored = {"origin": self.address.rstrip("/"), "storageTypes": "cookies,indexeddb,local_storage"}
        self.context.new_cdp_session(blank).send("Storage.clearDataForOrigin", stored)
        blank.close()
        assert not self.problems

    def _heard(self, message) -> None:
        if message.type == "error" and not NOISE.search(message.text):
            self.problems.append(f"console: {message.text}")

    def _asked(self, url: str, address: str) -> None:
        if not url.startswith((address, address.replace("http", "ws", 1), "data:", "blob:")):
            self.problems.append(f"asked elsewhere: {url}")

    # --- widgets --------------------------------------------------------------------------------------------------

    def css(self, name: str) -> str:
        return f"#blocktrain_{name}"

    def click(self, name: str) -> None:
        self.page.click(self.button(name))

    def button(self, name: str) -> str:
        return f"button#blocktrain_{name}, #blocktrain_{name} button"

    def type(self, name: str, text: object) -> None:
        """Type into a text or number box, and leave it."""
        box = self.page.locator(f"#blocktrain_{name} textarea, #blocktrain_{name} input:not([type=range])").first
        box.fill(str(text))
        box.blur()

    def drag(self, block_id: str, value: float) -> None:
        """Move a block's slider."""
        self.page.locator(f"#blocktrain_w_{block_id} input[type=range]").fill(str(value))

    def weight(self, block_id: str) -> float:
        return float(self.page.locator(f"#blocktrain_w_{block_id} input[type=range]").input_value())

    def text(self, name: str) -> str:
        return self.page.locator(f"#blocktrain_{name}").first.inner_text()  # gradio 3 gives its id twice

    def box(self, name: str) -> str:
        return self.page.locator(f"#blocktrain_{name} textarea, #blocktrain_{name} input").first.input_value()

    def wait(self, name: str, words: str) -> None:
        """Wait until these words stand there."""
        from playwright.sync_api import TimeoutError as TooLate

        try:
            self.page.locator(self.css(name)).get_by_text(words).first.wait_for()
        except TooLate:
            raise AssertionError(f"{name}: {words!r} was expected, and there stands {self.text(name)!r}") from None

    def choose(self, name: str, option: str) -> None:
        """Choose in a dropdown."""
        box = self.page.locator(f"#blocktrain_{name} input")
        box.click()
        box.press_sequentially(option)
        self.page.click(f"#blocktrain_{name} [data-testid=dropdown-option][aria-label='{option}']")

    def menu(self, name: str) -> None:
        """Open a menu, if it is not open yet."""
        if self.page.locator(f"#blocktrain_menu_{name}[data-open]").count() == 0:
            self.page.click(f"#blocktrain_menu_{name} [data-menu]")

    def preset(self, name: str) -> None:
        """Choose a preset in its menu."""
        self.menu("presets")
        self.page.fill(".blocktrain-preset-list input", name)
        self.page.click(f"#blocktrain_menu_presets [data-preset='{name}']")

    def save_preset(self, name: str) -> None:
        """Save the weights on the sliders as a preset."""
        self.menu("presets")
        self.type("preset_name", name)
        self.click("preset_save")
        self.wait("preset_message", f"Saved {name}")

    def copy(self, form: str) -> str:
        """Copy the weights in a form; return what is in the clipboard."""
        self.page.evaluate("navigator.clipboard.writeText('')")
        self.menu("share")
        self.click(f"copy_{form}")
        for _ in range(LONG // 100):  # a promise counts as true in `wait_for_function`
            text = self.page.evaluate("navigator.clipboard.readText()")
            if text:
                return text
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{form}: nothing was copied")

    def paste(self, text: str) -> None:
        """Write into the field for pasted weights."""
        self.menu("share")
        self.page.locator("#blocktrain_paste textarea").fill(text)

    def tick(self, lora: str) -> None:
        """Add a LoRA from the library, or remove it."""
        used = self.row(lora)
        if used.count():
            used.locator("[data-act=remove]").click()
        else:
            search = self.page.locator(".blocktrain-picker [type=search]")
            search.fill(lora)
            search.press("Enter")
            search.fill("")
            self.page.keyboard.press("Escape")

    def row(self, lora: str):
        """The row of a LoRA in use."""
        return self.page.locator(f'.blocktrain-loras [data-key="{lora}"]')

    def active(self, lora: str) -> None:
        """Wait until the sliders show the weights of this LoRA."""
        shown = f'#blocktrain_facts .blocktrain-lora-card[data-key="{lora}"]'
        self.page.wait_for_selector(shown, state="attached")

    def open(self, name: str) -> None:
        """Open a folded part."""
        self.page.locator(f"#blocktrain_{name} button.label-wrap, #blocktrain_{name} > .label-wrap").first.click()

    def go(self, place: str) -> None:
        """Go to a place of the tab."""
        self.page.click(f'#blocktrain_place_tabs [role=tab]:text-is("{place}")')

    def small(self) -> None:
        """Settings that draw quickly."""
        for name, value in (("steps", 3), ("width", 64), ("height", 64)):
            self.type(name, value)

    def preview(self, ending: str = "pictures drawn") -> list[bytes]:
        """Press Draw; return the pixels of what appears."""
        self.press_and_wait("draw")
        assert ending in self.text("status")
        return self.pixels()

    def press_and_wait(self, name: str) -> None:
        """Press a button that draws, and wait for the end of what it began."""
        last = "document.querySelector('#blocktrain_status [data-ended]')?.dataset.ended"
        before = self.page.evaluate(last)
        self.page.wait_for_selector(f"{self.button('draw')}:not([disabled])")  # what is free hears a click
        self.click(name)
        self.page.wait_for_function(f"before => ({last} ?? before) !== before", arg=before)

    def watch_shifts(self) -> None:
        """From now on, keep what moves in the page without being asked to."""
        self.page.evaluate(
            """() => {
                window.shifts = [];
                const told = ({ node, previousRect: was, currentRect: is }) =>
                    [node?.id || node?.className || node?.nodeName, was.y, is.y, was.height, is.height].join(" ");
                new PerformanceObserver((list) => {
                    list.getEntries().forEach((entry) => window.shifts.push(...entry.sources.map(told)));
                }).observe({ type: "layout-shift" });
            }"""
        )

    def shifts(self) -> list[str]:
        """What has moved: its name, where it was and is, its height before and after, in pixels."""
        return self.page.evaluate("window.shifts")

    def upload(self, name: str, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.click(name)
        chooser.value.set_files(path)

    def view(self, name: str) -> None:
        """Choose how the pictures are shown: side, swipe, difference or grid."""
        self.page.click(f"[data-view-to={name}]")

    def pixels(self, name: str = "pictures") -> list[bytes]:
        images = self.page.locator(f"#blocktrain_{name} figure[data-arm] img").all()
        return [decoded(image.get_attribute("src")).tobytes() for image in images]


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB")
