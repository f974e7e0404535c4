"""Draws the variants of a comparison; images that have not changed are reused."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from lib_blocktrain.hosts.host import Host, SampleRequest
from lib_blocktrain.model.protocol import Model, Progress
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace.jobs import Job
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.lora_selection import LoraSelection, fits, in_range
from lib_blocktrain.workspace.recent import Recent

KEPT_IMAGES = 32
SEED_MAX = 2**32 - 1
SIDE_MIN, SIDE_MAX, SIDE_STEP = 64, 2048, 8
WEIGHTED = "weights"  # name of a comparison's last variant


@dataclass(frozen=True)
class Settings:
    """The settings of a picture, apart from its LoRAs; ``width`` and ``height`` in pixels."""

    prompt: str = ""
    negative: str = ""
    sampler: str = ""
    steps: int = 20
    cfg: float = 6.0
    width: int = 512
    height: int = 512
    seed: int = 0

    @classmethod
    def from_values(cls, values: Mapping[str, object], samplers: Sequence[str]) -> Settings:
        """Check values from a page or a request; raise ValueError with the name, the value and what was expected."""
        sampler = values["sampler"]
        if not isinstance(sampler, str) or sampler not in samplers:
            raise ValueError(f"sampler {sampler!r}: expected one of {', '.join(samplers)}")
        width, height = (_whole(side, values[side], SIDE_MIN, SIDE_MAX) for side in ("width", "height"))
        for side, value in (("width", width), ("height", height)):
            if value % SIDE_STEP:
                raise ValueError(f"{side} {value}: expected a multiple of {SIDE_STEP}")
        return cls(
            prompt=str(values["prompt"] or ""),
            negative=str(values["negative"] or ""),
            sampler=sampler,
            steps=_whole("steps", values["steps"], 1, 150),
            cfg=in_range("CFG", values["cfg"], 0, 30),
            width=width,
            height=height,
            seed=_whole("seed", values["seed"], -1, SEED_MAX),
        )

    def request(self, placements: Sequence[Placement], say: Callable[[str], None]) -> SampleRequest:
        """Return the host's request for a picture with these settings; `say` is called with the host's notices."""
        return SampleRequest(**vars(self), placements=tuple(placements), say=say)


@dataclass(frozen=True)
class Variant:
    """One picture of a comparison; `weights` has the block weights and strength of each LoRA used, by key."""

    name: str  # in file names
    title: str
    weights: Mapping[str, tuple[BlockWeights, float]]


@dataclass(frozen=True)
class Rendered:
    """The image of a variant and its request; ``reused`` if it was kept from an earlier comparison."""

    number: int
    variant: Variant
    image: Image.Image
    request: SampleRequest
    model: str
    reused: bool = False
    notices: tuple[str, ...] = ()


def comparison(selection: LoraSelection, architecture: str) -> list[Variant]:
    """Without the LoRAs, with all their block weights at 1, and under the block weights."""
    variants = [Variant("without", "without LoRA", {})]
    used = selection.unmuted
    if used:
        whole = BlockWeights.uniform(architecture, 1.0)
        variants.append(
            Variant("at-1", "every block at 1", {key: (whole, entry.strength) for key, entry in used.items()})
        )
        variants.append(Variant(WEIGHTED, "under the block weights", _weighted(selection, architecture)))
    return variants


def grid(selection: LoraSelection, presets: Mapping[str, BlockWeights], architecture: str) -> list[Variant]:
    """Without the LoRAs, then one variant for each preset, which replaces the active LoRA's weights."""
    if selection.active is None:
        raise ValueError("no LoRA is chosen: add one from the list")
    if selection.active not in selection.unmuted:
        raise ValueError(f"{selection.active} is muted: the grid would have the same picture throughout")
    if not presets:
        raise ValueError("no preset is chosen for the grid")
    around = _weighted(selection, architecture)
    strength = selection.shown.strength
    return [
        Variant("without", "without LoRA", {}),
        *(
            Variant(f"preset-{number}", name, {**around, selection.active: (weights, strength)})
            for number, (name, weights) in enumerate(presets.items(), start=1)
        ),
    ]


def _weighted(selection: LoraSelection, architecture: str) -> dict[str, tuple[BlockWeights, float]]:
    return {key: (entry.block_weights(architecture), entry.strength) for key, entry in selection.unmuted.items()}


class PreviewRenderer:
    """Draws variants on a host, and keeps the latest images to reuse."""

    def __init__(self, host: Host, lora_index: LoraIndex) -> None:
        self.host = host
        self.lora_index = lora_index
        self._kept: Recent[tuple[object, ...], tuple[Image.Image, tuple[str, ...]]] = Recent(KEPT_IMAGES)

    def work(self, variants: Sequence[Variant], settings: Settings) -> Callable[[Job[None]], None]:
        """Return the work of a job that draws the variants in turn and reports each when it is done."""

        def draw_all(job: Job[None]) -> None:
            model = self.host.model()
            for number, variant in enumerate(variants):
                job.check()
                progress = job.progress(variant.title, number, len(variants))
                job.report(self._draw(model, number, variant, settings, progress))

        return draw_all

    def _draw(self, model: Model, number: int, variant: Variant, settings: Settings, progress: Progress) -> Rendered:
        key = (id(model.unet), model.name, settings, self._identity(variant))
        notices: list[str] = []
        request = settings.request(self._placements(model.architecture, variant), notices.append)
        kept = self._kept.get(key)
        if kept is not None:
            image, kept_notices = kept
            return Rendered(number, variant, image, request, model.name, reused=True, notices=kept_notices)
        progress(0, settings.steps)
        image = self.host.sample(request, progress)
        self._kept[key] = image, tuple(notices)
        return Rendered(number, variant, image, request, model.name, notices=tuple(notices))

    def _identity(self, variant: Variant) -> tuple[object, ...]:
        """A variant's LoRAs and weights as part of a cache key; the stamp of a file changes when it is replaced."""
        return tuple((self.lora_index.stamp(key), *weights) for key, weights in variant.weights.items())

    def _placements(self, architecture: str, variant: Variant) -> list[Placement]:
        placements = []
        for key, (weights, strength) in variant.weights.items():
            network = self.lora_index.network(key)
            if not fits(network.architecture, architecture):
                raise ValueError(
                    f"{key} is for {network.architecture}, and the loaded model is {architecture}: remove it, or load"
                    " a model that it is for"
                )
            placements.append(Placement(network, weights, strength))
        return placements


def with_seed(settings: Settings) -> Settings:
    """Replace a seed of -1 by a random one, so that it can be shown and repeated."""
    return replace(settings, seed=secrets.randbelow(SEED_MAX + 1)) if settings.seed == -1 else settings


def _whole(name: str, value: object, low: int, high: int) -> int:
    number = in_range(name, value, low, high)
    if number != int(number):
        raise ValueError(f"{name} {value!r}: expected a whole number")
    return int(number)
