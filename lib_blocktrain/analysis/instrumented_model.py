"""The noise that a model predicts under a network's block weights, from any block on, and what that costs.

An evaluation is one pass of one latent through the U-Net; one that begins at a later block counts the share of the
multiplications that it makes (`blocks`), and a backward pass counts as two.
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

BACKWARD = 2  # evaluations

States = MutableMapping[str, BlockState]


@dataclass(eq=False)
class InstrumentedModel:
    """A model with a network on it. `weights` are the block weights whose blocks are asked about."""

    model: Model
    hooks: Applied
    network: Network
    weights: BlockWeights
    setting: SamplingGrid
    evaluations: float = 0.0
    _texts: dict[tuple[str, float], Mapping[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self):
        known = blocks.architecture(self.model.architecture).blocks
        left = [sum(block.forward_share for block in known[n:]) for n in range(len(known))]
        self._shares = {block.id: share / left[0] for block, share in zip(known, left)}
        self._first = known[0].id
        self._alphas = self.model.alphas_cumprod.double().cpu()

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that the network acts in, in the order of the forward pass; BASE and REST, if any, first."""
        there = self.network.blocks
        order = (blocks.BASE, blocks.REST, *blocks.architecture(self.model.architecture).block_ids)
        return tuple(block for block in order if there.get(block) and self.weights[block])

    def sigma(self, timestep: int) -> float:
        """sqrt((1 - alpha-bar) / alpha-bar): noise per signal."""
        alpha = float(self._alphas[timestep])
        return ((1 - alpha) / alpha) ** 0.5

    def alpha(self, timestep: int) -> float:
        return float(self._alphas[timestep])

    def weigh(self, weights: BlockWeights) -> None:
        """Let the network act under these weights from now on."""
        self.hooks.set_weights(weights)

    def conditioning(self, prompt: str) -> Mapping[str, Tensor]:
        """Return the prompt's conditioning, before it the negative prompt's; under the weight that BASE has now."""
        base = self.hooks.placements[0].weights.base
        if (prompt, base) not in self._texts:
            with torch.no_grad():
                encoded = [self.model.encode_prompt(text) for text in self.texts_of(prompt)]
            self._texts[prompt, base] = joined(encoded)
        return self._texts[prompt, base]

    def texts_of(self, prompt: str) -> list[str]:
        """Return the texts of one prediction."""
        return [self.setting.negative, prompt] if self.setting.guided else [prompt]

    def predict(
        self,
        latents: Tensor,
        timestep: int,
        prompt: str,
        *,
        start: str | None = None,
        states: Mapping[str, BlockState] | None = None,
        keep: States | None = None,
        conditioning: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the predicted noise `(seeds, 4, h, w)`, fp32; from block `start` on, given the `states` of a pass.

        Latents are x_t of the forward process, `timestep` is the index of alpha-bar; `conditioning`, if it is not
        the prompt's, has a row for each latent, those of the negative prompt first.
        """
        weight = next(self.model.unet.parameters())
        copies = 2 if self.setting.guided else 1
        if start is None:
            doubled = latents.to(weight).repeat(copies, 1, 1, 1)
            timesteps = torch.full((len(doubled),), timestep, device=weight.device)
            conditioning = conditioning or self._repeated(prompt, len(latents))
            state = self.model.enter_blocks(doubled, timesteps, _like(weight, conditioning))
            start = self._first
        else:
            state = states[start]
        output = self.model.run_blocks(start, state, keep=keep).float()
        self.evaluations += copies * len(latents) * self._shares[start]
        if self.setting.guided:
            negative, positive = output.chunk(2)
            output = negative + self.setting.guidance * (positive - negative)
        return self._as_noise(output, latents, timestep)

    def count_backward(self, latents: Tensor) -> None:
        """Count a backward pass through a whole prediction."""
        self.evaluations += BACKWARD * len(latents) * (2 if self.setting.guided else 1)

    def _repeated(self, prompt: str, seeds: int) -> dict[str, Tensor]:
        return {name: tensor.repeat_interleave(seeds, dim=0) for name, tensor in self.conditioning(prompt).items()}

    def _as_noise(self, output: Tensor, latents: Tensor, timestep: int) -> Tensor:
        """epsilon = sqrt(a) v + sqrt(1 - a) x_t (Salimans & Ho 2022, 2202.00512)."""
        if self.model.prediction == "epsilon":
            return output
        alpha = self.alpha(timestep)
        return alpha**0.5 * output + (1 - alpha) ** 0.5 * latents.float()


def _like(weight: Tensor, conditioning: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return it on the weights' device and in their dtype; sizes as they are: fp16 has not every number above 2048."""
    return {n: t.to(weight.device) if n == "size" else t.to(weight) for n, t in conditioning.items()}


@contextmanager
def staged(
    model: Model, network: Network, setting: SamplingGrid, weights: BlockWeights | None = None, multiplier: float = 1.0
) -> Iterator[InstrumentedModel]:
    """Put the network on the model for an analysis, and take it off afterwards.

    The model is lent as for a training: the host's own networks are off it then, and its weights are where they can be
    computed with. Raises ValueError for a model that cannot be analysed, or a network that does nothing on it.
    """
    if model.in_channels != 4:
        raise ValueError(
            f"the model's U-Net takes {model.in_channels} channels, that of an inpainting or editing model: expected a"
            " text-to-image model (4 channels)"
        )
    weights = weights or BlockWeights.uniform(network.architecture, 1.0)
    targets = {"unet": model.unet, **model.text_encoders}
    with model.trainable(), applied(targets, network, weights, multiplier) as hooks:
        stage = InstrumentedModel(model, hooks, network, weights, setting)
        if not stage.blocks:
            raise ValueError(f"{network.name!r} acts in no block under the weights {weights.to_line()}")
        yield stage
