"""Masks that are painted in the page: `javascript/mask_painter.js` sends the brush strokes as JSON."""

from __future__ import annotations

import json

from PIL import Image, ImageDraw

MASK_SIDE = 256  # pixels; a painted mask is square and covers the whole image, whatever its shape
MAX_STROKES_LENGTH = 100_000  # characters


def painted_mask(strokes: str, side: int = MASK_SIDE) -> Image.Image | None:
    """The mask, white on black, of a JSON list of strokes; None if there are none. Raises ValueError.

    A stroke is a list of the brush's radius and then x, y, x, y ..., all as fractions of the image's sides. The mask is
    square, `side` pixels wide and high.
    """
    if not strokes.strip():
        return None
    if len(strokes) > MAX_STROKES_LENGTH:
        length = f"what is painted has {len(strokes)} characters"
        raise ValueError(f"{length}: expected up to {MAX_STROKES_LENGTH}; use a wider brush")
    try:
        parsed = [_stroke(stroke, side) for stroke in json.loads(strokes)]
    except (TypeError, ValueError, RecursionError) as error:
        expected = "lists of a radius and x, y from 0 to 1"
        raise ValueError(f"what is painted, {strokes[:40]!r}: expected {expected}") from error
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    for radius, points in parsed:
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        draw.line(points, fill=255, width=max(1, round(2 * radius)))
    return mask if parsed else None


def _stroke(stroke: list[float], side: int) -> tuple[float, list[tuple[float, float]]]:
    """The radius and the points, in pixels of the mask."""
    numbers = [float(number) for number in stroke]
    if len(numbers) < 3 or len(numbers) % 2 == 0 or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(numbers)
    radius, *sides = (number * side for number in numbers)
    return radius, list(zip(sides[::2], sides[1::2]))
