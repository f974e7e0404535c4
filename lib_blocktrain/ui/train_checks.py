"""What Train says before the start of a run: whether its pictures, name, settings and memory will do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lib_blocktrain.blocks import BASE, BLOCK_IDS, spans
from lib_blocktrain.hosts.host import Host
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.training.config import NetworkConfig, RunConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.found_pictures import Search
from lib_blocktrain.training.optimizers import check_learning_rates
from lib_blocktrain.training.picture_files import DatasetError
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.precision import precision_notices
from lib_blocktrain.training.preparation import check_model

GOOD, TODO, WARN, BAD = "good", "todo", "warn", "bad"


@dataclass(frozen=True)
class Check:
    """One line: GOOD, still to be done, to be known, or what would make the run fail."""

    state: str
    text: str


@dataclass(frozen=True)
class Given:
    """Which of the entries that a draft lacks have been filled in."""

    pictures: bool
    name: bool


def check_settings(config: RunConfig, host: Host) -> Model:
    """Raise for what a start on the loaded model refuses, pictures aside; return the model."""
    for index in range(len(config.samples.prompts) if config.samples.every else 0):
        sampler, known = config.samples.prompt(index).sampler, ", ".join(host.samplers)
        if sampler not in host.samplers:
            raise ConfigError(f"samples.sampler = {sampler!r}: expected one of {known}")
    model = host.model()
    check_model(model)
    plan = plan_of({"unet": model.unet, **model.text_encoders}, model.architecture, config.network)
    check_learning_rates(config.optimizer, config.network, plan)
    return model


def before_start(config: RunConfig, given: Given, host: Host, after: str | None) -> Iterator[Check]:
    """Yield what is known of a run before its start, pictures aside; `after` is the run it waits for."""
    if not given.name:
        yield Check(TODO, "The LoRA has no name yet")
    elif (host.lora_dirs[0] / f"{config.name}.safetensors").exists():  # where a run is published
        yield Check(WARN, f"There is a LoRA {config.name} already: the new one gets a number")
    else:
        yield Check(GOOD, "The name is free")
    own = _own_numbers(config.network)
    if own:
        yield Check(
            WARN,
            f"The loaded run has its own numbers in place of the weights ({own}): "
            "to have none, start from a run.json without them",
        )
    try:
        weight = next(check_settings(config, host).unet.parameters())
        yield from (Check(WARN, text) for text in precision_notices(config.precision, weight.device, weight.dtype))
    except (ValueError, OSError, RuntimeError) as error:
        yield Check(BAD, str(error))
    if after:
        yield Check(TODO, f"It starts after {after}")


def _own_numbers(network: NetworkConfig) -> str:
    """The entries of a loaded run that give blocks their own numbers, which no field of the form shows."""
    entries = {"block_ranks": network.block_ranks, "block_alphas": network.block_alphas}
    if network.conv_rank:
        entries |= {"conv_block_ranks": network.conv_block_ranks, "conv_block_alphas": network.conv_block_alphas}
    named = {entry: [block for block in (BASE, *BLOCK_IDS) if block in numbers] for entry, numbers in entries.items()}
    return "; ".join(f"{entry}: {spans(block_ids)}" for entry, block_ids in named.items() if block_ids)


def pictures_listed(config: RunConfig, given: Given) -> tuple[int, Check]:
    """Return how many pictures the folders list, none of them opened, and what is to be known of them."""
    if not given.pictures:
        return 0, Check(TODO, "There are no pictures yet")
    folders, search = config.dataset.folders, Search(config.dataset)
    try:
        found = [one for folder in folders if not folder.regularisation for one in search.pictures(folder)]
    except (DatasetError, OSError) as error:
        return 0, Check(BAD, str(error))
    uncaptioned = sum(one.caption_file is None and not one.caption_for(None).strip() for one in found)
    if not found:
        check = Check(BAD, f"{', '.join(folder.path for folder in folders)}: there is no picture")
    elif uncaptioned:
        words = f"Without a caption: {uncaptioned:,} of {len(found):,} pictures, trained on an empty prompt"
        check = Check(WARN, words)
    else:
        check = Check(GOOD, f"Pictures: {len(found):,}, each with a caption")
    return len(found), check
