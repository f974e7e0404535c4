"""Recommended block weights in a card and in a file's metadata."""

from __future__ import annotations

import json

import pytest

from lib_blocktrain.networks import cards
from lib_blocktrain.networks.bake import bake
from lib_blocktrain.networks.cards import ADDITIONAL, BLOCK_WEIGHTS, SOURCE, CardError
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.card_preset import parse_with_card
from lib_blocktrain.weights.preset_strings import PresetStringError, parse
from tests.fakes import write_lora

WEIGHTS = parse("OUT=1,IN08=-0.25,BASE=0.5", "sd1").weights
# what A1111's editor and civitai's helpers write, with what a careless writer would change
CARD = (
    '{\n    "description": "a fox\\u2028 \U0001f98a",\n    "sd version": "SD1",\n    "preferred weight": 0.80,\n'
    '    "modelId": 123456789012345678901, "nested": {"b": [1, 2.5, null, true], "a": {}},\n    "notes": "caf\u00e9"\n}'
)


@pytest.fixture
def lora(tmp_path):
    write_lora(tmp_path / "fox.v2.safetensors")
    return tmp_path / "fox.v2.safetensors"


def test_other_keys_of_a_card_keep_their_values_and_order(lora):
    path = lora.with_name("fox.v2.json")
    path.write_text(CARD, "utf-8")
    before = json.loads(CARD)
    assert cards.recommend(lora, WEIGHTS, "by hand", 0.12) == path
    after = json.loads(path.read_text("utf-8"))
    assert list(after) == [*before, BLOCK_WEIGHTS, SOURCE]
    assert {key: after[key] for key in before} == before
    assert "\U0001f98a" in path.read_text("utf-8")  # not as an escape: the WebUI's editor writes it so
    found = cards.recommended_of(lora)
    assert (found.source, found.file) == ("by hand", "fox.v2.json")
    parsed = parse(found.text, "sd1")
    assert (parsed.weights, parsed.area_share, parsed.attributes["arch"]) == (WEIGHTS, 0.12, "sd1")
    cards.recommend(lora, None)
    assert json.loads(path.read_text("utf-8")) == before


def test_a_card_is_made_where_there_is_none(lora):
    cards.recommend(lora, WEIGHTS)
    assert list(json.loads(lora.with_name("fox.v2.json").read_text("utf-8"))) == [BLOCK_WEIGHTS]


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1, "a": 2}', '{"a": 1e999}', '{"a": NaN}', "[" * 9000, "\xff"])
def test_a_card_that_writing_would_damage_stays_as_it_is(lora, text):
    path = lora.with_name("fox.v2.json")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CardError, match=r"fox\.v2\.json"):
        cards.recommend(lora, WEIGHTS)
    assert path.read_bytes() == text.encode("latin-1")


def test_another_extensions_key_is_read_and_replaced(lora):
    path = lora.with_name("fox.v2.json")
    path.write_text(json.dumps({ADDITIONAL: "OUTD", "notes": "x"}), "utf-8")
    assert cards.recommended_of(lora).text == "OUTD"
    cards.recommend(lora, WEIGHTS)
    assert set(json.loads(path.read_text("utf-8"))) == {"notes", BLOCK_WEIGHTS}


def test_card_is_a_preset_of_that_lora(lora):
    with pytest.raises(CardError, match=r"fox\.v2 has no recommended block weights"):
        parse_with_card("card", "sd1", lambda: cards.recommended_text(lora))
    cards.recommend(lora, WEIGHTS)
    recommended = lambda: cards.recommended_text(lora)  # noqa: E731
    assert parse_with_card("card", "sd1", recommended).weights == WEIGHTS
    assert parse_with_card("card,IN08=0.5", "sd1", recommended).weights == WEIGHTS.replace({"IN08": 0.5})
    assert parse_with_card("OUTD", "sd1", pytest.fail).weights == parse("OUTD", "sd1").weights
    with pytest.raises(PresetStringError, match=r"the card.s block weights .*made for SD1"):
        parse_with_card("card", "sdxl", recommended)
    with pytest.raises(PresetStringError, match="unknown preset"):
        parse("card", "sd1")


def test_a_baked_file_recommends_what_it_needs(lora, tmp_path):
    out = tmp_path / "baked.safetensors"
    bake(read_network(lora), BlockWeights.uniform("sd1", 1.0), out, recommended=WEIGHTS)
    found = cards.recommended_of(out)
    assert (parse(found.text, "sd1").weights, found.file) == (WEIGHTS, "baked.safetensors")
    hint = read_network(out).metadata["modelspec.usage_hint"]
    assert WEIGHTS.to_line() in hint
    # a copy at 1 keeps the recommendation; with weights baked in it holds no longer
    bake(read_network(out), BlockWeights.uniform("sd1", 1.0), tmp_path / "copy.safetensors")
    assert cards.recommended_of(tmp_path / "copy.safetensors").text == found.text
    bake(read_network(out), parse("OUT=0.5,IN=0.5", "sd1").weights, tmp_path / "again.safetensors")
    again = cards.recommended_of(tmp_path / "again.safetensors")
    assert parse(again.text, "sd1").weights == BlockWeights.uniform("sd1", 1.0)
    # the card comes first
    cards.recommend(out, parse("IN=1", "sd1").weights)
    assert cards.recommended_of(out).file == "baked.json"
