"""The U map: the blocks drawn as a U, as HTML; ``javascript/u_map.js`` makes it interactive.

All static parts are made here, so that the map has its full size before any script has run. A map is tied to sliders by
the prefix of their ids and follows them; without sliders it only shows weights. A page may hold any number of maps.

What a map shows besides the sliders is in its attributes, which a script may set too (see ``u_map.js``):
``data-values``, JSON, block id to number, colours the blocks under ``data-values-title``; ``data-weights``, likewise,
are the weights of a map without sliders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lib_blocktrain.blocks import ARCHITECTURES, BASE, Architecture
from lib_blocktrain.ui.icons import icon
from lib_blocktrain.ui.u_map_facts import cells, facts, level, summary
from lib_blocktrain.ui.u_map_layout import Place, levels, places
from lib_blocktrain.workspace.lora_selection import WEIGHT_MAX, WEIGHT_MIN

SCALE = Markup('aria-orientation="vertical" aria-valuemin="{:g}" aria-valuemax="{:g}" aria-valuenow="1"').format(
    WEIGHT_MIN, WEIGHT_MAX
)  # u_map.js sets the value from the sliders
RULE = Markup('<i class="blocktrain-u-rule"></i>')
CURVE, DIFF = "curve", "diff"
TOOLS = (  # data-tool, sign or the name of an icon, label, help; "" draws a line between two groups
    ("undo", "", "Undo", "Undo (Ctrl+Z)"),
    ("redo", "", "Redo", "Redo (Ctrl+Shift+Z)"),
    (),
    ("zero", "0", "Set to 0", "Set the selected blocks, or all, to 0: the LoRA has no effect there"),
    ("one", "1", "Set to 1", "Set the selected blocks, or all, to 1: the LoRA has its full effect"),
    (CURVE, "", "Curve", "Set the weights along a curve, in the order of the blocks"),
    ("link", "", "Link skip partners", "Give a block’s skip partner the same weight"),
    (),
    (DIFF, "Diff", "Difference from the preset", "Show where the weights differ from the preset"),
)
PRESSED = {"link": "false", DIFF: "true"}
SHAPES = ("linear", "sine", "cosine")
HINT = (
    "Drag a block up, down or sideways, scroll over it, or type a number; hold Shift for fine steps. Double-click: "
    "0 or 1. Click selects, Ctrl+click adds, Shift+click selects a range; selected blocks move together."
)
SIDES = (("IN", "down"), ("OUT", "up"))


@dataclass(frozen=True)
class View:
    """Values by block that a map can be switched to; ``label`` is on the button, ``title`` beside the colours."""

    label: str
    title: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class UMap:
    """What one map shows. ``sliders`` is the prefix of its widgets' names: "w_" for "w_IN00".

    ``absent`` says by block why nothing can be set there. ``subject`` is the LoRA whose weights these are; the undo
    history ends where it changes. ``values`` are shown as colour under ``title``; ``weights`` are for a map without
    sliders. ``pairs``, two blocks and a number, are drawn as arcs: below 0 they replace each other, above 0 they need
    each other. ``views`` are values to choose from in the page, those shown first among them.
    """

    name: str
    architecture: str
    sliders: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""
    values: Mapping[str, float] | None = None
    title: str = ""
    weights: Mapping[str, float] | None = None
    pairs: Sequence[tuple[str, str, float]] = ()
    views: Sequence[View] = ()

    def html(self) -> Markup:
        known = ARCHITECTURES[self.architecture]
        data = {
            "architecture": self.architecture,
            "sliders": f"blocktrain_{self.sliders}" if self.sliders else "",
            "subject": self.subject,
            "values": "" if self.values is None else json.dumps(dict(self.values)),
            "values-title": self.title,
            "weights": "" if self.weights is None else json.dumps(dict(self.weights)),
        }
        found = places(known)
        return Markup(
            '<div class="blocktrain-u" id="blocktrain_u_{name}" {data} style="--blocktrain-u-rows:{rows}">{tools}'
            '<div class="blocktrain-u-plane" role="group" aria-label="Block weights of {title} as a U">{caps}'
            '<div class="blocktrain-u-field">{lines}{rowheads}{blocks}{arcs}</div></div>{foot}</div>'
        ).format(
            name=self.name,
            data=_data(data),
            rows=len(levels(known)),
            tools=_tools() if self.sliders else "",
            title=known.title,
            caps=_caps(handles=bool(self.sliders)),
            lines=_lines(known),
            rowheads=_rowheads(known, handles=bool(self.sliders)),
            blocks=Markup("").join(self._block(block_id, found[block_id]) for block_id in (*known.block_ids, BASE)),
            arcs=_arcs(self.pairs),
            foot=Markup('<div class="blocktrain-u-foot">{}{}</div>').format(_values_legend(), _views(self.views)),
        )

    def _block(self, block_id: str, place: Place) -> Markup:
        data = {
            "block": block_id,
            "side": block_id.rstrip("0123456789"),
            "absent": self.absent.get(block_id, ""),
            "facts": summary(self.architecture, block_id),
        }
        if block_id != BASE:
            block = ARCHITECTURES[self.architecture].block(block_id)
            data |= {"level": str(level(block)), "partner": block.skip or ""}
        tip_id = f"blocktrain_u_{self.name}_{block_id}_tip"
        return Markup(
            '<div class="blocktrain-u-block blocktrain-u-{side}" {data} {role} aria-label="{block_id}"'
            ' aria-describedby="{tip_id}" style="{style}"><b>{block_id}</b><span class="blocktrain-u-weight"></span>'
            "{tip}</div>"
        ).format(
            side=place.side,
            data=_data(data),
            role=Markup('role="slider" tabindex="-1" {}').format(SCALE) if self.sliders else Markup('role="img"'),
            block_id=block_id,
            tip_id=tip_id,
            style=place.style,
            tip=self._tip(block_id, tip_id, place),
        )

    def _tip(self, block_id: str, tip_id: str, place: Place) -> Markup:
        across = {"in": "left", "base": "left", "out": "right", "mid": "middle"}[place.side]
        lines = [self.absent[block_id]] if block_id in self.absent else []
        lines += facts(self.architecture, block_id)
        return Markup(
            '<span class="blocktrain-u-tip blocktrain-u-{}" role="tooltip" id="{}">'
            '<strong>{}<span class="blocktrain-u-told"></span></strong>{}</span>'
        ).format(across, tip_id, block_id, Markup("").join(Markup("<span>{}</span>").format(line) for line in lines))


def legend() -> Markup:
    """The key of the weights' colours, for the foot of the table of sliders."""
    keys = (
        ("weight", "weight"),
        ("over", "above 1"),
        ("minus", "below 0"),
        ("preset", "preset"),
        ("absent", "no layers"),
    )
    return Markup('<ul class="blocktrain-u-legend" aria-label="Colours">{}</ul>').format(
        Markup("").join(Markup('<li><i class="blocktrain-u-key-{}"></i>{}</li>').format(*key) for key in keys)
    )


