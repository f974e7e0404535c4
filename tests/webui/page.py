"""Steps of a user in the WebUI's own page, in a real browser."""

from __future__ import annotations

import base64
import io
import re
import sys
import urllib.parse
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "browser"))

from journeys import LONG, Opened

from tests.webui.running import WebUI

# Page errors of gradio 3.41.2 and of the WebUI itself, without any extension.
THEIRS = re.compile(
    "reading 'props'|Too many arguments provided|Failed to load resource|fonts\\.|ResizeObserver|Wake Lock"
)


class Page(Opened):
    """The WebUI in a browser of its own; widgets of the tab are found as in the standalone page."""

    def __init__(self, browser, webui: WebUI):
        self.webui, self.problems = webui, []
        self.context = browser.new_context(viewport={"width": 1280, "height": 1000})
        self.page = self.context.new_page()
        self.page.set_default_timeout(LONG)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}\n{error.stack}"))
        self.open_page()

    def open_page(self) -> None:
        self.page.goto(self.webui.url)
        self.page.wait_for_selector("#txt2img_prompt textarea")
        self.page.wait_for_selector("#blocktrain", state="attached")

    def close(self) -> None:
        self.context.close()
        ours = [problem for problem in self.problems if not THEIRS.search(problem)]
        assert not ours, ours

    def tab(self, title: str) -> None:
        """Go to a tab of the WebUI; Forge spells "Txt2img" with a capital."""
        exactly = re.compile(rf"^\s*{re.escape(title)}\s*$", re.IGNORECASE)
        self.page.locator("#tabs > .tab-nav > button", has_text=exactly).click()

    def ours(self) -> None:
        """Go to our tab, and wait until it shows the model."""
        self.tab("Block weights")
        self.page.wait_for_function("window.blocktrain?.loras?.store.complete")

    def prompt(self, text: str, place: str = "txt2img") -> None:
        self.page.fill(f"#{place}_prompt textarea", text)

    def small(self, place: str = "txt2img", seed: int = 1) -> None:
        """The settings of `running.SMALL`."""
        for name, value in (("width", 64), ("height", 64), ("steps", 4), ("cfg_scale", 5)):
            box = self.page.locator(f"#{place}_{name} input[type=number]")
            box.fill(str(value))
            box.blur()
        self.page.fill(f"#{place}_seed input", str(seed))
        self.page.locator(f"#{place}_seed input").blur()
        self.pick(f"#{place}_sampling", "Euler")

    def pick(self, dropdown: str, option: str) -> None:
        """Choose in a dropdown."""
        box = self.page.locator(f"{dropdown} input").first
        box.click()
        box.fill(option)
        self.page.locator(f'{dropdown} li[aria-label="{option}"]').click()

    def generate(self, place: str = "txt2img") -> str:
        """Press Generate, and return the text below the image."""
        before = self._pictures(place)
        self.page.click(f"#{place}_generate")
        shown = "[...document.querySelectorAll(`#${place}_gallery img`)].map(image => image.src)"
        changed = f"([place, before]) => {shown}.length && {shown}.join() !== before.join()"
        self.page.wait_for_function(changed, arg=[place, before])
        self.page.wait_for_selector(f"#{place}_interrupt", state="hidden")
        said = (self.page.locator(f"#html_{part}_{place}").first for part in ("info", "log"))  # gradio 3: twice each
        return " ".join(" ".join(place.inner_text() for place in said).split())

    def _pictures(self, place: str) -> list[str]:
        return [image.get_attribute("src") for image in self.page.locator(f"#{place}_gallery img").all()]

    def picture(self, place: str = "txt2img") -> np.ndarray:
        """Return the pixels of the first image shown."""
        return np.asarray(Image.open(io.BytesIO(self._content(place))).convert("RGB"))

    def file(self, path: Path, place: str = "txt2img") -> Path:
        """Save the first image shown to a file."""
        path.write_bytes(self._content(place))
        return path

    def _content(self, place: str) -> bytes:
        source = self._pictures(place)[0]
        if source.startswith("data:"):
            return base64.b64decode(source.split(",", 1)[1])
        return self.page.request.get(urllib.parse.urljoin(self.webui.url, source)).body()

    def accordion(self, place: str = "txt2img") -> None:
        """Open the accordion unless it is open."""
        if not self.page.locator(f"#blocktrain_{place}_text textarea").is_visible():
            self.page.click(f"#blocktrain_{place}_accordion .label-wrap")
        self.page.wait_for_selector(f"#blocktrain_{place}_text textarea")
