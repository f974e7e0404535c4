"""Which blocks a training would change, before there is any LoRA: the loss's gradient, block by block.

With G = dL/dW of a layer and a LoRA whose `up` is 0, dL/d(up) = alpha / rank * G down^T: the gradient of the first
step is G projected by the random `down`. Products of such gradients, times 3 fan_in / rank, are unbiased estimates
of those of G itself, since E[down^T down] = rank / (3 fan_in) for kaiming_uniform(a = sqrt 5).

A block's figure is <g_i, g_-i>, the product of one image's gradient with the mean of the others', over that of all
blocks: what the images agree on. Each image's own noise cancels out, and the spread over images is the noise of the
figure. For the difference from a reference, g_i is the gradient of an image minus that of a reference image at the
same timesteps, under the same noise.
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

from lib_blocktrain.analysis.instrumented_model import instrument
from lib_blocktrain.analysis.regions import WHOLE_IMAGE
from lib_blocktrain.analysis.results import Analysis, Observation
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.trajectory import denoise
from lib_blocktrain.analysis.weight_rules import rounded
from lib_blocktrain.blocks import architecture
from lib_blocktrain.model.protocol import Model, Progress
from lib_blocktrain.networks.adapters import LoRA
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.networks.layers import weight_shape
from lib_blocktrain.training.batches import Batch, BatchLoader
from lib_blocktrain.training.cache import ConditioningCache, LatentCache
from lib_blocktrain.training.config import LossConfig, NetworkConfig
from lib_blocktrain.training.dataset import Dataset, DatasetError, DatasetImage, find
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig
from lib_blocktrain.training.init import init_network
from lib_blocktrain.training.norms import total_norm
from lib_blocktrain.training.plan import Plan, plan_of
from lib_blocktrain.training.precision import LossScale
from lib_blocktrain.training.preparation import check_model
from lib_blocktrain.training.rng import generator_of
from lib_blocktrain.training.step import Denoiser, Noise, Objective, draw_noise
from lib_blocktrain.weights.block_weights import BlockWeights

TIMESTEPS = (150, 400, 650, 900)
RANK = 8  # of the random projection
EVALUATIONS = 3  # a forward and a backward pass
MAX_IMAGES = 64  # of the form and the command line


@dataclass(frozen=True)
class ProbeRequest:
    """A dataset to probe, with at most so many `images` of it, as a LoRA or, with `convolutions`, a LoCon sees it.

    It is compared with the model's own images of `class_prompt`, else with the dataset's regularisation images.
    """

    dataset: DatasetConfig
    class_prompt: str = ""
    images: int = 16
    convolutions: bool = False


def build_probe_request(
    folders: Sequence[Path],
    *,
    references: Sequence[Path] = (),
    class_prompt: str = "",
    images: float | None = 16,
    convolutions: bool = False,
) -> ProbeRequest:
    """Return the request for image folders, `references` being those of regularisation images.

    Raises ValueError, with the value and what was expected, for what cannot be asked.
    """
    if not folders:
        raise ValueError("no folder of pictures: expected one, as in Train")
    for folder in (*folders, *references):
        if not folder.is_dir():
            raise DatasetError(f"{folder}: expected a folder of pictures")
    if images is None or not 2 <= images <= MAX_IMAGES or images != int(images):
        raise ValueError(f"pictures {images!r}: expected a whole number from 2 to {MAX_IMAGES}")
    configs = [FolderConfig(str(folder)) for folder in folders]
    configs += [FolderConfig(str(folder), regularisation=True) for folder in references]
    return ProbeRequest(DatasetConfig(folders=tuple(configs)), class_prompt.strip(), int(images), convolutions)


@dataclass(frozen=True)
class ProbeResult:
    """`moves`: in which blocks the images' gradients agree; `differs`: the same, minus a reference's gradients.

    `latent` is height and width of the images' latents.
    """

    moves: Analysis
    differs: Analysis | None
    latent: tuple[int, int] | None = None

    @property
    def analyses(self) -> tuple[Analysis, ...]:
        """The analyses, first the one that the weights are made of."""
        return (self.moves,) if self.differs is None else (self.differs, self.moves)

    @property
    def weights(self) -> BlockWeights:
        """Weights for the training, in proportion to the size of the gradient; blocks within the noise get 0.

        Raises ValueError if all are within the noise.
        """
        found = self.analyses[0]
        kept = {f.block: math.sqrt(f.mean) for f in found.figures if f.mean > 0 and not f.within_noise}
        if not kept:
            raise ValueError("no block's gradient is above the noise: expected more pictures, or more alike")
        top = max(kept.values())
        ids = architecture(found.architecture).block_ids
        return BlockWeights(found.architecture, {block: rounded(kept.get(block, 0.0) / top) for block in ids}, 1.0)


def probe(
    model: Model,
    images: Sequence[Batch],
    references: Sequence[Batch] = (),
    *,
    name: str = "dataset",
    reference_name: str = "reference",
    convolutions: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> ProbeResult:
    """Return in which blocks the gradients of these images, each a batch of one, agree, and where they differ.

    References are used in turn until there are as many as images. Raises ValueError for fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"{len(images)} picture: expected two or more, so that they can agree")
    began = time.perf_counter()
    config = NetworkConfig(rank=RANK, conv_rank=RANK if convolutions else 0)
    plan = plan_of(model.unet, model.architecture, config)
    network = init_network(plan, config, name, seed)
    projection = _GradientProjection(model, plan, network, seed)
    total = 2 * len(images) if references else len(images)
    found, others = [], []
    with model.trainable(), applied(model.unet, network, BlockWeights.uniform(model.architecture, 1.0)):
        for number, batch in enumerate(images):
            found.append(projection.gradient(batch, number))
            if references:
                others.append(projection.gradient(references[number % len(references)], number))
            if progress is not None:
                progress(len(found) + len(others), total)
    evaluations, seconds = float(EVALUATIONS * total * len(TIMESTEPS)), time.perf_counter() - began

    def agreement(gradients: Sequence[dict[str, Tensor]], title: str) -> Analysis | None:
        analysis = projection.agreement(gradients, title)
        return analysis and replace(analysis, evaluations=evaluations, seconds=seconds)

    moves = agreement(found, name)
    if moves is None:
        raise ValueError(f"{name}: the pictures' gradients have nothing in common: expected more of them")
    if not references:
        return ProbeResult(moves, None)
    differences = [{key: a[key] - b[key] for key in a} for a, b in zip(found, others)]
    differs = agreement(differences, f"{name} against {reference_name}")
    if differs is None:
        notice = f"by its gradients {name} cannot be told from {reference_name}: more pictures may tell"
        moves = replace(moves, notices=(notice,))
    return ProbeResult(moves, differs)


