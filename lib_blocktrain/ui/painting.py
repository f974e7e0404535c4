"""A mask that is painted in the page: strokes as text, from `javascript/mask_painter.js`, to a picture."""

from __future__ import annotations

import json

from PIL import Image, ImageDraw

SIDE = 256  # pixels of the mask, which stands for the whole picture whatever its shape
MOST = 100_000  # characters


def painted(text: str) -> Image.Image | None:
    """Return the mask, white on black; None where nothing is painted.

    `text` is a JSON list of strokes, each a radius and then x, y, x, y ... in parts of the picture. Raises ValueError
    for what is none.
    """
    if not text.strip():
        return None
    if len(text) > MOST:
        raise ValueError(f"what is painted has {len(text)} characters: expected up to {MOST}; use a wider brush")
    try:
        strokes = [_stroke(stroke) for stroke in json.loads(text)]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"what is painted, {text[:40]!r}: expected lists of a radius and x, y from 0 to 1") from error
    mask = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(mask)
    for radius, places in strokes:
        for x, y in places:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        draw.line(places, fill=255, width=max(1, round(2 * radius)))
    return mask if strokes else None


def _stroke(stroke: list) -> tuple[float, list[tuple[float, float]]]:
    """A radius and places, in pixels."""
    numbers = [float(number) for number in stroke]
    if len(numbers) < 3 or len(numbers) % 2 == 0 or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(numbers)
    radius, *places = (number * SIDE for number in numbers)
    return radius, list(zip(places[::2], places[1::2]))
