"""Network files of runs, found by name in a prompt while they still lie in the run's folder."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path


def offer(names: Collection[str], root: Path) -> None:
    """Enter those of these names that are checkpoints of runs under `root` into the WebUI's list of networks."""
    networks = sys.modules["networks"]  # the Lora extension's
    unknown = {name for name in names if name not in networks.available_network_aliases}
    if not unknown:
        return
    for name, path in checkpoints(root).items():
        if name in unknown:
            entry = sys.modules["network"].NetworkOnDisk(name, str(path))
            networks.available_networks[name] = networks.available_network_aliases[name] = entry


def checkpoints(root: Path) -> dict[str, Path]:
    """Return the network files that runs have saved on the way, by name; of two of one name the newer."""
    found = sorted(root.glob("*/checkpoints/*.safetensors"), key=lambda path: path.stat().st_mtime)
    return {path.stem: path for path in found}
