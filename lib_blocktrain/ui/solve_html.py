"""HTML of a search for weights: the front as a slider with a picture at each place, and a solution in words."""

from __future__ import annotations

import json

from markupsafe import Markup

from lib_blocktrain.analysis.solve_result import Solved
from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.ui import html
from lib_blocktrain.weights.block_weights import number
from lib_blocktrain.workspace.images import png_of


def front(solved: Solved) -> Markup:
    """The front as a curve over its places, from all of A and B to the least of B, with a slider on it.

    `javascript/analyse_front.js` draws it from `data-front`: `a` is what is kept and `b` what is left, 0 to 1.
    """
    places = [
        {
            "a": round(solution.kept, 3),
            "b": round(solution.leaked, 3),
            "picture": "" if solution.picture is None else html.data_url(png_of(solution.picture)),
        }
        for solution in solved.front
    ]
    data = {"places": places, "chosen": solved.chosen, "aName": solved.keep, "bName": solved.drop}
    return Markup('<div class="blocktrain-front" data-front="{}"></div>').format(json.dumps(data))


def solution(solved: Solved, place: int) -> Markup:
    """The weights at a place of the front, and what they keep and drop."""
    found = solved.at(place)
    groups = html.by_value(found.weights.values, ARCHITECTURES[found.weights.architecture])
    said = "; ".join(f"{ids} = {number(value)}" for value, ids in sorted(groups.items(), reverse=True) if value)
    return html.note(f"{said or 'every block 0'}{'; the others 0' if said and 0.0 in groups else ''}")


def summary(solved: Solved) -> Markup:
    """What the search cost, and where it was ended."""
    spent = f"{solved.evaluations:.0f} of {solved.budget} U-Net evaluations on {solved.pictures} pictures"
    ended = "" if solved.finished else "; ended early, with the best until then"
    if len(solved.front) == 1:
        ended += "; nothing better than the LoRA as it is was found"
    return html.note("; ".join([f"{spent} in {solved.seconds:.0f} s{ended}", *solved.notices]))
