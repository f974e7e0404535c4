"""The standalone environment: ``.venv`` in the checkout, made on first use from the locked requirements.

Standard library only. Nothing is installed if the running interpreter already has what a command needs, inside a WebUI
(its own packages are used), or if this package was installed from a wheel (pip's extras are used).
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from lib_blocktrain.files import INSTALLED, ROOT, atomic_write

log = logging.getLogger(__name__)

VENV = ROOT / ".venv"
TORCH = "torch==2.13.0"
LOCKS = {"core": ("run.txt",), "run": ("run.txt",), "tab": ("run.txt",), "test": ("run.txt", "test.txt")}
# Distributions that show that an interpreter is ready: named by the locks and imported by the commands.
_CORE = ("torch", "numpy", "pillow", "safetensors")
_RUN = (*_CORE, "diffusers", "transformers")
_TAB = (*_RUN, "gradio")
NEEDED = {
    "core": _CORE,
    "run": _RUN,
    "tab": _TAB,
    "test": (
        *_TAB,
        "pytest",
        "pytest-xdist",
        "hypothesis",
        "peft",
        "lycoris-lora",
        "stable-diffusion-sdkit",
        "einops",
        "ruff",
        "mypy",
        "playwright",
    ),
}
SIZES = {"cpu": "about 1.2 GB", "cuda": "about 6 GB"}


class EnvironmentFailure(RuntimeError):
    """Setting up failed; the message says what to do."""


def missing(purpose: str) -> list[str]:
    """Distributions that ``purpose`` (a key of NEEDED) needs and this interpreter lacks."""
    return [name for name in NEEDED[purpose] if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def ensure(purpose: str, argv: list[str], torch_build: str = "auto", index: str | None = None) -> None:
    """Return if this interpreter has what is needed; otherwise make ``.venv`` and run ``argv`` there (no return).

    Raises EnvironmentFailure if that is impossible, or if the package was installed from a wheel.
    """
    if INSTALLED and purpose == "test":
        raise EnvironmentFailure("the tests are in the repository, not in an installed package")
    lacking = missing(purpose)
    if not lacking:
        return
    if INSTALLED:
        extra = "" if purpose == "core" else "[standalone]"
        raise EnvironmentFailure(
            f"this Python ({sys.executable}) lacks {', '.join(lacking)}: pip install 'PATH{extra}', where PATH is the"
            " wheel of this package or a copy of its repository"
        )
    python = _python(VENV)
    if Path(sys.executable) == python:
        _install(purpose, torch_build, index)
    elif not _ready(purpose):
        _announce(purpose, lacking, torch_build)
        _create()
        _install(purpose, torch_build, index)
    _run_again(python, argv)


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _stamp(purpose: str) -> str:
    """A digest of the locks, so that an updated checkout updates its environment."""
    digest = hashlib.sha256(TORCH.encode())
    for name in LOCKS[purpose]:
        digest.update((ROOT / "requirements" / name).read_bytes())
    return digest.hexdigest()


def _ready(purpose: str) -> bool:
    stamp = VENV / f"blocktrain-{purpose}.stamp"
    return stamp.exists() and stamp.read_text("utf-8") == _stamp(purpose) and _python(VENV).exists()


def _announce(purpose: str, lacking: list[str], torch_build: str) -> None:
    build = _build(torch_build)
    log.warning("This Python (%s) lacks %s.", sys.executable, ", ".join(lacking))
    log.warning(
        "Making an environment of its own in %s: PyTorch (%s build), diffusers and what they need, %s to download"
        " and keep. This happens once; delete that folder to undo it.",
        VENV,
        build,
        SIZES[build],
    )
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < 8:
        log.warning("Only %.1f GB are free on that disk.", free)


def _build(torch_build: str) -> str:
    """``auto`` is CUDA where an NVIDIA driver answers, else CPU."""
    if torch_build != "auto":
        return torch_build
    return "cuda" if shutil.which("nvidia-smi") else "cpu"


def _create() -> None:
    if not _python(VENV).exists():
        venv.create(VENV, with_pip=True)


def _install(purpose: str, torch_build: str, index: str | None) -> None:
    if not _venv_has_torch():
        _install_torch(_build(torch_build), index)
    for name in LOCKS[purpose]:
        _step(f"{name.removesuffix('.txt')} requirements")
        _pip("install", "--require-hashes", "--no-deps", "-r", str(ROOT / "requirements" / name))
    for done in {"core", "run", "tab", purpose}:  # they share a lock
        with atomic_write(VENV / f"blocktrain-{done}.stamp") as temporary:
            temporary.write_text(_stamp(done), "utf-8")
    _step("done")


def _venv_has_torch() -> bool:
    check = f"from importlib.metadata import version as v; assert v('torch').split('+')[0] == {TORCH[7:]!r}"
    return subprocess.run([_python(VENV), "-c", check], capture_output=True, check=False).returncode == 0


def _install_torch(build: str, index: str | None) -> None:
    """PyTorch's CPU build has the version suffix ``+cpu``; where an index has none, its plain build is taken."""
    _step(f"{TORCH} ({build} build)")
    source = ["--index-url", index] if index else []
    if build == "cpu" and _pip("install", *source, TORCH + "+cpu", check=False):
        return
    if build == "cpu" and sys.platform == "linux" and not index:
        log.warning(
            "Your package index has no CPU-only build of PyTorch; taking the full one (several GB). To avoid that, stop"
            " here and give --torch-index with the CPU address from pytorch.org/get-started."
        )
    _pip("install", *source, TORCH)


def _step(what: str) -> None:
    log.warning("setup: %s", what)


def _pip(*arguments: str, check: bool = True) -> bool:
    """Run pip in ``.venv``; its progress goes to stderr, so that stdout stays the command's own."""
    command = [str(_python(VENV)), "-m", "pip", "--disable-pip-version-check", *arguments]
    if not sys.stderr.isatty():
        command.insert(4, "--quiet")
    result = subprocess.run(command, stdout=sys.stderr, stderr=None if check else subprocess.DEVNULL, check=False)
    if check and result.returncode:
        raise EnvironmentFailure(
            f"pip {' '.join(arguments)} failed (its message is above). What is installed stays; run the command again"
            " to go on."
        )
    return result.returncode == 0


def _run_again(python: Path, argv: list[str]) -> None:
    if find_spec("lib_blocktrain") is None:
        raise EnvironmentFailure(f"run this from {ROOT}")
    command = [str(python), "-m", "lib_blocktrain", *argv]
    if os.environ.get("BLOCKTRAIN_IN_VENV"):
        raise EnvironmentFailure(f"{VENV} is incomplete: delete it and run the command again")
    environment = {**os.environ, "BLOCKTRAIN_IN_VENV": "1"}
    if os.name == "nt":  # there exec would return to the shell at once
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)
    sys.stdout.flush()
    os.execve(command[0], command, environment)
