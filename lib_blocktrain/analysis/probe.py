"""Where a training would move, before there is any LoRA: the loss's gradient, block by block.

With G = dL/dW of a layer and a LoRA whose `up` is 0, dL/d(up) = alpha / rank * G down^T: at the first step the
training sees G through the random `down`. Products of such gradients, times 3 fan_in / rank, are unbiased estimates
of those of G itself, since E[down^T down] = rank / (3 fan_in) for kaiming_uniform(a = sqrt 5).

A block's figure is <g_i, g_-i>, the product of one picture's gradient with the mean of the others', over that of all
blocks: what the pictures agree on. Each picture's own noise does not count, and the spread over pictures is the noise
of the figure. For the difference from a reference, g_i is the gradient of a picture minus that of a reference
picture at the same timesteps, under the same noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib_blocktrain.analysis.instrumented_model import staged
from lib_blocktrain.analysis.results import Analysis, Observation
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.trajectory import Progress, walk
from lib_blocktrain.analysis.weight_rules import on_grid
from lib_blocktrain.blocks import architecture
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.networks.layers import weight_shape
from lib_blocktrain.training.batches import Batch, Loader
from lib_blocktrain.training.cache import Latents, Texts
from lib_blocktrain.training.config import DatasetConfig, LossConfig, NetworkConfig
from lib_blocktrain.training.dataset import Dataset, find
from lib_blocktrain.training.init import init_network
from lib_blocktrain.training.plan import Plan, plan_of
from lib_blocktrain.training.preparation import check_model
from lib_blocktrain.training.rng import generator_of
from lib_blocktrain.training.step import Objective, Prediction, draw_noise
from lib_blocktrain.weights.block_weights import BlockWeights

TIMESTEPS = (150, 400, 650, 900)
RANK = 8  # of the random projection
EVALUATIONS = 3  # a forward and a backward pass


@dataclass(frozen=True)
class Probed:
    """`moves`: where the dataset's pictures agree that the weights should go; `differs`: that, minus a reference."""

    moves: Analysis
    differs: Analysis | None

    @property
    def weights(self) -> BlockWeights:
        """Weights for the training: by the size of the gradient in which the dataset differs, or in which it moves.

        What is within the noise is 0. Raises ValueError if that is everything.
        """
        found = self.differs or self.moves
        kept = {f.block: math.sqrt(f.mean) for f in found.figures if f.mean > 0 and not f.within_noise}
        if not kept:
            raise ValueError("no block's gradient is above the noise: expected more pictures, or more alike")
        top = max(kept.values())
        ids = architecture(found.architecture).block_ids
        return BlockWeights(found.architecture, {block: on_grid(kept.get(block, 0.0) / top) for block in ids}, 1.0)


