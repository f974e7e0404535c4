"""One step: noise, prediction, loss, gradients. The noise of a sample belongs to (seed, step, sample)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lib_blocktrain import blocks
from lib_blocktrain.model import diffusion
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.training.batches import Batch, joined
from lib_blocktrain.training.compiled import CompiledUNet
from lib_blocktrain.training.config import LossConfig
from lib_blocktrain.training.precision import autocast


@dataclass(frozen=True)
class Noise:
    """What is drawn for a batch: `noise` is the target's, `added` goes into the latents; `timesteps` `(batch,)`."""

    noise: Tensor
    added: Tensor
    timesteps: Tensor


def draw_noise(shape: Sequence[int], config: LossConfig, generators: Sequence[torch.Generator]) -> Noise:
    """Draw for each sample of latents `(channels, h, w)` from its own generator, on the CPU."""
    drawn = [_draw_one(tuple(shape), config, generator) for generator in generators]
    noise, added, timesteps = zip(*drawn)
    return Noise(torch.stack(noise), torch.stack(added), torch.tensor(timesteps))


def _draw_one(shape: tuple[int, ...], config: LossConfig, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
    timestep = torch.randint(config.min_timestep, config.max_timestep, (), generator=generator).item()
    noise = torch.randn(shape, generator=generator)
    if config.noise_offset:
        noise = diffusion.with_offset(noise, config.noise_offset, generator)
    if config.multires_iterations:
        noise = diffusion.with_multires(noise, config.multires_iterations, config.multires_discount, generator)
    added = diffusion.perturbed(noise, config.input_perturbation, generator) if config.input_perturbation else noise
    return noise, added, timestep


class Objective:
    """The loss of a batch as a function of the U-Net's output: schedule, target, element loss, mask, weights."""

    def __init__(self, config: LossConfig, alphas_cumprod: Tensor, prediction: str):
        self.config = config
        self.prediction = config.prediction or prediction
        if config.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError(
                "loss.zero_terminal_snr with epsilon prediction: nothing can be told of the noise at the"
                " last timestep, where the latents are noise alone: expected v prediction"
            )
        alphas = alphas_cumprod.float().cpu()
        self.alphas_cumprod = diffusion.zero_terminal_snr(alphas) if config.zero_terminal_snr else alphas

    def noised(self, latents: Tensor, noise: Noise) -> Tensor:
        """Return x_t."""
        return diffusion.add_noise(latents, noise.added.to(latents), self.alphas_cumprod, noise.timesteps)

    def losses(self, predicted: Tensor, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss of each sample `(batch,)`, fp32.

        In sd-scripts' order: element by element, mask, mean over all but the batch, the picture's weight, SNR weight.
        """
        device, latents = predicted.device, batch.latents.to(predicted.device)
        target = diffusion.target_of(
            self.prediction, latents, noise.noise.to(latents), self.alphas_cumprod, noise.timesteps
        )
        c = diffusion.HUBER_SCHEDULES[self.config.huber_schedule](
            self.config.huber_c, noise.timesteps, self.alphas_cumprod
        )
        loss = diffusion.LOSSES[self.config.kind](predicted.float(), target, c.view(-1, 1, 1, 1).to(device))
        if batch.mask is not None and self.config.masked:
            loss = masked(loss, batch.mask.to(device), self.config.normalised_mask)
        return loss.mean(dim=(1, 2, 3)) * (batch.weights * self._snr_weight(noise.timesteps)).to(device)

    def _snr_weight(self, timesteps: Tensor) -> Tensor:
        snr = diffusion.signal_to_noise(self.alphas_cumprod, timesteps)
        if self.config.min_snr_gamma:
            return diffusion.min_snr(self.config.min_snr_gamma)(snr, self.prediction)
        return diffusion.debiased(snr, self.prediction) if self.config.debiased else torch.ones_like(snr)


def masked(loss: Tensor, mask: Tensor, normalised: bool) -> Tensor:
    """Return the loss under a mask; `normalised`: as if the masked part were the whole picture, so that a small mask
    does not mean a small loss.
    """
    loss = loss * mask
    return loss / mask.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6) if normalised else loss


class Denoiser:
    """The U-Net's output, with checkpointing or without, or compiled.

    A checkpoint is set for each block from the first trained one on: before it nothing is kept anyway.
    """

    def __init__(
        self,
        model: Model,
        dtype: torch.dtype,
        first_block: str | None,
        checkpointing: bool,
        compiled: CompiledUNet | None = None,
    ):
        self.model, self.dtype, self.compiled = model, dtype, compiled
        known = blocks.architecture(model.architecture).block_ids
        self._kept = frozenset(known[known.index(first_block) :] if first_block else known) if checkpointing else None

    def of(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Return what the U-Net predicts, `(batch, 4, h, w)`, for noised latents."""
        weight = next(self.model.unet.parameters())
        latents, timesteps = latents.to(weight), timesteps.to(weight.device)
        conditioning = {name: _like(name, tensor, weight) for name, tensor in conditioning.items()}
        with autocast(weight.device, self.dtype, weight.dtype):
            if self._kept is None:
                with self.compiled.acting() if self.compiled else nullcontext():
                    return self.model.predict(latents, timesteps, conditioning)
            state = self.model.enter_blocks(latents, timesteps, conditioning)
            return self.model.run_blocks("IN00", state, call=self._call)

    def _call(self, block: str, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        if block not in self._kept or not torch.is_grad_enabled():
            return function(*tensors)
        return checkpoint(function, *tensors, use_reentrant=False)


def conditioning_of(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Return a batch's conditioning; where it has none yet, encode its captions as part of the graph."""
    conditioning = dict(batch.conditioning) or joined([model.encode_prompt(caption) for caption in batch.captions])
    if "size" in conditioning:
        conditioning["size"] = batch.sizes.to(conditioning["size"])
    return conditioning


def _like(name: str, tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a conditioning in the weights' dtype, except for sizes: fp16 has not every whole number above 2048."""
    return tensor.to(weight.device) if name == "size" else tensor.to(weight)
