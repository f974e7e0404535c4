"""Each formula of `diffusion` against the paper's, written a second way, and against diffusers where it has it."""

from __future__ import annotations

import math

import pytest
import torch

from lib_blocktrain.model import diffusion

ALPHAS = diffusion.scaled_linear_alphas_cumprod()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_schedule_is_stable_diffusions():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(ALPHAS, scheduler.alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert ALPHAS[-1].item() == pytest.approx(0.0047, abs=1e-4)


def test_zero_terminal_snr():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    rescaled = diffusion.zero_terminal_snr(ALPHAS)
    assert rescaled[-1] == 0
    assert rescaled[0] == ALPHAS[0]
    torch.testing.assert_close(rescaled, scheduler.alphas_cumprod, rtol=1e-3, atol=1e-5)


def test_noising_and_targets():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    latents, noise = torch.randn(3, 4, 8, 8, generator=seeded(1)), torch.randn(3, 4, 8, 8, generator=seeded(2))
    timesteps = torch.tensor([0, 500, 999])
    noised = diffusion.add_noise(latents, noise, ALPHAS, timesteps)
    torch.testing.assert_close(noised, scheduler.add_noise(latents, noise, timesteps), rtol=1e-4, atol=1e-5)
    v = diffusion.target_of("v", latents, noise, ALPHAS, timesteps)
    torch.testing.assert_close(v, scheduler.get_velocity(latents, noise, timesteps), rtol=1e-4, atol=1e-5)
    assert diffusion.target_of("epsilon", latents, noise, ALPHAS, timesteps) is noise
    # x_0 = sqrt(a) x_t - sqrt(1 - a) v (2202.00512, appendix D)
    a = ALPHAS[timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(a.sqrt() * noised - (1 - a).sqrt() * v, latents, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="'x0'"):
        diffusion.target_of("x0", latents, noise, ALPHAS, timesteps)


def test_loss_weights():
    snr = torch.tensor([0.004, 1.0, 5.0, 20.0, 4000.0])
    weight = diffusion.min_snr(5.0)
    expected = [min(s, 5) / s for s in snr.tolist()]
    assert weight(snr, "epsilon").tolist() == pytest.approx(expected)
    assert weight(snr, "v").tolist() == pytest.approx([min(s, 5) / (s + 1) for s in snr.tolist()])
    assert diffusion.debiased(snr, "epsilon").tolist() == pytest.approx(
        [1 / math.sqrt(min(s, 1000)) for s in snr.tolist()]
    )
    assert diffusion.debiased(snr, "v").tolist() == pytest.approx([1 / (min(s, 1000) + 1) for s in snr.tolist()])
    assert diffusion.min_snr(5.0)(torch.zeros(1), "v") == 0  # at zero terminal SNR


def test_signal_to_noise():
    snr = diffusion.signal_to_noise(ALPHAS, torch.tensor([0, 999]))
    assert snr.tolist() == pytest.approx([float(ALPHAS[t] / (1 - ALPHAS[t])) for t in (0, 999)])


def test_offset_noise_shifts_whole_channels():
    noise = torch.randn(4, 64, 64, generator=seeded())
    shift = diffusion.with_offset(noise, 0.5, seeded(3)) - noise
    assert torch.allclose(shift, shift[:, :1, :1].expand_as(shift), atol=1e-6)
    expected = 0.5 * torch.randn(4, 1, 1, generator=seeded(3))
    torch.testing.assert_close(shift[:, :1, :1], expected, rtol=1e-4, atol=1e-5)


def test_multires_noise_is_noise_with_more_in_the_low_frequencies():
    noise = torch.randn(4, 64, 64, generator=seeded())
    mixed = diffusion.with_multires(noise, 6, 0.8, seeded(4))
    assert mixed.std().item() == pytest.approx(1, abs=1e-5)
    coarse = torch.nn.functional.avg_pool2d
    assert coarse(mixed, 16).std() > 2 * coarse(noise, 16).std()


def test_perturbation():
    noise = torch.randn(4, 8, 8, generator=seeded())
    added = diffusion.perturbed(noise, 0.1, seeded(5))
    torch.testing.assert_close(added - noise, 0.1 * torch.randn(4, 8, 8, generator=seeded(5)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_huber_is_square_near_and_linear_far(c):
    near, far = torch.tensor([1e-3]) * c, torch.tensor([1e4])
    zero, c_tensor = torch.zeros(1), torch.tensor([c])
    assert diffusion.pseudo_huber(near, zero, c_tensor).item() == pytest.approx(near.item() ** 2, rel=0.05)
    assert diffusion.pseudo_huber(far, zero, c_tensor).item() == pytest.approx(2 * c * 1e4, rel=1e-3)
    assert diffusion.smooth_l1(far, zero, c_tensor).item() == pytest.approx(2e4, rel=1e-3)
    assert diffusion.squared_error(far, zero, c_tensor).item() == pytest.approx(1e8)


def test_huber_schedules():
    timesteps = torch.tensor([0, 500, 999])
    assert diffusion.huber_constant(0.2, timesteps, ALPHAS).tolist() == pytest.approx([0.2] * 3)
    assert diffusion.huber_exponential(0.2, timesteps, ALPHAS).tolist() == pytest.approx([1, 0.2**0.5, 0.2**0.999])
    sigmas = ((1 - ALPHAS[timesteps]) / ALPHAS[timesteps]).sqrt()
    assert diffusion.huber_snr(0.2, timesteps, ALPHAS).tolist() == pytest.approx(
        [0.8 / (1 + s) ** 2 + 0.2 for s in sigmas.tolist()], rel=1e-4
    )