def _values_legend() -> Markup:
    """The key of measured values: u_map.js fills it, and hides it where there are none."""
    return Markup(
        '<p class="blocktrain-u-legend blocktrain-u-key-values" hidden><span></span><i></i><span></span>'
        '<span class="blocktrain-u-key-title"></span>'
        '<span class="blocktrain-u-key-kept" hidden><i></i>kept</span></p>'
    )


def _views(views: Sequence[View]) -> Markup:
    """Buttons that switch the values; `javascript/u_map_views.js` does it."""
    if not views:
        return Markup("")
    button = Markup('<button type="button" data-values="{}" data-title="{}">{}</button>')
    buttons = Markup("").join(button.format(json.dumps(dict(view.values)), view.title, view.label) for view in views)
    return Markup(
        '<div class="blocktrain-seg blocktrain-u-views" role="group" aria-label="What the map shows">{}</div>'
    ).format(buttons)


def _arcs(pairs: Sequence[tuple[str, str, float]]) -> Markup:
    """A place for `javascript/u_map_pairs.js` to draw arcs in."""
    if not pairs:
        return Markup("")
    data = Markup('data-pairs="{}"').format(json.dumps(pairs))
    return Markup('<div class="blocktrain-u-pairs" {}></div>').format(data)


def _data(data: Mapping[str, str]) -> Markup:
    return Markup(" ").join(Markup('data-{}="{}"').format(name, value) for name, value in data.items())


