"""A real AUTOMATIC1111 WebUI for the tests below: started from ``WEBUI_DIR``, with a data folder of its own.

``WEBUI_DIR`` names an installed stable-diffusion-webui, ``WEBUI_PYTHON`` the interpreter of its environment (by default
``venv/bin/python`` in it). Without ``WEBUI_DIR`` all of these tests are skipped. While writing tests, ``WEBUI_URL`` and
``WEBUI_DATA`` name one that runs already, with this extension and the one in ``probe/`` in its data folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.webui.process import PATIENCE, started
from tests.webui.running import LORA, WebUI

WEBUI_DIR = os.environ.get("WEBUI_DIR")
OF_OTHERS = ("test_in_forge.py", "test_signatures.py")  # these skip by themselves
CHECKPOINT = "blocktrain-random"
FLAGS = ["--no-download-sd-model", "--use-cpu=all", "--no-half", "--do-not-download-clip", "--loglevel=DEBUG"]


def pytest_collection_modifyitems(items):
    if not WEBUI_DIR:
        skip = pytest.mark.skip(reason="WEBUI_DIR does not name an installed WebUI")
        for item in items:
            if Path(__file__).parent in item.path.parents and item.path.name not in OF_OTHERS:
                item.add_marker(skip)


@contextmanager
def launched(data: Path, *flags: str, auth: str | None = None, environment: dict | None = None) -> Iterator[WebUI]:
    """Start a WebUI with these flags and variables."""
    folder = Path(WEBUI_DIR)
    python = os.environ.get("WEBUI_PYTHON", str(folder / "venv" / "bin" / "python"))
    with started(python, folder, data, [*FLAGS, *flags], environment or {}, PATIENCE) as url:
        yield WebUI(url, data, data / "log.txt", auth)


@pytest.fixture(scope="session")
def webui(tmp_path_factory):
    if "WEBUI_URL" in os.environ:
        data = Path(os.environ["WEBUI_DATA"])
        yield WebUI(os.environ["WEBUI_URL"], data, data / "log.txt")
        return
    with launched(tmp_path_factory.mktemp("webui")) as found:
        yield found


@pytest.fixture(scope="session")
def another(webui, tmp_path_factory):
    """Return a function that starts another WebUI, with other flags and extensions and the same models."""

    def launch(*flags: str, extensions: Sequence[Path] = (), **options):
        data = tmp_path_factory.mktemp("another")
        (data / "models").symlink_to(webui.data / "models")
        for folder in extensions:  # copies, since some write into their own folders
            shutil.copytree(folder, data / "extensions" / folder.name)
        return launched(data, *flags, **options)

    return launch


@pytest.fixture(scope="session")
def exported(webui, random_model) -> Path:
    """A checkpoint of random weights in the WebUI's folder, with two LoRAs that change every block."""
    from lib_blocktrain.hosts.ldm_export import export
    from tests.webui.random_models import write_lora

    written = export(random_model, webui.data / "models" / "Stable-diffusion", CHECKPOINT)
    webui.loras.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate((LORA, f"{LORA}-2")):
        write_lora(written["checkpoint"], webui.loras / f"{name}.safetensors", seed=number)
    webui.call("/sdapi/v1/refresh-loras", {})
    return written["checkpoint"]


@pytest.fixture(scope="module")
def weighed(webui, exported):
    """The WebUI on that checkpoint."""
    webui.use_checkpoint(exported.name)
    return webui
