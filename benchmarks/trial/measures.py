"""Measures of a LoRA: fidelity, leakage, drift and diversity of its pictures, its losses, and its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.trial.drawing import Sampler, decode, draw
from demo.classifier import FACTORS, Classifier
from demo.composites import Scene
from demo.loop import half
from lib_blocktrain.hosts.standalone import StandaloneModel
from lib_blocktrain.networks.adapters import LoRA
from lib_blocktrain.networks.adapters.base import matrix
from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.batches import joined
from lib_blocktrain.training.rng import generator_of

TIMESTEPS = (100, 300, 500, 700)  # at which losses are measured


@dataclass(eq=False)
class Reader:
    """The classifier, and pictures of the model that it reads."""

    model: StandaloneModel
    classifier: Classifier
    sampler: Sampler = field(default_factory=Sampler)

    def pictures(
        self,
        scenes: Sequence[Scene],
        seeds: Sequence[int],
        caption: Callable[[Scene], str] = lambda scene: scene.caption,
    ) -> Read:
        """Draw every scene with every seed, by its caption or what else is given of it, and read the pictures."""
        prompts = [caption(scene) for scene in scenes for _ in seeds]
        latents = draw(self.model, prompts, [seed for _ in scenes for seed in seeds], self.sampler)
        with torch.no_grad():
            logits = self.classifier(decode(self.model, latents).to(next(self.classifier.parameters()).device))
        chances = {name: values.float().softmax(-1).cpu() for name, values in logits.items()}
        return Read(tuple(scene for scene in scenes for _ in seeds), len(seeds), latents.cpu(), chances)


@dataclass(frozen=True, eq=False)
class Read:
    """Pictures of scenes, `each` in a row of the same one; the classifier's probabilities of every factor's words."""

    scenes: tuple[Scene, ...]
    each: int
    latents: Tensor
    chances: dict[str, Tensor]

    def chance_of(self, factor: str, word: str) -> float:
        """Return the mean probability of one word."""
        return float(self.chances[factor][:, FACTORS[factor].index(word)].mean())

    def chance_as_asked(self, factor: str) -> float:
        """Return the mean probability of what each scene says."""
        asked = [FACTORS[factor].index(getattr(scene, factor) or "none") for scene in self.scenes]
        return float(self.chances[factor].gather(1, torch.tensor(asked)[:, None]).mean())

    @property
    def diversity(self) -> float:
        """RMS distance of the latents of one scene's pictures, in the latents' standard deviations."""
        groups = self.latents.reshape(-1, self.each, *self.latents.shape[1:])
        pairs = [(a, b) for a in range(self.each) for b in range(a)]
        return float(torch.stack([(groups[:, a] - groups[:, b]).square().mean() for a, b in pairs]).mean().sqrt())

    def distance_to(self, other: Read) -> float:
        """RMS distance of the latents of the same pictures, in the latents' standard deviations."""
        return float((self.latents - other.latents).square().mean(dim=(1, 2, 3)).sqrt().mean())


@torch.no_grad()
def loss_on(model: StandaloneModel, latents: Tensor, captions: Sequence[str]) -> float:
    """Return the mean squared error of the predicted noise on pictures, at fixed timesteps with fixed noise."""
    total, conditioning = 0.0, joined([model.encode_prompt(caption) for caption in captions])
    alphas = model.alphas_cumprod.to(latents.device)
    for timestep in TIMESTEPS:
        noise = torch.randn(latents.shape, generator=generator_of("loss", timestep, len(latents))).to(latents)
        noised = alphas[timestep].sqrt() * latents + (1 - alphas[timestep]).sqrt() * noise
        with half(model.unet.device):
            times = torch.full((len(latents),), timestep, device=latents.device)
            predicted = model.predict(noised, times, conditioning)
        total += float((predicted.float() - noise).square().mean())
    return total / len(TIMESTEPS)


def parameters_of(network: Network) -> int:
    """Return how many numbers a LoRA has."""
    return sum(module.down.numel() + module.up.numel() for module in loras(network))


def norm_of(network: Network) -> float:
    """Return the Frobenius norm of all delta weights together, without making them: sum((up^T up) * (down down^T))."""
    squares = 0.0
    for module in loras(network):
        up, down = matrix(module.up).double(), matrix(module.down).double()
        squares += module.scale**2 * float(((up.T @ up) * (down @ down.T)).sum())
    return squares**0.5


def loras(network: Network) -> list[LoRA]:
    return [module for module in network.modules.values() if isinstance(module, LoRA)]
