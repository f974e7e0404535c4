"""A model with a network on it: the noise that it predicts under block weights, from any block on, and what that costs.

An evaluation is one pass of one latent through the U-Net; one that begins at a later block counts the share of the
multiplications that it makes (see `blocks.py`), and a backward pass counts as two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib_blocktrain import blocks
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.model.unet_forward import BlockState
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.hooks import Applied, applied
from lib_blocktrain.training.batches import joined
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights

BACKWARD = 2  # evaluations

States = MutableMapping[str, BlockState]


@dataclass(eq=False)
class InstrumentedModel:
    """A model with a network on it, and the `blocks` that the network acts in under the analysed `weights`."""

    model: Model
    hooks: Applied
    network: Network
    weights: BlockWeights
    grid: SamplingGrid
    evaluations: float = 0.0
    _texts: dict[tuple[str, float], Mapping[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = blocks.architecture(self.model.architecture).blocks
        left = [sum(block.forward_share for block in known[n:]) for n in range(len(known))]
        self._shares = {block.id: share / left[0] for block, share in zip(known, left)}
        self._first = known[0].id
        self.blocks = active_blocks(self.network, self.weights)
        self._alphas = self.model.alphas_cumprod.double().cpu()

    def sigma(self, timestep: int) -> float:
        """sqrt((1 - alpha-bar) / alpha-bar): noise per signal."""
        alpha = float(self._alphas[timestep])
        return ((1 - alpha) / alpha) ** 0.5

    def alpha(self, timestep: int) -> float:
        return float(self._alphas[timestep])

    def set_weights(self, weights: BlockWeights) -> None:
        """Let the network act under these weights until others are set."""
        self.hooks.set_weights(weights)

    def conditioning(self, prompt: str) -> Mapping[str, Tensor]:
        """Return the conditioning under BASE's present weight: the prompt's, after the negative prompt's if guided."""
        base = LayerWeights.of(self.hooks.placements[0].weights).blocks.base
        if (prompt, base) not in self._texts:
            with torch.no_grad():
                encoded = [self.model.encode_prompt(text) for text in self.texts_of(prompt)]
            self._texts[prompt, base] = joined(encoded)
        return self._texts[prompt, base]

    def texts_of(self, prompt: str) -> list[str]:
        """Return the texts of one prediction."""
        return [self.grid.negative, prompt] if self.grid.guided else [prompt]

    def predict(
        self,
        latents: Tensor,
        timestep: int,
        prompt: str,
        *,
        resume: tuple[str, BlockState] | None = None,
        keep: States | None = None,
        conditioning: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the predicted noise `(seeds, 4, h, w)`, fp32.

        Latents are x_t of the forward process, `timestep` is the index of alpha-bar. `keep` receives the state in
        front of every block; `resume`, a block and its state, computes only from that block on. `conditioning`, if it
        is not the prompt's, has a row for each latent, those of the negative prompt first.
        """
        weight = next(self.model.unet.parameters())
        copies = 2 if self.grid.guided else 1
        if resume is None:
            doubled = latents.to(weight).repeat(copies, 1, 1, 1)
            timesteps = torch.full((len(doubled),), timestep, device=weight.device)
            conditioning = conditioning or self._repeated(prompt, len(latents))
            state = self.model.enter_blocks(doubled, timesteps, _like(weight, conditioning))
            start = self._first
        else:
            start, state = resume
        output = self.model.run_blocks(start, state, keep=keep).float()
        self.evaluations += copies * len(latents) * self._shares[start]
        if self.grid.guided:
            negative, positive = output.chunk(2)
            output = negative + self.grid.guidance * (positive - negative)
        return self._as_noise(output, latents, timestep)

    def count_backward(self, latents: Tensor) -> None:
        """Count a backward pass through the whole U-Net."""
        self.evaluations += BACKWARD * len(latents) * (2 if self.grid.guided else 1)

    def _repeated(self, prompt: str, seeds: int) -> dict[str, Tensor]:
        return {name: tensor.repeat_interleave(seeds, dim=0) for name, tensor in self.conditioning(prompt).items()}

    def _as_noise(self, output: Tensor, latents: Tensor, timestep: int) -> Tensor:
        """epsilon = sqrt(a) v + sqrt(1 - a) x_t (Salimans & Ho 2022, 2202.00512)."""
        if self.model.prediction == "epsilon":
            return output
        alpha = self.alpha(timestep)
        return alpha**0.5 * output + (1 - alpha) ** 0.5 * latents.float()


def _like(weight: Tensor, conditioning: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move to the weights' device and dtype; sizes keep their dtype, as fp16 has not every number above 2048."""
    return {n: t.to(weight.device) if n == "size" else t.to(weight) for n, t in conditioning.items()}


@contextmanager
def instrument(
    model: Model, network: Network, grid: SamplingGrid, weights: BlockWeights | None = None, multiplier: float = 1.0
) -> Iterator[InstrumentedModel]:
    """Apply the network to the model for an analysis, and restore the model afterwards.

    The model is borrowed as for a training: the host's own networks are off, and the weights are where they can be
    computed with. Raises ValueError for a model that cannot be analysed, or a network that does nothing on it.
    """
    check_channels(model)
    weights = weights or BlockWeights.uniform(network.architecture, 1.0)
    targets = {"unet": model.unet, **model.text_encoders}
    with model.trainable(), applied(targets, network, weights, multiplier) as hooks:
        yield InstrumentedModel(model, hooks, network, weights, grid)


def check_channels(model: Model) -> None:
    """Raise ValueError for an inpainting or editing model, which takes more than an image's latents."""
    if model.in_channels != 4:
        raise ValueError(
            f"the model's U-Net takes {model.in_channels} channels, that of an inpainting or editing model: expected a"
            " text-to-image model (4 channels)"
        )


def active_blocks(network: Network, weights: BlockWeights) -> tuple[str, ...]:
    """Return the blocks that the network acts in under these weights, in forward order, BASE and REST in front.

    Raises ValueError where there is none.
    """
    order = (blocks.BASE, blocks.REST, *blocks.architecture(network.architecture).block_ids)
    there = network.blocks
    found = tuple(block for block in order if there.get(block) and weights[block])
    if not found:
        raise ValueError(f"{network.name!r} acts in no block under the weights {weights.to_line()}")
    return found
