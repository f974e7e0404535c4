"""The diffusion process in training: noise schedules, noise, targets, losses and loss weights.

Latents are x_0 `(batch, 4, h, w)`, `alphas_cumprod` is alpha-bar of Ho et al. 2020 (2006.11239), one per timestep;
`timesteps` are indices into it, `(batch,)`. SNR = alpha-bar / (1 - alpha-bar).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

LossWeight = Callable[[Tensor, str], Tensor]  # SNR (batch,), prediction -> weight (batch,)


def scaled_linear_alphas_cumprod(steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """Stable Diffusion's schedule: sqrt(beta) rises evenly from sqrt(start) to sqrt(end)."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha-bar) so that the last timestep is pure noise (Lin et al. 2023, 2305.08891)."""
    roots = alphas_cumprod.double().sqrt()
    first, last = roots[0], roots[-1]
    return ((roots - last) * (first / (first - last))).square().to(alphas_cumprod.dtype)


def signal_to_noise(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """SNR(t) of each sample, `(batch,)`."""
    alphas = alphas_cumprod[timesteps].float()
    return alphas / (1 - alphas)


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """x_t = sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) noise (Ho et al. 2020, 2006.11239, eq. 4)."""
    signal, spread = _factors(alphas_cumprod, timesteps, latents)
    return signal * latents + spread * noise


def target_of(prediction: str, latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """The U-Net's target: the noise, or v = sqrt(a) noise - sqrt(1 - a) x_0 (Salimans & Ho 2022, 2202.00512)."""
    if prediction == "epsilon":
        return noise
    if prediction != "v":
        raise ValueError(f"prediction {prediction!r}: expected 'epsilon' or 'v'")
    signal, spread = _factors(alphas_cumprod, timesteps, latents)
    return signal * noise - spread * latents


def _factors(alphas_cumprod: Tensor, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(alpha-bar) and sqrt(1 - alpha-bar), `(batch, 1, 1, 1)`."""
    alphas = alphas_cumprod.to(like.device)[timesteps].float().view(-1, 1, 1, 1)
    return alphas.sqrt().to(like.dtype), (1 - alphas).sqrt().to(like.dtype)


# Noise: of one sample, `(channels, h, w)`, from its own generator, so that it does not depend on the batch.


def with_offset(noise: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Noise with a random shift per channel, so that brightness is learned too (Guttenberg 2023, "noise offset")."""
    return noise + strength * torch.randn(noise.shape[0], 1, 1, generator=generator)


def with_multires(noise: Tensor, iterations: int, discount: float, generator: torch.Generator) -> Tensor:
    """Noise plus coarser noise, scaled to variance 1 (Whitaker 2023, "multi-resolution noise").

    Level i is noise at 1/r^i of the size, r random in 2..4, enlarged bilinearly, times discount^i.
    """
    height, width = noise.shape[-2:]
    total = noise.clone()
    for level in range(iterations):
        shrink = (2 + 2 * torch.rand((), generator=generator).item()) ** level
        small = max(1, int(height / shrink)), max(1, int(width / shrink))
        coarse = torch.randn(1, noise.shape[0], *small, generator=generator)
        total += F.interpolate(coarse, (height, width), mode="bilinear")[0] * discount**level
        if small == (1, 1):
            break
    return total / total.std()


def perturbed(noise: Tensor, gamma: float, generator: torch.Generator) -> Tensor:
    """The noise for x_t; the target keeps the unperturbed one (Ning et al. 2023, 2301.11706, algorithm 1)."""
    return noise + gamma * torch.randn(noise.shape, generator=generator)


# Losses, element by element: predicted and target `(batch, 4, h, w)`, `c` `(batch, 1, 1, 1)`.


def squared_error(predicted: Tensor, target: Tensor, c: Tensor) -> Tensor:
    """(p - t)^2."""
    return (predicted - target).square()


def pseudo_huber(predicted: Tensor, target: Tensor, c: Tensor) -> Tensor:
    """2c (sqrt((p - t)^2 + c^2) - c): squared below c, linear above (Khrapov et al. 2024, 2403.16728, eq. 5)."""
    return 2 * c * (((predicted - target).square() + c.square()).sqrt() - c)


def smooth_l1(predicted: Tensor, target: Tensor, c: Tensor) -> Tensor:
    """2 (sqrt((p - t)^2 + c^2) - c), sd-scripts' smooth L1: slope 2 far from the target, whatever c is."""
    return 2 * (((predicted - target).square() + c.square()).sqrt() - c)


def absolute_error(predicted: Tensor, target: Tensor, c: Tensor) -> Tensor:
    """|p - t|."""
    return (predicted - target).abs()


LOSSES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "l2": squared_error,
    "l1": absolute_error,
    "huber": pseudo_huber,
    "smooth_l1": smooth_l1,
}


def huber_constant(c: float, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """The same c at every timestep."""
    return torch.full(timesteps.shape, c, device=timesteps.device)


def huber_exponential(c: float, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """c^(t / T): from 1 at the first timestep to c at the last (2403.16728, section 4.2)."""
    return torch.exp(math.log(c) * timesteps.float() / len(alphas_cumprod))


def huber_snr(c: float, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """(1 - c) / (1 + sigma)^2 + c with sigma^2 = 1 / SNR (2403.16728, section 4.2)."""
    sigmas = signal_to_noise(alphas_cumprod, timesteps).rsqrt()
    return (1 - c) / (1 + sigmas).square() + c


HUBER_SCHEDULES = {"constant": huber_constant, "exponential": huber_exponential, "snr": huber_snr}


# Loss weights, one per sample.


def min_snr(gamma: float) -> LossWeight:
    """min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v (Hang et al. 2023, 2303.09556, section 3.4)."""

    def weight(snr: Tensor, prediction: str) -> Tensor:
        return snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)

    return weight


def debiased(snr: Tensor, prediction: str) -> Tensor:
    """1 / sqrt(SNR) with SNR at most 1000 (Yu et al. 2023, 2310.08442); for v 1 / (SNR + 1), as sd-scripts does."""
    snr = snr.clamp(max=1000)
    return snr.rsqrt() if prediction == "epsilon" else 1 / (snr + 1)


def scale_of_v(snr: Tensor) -> Tensor:
    """SNR / (SNR + 1), SNR at most 1000: times it a loss of v is one of epsilon (sd-scripts' `get_snr_scale`)."""
    snr = snr.clamp(max=1000)
    return snr / (snr + 1)


# Distributions of the timesteps: the weight of each, `(timesteps,)`.


def logit_normal(count: int, mean: float, std: float) -> Tensor:
    """How often sigmoid(N(mean, std)) is in each of `count` equal parts of 0 to 1 (2403.03206, section 3.1)."""
    edges = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    return torch.special.ndtr((torch.logit(edges) - mean) / std).diff()


def normal_in_log_sigma(alphas_cumprod: Tensor, mean: float, std: float) -> Tensor:
    """How often ln sigma ~ N(mean, std), sigma^2 = 1 / SNR, is nearest to each timestep's (2206.00364, table 1)."""
    alphas = alphas_cumprod.double().cpu().clamp(1e-12, 1 - 1e-12)
    log_sigma = ((1 - alphas) / alphas).log() / 2
    halves = log_sigma.diff() / 2
    edges = torch.cat([log_sigma[:1] - halves[:1], log_sigma[:-1] + halves, log_sigma[-1:] + halves[-1:]])
    return torch.special.ndtr((edges - mean) / std).diff()
