"""Presets as cards with a tiny U map each: what it is for, how well founded, and its text to share in four forms.

``javascript/preset_cards.js`` searches among them, copies, and puts a card's weights on the sliders of a U map.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from html import escape

from lib_blocktrain.blocks import ARCHITECTURES, BASE
from lib_blocktrain.ui.u_map_layout import tiny
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import Parsed, PresetStringError
from lib_blocktrain.weights.presets import GRADES, Preset, to_link

GRADE_MARKS = {"A": "A", "C": "C", "-": "–"}


def html(
    presets: Iterable[Preset],
    architecture_id: str,
    parse: Callable[[str], Parsed],
    u_map: str,
    own: Collection[str] = (),
) -> str:
    """The cards of presets, for one architecture; ``parse`` reads a preset string for it, ``own`` are a person's own.

    ``u_map`` is the name of the map on whose sliders "Use" puts the weights.
    """
    cards = "".join(_card(preset, architecture_id, parse, preset.name in own) for preset in presets)
    grades = "".join(f'<option value="{grade}">{GRADE_MARKS[grade]}: {text}</option>' for grade, text in GRADES.items())
    return (
        f'<div class="blocktrain-cards" data-u-map="blocktrain_u_{u_map}">'
        '<div class="blocktrain-cards-tools"><input type="search" aria-label="Search the presets" '
        'placeholder="name, purpose, block such as OUT05"><select aria-label="How well founded">'
        f'<option value="">every grade</option>{grades}</select><span role="status"></span></div>'
        f"<ul>{cards or '<li>There is no preset for this architecture yet</li>'}</ul></div>"
    )


def card_map(weights: BlockWeights, name: str) -> str:
    """A small picture of weights."""
    known = ARCHITECTURES[weights.architecture]
    values = {BASE: weights.base, **weights.values}
    return tiny(known, values, escape(f"{name} for {known.title}", quote=True))


def _card(preset: Preset, architecture_id: str, parse: Callable[[str], Parsed], own: bool) -> str:
    try:
        parsed = parse(preset.text)
    except PresetStringError as error:
        return (
            f'<li class="blocktrain-card" data-words="{escape(preset.name.casefold(), quote=True)}" data-grade="-">'
            f"<b>{escape(preset.name)}</b><p>{escape(str(error))}</p></li>"
        )
    weights = {BASE: parsed.weights.base, **parsed.weights.values}
    acting = [block_id for block_id, weight in weights.items() if weight]
    words = " ".join([preset.name, preset.purpose, preset.grade, *acting]).casefold()
    marks = [f'<abbr title="Grade {preset.grade}: {GRADES[preset.grade]}">{GRADE_MARKS[preset.grade]}</abbr>']
    marks += ["<span>yours</span>"] if own else []
    marks += [f"<span>{ARCHITECTURES[known].title}</span>" for known in preset.architectures]
    marks += [f"<span>{parsed.canvas:.0%} of the canvas</span>"] if parsed.canvas is not None else []
    said = escape("; ".join([*filter(None, [preset.source]), *parsed.notices]), quote=True)
    title = f' title="{said}"' if said else ""
    return (
        f'<li class="blocktrain-card" data-words="{escape(words, quote=True)}" data-grade="{preset.grade}" '
        f'data-weights="{escape(json.dumps(weights), quote=True)}">'
        f"{card_map(parsed.weights, preset.name)}"
        f'<b{title}>{escape(preset.name)}</b><div class="blocktrain-card-marks">{"".join(marks)}</div>'
        f"<p>{escape(preset.purpose)}</p>"
        f'<div class="blocktrain-card-tools">{_use(preset.name)}{_copies(preset.name, parsed)}</div></li>'
    )


def _use(name: str) -> str:
    label = escape(f"Use {name}", quote=True)
    return f'<button type="button" data-use aria-label="{label}" title="Put these weights on the sliders">Use</button>'


def _copies(name: str, parsed: Parsed) -> str:
    """A button for every form in which the weights can be shared."""
    weights = parsed.weights
    line = weights.to_line(name, with_architecture=True, canvas=parsed.canvas)
    forms = (
        ("line", "Copy a line that LoRA Block Weight reads too", line),
        ("link", "Copy a link: paste it here, or put it behind the address of this page", to_link(line)),
        ("JSON", "Copy as JSON", json.dumps(weights.to_json())),
        ("kohya", "Copy as sd-scripts’ network_args: weights that scale the learning rate", _kohya(weights)),
    )
    buttons = []
    for form, help_text, text in forms:
        label = escape(f"{help_text}: {name}", quote=True)
        off = "" if text else " disabled"
        help_text = (
            help_text if text else "A learning rate cannot be negative, so kohya has no arguments for these weights"
        )
        buttons.append(
            f'<button type="button" data-copy="{escape(text, quote=True)}" aria-label="{label}" '
            f'title="{help_text}"{off}>{form}</button>'
        )
    return "".join(buttons)


def _kohya(weights: BlockWeights) -> str:
    """sd-scripts' arguments, or nothing for weights that have none."""
    if any(value < 0 for value in weights.values.values()):
        return ""
    return " ".join(f'"{argument}"' for argument in weights.to_kohya())
