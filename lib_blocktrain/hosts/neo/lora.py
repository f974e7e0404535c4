"""Block weights on LoRAs that are kept by parameter: Forge Neo, reForge and Forge Classic, whose patcher is ComfyUI's.

`patches` of a ModelPatcher holds for each parameter the changes of all LoRAs, as tuples that begin with a strength, and
not which file a change came from. What each load has added is recorded; block weights scale the strengths in a clone
of the patcher, whose `patches_uuid` differs, so that the WebUI merges again. No file is read again.
"""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from modules import patches, shared

from lib_blocktrain.hosts.forge import activation
from lib_blocktrain.hosts.forge.activation import ByFile, block_in_text, block_in_unet, extension
from lib_blocktrain.hosts.webui.prompt import TagContext
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.tag_steps import SamplingStep

Change = tuple[Any, ...]  # strength, factors, ...

_MEMORY = ("backend.memory_management", "ldm_patched.modules.model_management")  # Neo's, and reForge's
_KEY = __name__  # our name in the WebUI's registry of patches
_ADDED = "blocktrain_added"  # attribute of Neo's patchers: an `Added` for each file in `patches`, in order
_SCHEDULE = "blocktrain_schedule"  # attribute of our clones of the U-Net's patcher: its `Schedule`


@dataclass(frozen=True)
class Added:
    """The changes that one file has added: for each parameter, the range of their places in its list."""

    file: str
    places: Mapping[str, range]


@dataclass(frozen=True)
class Weighed:
    """A change of one file under that file's weights; None is the change as it is."""

    change: Change
    block: str = ""
    weights: LayerWeights | None = None


@dataclass(frozen=True)
class Schedule:
    """The changes by parameter with their weights, and the weights of each file by its path."""

    changes: Mapping[str, Sequence[Weighed]]
    weights: Mapping[str, LayerWeights]
    _made: dict[tuple[int, float], Change] = field(default_factory=dict)  # by a change's id and weight

    @property
    def all_steps(self) -> bool:
        return all(weights.constant for weights in self.weights.values())

    def at(self, step: SamplingStep | None = None) -> dict[str, list[Change]]:
        """Return what is merged in this step, None for the first; parameters without a change are left out."""
        present = {id(weights): _present(weights, step) for weights in self.weights.values()}
        now: dict[str, list[Change]] = {}
        for key, found in self.changes.items():
            for weighed in found:
                weights = weighed.weights and present[id(weighed.weights)]
                weight = 1.0 if weights is None else weights.weight(weighed.block, key)
                if weight:  # a weight of 0 removes a change, so that the parameter stays Neo's own
                    now.setdefault(key, []).append(self._scaled(weighed.change, weight))
        return now

    def _scaled(self, change: Change, weight: float) -> Change:
        """Return the change at this weight, the same object each time: objects tell what has been merged."""
        if weight == 1:
            return change
        return self._made.setdefault((id(change), weight), (change[0] * weight, *change[1:]))

    @property
    def ours(self) -> set[int]:
        """The ids of all changes that were merged until now."""
        own = (weighed.change for found in self.changes.values() for weighed in found)
        return {id(change) for change in (*own, *self._made.values())}

    def identity(self, namespace: uuid.UUID, step: SamplingStep | None = None) -> uuid.UUID:
        """Return an identifier that is the same for the same merged weights, so that Neo merges them once."""
        lines = [f"{file} {_present(weights, step).to_line()}" for file, weights in self.weights.items()]
        return uuid.uuid5(namespace, "\n".join(lines))


def _present(weights: LayerWeights, step: SamplingStep | None) -> LayerWeights:
    return weights.at(1) if step is None else weights.at(step, step.of)


def patch(tag_context: Callable[[], TagContext], before_lookup: Callable[[Collection[str]], None]) -> None:
    """Apply the block weights of prompt tags to Neo's LoRAs from now on.

    `before_lookup` is called with the LoRA names of a prompt before Neo looks for their files.
    """
    networks = extension()
    if networks is None:
        return
    load = networks.load_lora_for_models

    @functools.wraps(load)
    def recording_load(
        model: Any, clip: Any, lora: Any, strength_model: float, strength_clip: float, filename: str = "", **more: Any
    ) -> tuple[Any, Any]:
        loaded = load(model, clip, lora, strength_model, strength_clip, filename=filename, **more)
        _record(model, loaded[0], filename)
        _record(clip.patcher, loaded[1].patcher, filename)
        return loaded

    patches.patch(_KEY, networks, "load_lora_for_models", recording_load)
    activation.patch(_KEY, tag_context, before_lookup, _weigh_loras, _forget_unrecorded)


def unpatch() -> None:
    activation.unpatch(_KEY)


def _record(before: Any, after: Any, file: str) -> None:
    """Record on the patcher `after` what a file has added to `before`; a file that does not fit adds nothing."""
    if after is before:
        return
    lengths = {key: len(found) for key, found in before.patches.items()}
    places = {
        key: range(lengths.get(key, 0), len(found))
        for key, found in after.patches.items()
        if len(found) > lengths.get(key, 0)
    }
    setattr(after, _ADDED, (*getattr(before, _ADDED, ()), Added(file, places)))


