"""The losses of a step's samples: of the pictures, and of what the network changes for their class; and their noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lib_blocktrain.model.protocol import Model
from lib_blocktrain.networks.hooks import Applied
from lib_blocktrain.training.batches import Batch
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.noise_scaling import NoiseScaling
from lib_blocktrain.training.rng import generator_of
from lib_blocktrain.training.state_pool import StatePool
from lib_blocktrain.training.step import Denoiser, Noise, Objective, conditioning_of, draw_noise
from lib_blocktrain.weights.block_weights import BlockWeights


class StepLosses:
    """What a step has of its batch, each loss `(batch,)`; batch and noise are on the model's device.

    `applied`, `noise_scaling` and `pool` are those of the run, None where it has none or has not begun.
    """

    def __init__(self, model: Model, config: RunConfig, objective: Objective, denoiser: Denoiser):
        self.objective, self.denoiser = objective, denoiser
        self._model, self._config = model, config
        self.applied: Applied | None = None
        self.noise_scaling: NoiseScaling | None = None
        self.pool: StatePool | None = None

    def noise(self, batch: Batch, number: int) -> Noise:
        """Draw the noise and timesteps of a batch, each sample's from (seed, step, sample), or from the pool."""
        if self.pool is not None:
            return self.pool.noise(batch, number)
        generators = [generator_of(self._config.seed, "noise", number, place) for place in batch.indices]
        return draw_noise(batch.latents.shape[1:], self._config.loss, generators, self.objective.timesteps)

    def of(self, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss of each sample."""
        self._set_noise(noise)
        return self.objective.losses(self._predicted(batch, noise), batch, noise)

    def preservation(self, batch: Batch, noise: Noise) -> Tensor:
        """Return how far the network moves the model's output for these captions, squared.

        Differential output preservation, as ai-toolkit has it: what the model makes of the class shall stay.
        """
        compiled, self.denoiser.compiled = self.denoiser.compiled, None  # its graphs are of the network's layers
        try:
            with torch.no_grad(), self._without_network():
                own = self._predicted(batch, noise, with_network=False).float()
            self._set_noise(noise)
            return (self._predicted(batch, noise).float() - own).square().mean(dim=(1, 2, 3))
        finally:
            self.denoiser.compiled = compiled

    def _set_noise(self, noise: Noise) -> None:
        if self.noise_scaling is not None:
            self.noise_scaling.set(noise.timesteps)

    def _predicted(self, batch: Batch, noise: Noise, with_network: bool = True) -> Tensor:
        conditioning = conditioning_of(self._model, batch, self.denoiser.dtype, self._config.max_tokens)
        if self.pool is not None and noise.draws:
            return self.pool.predict(batch, noise, conditioning, with_network)
        return self.denoiser.predict(self.objective.noised(batch.latents, noise), noise.timesteps, conditioning)

    @contextmanager
    def _without_network(self) -> Iterator[None]:
        assert self.applied is not None
        architecture = self._model.architecture
        self.applied.set_weights(BlockWeights.uniform(architecture, 0.0))
        try:
            yield
        finally:
            self.applied.set_weights(BlockWeights.uniform(architecture, 1.0))
