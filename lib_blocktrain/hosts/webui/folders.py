"""Where a WebUI keeps LoRAs, runs and presets, and the network files and presets in them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from modules import paths, shared

from lib_blocktrain.networks.cards import CardError, recommended_text
from lib_blocktrain.weights.preset_files import PresetFile
from lib_blocktrain.weights.presets import Preset, shipped_presets


def lora_dirs() -> Sequence[Path]:
    """Return the WebUI's own folders of LoRAs; the first exists or will be created."""
    options = shared.cmd_opts
    legacy = getattr(options, "lyco_dir_backcompat", None)
    more = [Path(legacy)] if legacy and Path(legacy).is_dir() else []
    more += [Path(folder) for folder in getattr(options, "lora_dirs", ()) if Path(folder).is_dir()]  # Forge Neo's
    return (Path(options.lora_dir), *more)


def output_dir() -> Path:
    """Return the folder for runs and saved previews."""
    chosen = shared.opts.data.get("blocktrain_output_dir")
    return Path(chosen) if chosen else Path(paths.data_path) / "outputs" / "blocktrain"


def presets_path() -> Path:
    """Return the file of the user's own presets: beside the WebUI's settings, where updates do not touch it."""
    chosen = shared.opts.data.get("blocktrain_presets_file")
    return Path(chosen) if chosen else Path(paths.data_path) / "blocktrain-presets.txt"


def presets() -> dict[str, Preset]:
    """Return all presets by name; a user's preset replaces a shipped one of the same name."""
    shipped = {preset.name: preset for preset in shipped_presets()}
    return {**shipped, **PresetFile(presets_path()).read().presets}


def recommended(name: str) -> str:
    """Return the block weights that a LoRA of the WebUI recommends, by its name in a prompt, as a preset string.

    Raises CardError where there are none, or for a name that the WebUI does not know; OSError.
    """
    networks = sys.modules["networks"]  # the Lora extension's
    entry = networks.available_networks.get(name) or networks.available_network_aliases.get(name)
    if entry is None:
        raise CardError(f"there is no LoRA {name!r} whose card could be read")
    return recommended_text(Path(entry.filename))


def run_checkpoints() -> dict[str, Path]:
    """Return the network files that runs saved during training, by name; of two with one name, the newer."""
    files = (output_dir() / "runs").glob("*/checkpoints/*.safetensors")
    return {path.stem: path for path in sorted(files, key=lambda path: path.stat().st_mtime)}


def _file_of(entry: Any) -> Path:
    """The file of the WebUI's entry of a LoRA; an extension may have put one there that has none."""
    return Path(getattr(entry, "filename", ""))


def register_checkpoints(names: Collection[str]) -> None:
    """Make the WebUI find those of these LoRA names that are checkpoints in the folders of runs."""
    networks = sys.modules["networks"]  # the Lora extension's
    known, runs = networks.available_network_aliases, output_dir() / "runs"
    registered = {name for name in names if name in known and runs in _file_of(known[name]).parents}
    wanted = {name for name in names if name not in known} | registered
    if not wanted:
        return
    found = run_checkpoints()  # since the last picture another run may have one of the name, or none has it any more
    for name in wanted & found.keys():
        if name not in registered or _file_of(known[name]) != found[name]:
            entry = sys.modules["network"].NetworkOnDisk(name, str(found[name]))
            networks.available_networks[name] = networks.available_network_aliases[name] = entry
    for name in registered - found.keys():
        networks.available_networks.pop(name, None)
        networks.available_network_aliases.pop(name, None)