def _forget_unrecorded(sd_model: Any) -> None:
    """Make Neo read the files again if it read them before this extension was there to record them."""
    objects = sd_model.forge_objects_after_applying_lora
    if any(patcher.patches and not hasattr(patcher, _ADDED) for patcher in (objects.unet, objects.clip.patcher)):
        sd_model.current_lora_hash = ""


def _weigh_loras(sd_model: Any, by_file: ByFile) -> None:
    objects = sd_model.forge_objects_after_applying_lora
    unet, clip = objects.unet, objects.clip
    schedule = _schedule(unet, by_file, block_in_unet)
    if schedule is not None:
        unet = activation.clone(unet)
        _merge(unet, schedule.at(), schedule)
        if not schedule.all_steps:
            setattr(unet, _SCHEDULE, schedule)
    schedule = _schedule(clip.patcher, by_file, block_in_text)
    if schedule is not None:
        clip = activation.clone(clip)
        _merge(clip.patcher, schedule.at(), schedule)
    activation.replace(sd_model, unet, clip)


def _merge(patcher: Any, now: dict[str, list[Change]], schedule: Schedule, step: SamplingStep | None = None) -> None:
    """Let the patcher merge what there is `now`, in a step of the schedule, when the WebUI loads it.

    Forge Classic's patcher is older and has no `patches_uuid`: another object is merged again there.
    """
    patcher.patches = now
    if hasattr(patcher, "patches_uuid"):
        patcher.patches_uuid = schedule.identity(patcher.patches_uuid, step)


def _schedule(patcher: Any, by_file: ByFile, block_in: Callable[[str, str], str]) -> Schedule | None:
    """Return the patcher's changes under the weights of their LoRAs, None if that changes nothing."""
    changes = {key: [Weighed(change) for change in found] for key, found in patcher.patches.items()}
    used: dict[str, LayerWeights] = {}
    for added in getattr(patcher, _ADDED, ()):
        weights = by_file.get(added.file)
        if weights is None or weights.whole:
            continue
        weights = weights if block_in is block_in_unet else weights.at(1)  # the prompt is encoded before the first step
        used[added.file] = weights
        for key, places in added.places.items():
            for place in places:
                block = block_in(key, weights.architecture)
                changes[key][place] = Weighed(patcher.patches[key][place], block, weights)
    schedule = Schedule(changes, used)
    return None if schedule.all_steps and _identities(schedule.at()) == _identities(patcher.patches) else schedule


def enter_step(step: SamplingStep, latents: Sequence[int] = (1, 4, 64, 64)) -> None:
    """Merge the LoRAs again that do not act alike in every step.

    `latents` is the shape of the image's latents, `(batch, channels, height, width)`, for which Neo keeps memory free.
    """
    objects = getattr(shared.sd_model, "forge_objects", None)
    if objects is None:
        return
    unet = objects.unet
    schedule = _schedule_of(unet, shared.sd_model.forge_objects_after_applying_lora.unet)
    if schedule is None:
        return
    now = _with_others(schedule.at(step), unet.patches, schedule)
    if _identities(now) == _identities(unet.patches):
        return
    _merge(unet, now, schedule, step)
    _reload(unet, latents)


def _schedule_of(patcher: Any, ours: Any) -> Schedule | None:
    """Return the schedule of our clone, of which other extensions and the WebUI may have made clones."""
    schedule: Schedule | None = getattr(ours, _SCHEDULE, None)
    return schedule if patcher.model is ours.model else None


def _with_others(
    now: dict[str, list[Change]], there: Mapping[str, Sequence[Change]], schedule: Schedule
) -> dict[str, list[Change]]:
    """Return the changes `now` with those that others have added to our clone since."""
    ours = schedule.ours
    for key, found in there.items():
        others = [change for change in found if id(change) not in ours]
        if others:
            now[key] = [*now.get(key, ()), *others]
    return now


def _identities(changes: Mapping[str, Sequence[Change]]) -> dict[str, list[int]]:
    return {key: [id(change) for change in found] for key, found in changes.items() if found}


def _reload(unet: Any, latents: Sequence[int]) -> None:
    """Let the WebUI merge again, with the memory for the image that it kept free when sampling began."""
    needed = unet.memory_required([2 * latents[0], *latents[1:]])
    extra = unet.extra_preserved_memory_during_sampling
    memory: Any = next(sys.modules[name] for name in _MEMORY if name in sys.modules)
    kept = {"memory_required": needed + extra}
    with torch.inference_mode():
        if hasattr(unet, "patches_uuid"):
            kept["minimum_memory_required"] = needed // 2 + extra
        else:  # Forge Classic takes for merged what it has loaded
            memory.unload_model_clones(unet)
        memory.load_models_gpu([unet, *unet.extra_model_patchers_during_sampling], **kept)
