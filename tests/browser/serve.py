"""The standalone server for the browser tests, on a model folder of the demo's format: prints its address.

Runs in the environment whose gradio is to be tried: ``python serve.py --model DIR --lora-dir DIR --output DIR``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from lib_blocktrain.hosts.demo_model import DEMO
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.server.app import serve
from lib_blocktrain.ui.lora_controls import InitialState


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--lora-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--lora")
    parser.add_argument("--language")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    host = StandaloneHost(output_dir=arguments.output, lora_dirs=(arguments.lora_dir,))
    host.use(load_demo(arguments.model))

    initial = InitialState("a photo of a large robot, blue background", lora=arguments.lora, seed=1, runs=DEMO / "runs")

    def on_start(address: str) -> None:
        sys.stdout.write(address + "\n")
        sys.stdout.flush()

    serve(host, arguments.port, initial, on_start, arguments.language)


if __name__ == "__main__":
    main()
