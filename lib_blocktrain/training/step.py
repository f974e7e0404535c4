"""The noise of a batch, the U-Net's prediction for it, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib_blocktrain.model import diffusion
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.model.unet_forward import BlockState
from lib_blocktrain.model.weight_storage import WeightStorage
from lib_blocktrain.training.batches import Batch, joined, sent
from lib_blocktrain.training.cache import prompt_encoder
from lib_blocktrain.training.checkpointing import Checkpoints
from lib_blocktrain.training.compiled import CompiledUNet
from lib_blocktrain.training.config import LossConfig, RunConfig
from lib_blocktrain.training.precision import autocast
from lib_blocktrain.training.rng import global_seed


@dataclass(frozen=True)
class Noise:
    """The random values of a batch: `noise` for the target, `added` for the latents; `timesteps` `(batch,)`.

    `draws` names each sample's picture and draw where they are of a fixed pool.
    """

    noise: Tensor
    added: Tensor
    timesteps: Tensor
    draws: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Noise:
        """Return it on a device, without a wait for the GPU."""
        noise = sent(self.noise, device)
        added = noise if self.added is self.noise else sent(self.added, device)
        return Noise(noise, added, sent(self.timesteps, device), self.draws)


def draw_noise(
    shape: Sequence[int],
    config: LossConfig,
    generators: Sequence[torch.Generator],
    timesteps: Tensor | None = None,
) -> Noise:
    """Draw the noise of each sample, `shape` `(channels, h, w)`, from its own generator, on the CPU.

    `timesteps` is what `timestep_distribution` gives; None is uniform.
    """
    drawn = [_draw_one(tuple(shape), config, generator, timesteps) for generator in generators]
    noise, added, drawn_timesteps = zip(*drawn)
    stacked = torch.stack(noise)
    return Noise(stacked, torch.stack(added) if config.input_perturbation else stacked, torch.tensor(drawn_timesteps))


def timestep_distribution(config: LossConfig, alphas_cumprod: Tensor) -> Tensor | None:
    """Return the share of the draws up to each timestep of the range, `(max - min,)`; None if they are uniform."""
    first, end = config.min_timestep, config.max_timestep
    if config.timesteps == "uniform":
        return None
    if config.timesteps == "sigma":
        mean, std = _or(config.timestep_mean, -1.2), _or(config.timestep_std, 1.2)
        weights = diffusion.normal_in_log_sigma(alphas_cumprod, mean, std)[first:end]
    else:
        weights = diffusion.logit_normal(end - first, _or(config.timestep_mean, 0.0), _or(config.timestep_std, 1.0))
    if not weights.sum() > 0:
        raise ValueError(
            f"loss.timestep_mean = {config.timestep_mean}, loss.timestep_std = {config.timestep_std}: no timestep from"
            f" {first} to {end} is ever drawn: expected a mean nearer to them, or a larger std"
        )
    return weights.cumsum(0) / weights.sum()


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _draw_one(
    shape: tuple[int, ...], config: LossConfig, generator: torch.Generator, distribution: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    if distribution is None:
        timestep = int(torch.randint(config.min_timestep, config.max_timestep, (), generator=generator))
    else:
        place = torch.rand((), generator=generator, dtype=torch.float64)
        found = int(torch.searchsorted(distribution, place, right=True))
        timestep = config.min_timestep + min(found, len(distribution) - 1)
    noise = torch.randn(shape, generator=generator)
    if config.noise_offset:
        noise = diffusion.with_offset(noise, config.noise_offset, generator)
    if config.multires_iterations:
        noise = diffusion.with_multires(noise, config.multires_iterations, config.multires_discount, generator)
    added = diffusion.perturbed(noise, config.input_perturbation, generator) if config.input_perturbation else noise
    return noise, added, timestep


class Objective:
    """The loss of a batch as a function of the U-Net's output: schedule, target, element loss, mask, weights.

    The losses are computed on `device`, where batches and noise are expected; None is the CPU. `zero_terminal_snr` is
    the checkpoint's own.
    """

    def __init__(
        self,
        config: LossConfig,
        alphas_cumprod: Tensor,
        prediction: str,
        device: torch.device | None = None,
        zero_terminal_snr: bool = False,
    ):
        self.config = config
        self.prediction = config.prediction or prediction
        zero = zero_terminal_snr if config.zero_terminal_snr is None else config.zero_terminal_snr
        if zero and self.prediction == "epsilon":
            whose = "loss.zero_terminal_snr" if config.zero_terminal_snr else "a checkpoint of zero terminal SNR"
            raise ValueError(
                f"{whose} with epsilon prediction: nothing can be told of the noise at the"
                " last timestep, where the latents are noise alone: expected v prediction"
            )
        if config.v_pred_like_loss and self.prediction == "v":
            raise ValueError("loss.v_pred_like_loss with v prediction: that is its loss already: expected 0")
        if config.scale_v_pred_loss_like_noise_pred and self.prediction == "epsilon":
            raise ValueError(
                "loss.scale_v_pred_loss_like_noise_pred with epsilon prediction, whose loss it imitates: expected false"
            )
        alphas = alphas_cumprod.float().cpu()
        alphas = diffusion.zero_terminal_snr(alphas) if zero else alphas
        self.alphas_cumprod = alphas.to(device)
        self.timesteps = timestep_distribution(config, alphas)

    def noised(self, latents: Tensor, noise: Noise) -> Tensor:
        """Return x_t, the latents with noise."""
        return diffusion.add_noise(latents, noise.added.to(latents), self.alphas_cumprod, noise.timesteps)

    def losses(self, predicted: Tensor, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss of each sample `(batch,)`, fp32.

        In sd-scripts' order: by element, mask, mean over all but the batch, the image's weight, SNR weight.
        """
        target = diffusion.target_of(
            self.prediction, batch.latents, noise.noise.to(batch.latents), self.alphas_cumprod, noise.timesteps
        )
        c = diffusion.HUBER_SCHEDULES[self.config.huber_schedule](
            self.config.huber_c, noise.timesteps, self.alphas_cumprod
        )
        loss = diffusion.LOSSES[self.config.kind](predicted.float(), target, c.view(-1, 1, 1, 1))
        if batch.mask is not None and self.config.masked:
            loss = masked(loss, batch.mask, self.config.normalised_mask)
        return loss.mean(dim=(1, 2, 3)) * (batch.weights * self._snr_weight(noise.timesteps))

    def _snr_weight(self, timesteps: Tensor) -> Tensor:
        snr = diffusion.signal_to_noise(self.alphas_cumprod, timesteps)
        weight = torch.ones_like(snr)
        if self.config.min_snr_gamma:
            weight = diffusion.min_snr(self.config.min_snr_gamma)(snr, self.prediction)
        elif self.config.debiased:
            weight = diffusion.debiased(snr, self.prediction)
        if self.config.scale_v_pred_loss_like_noise_pred:
            weight = weight * diffusion.scale_of_v(snr)
        if self.config.v_pred_like_loss:
            weight = weight * (1 + self.config.v_pred_like_loss / diffusion.scale_of_v(snr))
        return weight


