"""Where the standalone host writes. Standard library only: the commands look there before torch is installed."""

from __future__ import annotations

from pathlib import Path

from lib_blocktrain.files import INSTALLED, ROOT


def output_dir() -> Path:
    """Return the folder for runs, pictures and LoRAs."""
    return (Path.cwd() if INSTALLED else ROOT) / "outputs"


def presets_path(output_dir: Path) -> Path:
    """Return the file of the user's own presets."""
    return output_dir / "presets.txt"
