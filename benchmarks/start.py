"""What the extension adds to the WebUI's start, and how soon its tab is seen.

    python benchmarks/start.py               needs gradio; for the page also Playwright and Chromium

*Start*: the WebUI imports torch and gradio in any case; then it runs `scripts/blocktrain.py`, of whose imports only
this package's are new, and builds the tab. Both are timed in fresh processes, by the clock and by the processor's time,
which a busy machine disturbs less. *Page*: from the request to the first
paint and to the tab's own content, in a browser without a cache, beside a page of the same gradio with a line of text.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get("BLOCKTRAIN_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
HOSTS_OWN = ("torch", "safetensors.torch", "numpy", "PIL.Image", "gradio", "fastapi")  # any WebUI has them in memory
PAINT = "() => performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)[0] ?? null"

IMPORTS = """
import importlib, json, sys, time
sys.path.insert(0, {root!r})
def now(): return time.perf_counter(), time.process_time()
began = now()
for name in {own!r}: importlib.import_module(name)
middle, before = now(), set(sys.modules)
for name in {new!r}: importlib.import_module(name)
ended = now()
added = sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} - {{"lib_blocktrain"}})
added = [name for name in added if name not in sys.stdlib_module_names]
print(json.dumps([[b - a for a, b in zip(began, middle)], [b - a for a, b in zip(middle, ended)], added]))
"""
TAB = """
import json, sys, time
sys.path.insert(0, {root!r})
import gradio as gr
from lib_blocktrain.hosts.standalone import StandaloneHost
from lib_blocktrain.ui.page import Page
host, seconds = StandaloneHost(), []
for _ in range(3):
    began = time.perf_counter(), time.process_time()
    with gr.Blocks(analytics_enabled=False) as blocks:
        Page(host).on_load(blocks)
    seconds.append([time.perf_counter() - began[0], time.process_time() - began[1]])
print(json.dumps(seconds))
"""


def imported() -> list[str]:
    """Return the modules of this package that `scripts/blocktrain.py` imports."""
    tree = ast.parse((ROOT / "scripts" / "blocktrain.py").read_text("utf-8"))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "lib_blocktrain":
            whole = node.module == "lib_blocktrain"
            names += [f"{node.module}.{alias.name}" for alias in node.names] if whole else [node.module]
    return names


def told_by(code: str, **values: object) -> list:
    """Return what a fresh process prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code.format(root=str(ROOT), **values)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def start_table(rounds: int) -> str:
    from benchmarks.setting import table

    measured = [told_by(IMPORTS, own=HOSTS_OWN, new=imported()) for _ in range(rounds + 1)]
    del measured[0]  # it fills the disk's caches
    tabs = [told_by(TAB) for _ in range(rounds)]
    timed = {
        "torch, gradio and what else the WebUI imports": [row[0] for row in measured],
        "imports of scripts/blocktrain.py": [row[1] for row in measured],
        "the tab built, for the first time": [row[0] for row in tabs],
        "the tab built again (Reload UI)": [row[-1] for row in tabs],
    }
    whole, *_ = medians = [[statistics.median(clock) for clock in zip(*seconds)] for seconds in timed.values()]
    rows = []
    for name, clocks in zip(timed, medians):
        pairs = [(f"{part:.3f}", f"{part / all_:.3f}") for part, all_ in zip(clocks, whole)]
        rows.append([name, *itertools.chain.from_iterable(pairs)])
    added = ", ".join(measured[0][2]) or "none"
    head = ["", "s", "/ what the WebUI imports", "s of the processor", "/ what the WebUI imports (CPU)"]
    return f"{table(head, rows)}\n\nPackages of others that it imports: {added}."


def serve(page: str) -> None:
    """Serve our page, or a page with a line of text by the same gradio, and print the address."""
    import gradio as gr
    import uvicorn

    from lib_blocktrain.hosts.standalone import StandaloneHost
    from lib_blocktrain.server import app

    listener = app.listen(0)
    port = listener.getsockname()[1]
    if page == "ours":
        application = app.application(*app.build(StandaloneHost()), port)
    else:
        import fastapi

        theme = gr.themes.Default(font=app.FONTS, font_mono=("monospace",))  # as ours: no font server is asked
        with gr.Blocks(title="empty", theme=theme, analytics_enabled=False) as blocks:
            gr.HTML("<p>here</p>", elem_id="blocktrain")
        application = gr.mount_gradio_app(fastapi.FastAPI(), blocks.queue(), path="/")
    print(f"http://{app.ADDRESS}:{port}/", flush=True)
    uvicorn.Server(uvicorn.Config(application, log_level="error")).run(sockets=[listener])


def page_table(rounds: int) -> str:
    from playwright.sync_api import sync_playwright

    from benchmarks.setting import table

    servers, found = {}, {}
    try:
        for page in ("empty", "ours"):
            command = [sys.executable, "-W", "ignore", __file__, "--serve", page]
            servers[page] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        addresses = {page: process.stdout.readline().strip() for page, process in servers.items()}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
            for number in range(rounds + 1):
                for page, address in addresses.items():
                    seconds = _opened(browser, address)
                    if number:
                        found.setdefault(page, []).append(seconds)
            browser.close()
    finally:
        for process in servers.values():
            process.terminate()
            process.wait()
    rows = []
    for page, seconds in found.items():
        row = [page]
        for part in (0, 1):
            ratio = statistics.median(one[part] / other[part] for one, other in zip(seconds, found["empty"]))
            row += [f"{statistics.median(one[part] for one in seconds):.2f}", f"{ratio:.2f}"]
        rows.append(row)
    return table(["page", "s to the first paint", "/ empty", "s to its content", "/ empty"], rows)


def _opened(browser, address: str) -> tuple[float, float]:
    """Return the seconds from the request to the first paint, and to the content, in a fresh context."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(address, wait_until="commit")
        page.wait_for_selector("#blocktrain", state="visible", timeout=120_000)
        content = page.evaluate("() => performance.now()")
        page.wait_for_function(f"() => ({PAINT})() !== null")
        return page.evaluate(PAINT) / 1000, content / 1000
    finally:
        context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", choices=("ours", "empty"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    from benchmarks.setting import load, machine

    print(f"{machine('gradio')}; {load()}; medians of {arguments.rounds} rounds\n")
    print(start_table(arguments.rounds))
    try:
        import playwright  # noqa: F401
    except ImportError:
        print("\nPlaywright is not installed: the page is not timed")
        return
    print(f"\n{page_table(arguments.rounds)}")


if __name__ == "__main__":
    main()
