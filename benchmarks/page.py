"""The page in Chromium: layout shift in each place, and first paint against an empty gradio page.

`python benchmarks/page.py` starts the standalone server on the demo model and, beside it, a page of gradio with nothing
in it; both are loaded in turn. Printed are the sum of layout shifts that no input has caused (Chromium's
`layout-shift` without `hadRecentInput`), and the median of the ratio of the two first paints. With ``--list N``
instead: when the page knows a list of N LoRA files and when it can be used, in milliseconds from the first paint, at a
first start, which reads their headers, and at a later one. Wants what `python -m lib_blocktrain test` installs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import gradio as gr
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]

from journeys import serving  # noqa: E402
from room_loras import write_loras  # noqa: E402

from lib_blocktrain.hosts.demo_model import LORAS, MODEL  # noqa: E402

CHROMIUM = os.environ.get("BLOCKTRAIN_CHROMIUM") or shutil.which("chromium")
WIDTHS = ((1400, 900), (390, 844))
SETTLED = 4000  # milliseconds
SHIFTS = """() => {
    window.shifted = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
        window.shifted += entry.hadRecentInput ? 0 : entry.value;
    })).observe({ type: "layout-shift", buffered: true });
}"""
MARKS = """() => {
    window.marks = {};
    const look = () => {
        const store = window.blocktrain?.loras?.store;
        const now = { names: store?.received, known: store?.complete };
        now.usable = now.names && Boolean(document.querySelector(".blocktrain-picker [type=search]"));
        Object.entries(now).forEach(([name, is]) => is && (marks[name] ??= performance.now()));
        Object.keys(marks).length < 3 && requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def shifts(page: Page, address: str) -> None:
    """Print the layout shift of the page's opening, of Draw, and of each place when it is first shown."""
    page.add_init_script(f"({SHIFTS})()")
    page.goto(address)
    page.wait_for_function("window.blocktrain?.loras?.store.complete")
    page.wait_for_timeout(SETTLED)

    def tell(what: str) -> None:
        value = page.evaluate("(() => { const all = window.shifted; window.shifted = 0; return all; })()")
        print(f"  {what:12} {value:.3f}")

    tell("opening")
    page.click("#blocktrain_draw")
    page.wait_for_selector("#blocktrain_status [data-ended]")
    page.wait_for_timeout(SETTLED)
    tell("Draw")
    for tab in page.locator("#blocktrain_place_tabs [role=tab]").all():
        tab.click()
        page.wait_for_timeout(SETTLED)
        tell(tab.inner_text())


def first_paint(page: Page, address: str) -> float:
    page.goto(address)
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
    return page.evaluate(PAINT)


def listing(browser: Browser, count: int) -> None:
    """Print when the names of the files, the field to search them, and all that their headers say are there."""
    with tempfile.TemporaryDirectory() as work:
        write_loras(Path(work, "loras"), count)
        for start in ("first start", "later start"):
            with serving(Path(sys.executable), MODEL, Path(work)) as address:
                for visit in ("first visit", "reload"):
                    page = browser.new_page(viewport={"width": 1400, "height": 900})
                    page.add_init_script(f"({MARKS})()")
                    paint = first_paint(page, address)
                    page.wait_for_function("Object.keys(marks).length === 3")
                    said = ", ".join(f"{name} {at - paint:.0f}" for name, at in page.evaluate("marks").items())
                    print(f"{count} files, {start}, {visit}: first paint at {paint:.0f} ms, then {said}")
                    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="loads of each page (%(default)s)")
    parser.add_argument("--list", type=int, metavar="N", help="measure a list of N LoRA files instead")
    arguments = parser.parse_args()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as work:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        if arguments.list:
            listing(browser, arguments.list)
            browser.close()
            return
        shutil.copytree(LORAS, Path(work, "loras"))
        with gr.Blocks(analytics_enabled=False) as empty:
            gr.Markdown("nothing")
        _, other, _ = empty.launch(prevent_thread_lock=True, quiet=True)
        with serving(Path(sys.executable), MODEL, Path(work), "--lora", "robot-on-green") as address:
            for width, height in WIDTHS:
                print(f"layout shift at {width}x{height}")
                page = browser.new_page(viewport={"width": width, "height": height})
                shifts(page, address)
                page.close()
            ratios = []
            for _ in range(arguments.times):
                page = browser.new_page()
                ratios.append(first_paint(page, address) / first_paint(page, other))
                page.close()
            of = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
            print(f"first paint, ours / an empty page: {statistics.median(ratios):.2f} (of {of})")
        empty.close(verbose=False)
        browser.close()


if __name__ == "__main__":
    main()
