"""What a run needs before its first step: the dataset, its latents and conditioning, and the order of its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from lib_blocktrain.model.protocol import Model
from lib_blocktrain.training.augmentation import pictures_vary
from lib_blocktrain.training.batches import Batch, BatchLoader, BatchSampler, class_caption
from lib_blocktrain.training.cache import ConditioningCache, LatentCache
from lib_blocktrain.training.captions import RunStep, captions_vary
from lib_blocktrain.training.config import LossConfig, RunConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.dataset import Dataset, DatasetError, find
from lib_blocktrain.training.distributed import Processes
from lib_blocktrain.training.length import Epochs
from lib_blocktrain.training.plan import Plan
from lib_blocktrain.training.rng import generator_of
from lib_blocktrain.training.runs import Run
from lib_blocktrain.training.step import Noise, draw_noise

VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)

Progress = Callable[[int, int], None]  # images encoded, images in all


@dataclass(frozen=True)
class TrainingData:
    """The data of a run, which gives each batch by its number."""

    dataset: Dataset
    sampler: BatchSampler
    loader: BatchLoader
    contents: Mapping[Path, str]  # the digest of each picture's file
    steps: int  # of the run, of `accumulate` batches each
    accumulate: int

    notice: str | None = None  # about the steps

    @property
    def notices(self) -> tuple[str, ...]:
        """What is to be said of the dataset and the steps."""
        return (*self.dataset.notices, *([] if self.notice is None else [self.notice]))

    @property
    def epochs(self) -> Epochs:
        """How its epochs lie in its steps."""
        return Epochs(self.sampler.batches_per_epoch, self.accumulate)

    def idle(self, model: Model) -> list[nn.Module]:
        """Return what may be moved off the GPU, since the steps and the validation find in the cache what it gives."""
        images = [*self.dataset.images, *self.dataset.held_out]
        draws = any(pictures_vary(image.options) for image in self.dataset.images)
        encodes = not self.loader.has_conditioning or any(captions_vary(image.options) for image in images)
        needed = [id(encoder) for encoder in model.text_encoders.values()] if encodes else []
        needed += [id(model.vae)] if draws else []
        return [part for part in model.movable if id(part) not in needed]

    def batch(self, number: int, processes: Processes) -> Batch | None:
        """Return this process's part of batch `number`, None if there is no image left for it."""
        images = self.sampler.batch(number)
        indices = range(processes.rank, len(images), processes.count)
        if not indices:
            return None
        at = RunStep(number // self.accumulate, self.steps)
        return self.loader.load([images[index] for index in indices], number, indices, len(images), at)

    def validation(self, config: RunConfig, processes: Processes) -> Iterator[tuple[Batch, Noise]]:
        """Yield each held-out image at each of the fixed timesteps, with noise that never changes."""
        for index, image in list(enumerate(self.dataset.held_out))[processes.rank :: processes.count]:
            for timestep in VALIDATION_TIMESTEPS:
                generator = generator_of(config.seed, "validation", index, timestep)
                batch = self.loader.plain([image])
                at = LossConfig(min_timestep=timestep, max_timestep=timestep + 1)
                yield batch, draw_noise(batch.latents.shape[1:], at, [generator])

    def compared(self, config: RunConfig) -> Iterator[tuple[Batch, Noise]]:
        """Yield a picture of the run at each of the fixed timesteps, with the run's noise, which never changes."""
        images = self.dataset.images
        for index, timestep in enumerate(VALIDATION_TIMESTEPS):
            batch = self.loader.plain([images[index * len(images) // len(VALIDATION_TIMESTEPS)]])
            at = replace(config.loss, min_timestep=timestep, max_timestep=timestep + 1)
            generator = generator_of(config.seed, "compared", index, timestep)
            yield batch, draw_noise(batch.latents.shape[1:], at, [generator])


def check_model(model: Model) -> tuple[str, ...]:
    """Return notices about training on this model; raise ConfigError if it cannot be trained on."""
    if model.in_channels != 4:
        raise ConfigError(
            f"the model's U-Net takes {model.in_channels} channels: an inpainting or editing model cannot be trained on"
            " pictures and captions alone: expected a text-to-image model (4 channels)"
        )
    notices = ["a v-prediction model: the target is v"] if model.prediction == "v" else []
    if model.zero_terminal_snr:
        notices.append("a model of zero terminal SNR: its noise schedule ends in noise alone")
    return tuple(notices)


def prepare(model: Model, run: Run, plan: Plan, processes: int = 1, progress: Progress | None = None) -> TrainingData:
    """Find the dataset and encode what does not change from step to step; raises DatasetError."""
    config = run.config
    dataset = find(config.dataset, model.native_size, config.max_tokens)
    folder = Path(config.dataset.cache) if config.dataset.cache else run.folder.parent / "cache"
    latents = LatentCache(model, folder)
    conditioning = None if plan.trains_text else ConditioningCache(model, folder, config.max_tokens)
    images = [*dataset.images, *dataset.held_out]
    for number, image in enumerate(images):
        latents.note_contents(image)
        if number >= len(dataset.images) or not pictures_vary(image.options):
            latents.of(image)
            if image.options.flip:
                latents.of(image, flipped=True)
        if conditioning is not None and not captions_vary(image.options):
            conditioning.of(image.plain_caption)
            if config.loss.preservation:
                conditioning.of(class_caption(image.plain_caption, config.loss))
        if progress is not None:
            progress(number + 1, len(images))
    check_dataset(config, dataset)
    sampler = BatchSampler(dataset.images, config.batch * processes, config.seed, processes)
    loader = BatchLoader(latents, conditioning, config.loss, config.seed)
    accumulate = config.optimizer.accumulate
    epochs = Epochs(sampler.batches_per_epoch, accumulate)
    steps, notice = config.steps, None
    if config.epochs:
        steps = epochs.steps(config.epochs)
        notice = f"epochs = {config.epochs} of {epochs.batches} batches: {steps} steps, whatever steps says"
    return TrainingData(dataset, sampler, loader, latents.contents, steps, accumulate, notice)


def check_dataset(config: RunConfig, dataset: Dataset) -> None:
    """Raise DatasetError where these pictures cannot do what the run asks of them."""
    loss = config.loss
    if loss.preservation and not any(loss.trigger in image.caption for image in dataset.images):
        raise DatasetError(
            f"loss.trigger = {loss.trigger!r}: it is in no caption, so nothing would be preserved: expected a word of"
            f" the captions, such as {dataset.images[0].plain_caption[:60]!r}"
        )
    trained = {image.group for image in dataset.images if not image.regularisation}
    alone = next((image for image in dataset.images if image.group not in trained), None)
    if alone is not None:
        raise DatasetError(
            f"{alone.path.parent}: regularisation pictures of a size, buckets and batch that no other pictures have:"
            " expected those of a folder that is trained on"
        )
    for name in ("patience", "block_patience"):
        if getattr(config, name) and not dataset.held_out:
            raise DatasetError(
                f"{name} = {getattr(config, name)}, and no picture is held out: expected dataset.validation, or a"
                " dataset.validation_share that holds out one at least"
            )
