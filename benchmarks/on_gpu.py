"""Everything that only a GPU can tell, in one command, the most important first.

    python benchmarks/on_gpu.py --minutes 8                 on any machine with a GPU and torch; no network
    python benchmarks/on_gpu.py --minutes 8 --wheels DIR    diffusers, peft, transformers, safetensors from a folder
    python benchmarks/on_gpu.py --parts hooks,gradients     some parts only (--list names them)
    python benchmarks/on_gpu.py --dry-run                   on a CPU, on models of a few channels

Each result is printed at once, and `results.json` and `tables.md` in the folder `--out` are whole at any time, so that
it may be stopped. Large models have the real sizes and random weights. A part ends when its share of the time is over;
one that does not is killed with its process, and another goes on. It exits with 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu import wheels
from benchmarks.gpu.parts import BY_NAME, PARTS
from benchmarks.gpu.results import Results, cells_text, read_event

ROOT = Path(__file__).resolve().parent.parent
START = 120.0  # seconds that a worker may take until its first part begins
GRACE = 45.0  # seconds beyond its limit after which a part is killed


def events(process: subprocess.Popen, until: float) -> Iterator[dict[str, Any]]:
    """Yield a worker's events until it ends; kill it when a part is far beyond its limit, or all time is over."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    limit = time.monotonic() + START
    try:
        while True:
            wait = min(limit, until + GRACE) - time.monotonic()
            try:
                line = lines.get(timeout=max(0.0, wait))
            except queue.Empty:
                return
            if line is None:
                return
            event = read_event(line)
            if event is None:
                sys.stderr.write(line)
                continue
            if event["event"] == "begin":
                limit = time.monotonic() + event["limit"] + GRACE
            yield event
    finally:
        process.kill()
        process.wait()


def start(names: list[str], seconds: float, dry: bool, packages: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.gpu.worker", "--parts", ",".join(names), "--seconds", f"{seconds:.1f}"]
    paths = [str(ROOT), str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    if dry:
        command.append("--dry-run")
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8")


def run(results: Results, arguments: argparse.Namespace) -> None:
    """Do all parts, in as many processes as it takes."""
    waiting, until = list(results.parts), time.monotonic() + 60 * arguments.minutes
    while waiting and time.monotonic() < until:
        process = start(waiting, until - time.monotonic(), arguments.dry_run, arguments.out / "packages")
        current, began = None, False
        for event in events(process, until):
            name = event.get("part") or (None if event["event"] == "about" else current)
            results.take(name, event)
            if event["event"] == "begin":
                current, began = name, True
                waiting.remove(name)
            show(event, results)
            current = None if event["event"] == "end" else current
            results.write(arguments.out)
        if current is not None:
            reason = "it took too long" if process.returncode == -signal.SIGKILL else f"exit code {process.returncode}"
            end = {"event": "end", "part": current, "state": "stopped", "reason": f"its process ended: {reason}"}
            results.take(current, end)
            show(end, results)
        elif not began:
            print(f"the worker ended before its first part (exit code {process.returncode})", flush=True)
            for name in waiting:
                results.take(name, {"event": "end", "state": "failed", "reason": "the worker did not start"})
            waiting.clear()
    for name in waiting:
        results.take(name, {"event": "end", "state": "skipped", "reason": "no time was left"})
    results.write(arguments.out)


def show(event: dict[str, Any], results: Results) -> None:
    """Print an event; a part's tables once more when it ends."""
    kind = event["event"]
    if kind == "about":
        print(cells_text(event["about"]), flush=True)
    elif kind == "begin":
        print(f"\n== {BY_NAME[event['part']].title} (at most {event['limit']:.0f} s)", flush=True)
    elif kind == "row":
        print(f"   {cells_text(event['cells'])}", flush=True)
    elif kind == "text":
        print(f"\n{event['table']}:\n\n{event['markdown']}\n", flush=True)
    elif kind == "note":
        print(f"   {event['text']}", flush=True)
    elif kind == "end":
        reason = f": {event['reason']}" if event.get("reason") else ""
        print(f"   {event['state']}{reason}, {event.get('seconds', 0):.0f} s", flush=True)
        if event.get("traceback"):
            print("\n".join(event["traceback"]), flush=True)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together (%(default)s)")
    parser.add_argument("--parts", default=",".join(BY_NAME), help="with commas between them")
    parser.add_argument("--list", action="store_true", help="name the parts, and end")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install what is missing from the wheels in it")
    parser.add_argument("--out", type=Path, default=Path("outputs/on_gpu"), help="(%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, on models of a few channels")
    arguments = parser.parse_args()
    arguments.parts, arguments.out = arguments.parts.split(","), arguments.out.resolve()
    strange = [name for name in arguments.parts if name not in BY_NAME]
    if strange:
        parser.error(f"--parts {','.join(strange)}: expected some of {','.join(BY_NAME)}")
    return arguments


def main() -> int:
    arguments = read_arguments()
    if arguments.list:
        print("\n".join(f"{part.name:15} {part.title}" for part in PARTS))
        return 0
    if arguments.wheels is not None:
        for line in wheels.install(arguments.wheels, arguments.out / "packages"):
            print(f"not installed: {line}", flush=True)
    results = Results(arguments.parts, {})
    try:
        run(results, arguments)
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        results.write(arguments.out)
        return 130
    print("\n" + results.to_markdown())
    print(f"{arguments.out / 'results.json'}, {arguments.out / 'tables.md'}")
    for failure in results.failures:
        print(f"WRONG: {failure}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the worker ends with it
    raise SystemExit(main())
