"""The U map and the preset cards as HTML: where blocks stand, their facts, and that text stays text."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_blocktrain.blocks import ARCHITECTURES, BASE
from lib_blocktrain.ui import preset_cards
from lib_blocktrain.ui.u_map import UMap
from lib_blocktrain.ui.u_map_facts import BELIEFS, cells, facts, level
from lib_blocktrain.ui.u_map_layout import places, tiny
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.weights.presets import GRADES, Preset, from_link, shipped_presets
from lib_blocktrain.workspace.preset_store import PresetStore

MARKUP = "<img src=x onerror=alert(1)>\"'&"


class Presets(PresetStore):
    """A user's own presets, whatever their names."""

    def __init__(self, *presets: Preset):
        super().__init__(lambda: Path("none.txt"))
        self.presets = {preset.name: preset for preset in presets}

    @property
    def own(self):
        return SimpleNamespace(read=lambda: SimpleNamespace(presets=self.presets))

    def all(self) -> dict[str, Preset]:
        return self.presets


@pytest.mark.parametrize("known", ARCHITECTURES.values(), ids=lambda known: known.id)
def test_every_block_has_a_place_of_its_own(known):
    found = places(known)
    assert sorted(found) == sorted((*known.block_ids, BASE))
    assert len(set(found.values())) == len(found)
    sides = {"IN": "in", "OUT": "out", "M": "mid", "BASE": "base"}
    for block_id, place in found.items():
        assert place.side == sides[block_id.rstrip("0123456789")]
    for block in known.blocks:
        if block.skip:  # partners mirror each other
            one, other = found[block.id], found[block.skip]
            assert (one.row, one.column) == (other.row, other.column)
            assert {one.side, other.side} == {"in", "out"}
    rows = {found[block.id].row: cells(known, level(block)) for block in known.blocks if block.skip}
    assert [rows[row] for row in sorted(rows)] == sorted(rows.values(), reverse=True)
    assert found["M00"].row == found[BASE].row == len(rows)


def test_a_small_map_has_each_weight_once():
    made = tiny(ARCHITECTURES["sd1"], {"IN04": 0.5, "OUT05": 0.5, "OUT06": -2.0, "M00": 1.0}, MARKUP)
    assert "<img" not in made
    paths = re.findall(r'class="blocktrain-u-(\w+)" style="--blocktrain-w:([\d.]+)" d="([^"]*)"', made)
    assert {(kind, weight): shape.count("M") for kind, weight, shape in paths} == {
        ("plus", "0"): 21,
        ("plus", "0.5"): 2,
        ("minus", "1"): 1,
        ("plus", "1"): 1,
    }


def test_the_map_of_sdxl_is_smaller_and_says_so():
    made = UMap("weights", "sdxl", "w_").html()
    assert "--blocktrain-u-rows:3" in made
    assert [text for text in ("128×128", "64×64", "32×32", "16×16") if f">{text}<" in made] == [
        "128×128",
        "64×64",
        "32×32",
    ]
    assert 'data-block="IN09"' not in made


def test_what_is_believed_names_blocks_and_grades_that_there_are():
    for belief in BELIEFS:
        assert belief.grade in set(GRADES) - {"-"}
        for architecture_id in belief.architectures:
            assert set(belief.blocks) <= set(ARCHITECTURES[architecture_id].block_ids)
    said = " / ".join(facts("sd1", "OUT05"))
    for words in (
        "res + attention + upsampling",
        "16 × 16 cells at 512 px",
        "8.4 %",
        "skip partner IN06",
        "grade A: P+",
    ):
        assert words in said
    assert "pose" not in " ".join(facts("sdxl", "OUT03"))  # a claim of SD1


def test_text_stays_text():
    made = UMap("weights", "sd1", "w_", {"IN00": MARKUP}, MARKUP, {"IN01": 1.0}, MARKUP).html()
    made += preset_cards.html(Presets(Preset(MARKUP, ("sd1",), "*=1", MARKUP, source=MARKUP)), "sd1", "weights")
    made += preset_cards.html(Presets(Preset(MARKUP, ("sd1",), MARKUP)), "sd1", "weights")
    assert "<img" not in made
    assert html.unescape(re.search('data-subject="([^"]*)"', made)[1]) == MARKUP


@pytest.mark.parametrize("architecture_id", ARCHITECTURES)
def test_what_a_card_copies_reads_back_as_its_weights(architecture_id, tmp_path):
    presets = [preset.on(architecture_id) for preset in shipped_presets() if architecture_id in preset.architectures]
    made = preset_cards.html(PresetStore(lambda: tmp_path / "none.txt"), architecture_id, "weights")
    cards = made.split('<li class="blocktrain-card"')[1:]
    assert len(cards) == len(presets)
    for preset, card in zip(presets, cards, strict=True):
        wanted = parse(preset.text, architecture_id).weights
        line, link, kohya, data = (html.unescape(text) for text in re.findall('data-copy="([^"]*)"', card))
        assert parse(line, architecture_id).weights == wanted
        assert parse(from_link(link), architecture_id).weights == wanted
        assert BlockWeights.from_json(json.loads(data)) == wanted
        assert dict(parse(kohya, architecture_id).weights.values) == dict(wanted.values)
        shown = json.loads(html.unescape(re.search('data-weights="([^"]*)"', card)[1]))
        assert shown == {BASE: wanted.base, **wanted.values}
