"""The optimizers by name: their class, package and own learning rate. No optimizer is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_blocktrain.training.config_json import ConfigError


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer by its dotted class; `single_lr` says why it cannot have several learning rates."""

    path: str
    package: str = "torch"  # for pip
    rate: float = 1e-4  # where none is asked for
    least_rate: float = 0.0  # below it nothing is learnt
    single_lr: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # defaults other than the class's own


def _estimates_step(path: str, package: str) -> OptimizerSpec:
    """An optimizer that finds its step size itself and multiplies it by the learning rate."""
    reason = "it estimates one step size for all weights, and takes no learning rates that differ"
    return OptimizerSpec(path, package, rate=1.0, least_rate=0.1, single_lr=reason)


TABLE: Mapping[str, OptimizerSpec] = {
    "AdamW": OptimizerSpec("torch.optim.AdamW"),
    "Adam": OptimizerSpec("torch.optim.Adam"),
    "NAdam": OptimizerSpec("torch.optim.NAdam"),
    "RAdam": OptimizerSpec("torch.optim.RAdam"),
    "Adafactor": OptimizerSpec("transformers.optimization.Adafactor", "transformers"),  # as in sd-scripts
    "SGD": OptimizerSpec("torch.optim.SGD", rate=0.1),
    "RMSprop": OptimizerSpec("torch.optim.RMSprop"),
    "AdamW8bit": OptimizerSpec("bitsandbytes.optim.AdamW8bit", "bitsandbytes"),
    "PagedAdamW8bit": OptimizerSpec("bitsandbytes.optim.PagedAdamW8bit", "bitsandbytes"),
    # A third of AdamW's: its steps all have the size of the rate (Chen et al. 2023, 2302.06675, section 5).
    "Lion": OptimizerSpec("lion_pytorch.Lion", "lion-pytorch", rate=3e-5),
    "Lion8bit": OptimizerSpec("bitsandbytes.optim.Lion8bit", "bitsandbytes", rate=3e-5),
    "Prodigy": _estimates_step("prodigyopt.Prodigy", "prodigyopt"),
    "DAdaptAdam": _estimates_step("dadaptation.DAdaptAdam", "dadaptation"),
    "DAdaptLion": _estimates_step("dadaptation.DAdaptLion", "dadaptation"),
    "AdamWScheduleFree": OptimizerSpec("schedulefree.AdamWScheduleFree", "schedulefree"),
    "SGDScheduleFree": OptimizerSpec("schedulefree.SGDScheduleFree", "schedulefree", rate=0.1),
}


def spec_of(name: str) -> OptimizerSpec:
    """Return an optimizer by its name in the table, in upper or lower case, or by its dotted class."""
    lower = name.lower()
    found = next((spec for known, spec in TABLE.items() if lower in (known.lower(), spec.path.lower())), None)
    if found is not None:
        return found
    if "." not in name:
        raise ConfigError(f"optimizer.name = {name!r}: expected one of {', '.join(TABLE)}, or a dotted class")
    package, last = name.split(".")[0], name.rpartition(".")[2]
    if last.lower().startswith(("prodigy", "dadapt")):  # a relative of those in the table
        return _estimates_step(name, package)
    return OptimizerSpec(name, package)
