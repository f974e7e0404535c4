"""Starts a WebUI as a process of its own and waits until it is ready."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = float(os.environ.get("BLOCKTRAIN_PATIENCE", "300"))  # seconds
OURS = {"sd-webui-blocktrain": ROOT, "blocktrain-probe": ROOT / "tests" / "webui" / "probe"}
NAMES = {  # of Forge and its forks
    "forge": "Forge",
    "neo": "Forge Neo",
    "reforge": "reForge",
    "ersatz": "ersatzForge",
    "classic": "Forge Classic",
}
FOLDERS = {kind: os.environ.get(f"{kind.upper()}_DIR") for kind in NAMES}  # of those that are installed
TRAINS = ("forge", "neo", "ersatz")  # those whose model the tab can hook and train on
FLAGS = [
    "--skip-prepare-environment",
    "--skip-torch-cuda-test",
    "--skip-python-version-check",
    "--api",
]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def started(
    python: str, folder: Path, data: Path, flags: Sequence[str], environment: dict[str, str], patience: float
) -> Iterator[str]:
    """Yield the address of the WebUI in `folder`, with this extension, on a data folder; its log is `data/log.txt`."""
    extensions, log = data / "extensions", data / "log.txt"
    extensions.mkdir(parents=True, exist_ok=True)
    for name, place in OURS.items():
        if not (extensions / name).is_symlink():
            (extensions / name).symlink_to(place)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "launch.py", *FLAGS, *flags, "--port", str(port), "--data-dir", str(data)]
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **OFFLINE, **environment}, stdout=output, stderr=output
        )
    try:
        waited = time.monotonic() + patience
        while "Startup time" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < waited, "the WebUI did not start: " + log.read_text(errors="replace")[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
