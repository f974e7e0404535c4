"""A real AUTOMATIC1111 WebUI for the tests below: started from ``WEBUI_DIR``, with a data folder of its own.

``WEBUI_DIR`` names an installed stable-diffusion-webui, ``WEBUI_PYTHON`` the interpreter of its environment (by default
``venv/bin/python`` in it). Without ``WEBUI_DIR`` all of these tests are skipped. While writing tests, ``WEBUI_URL`` and
``WEBUI_DATA`` name one that runs already, with this extension and the one in ``probe/`` in its data folder.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.webui.running import LORA, START_SECONDS, WebUI

ROOT = Path(__file__).resolve().parent.parent.parent
WEBUI_DIR = os.environ.get("WEBUI_DIR")
CHECKPOINT = "blocktrain-random"
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
            if Path(__file__).parent in item.path.parents and item.path.name != "test_in_forge.py":
                item.add_marker(skip)


@pytest.fixture(scope="session")
def webui(tmp_path_factory):
    if "WEBUI_URL" in os.environ:
        data = Path(os.environ["WEBUI_DATA"])
        yield WebUI(os.environ["WEBUI_URL"], data, data / "log.txt")
        return
    data = tmp_path_factory.mktemp("webui")
    log = data / "log.txt"
    (data / "extensions").mkdir()
    for name, folder in (("sd-webui-blocktrain", ROOT), ("blocktrain-probe", Path(__file__).parent / "probe")):
        (data / "extensions" / name).symlink_to(folder)
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


@pytest.fixture(scope="session")
def weighed(webui, random_model):
    """The WebUI on a checkpoint of random weights, with two LoRAs for it that do something in every block."""
    from lib_blocktrain.ldm_export import export

    exported = export(random_model, webui.data / "models" / "Stable-diffusion", CHECKPOINT)
    loras = webui.data / "models" / "Lora"
    loras.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate((LORA, f"{LORA}-2")):
        _write_lora(exported["checkpoint"], loras / f"{name}.safetensors", number)
    webui.call("/sdapi/v1/refresh-loras", {})
    webui.use_checkpoint(f"{CHECKPOINT}.safetensors")
    return webui


def _write_lora(checkpoint: Path, path: Path, seed: int) -> None:
    """A LoRA of rank 2 for all linear layers of a checkpoint's attention."""
    import torch
    from safetensors import safe_open

    from lib_blocktrain.adapters import module_from_tensors
    from lib_blocktrain.formats import Network, write_network
    from lib_blocktrain.network_keys import key_of

    generator, modules = torch.Generator().manual_seed(seed), {}
    with safe_open(checkpoint, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118, no mapping
            shape = file.get_slice(name).get_shape()
            text = "text_model.encoder.layers" in name
            if not name.endswith(".weight") or len(shape) != 2 or not (text or "attn" in name):
                continue
            layer = name.removesuffix(".weight").rpartition("transformer.text_model." if text else "diffusion_model.")[
                2
            ]
            key = key_of(f"text_model.{layer}" if text else layer, "sd1", "te" if text else "unet")
            factors = {"lora_down.weight": (2, shape[1]), "lora_up.weight": (shape[0], 2)}
            tensors = {name: torch.randn(size, generator=generator) * 0.3 for name, size in factors.items()}
            modules[key] = module_from_tensors(key, tensors)
    write_network(path, Network(path.stem, "sd1", modules), overwrite=True)
