"""Axes for the WebUI's own X/Y/Z plot.

A value is checked before the first image is drawn, and applies to every LoRA of the prompt. A value that is invalid for
the loaded checkpoint is an error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from lib_blocktrain import blocks
from lib_blocktrain.hosts.webui.prompt import TagContext, add_change, set_page_weights
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.card_preset import uses_card
from lib_blocktrain.weights.preset_strings import PresetStringError
from lib_blocktrain.weights.prompt_tags import PageWeights, Tag, changed, resolve
from lib_blocktrain.weights.tag_steps import TagError
from lib_blocktrain.weights.tagged_prompts import lora_names, renamed

_NAME = "[blocktrain] "
_MERGE, _FILE = 0.2, 0.6  # cost of merging all layers again, and of also reading a file; a checkpoint costs 1.0
_STEP = re.compile(r"-[0-9]{6}$")
_GROUPS = ("IN", "MID", "OUT", "BASE")
_SHOWN = 28  # characters of a label


class Axes:
    """The axes of a host; `checkpoints` returns the names of the network files that runs saved during training."""

    def __init__(self, tag_context: Callable[[], TagContext], checkpoints: Callable[[], Sequence[str]]):
        self._tag_context, self._checkpoints = tag_context, checkpoints

    def add_to(self, xyz_grid: ModuleType) -> None:
        """Append the axes to the plot's own, once."""
        existing = {option.label for option in xyz_grid.axis_options}
        for label, apply, confirm, cost, choices in self._axes():
            if label not in existing:
                xyz_grid.axis_options.append(
                    xyz_grid.AxisOption(
                        label, str, apply, format_value=_short, confirm=confirm, cost=cost, choices=choices
                    )
                )

    def _axes(self) -> list[tuple]:
        """Label, what a value does, how values are checked, cost, choices."""
        return [
            (f"{_NAME}Preset", _replace, self._confirm_weights, _MERGE, self._presets),
            (f"{_NAME}Weights", _replace, self._confirm_weights, _MERGE, None),
            (f"{_NAME}Block", _change, self._confirm_changes, _MERGE, self._blocks),
            (f"{_NAME}Group", _change, self._confirm_changes, _MERGE, self._groups),
            (f"{_NAME}Step of a run", self._apply_step, self._confirm_steps, _FILE, self._checkpoints),
        ]

    def _presets(self) -> list[str]:
        context = self._tag_context()
        return [name for name, p in context.presets().items() if context.architecture in (None, *p.architectures)]

    def _blocks(self) -> list[str]:
        return [f"{block_id}=0" for block_id in self._known().block_ids]

    def _groups(self) -> list[str]:
        ids = self._known().block_ids
        pairs = [f"{one}+{other}" for one, other in zip(ids, reversed(ids)) if one.startswith("IN")]
        return [f"{group}=0" for group in (*_GROUPS, *pairs)]

    def _known(self) -> blocks.Architecture:
        return blocks.architecture(self._architecture())

    def _architecture(self) -> str:
        return self._tag_context().architecture or "sd1"

    def _confirm_weights(self, p: Any, values: Sequence[str]) -> None:
        _confirm_lora(p)
        presets = self._tag_context().presets()
        for value in values:
            if uses_card(value):  # each LoRA has its own
                continue
            try:
                resolve(Tag("", ()), self._architecture(), page=PageWeights(instead=value), seed=0, presets=presets)
            except (TagError, PresetStringError) as error:
                raise RuntimeError(f"block weights {value!r}: {error}") from error
            if not value:
                raise RuntimeError("an empty value: expected a preset's name, or values in quotes")

    def _confirm_changes(self, p: Any, values: Sequence[str]) -> None:
        _confirm_lora(p)
        for value in values:
            try:
                changed(BlockWeights.uniform(self._architecture(), 1.0), value, seed=0)
            except PresetStringError as error:
                raise RuntimeError(f"block weights {value!r}: {error}") from error

    def _confirm_steps(self, p: Any, values: Sequence[str]) -> None:
        for value in values:
            _with_step(p.prompt, value, self._checkpoints())

    def _apply_step(self, p: Any, value: str, values: Sequence[str]) -> None:
        p.prompt = _with_step(p.prompt, value, self._checkpoints())
        if getattr(p, "hr_prompt", ""):
            p.hr_prompt = _with_step(p.hr_prompt, value, self._checkpoints())


def _replace(p: Any, value: str, values: Sequence[str]) -> None:
    set_page_weights(p, instead=value)


def _change(p: Any, value: str, values: Sequence[str]) -> None:
    add_change(p, value)


def _short(p: Any, option: Any, value: str) -> str:
    name, colon, values = value.partition(":")
    text = name if colon and "," in values else value
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _confirm_lora(p: Any) -> None:
    """Raise RuntimeError for a prompt without LoRAs, unless they may come from its styles."""
    if not lora_names(str(p.prompt)) and not getattr(p, "styles", None):
        raise RuntimeError("the prompt has no LoRA whose block weights could change: expected <lora:NAME:1>")


def _with_step(prompt: str, value: str, checkpoints: Sequence[str]) -> str:
    """Return the prompt with the run's LoRA replaced by its checkpoint at a step: `500`, or a checkpoint's name."""
    names = {_STEP.sub("", name): name for name in lora_names(prompt)}
    fitting = [name for name in checkpoints if _STEP.sub("", name) in names]
    wanted = [name for name in fitting if value in (name, name[-6:].lstrip("0"))]
    if not wanted:
        expected = f"one of {', '.join(fitting)}" if fitting else "a prompt with the <lora:NAME:1> of a run"
        raise RuntimeError(f"there is no checkpoint {value!r} for a LoRA of the prompt: expected {expected}")
    new = wanted[-1]
    return renamed(prompt, {names[_STEP.sub("", new)]}, new)
