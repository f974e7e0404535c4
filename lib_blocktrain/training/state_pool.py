"""A fixed pool of noise, with what the blocks in front of the first trained one make of each draw.

Those blocks are frozen, so that a draw of noise and timestep for a picture and its caption always gives the same hidden
state and skip connections there: they are computed once. HollowedNet (Cho et al. 2024, 2411.01179) does so for the deep
part of the U-Net. It costs diversity: a picture is only seen under its pool's draws.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from lib_blocktrain.model.memory import MIB, free_host_memory
from lib_blocktrain.training.augmentation import pictures_vary
from lib_blocktrain.training.batches import Batch
from lib_blocktrain.training.cache import TensorStore
from lib_blocktrain.training.captions import captions_vary
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.preparation import TrainingData
from lib_blocktrain.training.rng import generator_of, seed_of
from lib_blocktrain.training.step import Denoiser, Noise, Objective, draw_noise


class StatePool(AbstractContextManager["StatePool"]):
    """Draws the noise of batches from the pool, and predicts from the states that it keeps.

    A state is computed for one sample at a time, so that its bits do not depend on the batch. What is kept on disk is
    in `folder`, which is deleted in the beginning and at the end. Raises ConfigError for data that are never the same,
    and once it is known how large the pool becomes, where that is too much.
    """

    def __init__(self, config: RunConfig, data: TrainingData, denoiser: Denoiser, objective: Objective, folder: Path):
        _check_data(data)
        self._config, self._denoiser, self._objective, self._folder = config, denoiser, objective, folder
        self._entries = _entries(config, data)
        self._frozen: frozenset[str] = frozenset()
        self._dtypes: list[torch.dtype] = []
        self._store: TensorStore | None = None

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._clear()

    def begin_at(self, frozen: Collection[str]) -> None:
        """Begin anew, since another block may be the first trained one, and these are `frozen`, with their networks."""
        self._clear()
        self._frozen = frozenset(frozen)

    def noise(self, batch: Batch, number: int) -> Noise:
        """Return the draw of each sample of batch `number`, which follows from its picture alone."""
        seed, count = self._config.seed, self._config.pool.draws
        draws = [(key, seed_of(seed, "draw", number, place) % count) for key, place in zip(batch.keys, batch.indices)]
        generators = [generator_of(seed, "pool", key, draw) for key, draw in draws]
        noise = draw_noise(batch.latents.shape[1:], self._config.loss, generators, self._objective.timesteps)
        return replace(noise, draws=tuple(f"{key} {draw}" for key, draw in draws))

    def predict(
        self, batch: Batch, noise: Noise, conditioning: Mapping[str, Tensor], with_network: bool = True
    ) -> Tensor:
        """Return the U-Net's output; the network is off unless `with_network`."""
        inputs = self._objective.noised(batch.latents, noise), noise.timesteps, conditioning
        if self._frozen and not with_network:  # what is kept has their change in it
            return self._denoiser.predict(*inputs)
        fronts = [
            self._front(place, f"{batch.captions[place]} {draw}", *inputs) for place, draw in enumerate(noise.draws)
        ]
        device = inputs[0].device
        front = [torch.cat(parts).to(device, non_blocking=True) for parts in zip(*fronts)]
        return self._denoiser.predict_from([t.to(d) for t, d in zip(front, self._dtypes)], *inputs)

    def _front(
        self, place: int, name: str, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]
    ) -> list[Tensor]:
        one = slice(place, place + 1)

        def make() -> dict[str, Tensor]:
            own = {name: tensor[one] for name, tensor in conditioning.items()}
            found = self._denoiser.front(latents[one], timesteps[one], own)
            self._dtypes = [tensor.dtype for tensor in found]
            halved = self._config.pool.dtype == "bf16"
            return {f"{number:02}": t.to(torch.bfloat16) if halved else t for number, t in enumerate(found)}

        if self._store is None:
            self._store = self._opened(sum(tensor.nbytes for tensor in make().values()))
        kept = self._store.get(hashlib.sha256(name.encode()).hexdigest(), make)
        return [kept[number] for number in sorted(kept)]

    def _opened(self, size: int) -> TensorStore:
        """Return the store, empty, if there is room for all states of this size in bytes."""
        disk = self._config.pool.keep == "disk"
        if disk:
            self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free / MIB if disk else free_host_memory()
        needed = self._entries * size / MIB
        if free is not None and needed > free:
            where, other = ("on disk", "") if disk else ("in memory", ", or pool.keep disk")
            raise ConfigError(
                f"pool.draws = {self._config.pool.draws}: {self._entries} states of {size / MIB:.1f} MiB are"
                f" {needed:.0f} MiB, and {free:.0f} MiB are free {where}: expected fewer draws{other}"
            )
        return TensorStore(self._folder, 0) if disk else TensorStore(None, math.inf)

    def _clear(self) -> None:
        self._store = None
        if self._folder.exists():
            shutil.rmtree(self._folder)


def _check_data(data: TrainingData) -> None:
    for image in data.dataset.images:
        if captions_vary(image.options) or pictures_vary(image.options):
            what = "caption" if captions_vary(image.options) else "crop or colours"
            raise ConfigError(
                f"pool.draws, and {image.path} has another {what} in each step: expected neither shuffled or dropped"
                " tags and captions nor random crops and colours, or no pool"
            )


def _entries(config: RunConfig, data: TrainingData) -> int:
    """Return how many states there can be: of all draws, or of all samples of the run where those are fewer."""
    captions = 2 if config.loss.preservation else 1
    draws = config.pool.draws * sum(2 if image.options.flip else 1 for image in data.dataset.images)
    return captions * min(draws, data.steps * config.optimizer.accumulate * config.batch)