def masked(loss: Tensor, mask: Tensor, normalised: bool) -> Tensor:
    """Return the loss times the mask; `normalised`: over the mask's mean, so that a small mask is not a small loss."""
    loss = loss * mask
    return loss / mask.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6) if normalised else loss


class Denoiser:
    """The U-Net's output, with or without checkpointing, or compiled."""

    def __init__(
        self,
        model: Model,
        dtype: torch.dtype,
        first_block: str | None,
        checkpointing: bool,
        compiled: CompiledUNet | None = None,
        storage: WeightStorage | None = None,
    ):
        self.storage = storage
        self.model, self.dtype, self.compiled, self._checkpointing = model, dtype, compiled, checkpointing
        self.begin_at(first_block)

    def begin_at(self, first_block: str | None) -> None:
        """Expect the first trained block there, None for the beginning: what is before it needs no checkpoint."""
        self.first_block = first_block
        self._checkpoints = Checkpoints(self.model, first_block) if self._checkpointing else None

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Return the U-Net's output, `(batch, 4, h, w)`, for noised latents."""
        with self._inputs(latents, timesteps, conditioning) as inputs:
            if self._checkpoints is None:
                with self.compiled.active() if self.compiled else nullcontext():
                    return self.model.predict(*inputs)
            return self._run_blocks("IN00", self.model.enter_blocks(*inputs))

    @torch.no_grad()
    def front(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the hidden state in front of the first trained block, and the skip connections that are open there."""
        with self._inputs(latents, timesteps, conditioning) as inputs:
            state = state_before(self.model, self.first_block, self.model.enter_blocks(*inputs))
        return (state.h, *state.skips)

    def predict_from(
        self, front: Sequence[Tensor], latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]
    ) -> Tensor:
        """Return what `predict` does, given what `front` does."""
        assert self.first_block is not None
        with self._inputs(latents, timesteps, conditioning) as inputs:
            state = replace(self.model.enter_blocks(*inputs), h=front[0], skips=tuple(front[1:]))
            return self._run_blocks(self.first_block, state)

    def _run_blocks(self, first: str, state: BlockState) -> Tensor:
        if self._checkpoints is None:
            return self.model.run_blocks(first, state)
        with self._checkpoints.active():
            return self.model.run_blocks(first, state, call=self._checkpoints.call)

    @contextmanager
    def _inputs(
        self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
        """Give the U-Net's inputs, and compute in its dtype meanwhile."""
        weight = next(self.model.unet.parameters())
        cast = {name: _like(name, tensor, weight) for name, tensor in conditioning.items()}
        stored = nullcontext() if self.storage is None else self.storage.saving()
        with autocast(weight.device, self.dtype, weight.dtype), stored:
            yield latents.to(weight), timesteps.to(weight.device), cast


class _Reached(Exception):
    """The forward pass has come to the block that was asked for."""


def state_before(model: Model, block: str | None, state: BlockState) -> BlockState:
    """Return the state in front of a block, given the state in front of IN00."""
    kept: dict[str, BlockState] = {}

    def call(name: str, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        if name == block:
            raise _Reached  # `run_blocks` of a host goes on to the end otherwise
        return function(*tensors)

    with suppress(_Reached):
        model.run_blocks("IN00", state, keep=kept, call=call)
    assert block is not None
    return kept[block]


def conditioning_of(model: Model, batch: Batch, dtype: torch.dtype, max_tokens: int | None = None) -> dict[str, Tensor]:
    """Return a batch's conditioning; where the text encoder is trained, encode its captions as part of the graph.

    It computes in the U-Net's `dtype`, as in sd-scripts: in fp16 without a loss scale its gradients would underflow.
    """
    conditioning = dict(batch.conditioning)
    if not conditioning:
        weight = next(weight for encoder in model.text_encoders.values() for weight in encoder.parameters())
        with autocast(weight.device, dtype, weight.dtype):
            encode = prompt_encoder(model, max_tokens)
            encoded = [encode(caption) for caption in batch.captions]
        conditioning = joined(encoded)
    if "size" in conditioning:
        conditioning["size"] = batch.sizes.to(conditioning["size"])
    return conditioning


def _like(name: str, tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a conditioning in the weights' dtype, except for sizes: fp16 lacks whole numbers above 2048."""
    return tensor.to(weight.device) if name == "size" else tensor.to(weight)


def dropout_seed(config: RunConfig, device: torch.device, number: int, rank: int) -> AbstractContextManager[None]:
    """Seed dropout, if there is any, by the number of the batch, so that a resumed run draws the same values."""
    network = config.network
    if not (network.rank_dropout or network.module_dropout or network.neuron_dropout):
        return nullcontext()
    return global_seed(device, config.seed, "dropout", number, rank)
