"""The pictures of Preview as HTML: a comparison of three, a grid of many, and what stands there before.

`javascript/pictures_views.js` adds zoom, swipe and difference; `javascript/pictures_state.js` marks those whose weights
or settings have changed since.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from PIL import Image

from lib_blocktrain.ui.html import data_url
from lib_blocktrain.ui.icons import icon
from lib_blocktrain.ui.preset_cards import card_map
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.workspace.drawing import AT_1, WITHOUT, Variant
from lib_blocktrain.workspace.drawn_pictures import DrawnPicture

LIVE_SIDE = 384  # pixels
UNDER = {WITHOUT: "the model alone", AT_1: "the LoRA as it is"}  # below the titles
STEPS = (
    ("Choose a LoRA", "One or several; each has its own strength."),
    ("Set the weights", "Drag on the map, or take a preset."),
    ("Draw", "Without LoRA, every block at 1, under the weights."),
)
VIEWS = {"side": "Side by side", "swipe": "Swipe", "difference": "Difference", "grid": "Grid"}
_USE = Markup(
    '<button type="button" class="blocktrain-btn blocktrain-link" data-use-cell="{}" '
    'aria-label="Use these weights: {}" title="Use these weights">Use</button>'
)
_DRAW_AT = Markup('<button type="button" class="blocktrain-btn" data-draw-at="{}x{}">Draw at {}×{}</button>')
_FAIL = Markup('<div class="blocktrain-fail">{}<b>Not drawn</b><p>{}</p>{}</div>')
# The scripts show these parts where they apply, and fill them.
TAG_LINE = Markup(
    '<div class="blocktrain-tagline" hidden><span>Prompt tag</span><code></code><button type="button" '
    'class="blocktrain-btn" data-copy-tag>{}<span>Copy</span></button><button type="button" class="blocktrain-btn" '
    "data-to-txt2img hidden>Send to txt2img</button></div>"
).format(icon("copy"))
FROM_TXT2IMG = Markup(
    '<button type="button" class="blocktrain-btn" data-from-txt2img hidden title="Prompt, its LoRAs, negative prompt,'
    ' size, sampler, steps, CFG and seed of txt2img">Take from txt2img</button>'
)
NO_GRID = Markup(
    '<div class="blocktrain-ph blocktrain-no-grid"><b>No grid yet</b><p>One picture without LoRAs, and one for each '
    "preset, value, strength, seed or LoRA chosen above.</p></div>"
)
CHANGED = Markup('<p class="blocktrain-msg blocktrain-is-warn blocktrain-changed" role="status" hidden></p>')
HISTORY = Markup(
    '<div class="blocktrain-history" hidden><div class="blocktrain-history-h"><h3>History</h3>'
    '<span class="blocktrain-of">click: weights and pictures back · pin keeps it</span>'
    '<span class="blocktrain-sp"></span><button type="button" class="blocktrain-btn blocktrain-link" '
    'data-clear-history title="All but the pinned ones">Clear</button></div><div class="blocktrain-strip" role="list">'
    "</div></div>"
)


def heading() -> Markup:
    """The heading of the pictures with the views to choose from."""
    button = Markup('<button type="button" data-view-to="{}" aria-pressed="{}" title="{}">{}<span>{}</span></button>')
    buttons = Markup("").join(
        button.format(name, str(name == "side").lower(), title, icon(name), title) for name, title in VIEWS.items()
    )
    return Markup(
        '<div class="blocktrain-pictures-h"><h2>Pictures</h2><span class="blocktrain-of" data-pictures-of></span>'
        '<span class="blocktrain-sp"></span>'
        '<div class="blocktrain-seg blocktrain-views" role="group" aria-label="How the pictures are shown">{}</div>'
        "</div>"
    ).format(buttons)


def first_steps() -> Markup:
    """What to do, in the frames of the first comparison, so that the layout does not shift."""
    steps = Markup("").join(
        Markup(
            '<figure class="blocktrain-shot"><div class="blocktrain-ph"><i>{}</i><b>{}</b><p>{}</p></div></figure>'
        ).format(number, title, text)
        for number, (title, text) in enumerate(STEPS, start=1)
    )
    return Markup('<div class="blocktrain-shots blocktrain-first">{}</div>').format(steps)


def comparison(
    variants: Sequence[Variant],
    drawn: Mapping[int, DrawnPicture],
    size: tuple[int, int],
    *,
    before: Mapping[str, DrawnPicture] | None = None,
    names: Mapping[str, str] | None = None,
    failed: Markup | None = None,
    busy: bool = False,
    data: Mapping[str, object] | None = None,
) -> Markup:
    """The pictures of a comparison side by side.

    Where one is not drawn yet stands the earlier one, from ``before`` by the variant's name, or an empty frame.
    ``names`` are the lines below the titles; ``failed``, from `failure`, stands in place of the first missing picture,
    which with ``busy`` is being drawn; ``data`` is for the page's scripts.
    """
    under = {**UNDER, **(names or {})}
    figures = []
    for index, variant in enumerate(variants):
        figure = _Figure(variant.name, index, variant.title, under.get(variant.name, ""), size)
        found, old = drawn.get(index), (before or {}).get(variant.name)
        now = " blocktrain-is-busy" if busy and index == len(drawn) else ""
        if found:
            figures.append(figure.shown(found, "blocktrain-is-kept" if found.reused else ""))
        elif failed is not None and index == len(drawn):
            figures.append(figure.holding(failed, "not drawn", "blocktrain-is-failed"))
        elif old:
            figures.append(figure.shown(old, f"blocktrain-is-old{now}"))
        else:
            figures.append(figure.holding(Markup('<div class="blocktrain-ph"></div>'), "", f"blocktrain-is-none{now}"))
    return Markup('<div class="blocktrain-pictures blocktrain-shots"{}>{}</div>').format(
        _data(data), Markup("").join(figures)
    )


def grid(
    variants: Sequence[Variant],
    drawn: Mapping[int, DrawnPicture],
    size: tuple[int, int],
    said: str,
    uses: Sequence[Mapping[str, object] | None],
) -> Markup:
    """The pictures of a grid; ``uses`` are what "Use" in each cell sets, for the page's scripts; None for nothing."""
    cells = []
    for index, variant in enumerate(variants):
        figure = _Figure(variant.name, index, variant.title, "", size)
        found, use = drawn.get(index), uses[index]
        weights = [weights for weights, _ in variant.weights.values()]
        small = card_map(LayerWeights.of(weights[-1]).blocks, variant.title) if weights else Markup("")
        cell_use = _USE.format(json.dumps(use), variant.title) if use is not None else Markup("")
        cells.append(figure.cell(found, small, cell_use))
    line = Markup('<p class="blocktrain-gridv-h" role="status">{} of {} pictures · {}</p>').format(
        len(drawn), len(variants), said
    )
    return Markup('<div class="blocktrain-pictures blocktrain-many">{}{}</div>').format(line, Markup("").join(cells))


