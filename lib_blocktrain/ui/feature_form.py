"""Reads the two features of the Analyse tab from its widgets: a word, a box or a mask."""

from __future__ import annotations

from pathlib import Path

from lib_blocktrain.analysis.regions import Feature, read_box, read_mask
from lib_blocktrain.ui.values import AnalyseValues
from lib_blocktrain.workspace.painted_masks import painted_mask

WHOLE, WORD, BOX, DRAWN, FILE = "Whole", "Word", "Box", "Paint", "Mask"
NOTHING = "None"
KINDS = (WHOLE, WORD, BOX, DRAWN, FILE)
SECOND_KINDS = (NOTHING, WORD, BOX, FILE)


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
