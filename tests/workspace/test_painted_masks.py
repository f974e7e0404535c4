"""Masks painted in the page, from the strokes that it sends."""

from __future__ import annotations

import pytest

from lib_blocktrain.workspace.painted_masks import MASK_SIDE, painted_mask


def test_strokes_are_white_on_black():
    mask = painted_mask("[[0.1, 0.5, 0.2, 0.5, 0.8]]")
    assert mask.size == (MASK_SIDE, MASK_SIDE)
    assert mask.getpixel((MASK_SIDE // 2, MASK_SIDE // 2)) == 255
    assert mask.getpixel((MASK_SIDE // 4, MASK_SIDE // 2)) == 0


def test_without_strokes_there_is_no_mask():
    assert painted_mask(" ") is painted_mask("[]") is None


@pytest.mark.parametrize(
    "strokes", ["x", "3", "[3]", "[[0.1]]", "[[0.1, 2, 0]]", '[["a", 0, 0]]', "[[0.1, NaN, 0]]", "[" * 9999]
)
def test_anything_but_strokes_is_refused(strokes):
    with pytest.raises(ValueError, match="expected lists of a radius"):
        painted_mask(strokes)


def test_too_many_strokes_are_refused():
    with pytest.raises(ValueError, match="use a wider brush"):
        painted_mask("[" * 200_000)
