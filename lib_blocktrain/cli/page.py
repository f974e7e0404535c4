"""`python -m lib_blocktrain`: the tab at 127.0.0.1, on the demo model or on a checkpoint."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

from lib_blocktrain.cli.commands import TOUR_LORA, TOUR_PROMPT, TOUR_SEED, TOUR_WEIGHTS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command without a name."""
    tab = parser.add_argument_group("the tab (no command)")
    tab.add_argument("--port", type=int, help="of 127.0.0.1 (the first free one from 7870 on)")
    tab.add_argument("--checkpoint", type=Path, metavar="FILE", help="a SD1, SD2 or SDXL .safetensors file")
    tab.add_argument(
        "--lora-dir",
        type=Path,
        action="append",
        metavar="DIR",
        help="a folder of LoRAs; may be repeated, what is baked goes to the first",
    )
    tab.add_argument("--no-browser", action="store_true", help="do not open a browser window")


def open_tab(arguments: argparse.Namespace) -> int:
    """Serve the tab until Ctrl+C."""
    from lib_blocktrain.hosts.demo_model import DEMO
    from lib_blocktrain.hosts.standalone import StandaloneHost
    from lib_blocktrain.server.app import serve
    from lib_blocktrain.ui.lora_controls import InitialState

    checkpoint: Path | None = arguments.checkpoint
    for path in (*([checkpoint] if checkpoint else []), *(arguments.lora_dir or ())):
        path.stat()  # a mistyped path is said now, not when the page is open
    host = StandaloneHost(checkpoint, lora_dirs=tuple(arguments.lora_dir or ()))
    tour = InitialState(TOUR_PROMPT, lora=TOUR_LORA, weights=TOUR_WEIGHTS, seed=TOUR_SEED, runs=DEMO / "runs")
    first = tour if checkpoint is None else InitialState()

    def opened(address: str) -> None:
        sys.stdout.write(f"The tab is at {address} (Ctrl+C ends it)\n")
        sys.stdout.flush()
        if not arguments.no_browser:
            webbrowser.open(address)

    serve(host, arguments.port, first, opened)
    return 0