def _lines(known: Architecture) -> Markup:
    """The skip connections, each below its row, and the way through M00."""
    line = Markup('<i class="blocktrain-u-skip" data-skip="{}" style="{}"></i>')
    skips = [line.format(block_id, place.style) for block_id, place in places(known).items() if place.side == "in"]
    flows = [Markup('<i class="blocktrain-u-flow blocktrain-u-flow-{}"></i>').format(side) for side in ("in", "out")]
    return Markup("").join([*skips, *flows])


def _caps(*, handles: bool) -> Markup:
    """The names of the sides; on a map with sliders they move their blocks."""
    caps = (_handle("side", side, f"{side} blocks", side, way, handles=handles) for side, way in SIDES)
    return Markup('<div class="blocktrain-u-caps">{}</div>').format(Markup("").join(caps))


def _rowheads(known: Architecture, *, handles: bool) -> Markup:
    """The resolution of each row, between the two sides. M00 is a single block and needs none."""
    heads = []
    for row, divisor in enumerate(levels(known)):
        side = cells(known, divisor)
        text, label = f"{side}×{side}", f"blocks of {side} × {side} cells"
        heads.append(
            _handle("level", str(divisor), label, "", text, handles=handles, style=f"--blocktrain-u-row:{row}")
        )
    return Markup("").join(heads)


def _handle(kind: str, value: str, label: str, name: str, text: str, *, handles: bool, style: str = "") -> Markup:
    shown = Markup("<b>{}</b> {}").format(name, text) if name else Markup("{}").format(text)
    classes = f"blocktrain-u-{kind}"
    if not handles:
        return Markup('<span class="{}" style="{}">{}</span>').format(classes, style, shown)
    return Markup(
        '<div class="blocktrain-u-handle {classes}" data-group="{kind}" data-of="{value}" role="slider" tabindex="0"'
        ' {scale} aria-label="All {label}" title="All {label}: a click selects them; drag, scroll or type moves them'
        ' together" style="{style}">{shown}</div>'
    ).format(classes=classes, kind=kind, value=value, scale=SCALE, label=label, style=style, shown=shown)


def _tools() -> Markup:
    tools = Markup("").join(_tool(*tool) if tool else RULE for tool in TOOLS)
    return Markup(
        '<div class="blocktrain-u-tools" role="toolbar" aria-label="U map">{tools}'
        '<span class="blocktrain-u-info"><span class="blocktrain-u-message" role="status"></span>'
        '<span class="blocktrain-u-said-of" title="{hint}"></span></span></div>'
    ).format(tools=tools, hint=HINT)


def _tool(name: str, sign: str, label: str, help_text: str) -> Markup:
    shown = Markup("<span>{}</span>").format(sign) if sign else icon(name)
    if name == CURVE:
        return _curve(help_text, shown)
    pressed = Markup(' aria-pressed="{}"').format(PRESSED[name]) if name in PRESSED else ""
    return Markup('<button type="button" data-tool="{}"{} aria-label="{}" title="{}">{}</button>').format(
        name, pressed, label, help_text, shown
    )


def _curve(help_text: str, sign: Markup) -> Markup:
    shapes = Markup("").join(Markup('<option value="{0}">{0}</option>').format(shape) for shape in SHAPES)
    return Markup(
        '<details class="blocktrain-u-curve blocktrain-menu">'
        '<summary title="{help}" aria-label="Curve">{sign}</summary><div>'
        '<label>Shape <select data-curve="shape">'
        '{shapes}</select></label><label><input type="checkbox" data-curve="reverse"> reversed</label>'
        '<label>Low <input type="number" step="0.05" value="0" data-curve="low"></label>'
        '<label>High <input type="number" step="0.05" value="1" data-curve="high"></label>'
        '<label>Of <select data-curve="of"><option value="selection">what is selected</option>'
        '<option value="IN">IN</option><option value="OUT">OUT</option><option value="all">all blocks</option></select>'
        '</label><svg viewBox="-2 -2 104 34" aria-hidden="true"><path/></svg>'
        '<button type="button" data-tool="curve">Set</button>'
        '<p class="blocktrain-u-said" role="status"></p></div></details>'
    ).format(help=help_text, sign=sign, shapes=shapes)
