"""Where things lie in a WebUI, and what the user keeps there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modules import paths, shared

from lib_blocktrain.hosts.webui import runs
from lib_blocktrain.weights.preset_files import PresetFile
from lib_blocktrain.weights.presets import Preset, shipped_presets


def lora_dirs() -> Sequence[Path]:
    """The WebUI's own folders of LoRAs; the first is there or is made."""
    options = shared.cmd_opts
    first, *more = (getattr(options, name, None) for name in ("lora_dir", "lyco_dir_backcompat"))
    return (Path(first), *(Path(folder) for folder in more if folder and Path(folder).is_dir()))


def output_dir() -> Path:
    """Where runs and saved previews go."""
    chosen = shared.opts.data.get("blocktrain_output_dir")
    return Path(chosen) if chosen else Path(paths.data_path) / "outputs" / "blocktrain"


def presets_path() -> Path:
    """The user's own presets: beside the WebUI's settings, where an update of the extension leaves them alone."""
    chosen = shared.opts.data.get("blocktrain_presets_file")
    return Path(chosen) if chosen else Path(paths.data_path) / "blocktrain-presets.txt"


def presets() -> dict[str, Preset]:
    """The presets by name; an own one hides a shipped one of the same name."""
    shipped = {preset.name: preset for preset in shipped_presets()}
    return {**shipped, **PresetFile(presets_path()).read().presets}


def checkpoints() -> list[str]:
    """The network files that runs have saved on the way, by name, in the order of their steps."""
    return sorted(runs.checkpoints(output_dir() / "runs"))
