"""Writes docs/localization.json: every text that the tab shows when it opens, for translators.

A translation is the same file with the right-hand sides filled in. AUTOMATIC1111 and Forge find it as LANGUAGE.json in
the folder `localizations` of an extension, or in their own, and put it in the place of whole labels.

    python docs/make_localization.py        # wants gradio, of either version
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TEMPLATE = Path(__file__).with_name("localization.json")
SHOWN = ("label", "info", "placeholder")
TITLES = ("title", "aria-label", "placeholder")
IN_SCRIPTS = re.compile(r'(?:textContent: |aria-label", |title: )"([^"]+)"')
NO_WORDS = re.compile(r"[\W\d_]*|(IN|OUT|M|BASE)\d*|\d+×\d+|[\d.]+")


class _Words(HTMLParser):
    """The text nodes and titles of a piece of HTML, without the facts of the U map's blocks: those are numbers."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.inside = 0  # elements of a tooltip

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.inside or "blocktrain-u-tip" in (dict(attrs).get("class") or ""):
            self.inside += 1
        else:
            self.found += [value for name, value in attrs if name in TITLES and value]

    def handle_endtag(self, tag: str) -> None:
        self.inside = max(0, self.inside - 1)

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.found.append(data)


def words() -> dict[str, str]:
    """Return every text, in the order of the page, with nothing as its translation."""
    from lib_blocktrain.hosts.standalone import StandaloneHost
    from lib_blocktrain.server.app import build

    blocks, tab = build(StandaloneHost())
    tab.close()
    tab.runner.close()
    found = list(tab.widgets.titles.values())
    for component in blocks.config["components"]:
        found += _of(component["type"], component["props"])
    for path in sorted((ROOT / "javascript").glob("*.js")):
        found += IN_SCRIPTS.findall(path.read_text("utf-8"))
    clean = (" ".join(unescape(text).split()) for text in found)
    return {text: "" for text in clean if not NO_WORDS.fullmatch(text)}


def _of(kind: str, properties: dict) -> Iterator[str]:
    if "blocktrain-unseen" in properties.get("elem_classes", ()):
        return
    yield from (str(properties[name]) for name in SHOWN if properties.get(name))
    if kind in ("button", "uploadbutton"):
        yield str(properties.get("value") or properties.get("label") or "")
    if kind in ("html", "markdown"):
        parser = _Words()
        parser.feed(str(properties.get("value") or ""))
        yield from parser.found
    for choice in properties.get("choices") or ():
        yield str(choice[0] if isinstance(choice, list | tuple) else choice)


if __name__ == "__main__":
    TEMPLATE.write_text(json.dumps(words(), indent=1, ensure_ascii=False) + "\n", "utf-8")
