"""Packages from a folder of wheels, for a machine without a network: put into a folder of their own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

IMPORTS = {"pillow": "PIL", "pyyaml": "yaml", "huggingface_hub": "huggingface_hub"}  # named unlike what they install
NEVER = re.compile(r"(torch|nvidia|triton|cuda)(_|$)")  # the machine has its own


def missing(folder: Path) -> list[str]:
    """Return the packages of these wheels that cannot be imported yet. Raises FileNotFoundError for no wheels."""
    names = sorted({path.name.split("-")[0].lower() for path in folder.glob("*.whl")})
    if not names:
        raise FileNotFoundError(f"{folder}: no wheels there (*.whl)")
    names = [name for name in names if not NEVER.match(name)]
    return [name for name in names if importlib.util.find_spec(IMPORTS.get(name, name)) is None]


def install(folder: Path, to: Path) -> list[str]:
    """Install what is missing into `to`, which is to be put on the path; return a line for each that failed."""
    failed = []
    for name in missing(folder):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command += ["--disable-pip-version-check", "--find-links", str(folder), "--target", str(to), name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            failed.append(f"{name}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1][:200]}")
    return failed