def live(widget: str, number: int, image: Image.Image) -> Markup:
    """The picture of this number as it is so far; the page's scripts show it in its place in the widget."""
    small = image.convert("RGB")
    small.thumbnail((LIVE_SIDE, LIVE_SIDE))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=80)
    url = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
    return Markup('<img alt="" data-live="{}" data-number="{}" src="{}">').format(widget, number, url)


def failure(reason: str, size: tuple[int, int], smaller: bool) -> Markup:
    """In a picture's place: why it was not drawn and, with ``smaller``, a button that draws at three quarters."""
    button = Markup("")
    if smaller and min(size) > 256:
        width, height = (side * 3 // 4 // 64 * 64 for side in size)
        button = _DRAW_AT.format(width, height, width, height)
    return _FAIL.format(icon("warn"), reason, button)


class _Figure:
    """One picture's place, ``name`` being the variant's, with title and a line below it."""

    def __init__(self, name: str, number: int, title: str, under: str, size: tuple[int, int]):
        self.name, self.number, self.title, self.under, self.size = name, number, title, under, size

    def shown(self, picture: DrawnPicture, state: str) -> Markup:
        badge = Markup('<span class="blocktrain-badge">kept</span>') if picture.reused else Markup("")
        under = "not drawn again: the same" if picture.reused and "kept" in state else self.under
        return self._figure(self._button(picture, badge), under, state)

    def holding(self, content: Markup, under: str, state: str) -> Markup:
        shape = Markup('<div class="blocktrain-shot-hold" style="aspect-ratio: {} / {}">{}</div>')
        return self._figure(shape.format(*self.size, content), under or self.under, state)

    def cell(self, picture: DrawnPicture | None, small: Markup, button: Markup) -> Markup:
        empty = Markup('<div class="blocktrain-ph" style="aspect-ratio: {} / {}"></div>').format(*self.size)
        return Markup(
            '<figure class="blocktrain-cell" data-arm="{}" data-number="{}">{}<figcaption>{}<b title="{}">{}</b>{}'
            "</figcaption></figure>"
        ).format(
            self.name,
            self.number,
            self._button(picture.reduced(), Markup("")) if picture else empty,
            small,
            self.title,
            self.title,
            button,
        )

    def _button(self, picture: DrawnPicture, badge: Markup) -> Markup:
        zoom = Markup('<span class="blocktrain-zoom">{}<span>Zoom</span></span>').format(icon("zoom"))
        return Markup(
            '<button type="button" class="blocktrain-shot-b" aria-label="Zoom: {}" style="aspect-ratio: {} / {}">'
            '<img alt="{}" src="{}">{}{}</button>'
        ).format(self.title, *self.size, picture.alt, data_url(picture.png), zoom, badge)

    def _figure(self, content: Markup, under: str, state: str) -> Markup:
        return Markup(
            '<figure class="blocktrain-shot {}" data-arm="{}" data-number="{}">{}<figcaption><b>{}</b><small>{}</small>'
            "</figcaption></figure>"
        ).format(state, self.name, self.number, content, self.title, under)


def _data(data: Mapping[str, object] | None) -> Markup:
    pairs = (data or {}).items()
    return Markup("").join(
        Markup(' data-{}="{}"').format(name, value if isinstance(value, str) else json.dumps(value))
        for name, value in pairs
    )