class _GradientProjection:
    """A newly initialized LoRA, through which the gradients of the model's weights are projected."""

    def __init__(self, model: Model, plan: Plan, network: Network, seed: int) -> None:
        self._model, self._plan, self._seed = model, plan, seed
        loras = {key: module for key, module in network.modules.items() if isinstance(module, LoRA)}
        self._ups = {planned.key: loras[planned.key].up for planned in plan.modules}
        loss = LossConfig(normalised_mask=True)  # each picture counts alike, however small its mask
        weight = next(model.unet.parameters())
        self._device = weight.device
        self._objective = Objective(loss, model.alphas_cumprod, model.prediction, self._device, model.zero_terminal_snr)
        self._loss_scale = LossScale(enabled=weight.dtype == torch.float16)
        self._denoiser = Denoiser(model, torch.float32, plan.first_block, checkpointing=False)
        there = {planned.block for planned in plan.modules}
        self._blocks = tuple(block for block in architecture(model.architecture).block_ids if block in there)
        self._scales = {p.key: 3 * math.prod(weight_shape(p.layer)[1:]) / p.rank for p in plan.modules}

    def gradient(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Return dL/d(up) by key, scaled so that products are those of dL/dW; the mean over the timesteps.

        They are added up where the model is, and come to the CPU as one tensor.
        """
        total: list[Tensor] = []
        batch = batch.to(self._device)
        for timestep in TIMESTEPS:
            at = LossConfig(min_timestep=timestep, max_timestep=timestep + 1)
            noise = draw_noise(batch.latents.shape[1:], at, [generator_of(self._seed, "probe", number, timestep)])
            gradients = self._gradients(batch, noise.to(self._device))
            total = [a + b for a, b in zip(total, gradients)] if total else gradients
        whole = torch.cat([gradient.flatten() for gradient in total]).cpu() / len(TIMESTEPS)
        parts = whole.split([gradient.numel() for gradient in total])
        return {
            key: part.view_as(up) * math.sqrt(self._scales[key]) for (key, up), part in zip(self._ups.items(), parts)
        }

    def _gradients(self, batch: Batch, noise: Noise) -> list[Tensor]:
        """Return dL/d(up), fp32; in fp16 of a scaled loss, and again at half the scale where one is not finite."""
        while True:
            with torch.enable_grad():
                noised = self._objective.noised(batch.latents, noise)
                predicted = self._denoiser.predict(noised, noise.timesteps, batch.conditioning)
                loss = self._objective.losses(predicted, batch, noise).sum()
                gradients = torch.autograd.grad(loss * self._loss_scale.factor, list(self._ups.values()))
            found = [gradient.float() for gradient in gradients]
            self._loss_scale.unscale(found)
            if not self._loss_scale.enabled:
                return found
            finite = bool(total_norm(found).isfinite())
            self._loss_scale.adapt(finite)
            if finite:
                return found
            if self._loss_scale.scale < 1:
                raise ValueError("a picture's gradients are not finite in fp16: expected a model in bf16 or fp32")

    def agreement(self, gradients: Sequence[dict[str, Tensor]], name: str) -> Analysis | None:
        """Return <g_i, g_-i> by image and block, over the sum of its mean over all blocks; None if that is not > 0."""
        count = len(gradients)
        products = np.zeros((count, len(self._blocks)))
        for planned in self._plan.modules:
            rows = torch.stack([gradient[planned.key].flatten() for gradient in gradients]).double()
            others = (rows.sum(dim=0) - rows) / (count - 1)
            products[:, self._blocks.index(planned.block)] += (rows * others).sum(dim=1).numpy()
        whole = float(products.mean(axis=0).sum())
        if whole <= 0:
            return None
        return Analysis(
            method="probe",
            architecture=self._plan.architecture,
            name=name,
            model=self._model.name,
            feature=WHOLE_IMAGE.title,
            blocks=self._blocks,
            observations=tuple(Observation(seed=number, whole=whole) for number in range(count)),
            values=tuple(tuple(row) for row in (products / whole).tolist()),
        )


def probe_dataset(model: Model, request: ProbeRequest, progress: Progress | None = None) -> ProbeResult:
    """Return what `probe` finds in a dataset; the analyses say its area share."""
    check_model(model)
    config, class_prompt = request.dataset, request.class_prompt
    dataset = find(config, model.native_size)
    images, references = batches_of(model, dataset, request.images)
    own = len(images) if class_prompt else 0
    total = own + len(images) * (2 if references or own else 1)

    def count_from(before: int) -> Progress:
        return lambda done, _: None if progress is None else progress(before + done, total)

    if class_prompt:
        references = own_images(model, class_prompt, images[0], own, progress=count_from(0))
    folders = [folder for folder in config.folders if not folder.regularisation]
    regularisation = [folder for folder in config.folders if folder.regularisation]
    found = probe(
        model,
        images,
        references,
        name=", ".join(Path(folder.path).name for folder in folders) or "dataset",
        reference_name=f"“{class_prompt}”" if class_prompt else "".join(Path(f.path).name for f in regularisation[:1]),
        convolutions=request.convolutions,
        progress=count_from(own),
    )
    width, height = next(iter(dataset.buckets))
    return ProbeResult(
        replace(found.moves, area_share=dataset.area_share),
        found.differs and replace(found.differs, area_share=dataset.area_share),
        (height // 8, width // 8),
    )


def batches_of(model: Model, dataset: Dataset, most: int) -> tuple[list[Batch], list[Batch]]:
    """Return batches of one image each, at most `most` of each: those to be trained on, and regularisation images."""
    loader = BatchLoader(LatentCache(model, None), ConditioningCache(model, None), LossConfig(), seed=0)
    kinds = [_spread([p for p in dataset.images if p.regularisation == kind], most) for kind in (False, True)]
    trained, regularisation = ([loader.plain([picture]) for picture in pictures] for pictures in kinds)
    return trained, [replace(batch, weights=torch.ones(1)) for batch in regularisation]


def _spread(images: Sequence[DatasetImage], most: int) -> Sequence[DatasetImage]:
    """Return at most so many of them, from all folders alike rather than from the first."""
    count = min(most, len(images))
    return [images[number * len(images) // count] for number in range(count)]


def own_images(
    model: Model, prompt: str, like: Batch, count: int, steps: int = 20, progress: Progress | None = None
) -> list[Batch]:
    """Return batches of images that the model itself draws of a prompt, at the size of `like`."""
    height, width = (8 * side for side in like.latents.shape[-2:])
    grid = SamplingGrid((prompt,), seeds=tuple(range(count)), steps=steps, height=height, width=width)
    config = NetworkConfig(rank=1)
    idle = init_network(plan_of(model.unet, model.architecture, config), config, "none", 0)  # whose deltas are 0
    text = {name: tensor.detach().cpu() for name, tensor in model.encode_prompt(prompt).items()}
    drawn: list[Batch] = []
    with instrument(model, idle, grid) as instrumented:
        for seeds in grid.seed_batches(model):
            for latents in denoise(instrumented, prompt, seeds).cpu():
                drawn.append(replace(like, latents=latents[None], conditioning=text, captions=(prompt,), mask=None))
            if progress is not None:
                progress(len(drawn), count)
    return drawn
