"""The page's line icons, as SVG in the colour of the text around them."""

from __future__ import annotations

from types import MappingProxyType

from markupsafe import Markup

_PATHS = MappingProxyType(
    {
        "undo": "M5.5 3 2.5 6l3 3M2.5 6H9a4 4 0 0 1 0 8H6",
        "redo": "M10.5 3l3 3-3 3M13.5 6H7a4 4 0 0 0 0 8h3",
        "curve": "M2.5 13C8 13 8 3 13.5 3",
        "link": "M6.5 9.5a2.5 2.5 0 0 0 3.5 0l2.5-2.5A2.5 2.5 0 0 0 9 3.5l-1 1M9.5 6.5a2.5 2.5 0 0 0-3.5 0L3.5 9"
        "A2.5 2.5 0 0 0 7 12.5l1-1",
        "search": "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10ZM11 11l3 3",
        "more": "M3.2 8h.6M7.7 8h.6M12.2 8h.6",
        "open": "m4.5 6.5 3.5 3.5 3.5-3.5",
        "good": "m3 8.5 3.3 3.3L13 4.8",
        "todo": "M8 13A5 5 0 1 0 8 3a5 5 0 0 0 0 10Z",
        "warn": "M8 2.5 14.5 13.5H1.5zM8 6.5v3.2M8 11.6v.4",
        "bad": "m4 4 8 8M12 4l-8 8",
        "pause": "M5.5 3v10M10.5 3v10",
        "stop": "M4 4h8v8H4z",
        "copy": "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
        "zoom": "M9.5 2.5h4v4M13.5 2.5 9 7M6.5 13.5h-4v-4M2.5 13.5 7 9",
        "side": "M2.5 3h3v10h-3zM6.5 3h3v10h-3zM10.5 3h3v10h-3z",
        "swipe": "M2.5 3h11v10h-11zM8 1.5v13M5.8 6.5 4.3 8l1.5 1.5M10.2 6.5 11.7 8l-1.5 1.5",
        "difference": "M6 11A4 4 0 1 0 6 3a4 4 0 0 0 0 8ZM10 13a4 4 0 1 0 0-8 4 4 0 0 0 0 8Z",
        "grid": "M2.5 2.5h4v4h-4zM9.5 2.5h4v4h-4zM2.5 9.5h4v4h-4zM9.5 9.5h4v4h-4z",
    }
)


def icon(name: str) -> Markup:
    """The icon of this name; the words belong to the button around it."""
    return Markup(
        '<svg class="blocktrain-ic" viewBox="0 0 16 16" aria-hidden="true"><path d="{}" fill="none"'
        ' stroke="currentColor" stroke-width="1.4" stroke-linecap="round" stroke-linejoin="round"/></svg>'
    ).format(_PATHS[name])
