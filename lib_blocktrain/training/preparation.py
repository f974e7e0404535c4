"""What a run needs before its first step: the dataset found, its latents and texts encoded, its order known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lib_blocktrain.model.protocol import Model
from lib_blocktrain.training.batches import Batch, BatchLoader, BatchSampler
from lib_blocktrain.training.cache import ConditioningCache, LatentCache
from lib_blocktrain.training.captions import varies
from lib_blocktrain.training.config import LossConfig, RunConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.dataset import Dataset, find
from lib_blocktrain.training.distributed import Processes
from lib_blocktrain.training.plan import Plan
from lib_blocktrain.training.rng import generator_of
from lib_blocktrain.training.runs import Run
from lib_blocktrain.training.step import Noise, draw_noise

log = logging.getLogger(__name__)

VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)

Progress = Callable[[int, int], None]  # pictures encoded, pictures in all


@dataclass(frozen=True)
class TrainingData:
    """The data of a run, ready to be asked for a batch by its number."""

    dataset: Dataset
    order: BatchSampler
    loader: BatchLoader
    native: int

    def batch(self, number: int, processes: Processes) -> Batch | None:
        """Return this process's part of batch `number`, None if nothing of it is left for this one."""
        pictures = self.order.batch(number)
        places = range(processes.rank, len(pictures), processes.count)
        if not places:
            return None
        return self.loader.load([pictures[place] for place in places], number, places, len(pictures))

    def validation(self, config: RunConfig, processes: Processes) -> Iterator[tuple[Batch, Noise]]:
        """Yield each picture held out at each of the fixed timesteps, with noise of its own that never changes."""
        for index, picture in list(enumerate(self.dataset.held_out))[processes.rank :: processes.count]:
            for timestep in VALIDATION_TIMESTEPS:
                generator = generator_of(config.seed, "validation", index, timestep)
                batch = self.loader.plain([picture])
                at = LossConfig(min_timestep=timestep, max_timestep=timestep + 1)
                yield batch, draw_noise(batch.latents.shape[1:], at, [generator])


def check_model(model: Model) -> tuple[str, ...]:
    """Return what is to be said of training on this model; raise ConfigError if it cannot be trained on."""
    if model.in_channels != 4:
        raise ConfigError(
            f"the model's U-Net takes {model.in_channels} channels: an inpainting or editing model cannot be trained on"
            " pictures and captions alone: expected a text-to-image model (4 channels)"
        )
    return ("a v-prediction model: the target is v",) if model.prediction == "v" else ()


def prepare(model: Model, run: Run, plan: Plan, processes: int = 1, progress: Progress | None = None) -> TrainingData:
    """Find the dataset and encode what can be encoded before the start; raises DatasetError."""
    config, native = run.config, model.native_size
    dataset = find(config.dataset, native)
    folder = Path(config.dataset.cache) if config.dataset.cache else run.folder.parent / "cache"
    latents = LatentCache(model, folder)
    texts = None if plan.trains_text else ConditioningCache(model, folder)
    pictures = [*dataset.pictures, *dataset.held_out]
    for number, picture in enumerate(pictures):
        latents.of(picture)
        if texts is not None and not varies(config.dataset):
            texts.of(picture.caption)
        if progress is not None:
            progress(number + 1, len(pictures))
    order = BatchSampler(dataset.pictures, config.batch * processes, config.seed)
    loader = BatchLoader(config.dataset, latents, texts, config.loss.prior_weight, config.seed)
    return TrainingData(dataset, order, loader, native)
