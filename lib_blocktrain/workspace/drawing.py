"""Draws the variants of a comparison; images that have not changed are reused."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from lib_blocktrain.hosts.host import Host, SampleRequest
from lib_blocktrain.networks.cards import card_path
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.tagged_prompts import lora_names
from lib_blocktrain.workspace.jobs import Job
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.lora_selection import LoraEntry, LoraSelection, fits, in_range
from lib_blocktrain.workspace.recent import Recent

KEPT_IMAGES = 32
SEED_MAX = 2**32 - 1
SIDE_MIN, SIDE_MAX, SIDE_STEP = 64, 2048, 8
WITHOUT, AT_1, WEIGHTED = "without", "at-1", "weights"  # names of a comparison's variants


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

    def request(
        self,
        placements: Sequence[Placement],
        say: Callable[[str], None],
        live: Callable[[Image.Image], None] | None = None,
        ignored: frozenset[str] = frozenset(),
    ) -> SampleRequest:
        """Return the host's request for a picture with these settings; the others as in `SampleRequest`."""
        return SampleRequest(**vars(self), placements=tuple(placements), say=say, live=live, ignored=ignored)


@dataclass(frozen=True)
class Variant:
    """One picture of a comparison; `weights` has the block weights and strength of each LoRA used, by key."""

    name: str  # in file names
    title: str
    weights: Mapping[str, tuple[BlockWeights | LayerWeights, float]]
    seed: int | None = None  # in place of the settings'
    muted: tuple[str, ...] = ()  # keys of LoRAs that do not act, by their tags in the prompt either


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


@dataclass(frozen=True)
class Live:
    """What the picture that is being drawn looks like so far; ``image`` may be smaller than it."""

    number: int
    image: Image.Image


def comparison(selection: LoraSelection, architecture: str) -> list[Variant]:
    """Without the LoRAs, with all their block weights at 1, and under the block weights."""
    variants = [_without(selection)]
    used = selection.unmuted
    if used:
        whole = BlockWeights.uniform(architecture, 1.0)
        variants.append(
            Variant(AT_1, "Every block at 1", {key: (whole, entry.strength) for key, entry in used.items()})
        )
        variants.append(Variant(WEIGHTED, "Under the weights", _weighted(selection, architecture)))
    return variants


@dataclass(frozen=True)
class Cell:
    """One picture of a grid: the LoRAs in use and, if it is not that of the settings, the seed."""

    title: str
    selection: LoraSelection
    seed: int | None = None


def preset_cells(selection: LoraSelection, presets: Mapping[str, BlockWeights | LayerWeights]) -> list[Cell]:
    """A picture under each preset, which replaces the weights of the active LoRA."""
    if not presets:
        raise ValueError("no preset is chosen for the grid")
    entry = _active(selection)
    return [Cell(name, selection.with_shown(entry.with_weights(weights))) for name, weights in presets.items()]


def block_cells(selection: LoraSelection, block_id: str, values: Sequence[float]) -> list[Cell]:
    """A picture for each weight of one block of the active LoRA; raises ValueError for one out of range."""
    entry = _active(selection)
    if block_id not in entry.weights:
        raise ValueError(f"block {block_id!r}: expected one of {', '.join(entry.weights)}")
    cells = []
    for value in values:
        checked = LoraEntry.checked(entry.strength, {**entry.weights, block_id: value})
        changed = replace(entry, weights=checked.weights)
        cells.append(Cell(f"{block_id} {value:g}", selection.with_shown(changed)))
    return cells


def strength_cells(selection: LoraSelection, values: Sequence[float]) -> list[Cell]:
    """A picture for each strength of the active LoRA; raises ValueError for one outside the slider's range."""
    entry = _active(selection)
    strengths = [LoraEntry.checked(value, entry.weights).strength for value in values]
    return [Cell(f"{value:g}", selection.with_shown(replace(entry, strength=value))) for value in strengths]


def lora_cells(selection: LoraSelection) -> list[Cell]:
    """A picture with each LoRA in use alone, at its strength and weights; the others are muted."""
    if not selection.unmuted:
        raise ValueError("no LoRA is in use, or all are muted: add some from the list")
    cells = []
    for key in selection.unmuted:
        entries = {other: replace(entry, muted=other != key) for other, entry in selection.entries.items()}
        cells.append(Cell(PurePosixPath(key).name, replace(selection, entries=entries, active=key)))
    return cells


def seed_cells(selection: LoraSelection, values: Sequence[float]) -> list[Cell]:
    """A picture under the present weights for each seed."""
    _active(selection)
    seeds = [_whole("seed", value, 0, SEED_MAX) for value in values]
    return [Cell(f"seed {seed}", selection, seed) for seed in seeds]


