"""Block weights for the LoRAs of a picture that is being made: read from its tags, said in its parameters.

`p` is the WebUI's StableDiffusionProcessing, a `params` its ExtraNetworkParams: one tag, as `items`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib_blocktrain.weights.preset_strings import PresetStringError
from lib_blocktrain.weights.presets import Preset
from lib_blocktrain.weights.prompt_tags import (
    INFOTEXT,
    INFOTEXT_HIRES,
    INFOTEXT_PROBLEM,
    PageWeights,
    Resolved,
    TagError,
    infotext_of,
    read_tag,
    resolve,
)

log = logging.getLogger(__name__)

_PAGE = "blocktrain_page"  # on p: a PageWeights


@dataclass(frozen=True)
class Reading:
    """How tags are to be read: for this architecture, None where the loaded model has none of those that are known."""

    architecture: str | None
    presets: Callable[[], Mapping[str, Preset]]
    reads_lbw: bool = True
    without: str = "block weights are for SD1, SD2 and SDXL, and the loaded checkpoint is none of them"  # why None


def page_of(p: Any) -> PageWeights:
    """Return the block weights for this picture that do not stand in its prompt."""
    return getattr(p, _PAGE, None) or PageWeights()


def set_page(p: Any, **changes: Any) -> None:
    """Change them. X/Y/Z copies `p` for every cell, and only the copy's are changed."""
    setattr(p, _PAGE, replace(page_of(p), **changes))


def add_change(p: Any, change: str) -> None:
    """Make one more change to the weights of every LoRA."""
    set_page(p, changes=(*page_of(p).changes, change))


def weigh(p: Any, params_list: Sequence[Any], reading: Reading) -> list[Resolved | None] | None:
    """Return what each tag asks for, None for a LoRA that is to be left out; or None if nothing is asked of us.

    Says in the picture's parameters what was resolved, and on the page what went wrong. The tags' items become values,
    so that conditioning which the WebUI keeps for equal tags is made anew where the weights are others.
    """
    hires = bool(getattr(p, "is_hr_pass", False))
    _forget(p, hires)
    found, problems = [], []
    names = {str(params.items[0]) for params in params_list}
    for params in params_list:
        try:
            resolved = _resolve(p, params, names, reading)
        except (TagError, PresetStringError, OSError) as error:  # OSError: the file of presets
            found.append(None)
            problems.append(f"{params.items[0]} left out: {error}")
            continue
        found.append(resolved)
        if resolved.weights is not None:
            params.items = resolved.fixed.items
    problems += _twice(found)
    _say(p, [r for r in found if r is not None], problems, hires)
    ours = problems or any(r and (r.weights is not None or not r.tag.steps.all or r.tag.notices) for r in found)
    return found if ours else None


def _resolve(p: Any, params: Any, names: set[str], reading: Reading) -> Resolved:
    tag, page = read_tag([str(item) for item in params.items], reads_lbw=reading.reads_lbw), page_of(p)
    asked = tag.weights is not None or page.instead or page.changes or page.for_lora(tag.name, names)
    if asked and reading.architecture is None:
        raise TagError(reading.without)
    if not asked:
        return Resolved(tag, None, tag.notices)
    seeds = getattr(p, "seeds", None) or getattr(p, "all_seeds", None) or [0]
    return resolve(tag, reading.architecture, page=page, loras=names, seed=int(seeds[0]), presets=reading.presets())


def _twice(found: Sequence[Resolved | None]) -> list[str]:
    """The WebUI has one strength for a network that stands in the prompt twice: so have the weights."""
    by_name: dict[str, list[Resolved]] = {}
    for resolved in found:
        if resolved is not None:
            by_name.setdefault(resolved.tag.name, []).append(resolved)
    return [
        f"{name} stands in the prompt {len(several)} times: the weights of the last count for all"
        for name, several in by_name.items()
        if len({(one.weights, one.tag.steps) for one in several}) > 1
    ]


def _forget(p: Any, hires: bool) -> None:
    """Drop what an earlier picture of the same `p` said."""
    for name in (INFOTEXT_HIRES,) if hires else (INFOTEXT, INFOTEXT_HIRES, INFOTEXT_PROBLEM):
        p.extra_generation_params.pop(name, None)


def _say(p: Any, found: Sequence[Resolved], problems: Sequence[str], hires: bool) -> None:
    said, line = p.extra_generation_params, infotext_of(found)
    if line and line != said.get(INFOTEXT):
        said[INFOTEXT_HIRES if hires else INFOTEXT] = line
    if problems:
        earlier = [said[INFOTEXT_PROBLEM]] if INFOTEXT_PROBLEM in said else []
        new = [problem for problem in problems if not any(problem in text for text in earlier)]
        said[INFOTEXT_PROBLEM] = "; ".join([*earlier, *new])
    for problem in problems:
        log.warning("%s", problem)
        p.comment(f"Block weights: {problem}")
    for resolved in found:
        for notice in resolved.notices:
            p.comment(f"Block weights of {resolved.tag.name}: {notice}")
