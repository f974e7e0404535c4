"""Real WebUIs for the tests below: each test runs in each that is installed, on a data folder of its own.

``WEBUI_DIR`` names an installed stable-diffusion-webui, ``FORGE_DIR`` a Forge 2, ``NEO_DIR`` a Forge Neo,
``REFORGE_DIR``, ``ERSATZ_DIR`` and ``CLASSIC_DIR`` the others; ``WEBUI_PYTHON``, ``FORGE_PYTHON`` and so on the
interpreters of their environments (by default ``venv/bin/python`` in the folder). Tests marked ``kinds(...)`` run in
those only. Without a folder they are skipped. ``WEBUI_URL`` and ``WEBUI_DATA`` may name an AUTOMATIC1111
that runs already, with this extension and the one in ``probe/`` in its data folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.webui.process import FOLDERS, PATIENCE, started
from tests.webui.running import LORA, WebUI

WEBUI_DIR = os.environ.get("WEBUI_DIR")
INSTALLED = [kind for kind, folder in {"a1111": WEBUI_DIR, **FOLDERS}.items() if folder]
CHECKPOINT = "blocktrain-random"
FLAGS = ["--no-download-sd-model", "--use-cpu=all", "--no-half", "--do-not-download-clip", "--loglevel=DEBUG"]


def pytest_generate_tests(metafunc) -> None:
    if "webui" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("kinds")
        found = [kind for kind in INSTALLED if marker is None or kind in marker.args]
        wanted = "WEBUI_DIR, FORGE_DIR or NEO_DIR" if marker is None else f"a folder of {' or '.join(marker.args)}"
        none = pytest.param("none", marks=pytest.mark.skip(reason=f"{wanted} does not name an installed WebUI"))
        metafunc.parametrize("webui", found or [none], indirect=True, scope="session")


@contextmanager
def launched(
    kind: str, data: Path, *flags: str, auth: str | None = None, environment: dict | None = None
) -> Iterator[WebUI]:
    """Start a WebUI with these flags and variables."""
    if kind != "a1111":
        from tests.webui.forge_process import running

        with running(kind, data, *flags, auth=auth, environment=environment) as found:
            yield found
        return
    folder = Path(WEBUI_DIR)
    python = os.environ.get("WEBUI_PYTHON", str(folder / "venv" / "bin" / "python"))
    with started(python, folder, data, [*FLAGS, *flags], environment or {}, PATIENCE) as url:
        yield WebUI(url, data, data / "log.txt", auth)


@pytest.fixture(scope="session")
def webui(request, tmp_path_factory):
    if "WEBUI_URL" in os.environ:
        data = Path(os.environ["WEBUI_DATA"])
        yield WebUI(os.environ["WEBUI_URL"], data, data / "log.txt")
        return
    data = tmp_path_factory.mktemp(request.param)
    if request.param != "a1111":
        from tests.webui.forge_process import write_models

        write_models(request.param, data, "sd1")
    with launched(request.param, data) as found:
        yield found


@pytest.fixture(scope="session")
def another(webui, tmp_path_factory):
    """Return a function that starts another WebUI, with other flags and extensions and the same models."""

    def launch(*flags: str, extensions: Sequence[Path] = (), **options):
        data = tmp_path_factory.mktemp("another")
        (data / "models").symlink_to(webui.data / "models")
        for folder in extensions:  # copies, since some write into their own folders
            shutil.copytree(folder, data / "extensions" / folder.name)
        return launched(webui.kind, data, *flags, **options)

    return launch


@pytest.fixture(scope="session")
def exported(webui, random_model) -> Path:
    """A checkpoint of random weights in the WebUI's folder, with two LoRAs that change every block.

    In Forge and its forks a larger one, which they recognise, and LoRAs on its attention.
    """
    from lib_blocktrain.hosts.ldm_export import export
    from tests.webui.random_models import write_lora

    if webui.kind != "a1111":
        for more in ("", "-2"):
            tensors, name = load_file(webui.loras / f"sd1{more}.safetensors"), f"{LORA}{more}"
            metadata = {"ss_output_name": name, "ss_base_model_version": "sd_v1-5"}
            save_file(tensors, webui.loras / f"{name}.safetensors", metadata)
        webui.call("/sdapi/v1/refresh-loras", {})
        return webui.data / "models" / "Stable-diffusion" / "sd1.safetensors"
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
