"""The frame of the page: header, action bars, panes, sections, menus and segments, as context managers over gradio.

`javascript/page_frame.js` moves between the places and opens the menus; style.css draws them. In a tab's `build`::

    segments("preview", {"loras": "LoRAs", "weights": "Weights"})
    with bar("preview"):
        with actions():
            w.add("draw", gr.Button, "Draw", variant="primary")
        with messages():
            w.html("status")
        with aside():
            w.add("save_pictures", gr.Button, "Save")
    with panes("preview"):
        with pane("left"), section("LoRAs", part="loras"):
            ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.ui.widgets import Widgets

PANES = ("left", "canvas", "right")
BRAND = Markup(
    '<div class="blocktrain-brand" data-host="{}"><svg viewBox="0 0 20 20" aria-hidden="true">'
    '<path d="M3 3v8a7 7 0 0 0 14 0V3" '
    'fill="none" stroke="currentColor" stroke-width="3.2" stroke-linecap="round"/><circle cx="10" cy="18" r="1.7"/>'
    "</svg><b>Block weights</b></div>"
)
KEYS = Markup(
    '<button type="button" class="blocktrain-btn blocktrain-icon" data-keys aria-haspopup="dialog" '
    'title="Keyboard shortcuts" aria-label="Keyboard shortcuts">?</button>'
)
_NAVIGATION = Markup(
    '<nav aria-label="Places"><div class="blocktrain-tabs" role="tablist" aria-label="Places">{}</div></nav>'
)
_TAB = Markup(
    '<button type="button" role="tab" id="blocktrain_tab_{place}" aria-controls="blocktrain_place_{place}" '
    'data-place="{place}" aria-selected="{selected}" tabindex="{index}">{title}</button>'
)


def place_name(title: str) -> str:
    """The name of a place in ids, from its title."""
    return title.lower()


@contextmanager
def header(w: Widgets, titles: Sequence[str], model: Markup, host_name: str) -> Iterator[None]:
    """The header: name, places, the model, what is made inside (the run in training), and the keyboard shortcuts."""
    tabs = Markup("").join(
        _TAB.format(place=place_name(title), title=title, selected=str(not i).lower(), index="-1" if i else "0")
        for i, title in enumerate(titles)
    )
    with gr.Row(elem_id="blocktrain_head", elem_classes="blocktrain-head"):
        w.html("brand", BRAND.format(host_name))
        w.html("place_tabs", _NAVIGATION.format(tabs))
        w.html("model_line", model)
        yield
        w.html("keys", KEYS)


@contextmanager
def bar(place: str) -> Iterator[None]:
    """The action bar of a place, always in sight: `actions`, `messages` and `aside`, in this order."""
    with gr.Row(elem_id=f"blocktrain_bar_{place}", elem_classes="blocktrain-bar"):
        yield


@contextmanager
def actions() -> Iterator[None]:
    """In a bar: the place's action, whose button is ``variant="primary"`` and which Ctrl+Enter presses, and Cancel."""
    with gr.Row(elem_classes="blocktrain-bar-go"):
        yield


@contextmanager
def messages() -> Iterator[None]:
    """In a bar: progress, results and errors, as HTML widgets; an empty one takes no room."""
    with gr.Column(elem_classes="blocktrain-msgs", min_width=0):
        yield


@contextmanager
def aside() -> Iterator[None]:
    """In a bar: what else can be done here, at its right end."""
    with gr.Row(elem_classes="blocktrain-bar-r"):
        yield


@contextmanager
def panes(place: str) -> Iterator[None]:
    """The panes of a place, side by side; below 900 pixels one below the other."""
    with gr.Row(elem_id=f"blocktrain_panes_{place}", elem_classes=["blocktrain-grid", f"blocktrain-grid-{place}"]):
        yield


@contextmanager
def pane(kind: str, *parts: str) -> Iterator[None]:
    """A pane of a place: "left" or "right", which scroll by themselves, or "canvas".

    ``parts`` are the segments that show it on a phone, where it belongs to some as a whole.
    """
    if kind not in PANES:
        raise ValueError(f"pane {kind!r}: expected one of {', '.join(PANES)}")
    classes = ["blocktrain-pane", "blocktrain-canvas" if kind == "canvas" else f"blocktrain-pane-{kind[0]}"]
    with gr.Column(elem_classes=[*classes, *_parts(parts)], min_width=0):
        yield


@contextmanager
def section(title: str, *parts: str, name: str | None = None, visible: bool = True) -> Iterator[gr.Column]:
    """A section of a pane under a heading, none where ``title`` is empty; ``parts`` are the segments that show it."""
    elem_id = f"blocktrain_{name}" if name else None
    classes = ["blocktrain-sec", *_parts(parts)]
    with gr.Column(elem_id=elem_id, elem_classes=classes, min_width=0, visible=visible) as column:
        if title:
            gr.HTML(Markup("<h2>{}</h2>").format(title), elem_classes="blocktrain-sec-h")
        yield column


@contextmanager
def card(title: str, number: int | None = None) -> Iterator[None]:
    """A card of a path, with its number where it is a step."""
    with gr.Column(elem_classes="blocktrain-card", min_width=0):
        step = Markup('<i class="blocktrain-n">{}</i>').format(number) if number else ""
        gr.HTML(Markup("<h2>{}{}</h2>").format(step, title), elem_classes="blocktrain-sec-h")
        yield


@contextmanager
def menu(name: str, title: str, label: Markup | str, right: bool = False) -> Iterator[None]:
    """Widgets in a popover that a button opens; ``right`` aligns it with the button's right edge.

    Open it from a script by setting ``aria-expanded`` through ``window.blocktrain.openMenu(element, true)``.
    """
    classes = ["blocktrain-menu", *(["blocktrain-is-right"] if right else [])]
    button = Markup(
        '<button type="button" class="blocktrain-btn" data-menu aria-haspopup="true" aria-expanded="false" '
        'title="{}" aria-label="{}">{}</button>'
    )
    with gr.Column(elem_id=f"blocktrain_menu_{name}", elem_classes=classes, min_width=0):
        gr.HTML(button.format(title, title, label), elem_classes="blocktrain-menu-button")
        with gr.Column(elem_classes="blocktrain-pop", min_width=0):
            yield


def segments(place: str, titles: Mapping[str, str], chosen: str | None = None) -> None:
    """On a phone: the parts of a place, of which one is shown; ``titles`` by part, the names given to `section`."""
    button = Markup('<button type="button" data-segment="{}" aria-pressed="{}">{}</button>')
    chosen = chosen or next(iter(titles))
    buttons = Markup("").join(button.format(part, str(part == chosen).lower(), text) for part, text in titles.items())
    shown = Markup('<div class="blocktrain-seg" role="group" aria-label="Parts of this place">{}</div>').format(buttons)
    gr.HTML(shown, elem_id=f"blocktrain_segs_{place}", elem_classes="blocktrain-segs")


def _parts(parts: Sequence[str]) -> list[str]:
    return ["blocktrain-part", *(f"blocktrain-part-{part}" for part in parts)] if parts else []
