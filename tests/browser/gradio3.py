"""The environment with AUTOMATIC1111's gradio: ``.venv-gradio3``, light, made on first use.

It holds gradio 3.41.2 and what that needs, from requirements/gradio3.txt, and sees torch and everything else in the
packages of the interpreter that runs the tests, which stand behind its own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".venv-gradio3"
LOCK = ROOT / "requirements" / "gradio3.txt"


def python() -> Path:
    """Its interpreter; skips the test, with the reason, where it cannot be made."""
    if given := os.environ.get("BLOCKTRAIN_GRADIO3_PYTHON"):
        return Path(given)
    interpreter = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = FOLDER / "blocktrain.stamp"
    wanted = hashlib.sha256(LOCK.read_bytes() + sys.executable.encode()).hexdigest()
    with FileLock(f"{FOLDER}.lock"):  # the tests run in several processes, which may want it at the same time
        if not stamp.exists() or stamp.read_text("utf-8") != wanted:
            _make(interpreter)
            stamp.write_text(wanted, "utf-8")
    return interpreter


def _make(interpreter: Path) -> None:
    venv.create(FOLDER, with_pip=True, clear=True)
    pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    installed = subprocess.run(
        [*pip, "--require-hashes", "--no-deps", "-r", str(LOCK)], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        message = f"gradio 3.41.2 cannot be installed in {FOLDER}: {installed.stderr.strip()[-400:]}"
        if os.environ.get("BLOCKTRAIN_CI"):
            pytest.fail(message)
        pytest.skip(message)
    packages = next(FOLDER.glob("[Ll]ib*/**/site-packages"))
    behind = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (packages / "zz_behind.pth").write_text("\n".join(behind) + "\n", "utf-8")
