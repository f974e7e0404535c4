"""The network as its file would be, measured and drawn on the way; training goes on to the bit as without that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lib_blocktrain.model.set_aside import SetAside
from lib_blocktrain.training.batches import Batch
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.distributed import Processes
from lib_blocktrain.training.early_stopping import Validation, take_gradients
from lib_blocktrain.training.monitor import worse_than_none
from lib_blocktrain.training.preparation import TrainingData
from lib_blocktrain.training.rng import global_seed
from lib_blocktrain.training.sample_prompts import SamplePrompt
from lib_blocktrain.training.step import Denoiser, Noise
from lib_blocktrain.training.train_state import TrainState

COMPARE_EVERY = 20  # steps, at least, between two comparisons with no LoRA: each costs five predictions

# The image of a prompt, by the host's own sampler; None where it could not be drawn, which does not end the run.
Draw = Callable[[SamplePrompt], Image.Image | None]


@dataclass(frozen=True)
class Evaluation:
    """`losses` returns the loss of each sample, `(batch,)`, under the hooks that the model has at the time."""

    config: RunConfig
    data: TrainingData
    train_state: TrainState
    denoiser: Denoiser
    losses: Callable[[Batch, Noise], Tensor]
    processes: Processes
    device: torch.device

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """Let the network act as its file would: averaged weights, no dropout; torch's random state is lent."""
        with self.train_state.network_to_save(), global_seed(self.device, self.config.seed, "as saved"):
            yield

    def validation(self, gradients: bool = False) -> Validation | None:
        """Return the loss of the held-out images, at fixed timesteps with fixed noise; None if there are none.

        With `gradients` also the weights and their gradients, as they would be saved.
        """
        if not self.data.dataset.held_out:
            return None
        total, parameters = torch.zeros(2, device=self.device), self.train_state.parameters
        values: list[Tensor] = []
        with self.as_saved(), torch.set_grad_enabled(gradients):
            scale = self.train_state.loss_scale.factor
            if gradients:
                values = [parameter.detach().cpu().clone() for parameter in parameters]
                take_gradients(parameters)  # those of the step that was just made
            for batch, noise in self.data.validation(self.config, self.processes):
                losses = self.losses(batch, noise)
                if gradients:
                    (losses.sum() * scale).backward()
                total[0] += losses.detach().sum()
                total[1] += len(losses)
        found = take_gradients(parameters) if gradients else []
        self.processes.sum([total, *found])
        images = float(total[1])
        means = [(gradient / (scale * images)).cpu() for gradient in found]
        return Validation(float(total[0]) / images, values, means)

    @torch.no_grad()
    def compared_loss(self) -> float:
        """Return the mean loss of some of the run's pictures under the hooks that the model has now."""
        compiled, self.denoiser.compiled = self.denoiser.compiled, None  # a graph for so little would take minutes
        try:
            losses = [self.losses(batch, noise) for batch, noise in self.data.compared(self.config)]
        finally:
            self.denoiser.compiled = compiled
        return float(torch.cat(losses).mean())

    @torch.no_grad()
    def sample(self, draw: Draw, number: int, aside: SetAside) -> Image.Image | None:
        """Return the image of a prompt with its seed, drawn with the models that wait in `aside`."""
        with self.as_saved(), aside.needed():
            return draw(self.config.samples.prompt(number))


class Comparison:
    """The losses of some of the pictures with the LoRA and without it, in one session."""

    def __init__(self, without: float):
        self._without = without
        self._at: int | None = None  # step of the last comparison
        self._is_worse = False

    def due(self, step: int) -> bool:
        """Whether it is time to compare: by steps, since all processes must do it at the same one."""
        return self._at is None or step - self._at >= COMPARE_EVERY

    def losses(self, step: int, with_it: float) -> Mapping[str, float]:
        """Return what is recorded of a comparison."""
        self._at = step
        return {"with": with_it, "without": self._without}

    def diverged(self, losses: Mapping[str, float]) -> bool:
        """Whether the loss with the LoRA is not finite, and the one without it is."""
        return math.isfinite(self._without) and not math.isfinite(losses["with"])

    def worse(self, losses: Mapping[str, float]) -> tuple[str | None, bool]:
        """Return what to say of a LoRA that does worse than none, and whether it did not at the last comparison."""
        text, was_worse = worse_than_none(losses), self._is_worse
        self._is_worse = text is not None
        return text, not was_worse
