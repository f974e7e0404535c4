"""Block weights as the standalone page reads them: with the user's own presets. Standard library only."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lib_blocktrain.hosts.standalone_folders import output_dir, presets_path
from lib_blocktrain.workspace.preset_store import PresetStore

if TYPE_CHECKING:
    from lib_blocktrain.training.config import RunConfig
    from lib_blocktrain.weights.preset_strings import Parsed


def own_presets() -> PresetStore:
    """Return the presets of the standalone page."""
    return PresetStore(lambda: presets_path(output_dir()))


def weights_for(text: str, architecture: str, lora: Path, *, layers: bool = False) -> Parsed:
    """Read block weights for a network file; `card` names those that it recommends."""
    from lib_blocktrain.networks.cards import recommended_text

    return own_presets().parse(text, architecture, None, recommended=partial(recommended_text, lora), layers=layers)


def for_training(config: RunConfig, architecture: str) -> RunConfig:
    """Return a run whose weights training reads as the page does."""
    from dataclasses import replace

    if not isinstance(config.network.weights, str):
        return config
    weights = own_presets().for_training(config.network.weights, architecture)
    return replace(config, network=replace(config.network, weights=weights))