def grid(cells: Sequence[Cell], architecture: str) -> list[Variant]:
    """Without the LoRAs, then one variant for each cell."""
    variants = [
        Variant(f"cell-{number}", cell.title, _weighted(cell.selection, architecture), cell.seed)
        for number, cell in enumerate(cells, start=1)
    ]
    return [_without(cells[0].selection), *variants]


def _without(selection: LoraSelection) -> Variant:
    return Variant(WITHOUT, "Without LoRA", {}, muted=tuple(selection.entries))


def _active(selection: LoraSelection) -> LoraEntry:
    if selection.active is None:
        raise ValueError("no LoRA is chosen: add one from the list")
    if selection.active not in selection.unmuted:
        raise ValueError(f"{selection.active} is muted: the grid would have the same picture throughout")
    return selection.shown


def _weighted(selection: LoraSelection, architecture: str) -> dict[str, tuple[BlockWeights | LayerWeights, float]]:
    return {key: (entry.acting(architecture), entry.strength) for key, entry in selection.unmuted.items()}


def _changed(path: Path) -> int:
    """When a file was changed, in ns; 0 where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


class PreviewRenderer:
    """Draws variants on a host, and keeps the latest images to reuse."""

    def __init__(self, host: Host, lora_index: LoraIndex) -> None:
        self.host = host
        self.lora_index = lora_index
        self._kept: Recent[tuple[object, ...], tuple[Image.Image, tuple[str, ...]]] = Recent(KEPT_IMAGES)

    def work(self, variants: Sequence[Variant], settings: Settings) -> Callable[[Job[None]], None]:
        """Return the work of a job that draws the variants in turn and reports each when it is done."""

        def draw_all(job: Job[None]) -> None:
            for number in range(len(variants)):
                job.check()
                job.report(self._draw(job, variants, number, settings))

        return draw_all

    def _draw(self, job: Job[None], variants: Sequence[Variant], number: int, settings: Settings) -> Rendered:
        model, variant = self.host.model(), variants[number]
        if variant.seed is not None:
            settings = replace(settings, seed=variant.seed)
        ignored = self._tags(variants, settings.prompt)
        state = self.host.drawing_state(), self._tagged(self._written(settings.prompt) - ignored)
        key = (id(model.unet), model.name, state, settings, ignored, self._identity(variant))
        notices: list[str] = []
        placements = self._placements(model.architecture, variant)
        request = settings.request(placements, notices.append, lambda image: job.report(Live(number, image)), ignored)
        kept = self._kept.get(key)
        if kept is not None:
            image, kept_notices = kept
            return Rendered(number, variant, image, request, model.name, reused=True, notices=kept_notices)
        progress = job.progress(variant.title, number, len(variants))
        progress(0, settings.steps)
        image = self.host.sample(request, progress)
        self._kept[key] = image, tuple(notices)
        return Rendered(number, variant, image, request, model.name, notices=tuple(notices))

    def _identity(self, variant: Variant) -> tuple[object, ...]:
        """A variant's LoRAs and weights as part of a cache key; the stamp of a file changes when it is replaced."""
        return tuple((self.lora_index.stamp(key), *weights) for key, weights in variant.weights.items())

    def _tags(self, variants: Sequence[Variant], prompt: str) -> frozenset[str]:
        """The tags in a prompt of LoRAs that the variants set: one "without LoRA" is without its tag, too."""
        written = self._written(prompt)
        keys = {key for variant in variants for key in (*variant.weights, *variant.muted)} if written else set()
        return frozenset(name for key in keys for name in self._names(key) if name in written)

    def _tagged(self, names: set[str]) -> tuple[object, ...]:
        """The files and cards of LoRAs that the prompt names, and the user's presets, as a part of a cache key."""
        if not names:
            return ()
        paths = [file.path for file in self.lora_index.files() if names & {file.path.stem, file.output_name}]
        return (*(_changed(one) for path in paths for one in (path, card_path(path))), _changed(self.host.presets_path))

    def _written(self, prompt: str) -> set[str]:
        """The LoRAs that the host reads in a prompt."""
        return set(lora_names(prompt)) if self.host.reads_prompt_syntax else set()

    def _names(self, key: str) -> tuple[str, ...]:
        """The names that a prompt may have for a LoRA; none for one that cannot be read, and so does not act."""
        try:
            return self.lora_index.file(key).path.stem, self.lora_index.metadata(key).get("ss_output_name", "")
        except (ValueError, OSError):
            return ()

    def _placements(self, architecture: str, variant: Variant) -> list[Placement]:
        placements = []
        for key, (weights, strength) in variant.weights.items():
            network = self.lora_index.network(key)
            if not fits(network.architecture, architecture):
                raise ValueError(
                    f"{key} is for {network.architecture}, and the loaded model is {architecture}: untick it, or load"
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
