"""Block weights for the LoRAs of an image: read from its prompt's tags, recorded in its generation parameters.

`p` is the WebUI's StableDiffusionProcessing; a `params` is its ExtraNetworkParams, one tag as `items`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote

from lib_blocktrain.weights.presets import Preset
from lib_blocktrain.weights.prompt_tags import PageWeights, Resolved, Tag, read_tag, resolve
from lib_blocktrain.weights.tag_steps import TagError
from lib_blocktrain.weights.tagged_prompts import INFOTEXT, INFOTEXT_HIRES, INFOTEXT_PROBLEM, infotext_of

log = logging.getLogger(__name__)

_PAGE = "blocktrain_page"  # on p: a PageWeights
_HIDDEN = "blocktrain="  # how an item begins that holds those of this extension; no other extension looks for it
_OF_LBW = "its lbw= is LoRA Block Weight's, which is installed: the weights of the page do not act on it"


@dataclass(frozen=True)
class TagContext:
    """The context in which tags are read; for unsupported models `architecture` is None, and `unsupported` says why."""

    architecture: str | None
    presets: Callable[[], Mapping[str, Preset]]
    reads_lbw: bool = True
    unsupported: str = "block weights are for SD1, SD2 and SDXL, and the loaded checkpoint is none of them"
    recommended: Callable[[str], str] | None = None  # the weights that the card of the LoRA of this name recommends


def page_weights(p: Any) -> PageWeights:
    """Return the block weights for this image that come from the page, not from its prompt."""
    return getattr(p, _PAGE, None) or PageWeights()


def set_page_weights(p: Any, **changes: Any) -> None:
    """Change fields of `page_weights(p)`, in a new object: X/Y/Z copies `p` for each cell, but not deeply."""
    setattr(p, _PAGE, replace(page_weights(p), **changes))


def add_change(p: Any, change: str) -> None:
    """Add a change to every LoRA's weights, such as `IN08=0`."""
    set_page_weights(p, changes=(*page_weights(p).changes, change))


def resolve_tags(p: Any, params_list: Sequence[Any], context: TagContext) -> list[Resolved | None] | None:
    """Return what each tag asks for, None for a LoRA to leave out; or None if no tag concerns this extension.

    Records the weights in the image's parameters, and reports problems on the page. The tags' items are replaced by
    values, since the WebUI caches the conditioning by them, and so that other extensions find nothing to read in them.
    """
    hires = bool(getattr(p, "is_hr_pass", False))
    _clear(p, hires)
    found: list[Resolved | None] = []
    problems: list[str] = []
    names = {str(params.items[0]) for params in params_list}
    for params in params_list:
        try:
            resolved = _resolve(p, params, names, context)
        except (ValueError, OSError) as error:  # a tag, weights or a card; OSError: reading presets or a card
            found.append(None)
            problems.append(f"{params.items[0]} left out: {error}")
            name, *rest = _shown_items(params.items)
            params.items = _hidden_items([name], rest)
            continue
        found.append(resolved)
        if resolved.weights is not None or resolved.tag.strength is not None:
            params.items = _hidden_items(resolved.tag.plain, _ours(resolved.fixed))
    problems += _repeated(found)
    _record(p, [r for r in found if r is not None], problems, hires)
    ours = problems or any(r and (r.weights is not None or r.tag.gates or r.tag.notices) for r in found)
    return found if ours else None


def _ours(tag: Tag) -> list[str]:
    """Return the items that say what the plain ones do not, behind which they are read as the same tag."""
    strength = [] if tag.strength is None else [f"unet={tag.strength}"]
    return [*strength, *tag.items[len(tag.plain) :]]


def _hidden_items(plain: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Return a tag's plain items, and the others in one, `blocktrain=...`, that `_shown_items` reads.

    LoRA Block Weight reads the items of every tag after the WebUI. It searches each for `w=`, which is in `bw=`, for
    `start=` and others, and would act on them; a strength that is no number ends its work for the whole prompt. Without
    a multiplier it takes that of the text encoder from `unet=`.
    """
    shown = list(plain)
    if len(shown) == 1 or "=" in shown[1]:
        shown.insert(1, "1")
    return [*shown, f"{_HIDDEN}{quote(':'.join(ours))}"] if ours else shown


def _shown_items(items: Sequence[Any]) -> list[str]:
    """Return a tag's items as they were written, or as values."""
    texts = [str(item) for item in items]
    shown = [unquote(text.removeprefix(_HIDDEN)).split(":") if text.startswith(_HIDDEN) else [text] for text in texts]
    return [item for group in shown for item in group]


def _resolve(p: Any, params: Any, names: set[str], context: TagContext) -> Resolved:
    tag, page = read_tag(_shown_items(params.items), reads_lbw=context.reads_lbw), page_weights(p)
    weighted = bool(tag.weights is not None or page.instead or page.changes or page.for_lora(tag.name, names))
    if not context.reads_lbw and any(item.casefold().startswith("lbw=") for item in tag.plain):
        return Resolved(tag, None, (_OF_LBW,) if weighted else ())
    if context.architecture is None and (weighted or tag.gates):
        raise TagError(context.unsupported)
    if not weighted:
        return Resolved(tag, None, tag.notices)
    assert context.architecture is not None
    seeds = getattr(p, "seeds", None) or getattr(p, "all_seeds", None) or [0]
    return resolve(
        tag,
        context.architecture,
        page=page,
        loras=names,
        seed=int(seeds[0]),
        presets=context.presets(),
        recommended=context.recommended,
    )


def _repeated(found: Sequence[Resolved | None]) -> list[str]:
    """Return a problem for each LoRA with differing tags: the WebUI has one network per LoRA, so the last counts."""
    by_name: dict[str, list[Resolved]] = {}
    for resolved in found:
        if resolved is not None:
            by_name.setdefault(resolved.tag.name, []).append(resolved)
    return [
        f"{name} is in the prompt {len(several)} times: the weights of the last tag are used for all"
        for name, several in by_name.items()
        if len({(one.weights, one.tag.gates) for one in several}) > 1
    ]


def _clear(p: Any, hires: bool) -> None:
    """Remove what was recorded for an earlier image of the same `p`."""
    for name in (INFOTEXT_HIRES,) if hires else (INFOTEXT, INFOTEXT_HIRES, INFOTEXT_PROBLEM):
        p.extra_generation_params.pop(name, None)


def _record(p: Any, found: Sequence[Resolved], problems: Sequence[str], hires: bool) -> None:
    parameters, line = p.extra_generation_params, infotext_of(found)
    if line and line != parameters.get(INFOTEXT):
        parameters[INFOTEXT_HIRES if hires else INFOTEXT] = line
    report(p, problems)
    for resolved in found:
        for notice in resolved.notices:
            p.comment(f"Block weights of {resolved.tag.name}: {notice}")


def report(p: Any, problems: Sequence[str]) -> None:
    """Record problems in the image's parameters, on the page and in the log, each once an image."""
    parameters = p.extra_generation_params
    for problem in problems:
        earlier = parameters.get(INFOTEXT_PROBLEM, "")
        if problem in earlier:
            continue
        parameters[INFOTEXT_PROBLEM] = f"{earlier}; {problem}" if earlier else problem
        log.warning("%s", problem)
        p.comment(f"Block weights: {problem}")
