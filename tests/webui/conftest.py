"""A real AUTOMATIC1111 WebUI for the tests below: started from ``WEBUI_DIR``, with a data folder of its own.

``WEBUI_DIR`` names an installed stable-diffusion-webui, ``WEBUI_PYTHON`` the interpreter of its environment (by default
``venv/bin/python`` in it). Without ``WEBUI_DIR`` all of these tests are skipped.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
WEBUI_DIR = os.environ.get("WEBUI_DIR")
START_SECONDS = 300
FLAGS = [
    "--skip-prepare-environment",
    "--skip-torch-cuda-test",
    "--skip-python-version-check",
    "--use-cpu=all",
    "--no-half",
    "--api",
    "--no-download-sd-model",
    "--do-not-download-clip",
    "--loglevel=DEBUG",
]


def pytest_collection_modifyitems(items):
    if not WEBUI_DIR:
        skip = pytest.mark.skip(reason="WEBUI_DIR does not name an installed WebUI")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


class WebUI:
    """A running WebUI and its API."""

    def __init__(self, url: str, data: Path, log: Path):
        self.url, self.data, self.log = url, data, log
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, route: str, body: dict | None = None):
        """POST a body, or GET without one; the decoded answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + route, data, {"Content-Type": "application/json"})
        with self._opener.open(request, timeout=300) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def draw(self, prompt: str, **options) -> Image.Image:
        body = {"prompt": prompt, "width": 128, "height": 128, "steps": 20, "cfg_scale": 5, "seed": 1, **options}
        return Image.open(io.BytesIO(base64.b64decode(self.call("/sdapi/v1/txt2img", body)["images"][0])))

    def use_checkpoint(self, name: str) -> None:
        self.call("/sdapi/v1/refresh-checkpoints", {})
        self.call("/sdapi/v1/options", {"sd_model_checkpoint": name})


@pytest.fixture(scope="session")
def webui(tmp_path_factory):
    data = tmp_path_factory.mktemp("webui")
    log = data / "log.txt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(WEBUI_DIR)
    python = os.environ.get("WEBUI_PYTHON", str(folder / "venv" / "bin" / "python"))
    command = [python, "launch.py", *FLAGS, "--port", str(port), "--data-dir", str(data)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **offline}, stdout=output, stderr=output)
    try:
        waited = time.monotonic() + START_SECONDS
        while "Startup time" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < waited, "the WebUI did not start: " + log.read_text(errors="replace")[-3000:]
            time.sleep(1)
        yield WebUI(f"http://127.0.0.1:{port}", data, log)
    finally:
        process.terminate()
        process.wait(30)
