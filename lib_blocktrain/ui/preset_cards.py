"""Presets as cards: a small U map, the purpose, the grade of evidence, and buttons that copy the preset in four forms.

``javascript/preset_cards.js`` filters the cards, copies, and sets the sliders of a U map to a card's weights.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from markupsafe import Markup

from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.ui.u_map_layout import tiny
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.preset_strings import Parsed, PresetStringError
from lib_blocktrain.weights.presets import GRADES, Preset, to_link
from lib_blocktrain.workspace.preset_store import PresetStore

GRADE_MARKS = {"A": "A", "C": "C", "-": "–"}
LINE, LINK, KOHYA, JSON, TAG = "line", "link", "kohya", "json", "tag"


class Form(NamedTuple):
    """A form in which weights are copied: its item in the menu, its button on a card, and what it is."""

    item: str
    button: str
    help: str


FORMS = {
    LINE: Form("as a line", "line", "Copy a line that LoRA Block Weight reads too"),
    LINK: Form("a link", "link", "Copy a link: paste it here, or open it to see the weights in this page"),
    KOHYA: Form(
        "as kohya arguments", "kohya", "Copy as sd-scripts’ network_args: weights that scale the learning rate"
    ),
    JSON: Form("as JSON", "JSON", "Copy as JSON"),
    TAG: Form("as a prompt tag", "tag", "Copy as a prompt tag: the LoRA, its strength and its block weights"),
}
NO_KOHYA = "A learning rate cannot be negative, so kohya has no arguments for these weights"


def html(presets: PresetStore, architecture_id: str, u_map: str) -> Markup:
    """The cards of the presets for one architecture; "Use" sets the sliders of the map named ``u_map``."""
    own = presets.own.read().presets
    cards = Markup("").join(
        _card(preset, presets, architecture_id, preset.name in own) for preset in presets.fitting(architecture_id)
    )
    grades = Markup("").join(
        Markup('<option value="{}">{}: {}</option>').format(grade, GRADE_MARKS[grade], text)
        for grade, text in GRADES.items()
    )
    return Markup(
        '<div class="blocktrain-cards" data-u-map="blocktrain_u_{}">'
        '<div class="blocktrain-cards-tools"><input type="search" aria-label="Search the presets" '
        'placeholder="name, purpose, block such as OUT05"><select aria-label="Grade of evidence">'
        '<option value="">every grade</option>{}</select><span role="status"></span></div><ul>{}</ul></div>'
    ).format(u_map, grades, cards or Markup("<li>There is no preset for this architecture yet</li>"))


def card_map(weights: BlockWeights, name: str) -> Markup:
    """A small U map of weights, as SVG."""
    architecture = ARCHITECTURES[weights.architecture]
    return tiny(architecture, weights.with_base, f"{name} for {architecture.title}")


def _card(preset: Preset, presets: PresetStore, architecture_id: str, own: bool) -> Markup:
    try:
        parsed = presets.parse(preset.text, architecture_id, layers=True)
    except PresetStringError as error:
        return Markup('<li class="blocktrain-card" data-words="{}" data-grade="-"><b>{}</b><p>{}</p></li>').format(
            preset.name.casefold(), preset.name, error
        )
    weights = parsed.weights.with_base
    acting = [block_id for block_id, weight in weights.items() if weight]
    return Markup(
        '<li class="blocktrain-card" data-name="{name}" data-words="{words}" data-grade="{grade}"{own}'
        ' data-weights="{weights}" data-changes="{changes}">'
        '{map}<b{title}>{name}</b><div class="blocktrain-card-marks">{marks}</div><p>{purpose}</p>'
        '<div class="blocktrain-card-tools">{use}{copies}</div></li>'
    ).format(
        words=" ".join([preset.name, preset.purpose, preset.grade, *acting]).casefold(),
        grade=preset.grade,
        own=Markup(" data-own") if own else "",
        weights=json.dumps(weights),
        changes=parsed.layers.changes,
        map=card_map(parsed.weights, preset.name),
        title=_title("; ".join([*filter(None, [preset.source]), *parsed.notices])),
        name=preset.name,
        marks=_marks(preset, parsed, own),
        purpose=preset.purpose,
        use=_use(preset.name),
        copies=_copies(preset.name, parsed),
    )


def _title(text: str) -> Markup:
    return Markup(' title="{}"').format(text) if text else Markup("")


def _marks(preset: Preset, parsed: Parsed, own: bool) -> Markup:
    words = ["yours"] if own else []
    words += [ARCHITECTURES[architecture_id].title for architecture_id in preset.architectures]
    words += [parsed.layers.changes] if parsed.layers.changes else []
    words += [f"{parsed.area_share:.0%} of the canvas"] if parsed.area_share is not None else []
    grade = Markup('<abbr title="Grade {}: {}">{}</abbr>').format(
        preset.grade, GRADES[preset.grade], GRADE_MARKS[preset.grade]
    )
    return grade + Markup("").join(Markup("<span>{}</span>").format(word) for word in words)


def _use(name: str) -> Markup:
    return Markup(
        '<button type="button" data-use aria-label="Use {}" title="Set the sliders to these weights">Use</button>'
    ).format(name)


def _copies(name: str, parsed: Parsed) -> Markup:
    """A Copy button for each form in which weights can be shared."""
    buttons = []
    for form, (_, word, title) in FORMS.items():
        if form == TAG:  # needs a LoRA
            continue
        label, off = f"{title}: {name}", ""
        try:
            text = shared_text(parsed.acting, name, form, parsed.area_share)
        except ValueError as error:
            text, title, off = "", str(error) if parsed.layers.changes else NO_KOHYA, " disabled"
        button = Markup('<button type="button" data-copy="{}" aria-label="{}" title="{}"{}>{}</button>')
        buttons.append(button.format(text, label, title, off, word))
    return Markup("").join(buttons)


def shared_text(
    weights: BlockWeights | LayerWeights, name: str | None, form: str, area_share: float | None = None
) -> str:
    """Write weights in one of FORMS, but for TAG; raise ValueError for weights that the form cannot hold."""
    if form in (JSON, KOHYA) and isinstance(weights, LayerWeights):
        raise ValueError(f"{weights.changes}: JSON and kohya's arguments hold one number for each block")
    line = weights.to_line(name, with_architecture=True, area_share=area_share)
    if form == LINK:
        return to_link(line)
    if form == JSON:
        return json.dumps(weights.to_json())
    if form == KOHYA and isinstance(weights, BlockWeights):
        return " ".join(f'"{argument}"' for argument in weights.to_kohya())
    return line
