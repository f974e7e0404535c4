"""Reads the two features of the Analyse tab from its widgets: a word, a box or a mask.

A mask may be painted in the page: `javascript/mask_painter.js` sends the brush strokes as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw

from lib_blocktrain.analysis.regions import Feature, read_box, read_mask
from lib_blocktrain.ui.values import AnalyseValues

WHOLE, WORD, BOX, DRAWN, FILE = "Whole", "Word", "Box", "Paint", "Mask"
NOTHING = "None"
KINDS = (WHOLE, WORD, BOX, DRAWN, FILE)
SECOND_KINDS = (NOTHING, WORD, BOX, FILE)
MASK_SIDE = 256  # pixels; a painted mask is square and covers the whole image, whatever its shape
MAX_STROKES_LENGTH = 100_000  # characters


def first_feature(values: AnalyseValues) -> Feature:
    """The feature to analyse. All functions here raise ValueError for widgets that are not filled in."""
    kind = values["analyse_kind"]
    if kind == DRAWN:
        mask = painted_mask(values["analyse_painted"] or "")
        if mask is None:
            raise ValueError("nothing is drawn: press “Draw the picture”, and paint over the feature")
        return Feature(mask=mask)
    return _feature(kind, values["analyse_word"], values["analyse_box"], values["analyse_mask"])


def second_feature(values: AnalyseValues) -> Feature:
    """The feature to compare with; its `given` is False if there is none."""
    word, box, mask = values["analyse_against_word"], values["analyse_against_box"], values["analyse_against_mask"]
    return _feature(values["analyse_against"], word, box, mask)


def _feature(kind: str | None, word: str | None, box: str | None, mask: Path | None) -> Feature:
    if kind == WORD:
        return Feature(word=(word or "").strip())
    if kind == BOX:
        return Feature(box=read_box(box or ""))
    if kind == FILE:
        if mask is None:
            raise ValueError("no mask file is chosen: expected a picture that is white where the feature is")
        return Feature(mask=read_mask(mask, mask.name))
    return Feature()


def painted_mask(strokes: str) -> Image.Image | None:
    """The mask, white on black, of a JSON list of strokes; None if there are none.

    A stroke is a list of the brush's radius and then x, y, x, y ..., all as fractions of the image's sides.
    """
    if not strokes.strip():
        return None
    if len(strokes) > MAX_STROKES_LENGTH:
        length = f"what is painted has {len(strokes)} characters"
        raise ValueError(f"{length}: expected up to {MAX_STROKES_LENGTH}; use a wider brush")
    try:
        parsed = [_stroke(stroke) for stroke in json.loads(strokes)]
    except (TypeError, ValueError, RecursionError) as error:
        expected = "lists of a radius and x, y from 0 to 1"
        raise ValueError(f"what is painted, {strokes[:40]!r}: expected {expected}") from error
    mask = Image.new("L", (MASK_SIDE, MASK_SIDE))
    draw = ImageDraw.Draw(mask)
    for radius, points in parsed:
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        draw.line(points, fill=255, width=max(1, round(2 * radius)))
    return mask if parsed else None


def _stroke(stroke: list[float]) -> tuple[float, list[tuple[float, float]]]:
    """The radius and the points, in pixels of the mask."""
    numbers = [float(number) for number in stroke]
    if len(numbers) < 3 or len(numbers) % 2 == 0 or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(numbers)
    radius, *sides = (number * MASK_SIDE for number in numbers)
    return radius, list(zip(sides[::2], sides[1::2]))
