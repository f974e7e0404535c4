"""The standalone server for the browser tests, on a model folder of the demo's format.

Runs in the environment whose gradio is to be tried. ``python serve.py --model DIR --lora-dir DIR --output DIR`` serves,
and prints the address. ``python serve.py --fork`` imports everything and waits: for each line, a JSON list of the file
for the address, the file for the log, and the arguments, it forks a server, which is there seconds earlier than one
that is started, and prints its process id. It ends with its standard input.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import diffusers
import transformers

from lib_blocktrain.cli.signals import Ended, ended_by_signals
from lib_blocktrain.hosts.demo_model import DEMO
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.server.app import serve
from lib_blocktrain.ui.lora_controls import InitialState


def run(words: list[str], on_start: Callable[[str], None]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--lora-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--lora")
    parser.add_argument("--language")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO)
    host = StandaloneHost(output_dir=arguments.output, lora_dirs=(arguments.lora_dir,))
    host.use(load_demo(arguments.model))
    initial = InitialState("a photo of a large robot, blue background", lora=arguments.lora, seed=1, runs=DEMO / "runs")
    serve(host, arguments.port, initial, on_start, arguments.language)


def say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def fork(address: str, log: str, words: list[str]) -> int:
    """Return the process id of a server, which writes its address to a file, and its standard output to its log."""
    process = os.fork()
    if process:
        return process
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for own, standard in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(own, standard)
    try:
        with ended_by_signals():
            run(words, lambda text: Path(address).write_text(text + "\n", "utf-8") and None)
    except Ended:
        say("closed")  # journeys.py looks for it: the server ended as the product does
    except BaseException:  # noqa: BLE001 - nothing may reach the loop of the process that was forked
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def main() -> None:
    if sys.argv[1:] != ["--fork"]:
        run(sys.argv[1:], say)
        return
    _ = diffusers.StableDiffusionPipeline, transformers.CLIPTextModel, transformers.CLIPTokenizer  # imported by this
    assert threading.active_count() == 1  # a fork has none but its own
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the servers
    for line in sys.stdin:
        say(fork(*json.loads(line)))


if __name__ == "__main__":
    main()
