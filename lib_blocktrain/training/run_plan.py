"""What a run would do, found out as its start does it, without training and without writing anything (`--dry-run`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_blocktrain.blocks import BASE
from lib_blocktrain.model.memory import free_memory
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.training.batches import BatchSampler
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.dataset import Dataset, find
from lib_blocktrain.training.estimate import Estimate, estimate, size_of_model
from lib_blocktrain.training.length import Epochs
from lib_blocktrain.training.metadata import trained_blocks
from lib_blocktrain.training.optimizers import learning_rate_notices
from lib_blocktrain.training.plan import Plan, plan_of
from lib_blocktrain.training.precision import dtype_of, precision_notices
from lib_blocktrain.training.preparation import check_dataset, check_model
from lib_blocktrain.training.step import Objective
from lib_blocktrain.training.train_state import TrainState
from lib_blocktrain.weights.block_weights import BlockWeights


@dataclass(frozen=True)
class RunPlan:
    """The blocks, pictures, length and cost of a run."""

    config: RunConfig
    plan: Plan
    dataset: Dataset
    batches_per_epoch: int
    steps: int
    cost: Estimate
    notices: tuple[str, ...]

    @property
    def epochs(self) -> float:
        return self.steps * self.config.optimizer.accumulate / self.batches_per_epoch

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.config.name,
            "weights": self.plan.weights.to_line(),
            "modules": dict(Counter(module.block for module in self.plan.modules)),
            "dataset": self.dataset.describe(),
            "batches_per_epoch": self.batches_per_epoch,
            "steps": self.steps,
            "epochs": round(self.epochs, 2),
            "samples": [vars(self.config.samples.prompt(n)) for n in range(len(self.config.samples.prompts))],
            "estimate": self.cost.to_json(),
            "notices": list(self.notices),
        }

    @property
    def _weights(self) -> BlockWeights:
        weights = self.plan.weights
        return weights if self.plan.trains_text else weights.replace({BASE: 0.0})

    @property
    def text(self) -> str:
        """The plan as lines of text."""
        found, network, optimizer = self.to_json(), self.config.network, self.config.optimizer
        data = found["dataset"]
        buckets = ", ".join(f"{size}: {count}" for size, count in data["buckets"].items())
        beside = [f"{data[name]} {name}" for name in ("regularisation", "held_out") if data[name]]
        pictures = ", ".join([f"{data['pictures']} pictures, {data['with_repeats']} with repeats", *beside])
        rows = [
            f"{self.config.name}: {network.algorithm} of rank {network.rank} in {trained_blocks(self._weights)}",
            f"modules: {', '.join(f'{block} {count}' for block, count in found['modules'].items())}",
            f"pictures: {pictures}; buckets {buckets}",
            f"length: {self.steps} steps of batch {self.config.batch}, {self.epochs:.1f} epochs of"
            f" {self.batches_per_epoch} batches",
            f"optimizer: {optimizer.name}, learning rate {optimizer.rate:g}, schedule {self.config.schedule.name}",
            *(f"left out: {line}" for line in (*data["broken"], *data["left_out"])),
            *(f"note: {notice}" for notice in self.notices),
            self.cost.text,
        ]
        return "\n".join(rows)


def plan_run(config: RunConfig, model: Model, processes: int = 1) -> RunPlan:
    """Return what a run would do on this model; raises what its start would raise."""
    notices = list(check_model(model))
    with model.trainable(), model.encoding(config.vae, config.clip_skip):
        plan = plan_of({"unet": model.unet, **model.text_encoders}, model.architecture, config.network)
        dataset = find(config.dataset, model.native_size, config.max_tokens)
        check_dataset(config, dataset)
        sampler = BatchSampler(dataset.images, config.batch * processes, config.seed, processes)
        weight = next(model.unet.parameters())
        start = read_network(config.network.start) if config.network.start else None
        state = TrainState(plan, config, dtype_of(config.precision, weight.dtype), weight.dtype, start)
        Objective(config.loss, model.alphas_cumprod, model.prediction, torch.device("cpu"), model.zero_terminal_snr)
        notices += [*plan.notices, *state.notices, *dataset.notices]
        notices += learning_rate_notices(config.optimizer, config.schedule)
        notices += precision_notices(config.precision, weight.device, weight.dtype)
    steps = config.steps
    if config.epochs:
        steps = Epochs(sampler.batches_per_epoch, config.optimizer.accumulate).steps(config.epochs)
    size = size_of_model(model)
    free = free_memory()
    if free is not None and torch.cuda.is_available():  # what the model takes is part of what the run takes
        free += size.loaded_mib
    cost = estimate(replace(config, steps=steps), size, free, "cuda" if torch.cuda.is_available() else "cpu")
    said = [notice for notice in dict.fromkeys(notices) if notice not in cost.notices]
    return RunPlan(config, plan, dataset, sampler.batches_per_epoch, steps, cost, tuple(said))
