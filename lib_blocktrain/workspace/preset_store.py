"""One store of the shipped presets and the user's own file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.weights.card_preset import parse_with_card
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.preset_files import (
    MAX_FILE_SIZE,
    LineProblem,
    PresetFile,
    read_lbw_presets,
    read_presets,
    to_line,
)
from lib_blocktrain.weights.preset_strings import Parsed, PresetStringError, parse
from lib_blocktrain.weights.presets import Preset, from_link, shipped_presets
from lib_blocktrain.weights.prompt_tags import weights_in_tag

RANDOM_SEED = 0  # for R and U in a preset string, unless the caller passes another
EXPORTED = "# blocktrain presets"  # distinguishes exported files from LoRA Block Weight's


class PresetExists(ValueError):
    """A name that a preset has already."""


class PresetStore:
    """Presets by name; the user's own take precedence over shipped ones of the same name."""

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path

    @property
    def own(self) -> PresetFile:
        """The user's own presets, read from disk each time, since the file may be edited by hand."""
        return PresetFile(self._path())

    def all(self) -> dict[str, Preset]:
        """Every preset, the user's own first."""
        own = self.own.read().presets
        return {**own, **{preset.name: preset for preset in shipped_presets() if preset.name not in own}}

    def problems(self) -> tuple[LineProblem, ...]:
        """The lines of the user's file that cannot be read."""
        return self.own.read().problems

    def fitting(self, architecture_id: str) -> list[Preset]:
        """The presets for this architecture."""
        return [each for preset in self.all().values() for each in preset.each if architecture_id in each.architectures]

    def names(self, architecture_id: str) -> list[str]:
        return [preset.name for preset in self.fitting(architecture_id)]

    def names_in_training(self, architecture_id: str) -> list[str]:
        """The presets with one number for each block, without kinds of layers, curves and gaps, as training takes."""
        names, presets = [], self.all()
        for preset in self.fitting(architecture_id):
            try:
                parse(preset.text, architecture_id, seed=RANDOM_SEED, presets=presets)
            except PresetStringError:
                continue
            names.append(preset.name)
        return names

    def parse(
        self,
        text: str,
        architecture_id: str,
        seed: int | None = RANDOM_SEED,
        x: float | None = None,
        recommended: Callable[[], str] | None = None,
        *,
        layers: bool = False,
    ) -> Parsed:
        """Read a preset string, link or prompt tag, which may name any of these presets; raises PresetStringError.

        ``recommended`` returns the weights that a LoRA recommends, for `card`; it may raise ValueError. ``layers`` as
        in `preset_strings.parse`: for weights by kind of layer and over the steps.
        """
        weights, own_x = weights_in_tag(from_link(text))
        read = parse if recommended is None else partial(parse_with_card, recommended=recommended)
        x = own_x if x is None else x
        return read(weights, architecture_id, seed=seed, x=x, presets=self.all(), layers=layers)

    def for_training(self, text: str, architecture_id: str) -> str:
        """A preset string as a run can keep it: as numbers where training, which knows no own presets, differs."""
        parsed = self.parse(text, architecture_id)
        with suppress(PresetStringError):
            if parse(text, architecture_id).weights == parsed.weights:
                return text  # with what there is to say of it when the run starts
        return parsed.weights.to_line(parsed.name, area_share=parsed.area_share)

    def exact(self, weights: BlockWeights | LayerWeights) -> str | None:
        """The name of the first preset with exactly these weights, None if there is none."""
        return next((name for name, base in self._weights(weights.architecture).items() if base == weights), None)

    def shortest(self, weights: BlockWeights | LayerWeights, preferred: str = "") -> str:
        """The weights as a tag has them: a preset with changes, `OUTD,IN08=-0.4`, or their values if these are shorter.

        The preset ``preferred`` is used wherever that is not longer than the values.
        """
        if isinstance(weights, LayerWeights):
            blocks = self.shortest(weights.blocks, preferred)
            return weights.to_line() if "|" in blocks else f"{blocks},{weights.changes}"
        line = weights.to_line()
        texts = {name: as_changes(name, base, weights) for name, base in self._weights(weights.architecture).items()}
        near = sorted((text for text in texts.values() if len(text) < len(line)), key=len)
        wanted = texts.get(preferred, line)
        for text in [wanted, *near] if len(wanted) < len(line) else near:
            try:
                if self.parse(f"<lora:x:1:bw={text}>", weights.architecture).weights == weights:
                    return text
            except PresetStringError:  # a name that a tag cannot hold
                continue
        return line

    def _weights(self, architecture_id: str) -> dict[str, BlockWeights]:
        """The weights of every preset for this architecture that can be read."""
        found = {}
        for preset in self.fitting(architecture_id):
            try:
                found[preset.name] = parse(preset.text, architecture_id).weights  # without a seed: not those at random
            except PresetStringError:
                continue
        return found

    def save(
        self,
        name: str,
        weights: BlockWeights | LayerWeights,
        *,
        area_share: float | None = None,
        replace: bool = False,
    ) -> list[str]:
        """Save weights in the user's file; `area_share` is the share of the picture that their feature fills.

        A preset of the user's that is replaced keeps its purpose. Return the architectures for which it is no longer.
        """
        name, line = name.strip(), weights.to_line(with_architecture=True, area_share=area_share)
        before = self.own.read().presets.get(name)
        self.put(Preset(name, (weights.architecture,), line, before.purpose if before else ""), replace=replace)
        if before is None:
            return []
        now = self.own.read().presets[name].architectures
        return [architecture_id for architecture_id in before.architectures if architecture_id not in now]

    def put(self, preset: Preset, *, replace: bool = False) -> None:
        """Save a preset in the user's file; raises ValueError for an invalid name or one in use, unless `replace`."""
        if not replace:
            self._check_free(preset.name, "choose another name, or tick “replace”")
        self.own.put(preset)

    def rename(self, name: str | None, new_name: str) -> None:
        """Rename one of the user's own presets; raises ValueError for an invalid name or a taken one."""
        name, new_name = self.own_name(name), new_name.strip()
        self._check_free(new_name, "choose another name")
        self.own.rename(name, new_name)

    def _check_free(self, name: str, advice: str) -> None:
        """Raise PresetExists if an own preset has this name, or a shipped one, which it would hide."""
        if name in self.own.read().presets:
            raise PresetExists(f"there is a preset {name!r} already: {advice}")
        if name in self.all():
            raise PresetExists(f"{name!r} comes with the extension, and yours would take its place: {advice}")

    def delete(self, name: str | None) -> str:
        """Delete one of the user's own presets; returns its line."""
        name = self.own_name(name)
        line = to_line(self.own.read().presets[name])
        self.own.delete(name)
        return line

    def exported(self) -> tuple[str, int]:
        """The user's own presets as the text of a file, and their number; raises ValueError if there are none."""
        presets = self.own.read().presets.values()
        if not presets:
            raise ValueError("you have no presets of your own yet: save one first")
        return "\n".join([EXPORTED, *map(to_line, presets), ""]), len(presets)

    def import_file(self, path: Path) -> tuple[int, tuple[LineProblem, ...]]:
        """Add the presets of an exported file or one of LoRA Block Weight's. Existing presets are not replaced.

        Returns the number of presets added, and the problems with the others.
        """
        if path.stat().st_size > MAX_FILE_SIZE:
            raise ValueError(f"{path.name} is larger than {MAX_FILE_SIZE} bytes: expected presets, one per line")
        text = path.read_text("utf-8-sig", errors="surrogateescape")
        found = read_presets(text) if text.startswith(EXPORTED) else read_lbw_presets(text)
        if not found.presets and not found.problems:
            raise ValueError(f"{path.name} has no line of the form NAME:values")
        taken = self.all()
        new = [preset for name, preset in found.presets.items() if name not in taken]
        kept = [name for name in found.presets if name in taken and not _same(found.presets[name], taken[name])]
        if new:
            self.own.put(*new)
        conflicts = tuple(LineProblem(0, name, f"{name} exists with other values: not imported") for name in kept)
        return len(new), (*found.problems, *conflicts)

    def own_name(self, name: str | None) -> str:
        """The name, if it is that of one of the user's own presets; else raises ValueError."""
        if not name:
            raise ValueError("no preset is selected: select one of your own in the menu")
        if name not in self.own.read().presets:
            raise ValueError(f"{name!r} comes with the extension and cannot be changed: save a copy first")
        return name


def as_changes(name: str, base: BlockWeights, weights: BlockWeights) -> str:
    """The weights as a preset with changes, `OUTD,IN08=-0.4`."""
    before = base.with_base
    changed = {block_id: weight for block_id, weight in weights.with_base.items() if weight != before[block_id]}
    return ",".join([name, *(f"{block_id}={number(weight)}" for block_id, weight in changed.items())])


def _same(one: Preset, other: Preset) -> bool:
    """Whether two presets give the same weights for each architecture that both are for."""

    def weights(preset: Preset, architecture_id: str) -> LayerWeights:
        text = preset.on(architecture_id).text
        return parse(text, architecture_id, seed=RANDOM_SEED, x=0.0, presets={}, layers=True).layers

    return all(weights(one, a) == weights(other, a) for a in set(one.architectures) & set(other.architectures))