def probe(
    model: Model,
    pictures: Sequence[Batch],
    references: Sequence[Batch] = (),
    *,
    name: str = "dataset",
    reference_name: str = "reference",
    convolutions: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Probed:
    """Return where a training on these pictures, each a batch of one, would move, and where that differs.

    References are taken in turn until there are as many as pictures. Raises ValueError for fewer than two pictures.
    """
    if len(pictures) < 2:
        raise ValueError(f"{len(pictures)} picture: expected two or more, so that they can agree")
    began = time.perf_counter()
    config = NetworkConfig(rank=RANK, conv_rank=RANK if convolutions else 0)
    scope = plan_of(model.unet, model.architecture, config)
    network = init_network(scope, config, name, seed)
    lens = _Lens(model, scope, network, seed)
    total = 2 * len(pictures) if references else len(pictures)
    found, others = [], []
    with model.trainable(), applied(model.unet, network, BlockWeights.uniform(model.architecture, 1.0)):
        for number, batch in enumerate(pictures):
            found.append(lens.gradient(batch, number))
            if references:
                others.append(lens.gradient(references[number % len(references)], number))
            if progress is not None:
                progress(len(found) + len(others), total)
    facts = {"evaluations": float(EVALUATIONS * total * len(TIMESTEPS)), "seconds": time.perf_counter() - began}
    moves = lens.agreement(found, name, model.name, facts)
    if moves is None:
        raise ValueError(f"{name}: the pictures' gradients have nothing in common: expected more of them")
    if not references:
        return Probed(moves, None)
    differences = [{key: a[key] - b[key] for key in a} for a, b in zip(found, others)]
    differs = lens.agreement(differences, f"{name} against {reference_name}", model.name, facts)
    if differs is None:
        notice = f"by its gradients {name} cannot be told from {reference_name}: more pictures may tell"
        moves = replace(moves, notices=(notice,))
    return Probed(moves, differs)


class _Lens:
    """A fresh LoRA through which a picture's gradient is seen."""

    def __init__(self, model: Model, scope: Plan, network: Network, seed: int):
        self._scope, self._seed = scope, seed
        self._ups = {planned.key: network.modules[planned.key].up for planned in scope.modules}
        self._objective = Objective(LossConfig(), model.alphas_cumprod, model.prediction)
        self._prediction = Prediction(model, torch.float32, scope.first_block, checkpointing=False)
        there = {planned.block for planned in scope.modules}
        self._blocks = tuple(block for block in architecture(model.architecture).block_ids if block in there)
        self._scales = {p.key: 3 * math.prod(weight_shape(p.layer)[1:]) / p.rank for p in scope.modules}

    def gradient(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Return dL/d(up) by key, scaled so that products are those of dL/dW; the mean over the timesteps."""
        total: dict[str, Tensor] = {}
        for timestep in TIMESTEPS:
            at = LossConfig(min_timestep=timestep, max_timestep=timestep + 1)
            noise = draw_noise(batch.latents.shape[1:], at, [generator_of(self._seed, "probe", number, timestep)])
            with torch.enable_grad():
                noised = self._objective.noised(batch.latents, noise)
                predicted = self._prediction.of(noised, noise.timesteps, batch.conditioning)
                loss = self._objective.losses(predicted, batch, noise).sum() / len(TIMESTEPS)
                gradients = torch.autograd.grad(loss, list(self._ups.values()))
            for key, gradient in zip(self._ups, gradients):
                scaled = gradient.float().cpu() * math.sqrt(self._scales[key])
                total[key] = total[key] + scaled if key in total else scaled
        return total

    def agreement(
        self, gradients: Sequence[dict[str, Tensor]], name: str, model: str, facts: dict[str, float]
    ) -> Analysis | None:
        """Return <g_i, g_-i> by picture and block, over its mean's sum over all blocks; None unless that is above 0."""
        count = len(gradients)
        products = np.zeros((count, len(self._blocks)))
        for planned in self._scope.modules:
            rows = torch.stack([gradient[planned.key].flatten() for gradient in gradients]).double()
            others = (rows.sum(dim=0) - rows) / (count - 1)
            products[:, self._blocks.index(planned.block)] += (rows * others).sum(dim=1).numpy()
        whole = float(products.mean(axis=0).sum())
        if whole <= 0:
            return None
        return Analysis(
            method="probe",
            architecture=self._scope.architecture,
            name=name,
            model=model,
            feature="the whole picture",
            blocks=self._blocks,
            observations=tuple(Observation(seed=number, whole=whole) for number in range(count)),
            values=tuple(tuple(row) for row in (products / whole).tolist()),
            **facts,
        )


def probe_dataset(
    model: Model,
    config: DatasetConfig,
    *,
    class_prompt: str = "",
    most: int = 16,
    convolutions: bool = False,
    progress: Progress | None = None,
) -> tuple[Probed, Dataset]:
    """Return what `probe` finds in at most so many pictures of a dataset, and the dataset.

    It is compared with the model's own pictures of `class_prompt`, else with regularisation pictures, if there are any.
    """
    check_model(model)
    dataset = find(config, model.native_size)
    pictures, references = batches_of(model, dataset, config, most)
    trained = [folder.path for folder in config.folders if not folder.regularisation]
    reference = next((Path(folder.path).name for folder in config.folders if folder.regularisation), "")
    drawn = len(pictures) if class_prompt else 0
    whole = drawn + len(pictures) * (2 if references or drawn else 1)

    def from_part(done: int, _: int) -> None:
        if progress is not None:
            progress(drawn + done, whole)

    if class_prompt:
        reference = f"“{class_prompt}”"
        references = own_pictures(
            model, class_prompt, pictures[0], drawn, progress=lambda done, _: from_part(done - drawn, whole)
        )
    names = {"name": ", ".join(Path(path).name for path in trained) or "dataset", "reference_name": reference}
    return probe(model, pictures, references, **names, convolutions=convolutions, progress=from_part), dataset


def batches_of(model: Model, dataset: Dataset, config: DatasetConfig, most: int) -> tuple[list[Batch], list[Batch]]:
    """Return batches of one picture each, at most `most`: those to be trained on, and regularisation pictures."""
    loader = Loader(config, Latents(model, None), Texts(model, None), prior_weight=1.0, seed=0)
    kinds = [[p for p in dataset.pictures if p.regularisation == kind][:most] for kind in (False, True)]
    trained, regularisation = ([loader.plain([picture]) for picture in pictures] for pictures in kinds)
    return trained, [replace(batch, weights=torch.ones(1)) for batch in regularisation]


def own_pictures(
    model: Model, prompt: str, like: Batch, count: int, steps: int = 20, progress: Progress | None = None
) -> list[Batch]:
    """Return batches of pictures that the model itself makes of a prompt, at the size of `like`."""
    height, width = (8 * side for side in like.latents.shape[-2:])
    setting = SamplingGrid((prompt,), seeds=tuple(range(count)), steps=steps, height=height, width=width)
    config = NetworkConfig(rank=1)
    idle = init_network(plan_of(model.unet, model.architecture, config), config, "none", 0)  # whose deltas are 0
    text = {name: tensor.detach().cpu() for name, tensor in model.encode_prompt(prompt).items()}
    made = []
    with staged(model, idle, setting) as stage:
        for seeds in setting.seed_batches(model):
            for latents in walk(stage, prompt, seeds).cpu():
                made.append(replace(like, latents=latents[None], conditioning=text, captions=(prompt,), mask=None))
            if progress is not None:
                progress(len(made), count)
    return made
