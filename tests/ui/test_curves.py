"""Charts: their lines are the numbers, read back from the SVG."""

from __future__ import annotations

import re

import pytest

from lib_blocktrain.ui.curves import chart


def test_lines_are_where_the_numbers_are():
    svg = chart("loss", {"loss": [(0, 1.0), (5, 3.0), (10, 2.0)]})
    points = [tuple(map(float, point.split(","))) for point in re.search(r'points="([^"]+)"', svg)[1].split()]
    (x0, low), (x1, high), (x2, middle) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert low - middle == pytest.approx(middle - high, abs=0.2)
    assert ">3<" in svg
    assert ">1<" in svg


def test_charts_without_points_or_without_a_range():
    assert chart("loss", {"loss": []}) == ""
    assert "NaN" not in chart("flat", {"lr": [(1, 0.0)]})


def test_names_are_text():
    svg = chart("<i>loss</i>", {"<b>loss</b>": [(1, 1.0), (2, 2.0)]})
    assert "<i>" not in svg
    assert "<b>" not in svg
