"""Checks of a run's configuration from a request: it must not reach outside the allowed folders, or run code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_blocktrain.api.service import Service
from lib_blocktrain.files import checked_name
from lib_blocktrain.training.config import NetworkConfig, RunConfig, resolved
from lib_blocktrain.training.config_json import ConfigError, check, read
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig
from lib_blocktrain.training.optimizer_table import TABLE
from lib_blocktrain.training.plan import read_weights
from lib_blocktrain.weights.preset_strings import weights_in_errors
from lib_blocktrain.workspace.dataset_roots import allowed, with_own_sets


def checked_config(data: Mapping[str, Any], service: Service) -> RunConfig:
    """Return the configuration of a run; raise ConfigError, a ValueError, with the value and what was expected."""
    config = read(RunConfig, data)
    if checked_name(config.name) != config.name:
        raise ConfigError(f"name = {config.name!r}: expected a file's name without its ending")
    # A dotted class would be imported and called.
    check(config.optimizer.name in TABLE, "optimizer.name", config.optimizer.name, f"one of {', '.join(TABLE)}")
    if config.checkpoint is not None and Path(config.checkpoint) != getattr(service.host, "checkpoint", None):
        raise ConfigError(f"checkpoint = {config.checkpoint!r}: expected none: a run takes the model that is loaded")
    _check_vae(config.vae, service)
    network = _readable(config.network, service)
    if network.start is not None:
        network = replace(network, start=str(service.lora(network.start).path))
    roots = with_own_sets(service.access.dataset_dirs(), service.host)
    toml = config.dataset.toml and allowed("dataset.toml", config.dataset.toml, roots)
    prompts = config.samples.file and allowed("samples.file", config.samples.file, roots)
    config = replace(config, samples=replace(config.samples, file=prompts))
    config = resolved(replace(config, dataset=replace(config.dataset, toml=toml)))  # what is checked is what is trained
    dataset = _confined(config.dataset, roots)
    cache = service.host.output_dir.resolve()
    if dataset.cache is not None and not Path(dataset.cache).resolve().is_relative_to(cache):
        raise ConfigError(f"dataset.cache = {dataset.cache!r}: expected none, or a folder in {cache}")
    return replace(config, dataset=dataset, network=network)


def _readable(network: NetworkConfig, service: Service) -> NetworkConfig:
    """The network with weights that training reads as the service does: it knows no presets of the user's own."""
    architecture = service.host.model().architecture
    if isinstance(network.weights, str):
        with weights_in_errors(network.weights):
            network = replace(network, weights=service.presets.for_training(network.weights, architecture))
    read_weights(network, architecture)  # raises for those out of range
    return network


def _check_vae(vae: str | None, service: Service) -> None:
    """Raise ConfigError for a file that is not beside the checkpoint; a WebUI reads none, and compares its name."""
    if vae is None or not hasattr(service.host, "checkpoint"):
        return
    checkpoint = service.host.checkpoint
    if checkpoint is None or Path(vae).resolve().parent != Path(checkpoint).resolve().parent:
        beside = "none, with the demo model" if checkpoint is None else f"a file in {Path(checkpoint).resolve().parent}"
        raise ConfigError(f"vae = {vae!r}: expected {beside}")


def _confined(dataset: DatasetConfig, roots: Sequence[Path] | None) -> DatasetConfig:
    """The dataset with absolute paths, all of them in one of the roots."""
    return replace(
        dataset,
        folders=tuple(_folder(folder, roots) for folder in dataset.folders),
        validation=tuple(_folder(folder, roots) for folder in dataset.validation),
    )


def _folder(folder: FolderConfig, roots: Sequence[Path] | None) -> FolderConfig:
    path = allowed("dataset.folders.path", folder.path, roots)
    masks = folder.mask_folder
    return replace(folder, path=path, mask_folder=masks and allowed("dataset.folders.mask_folder", masks, roots))
