"""The Analyse tab without a page: from a request to bars, and from there to sliders, presets and training."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from html import unescape

import pytest
from PIL import Image, ImageDraw

from lib_blocktrain.analysis.pairs import Pair
from lib_blocktrain.analysis.results import compare, read_analysis
from lib_blocktrain.analysis.weight_rules import ranked
from lib_blocktrain.networks.files import write_network
from lib_blocktrain.ui import analyse_html
from lib_blocktrain.ui.analyse_handlers import AnalyseHandlers
from lib_blocktrain.ui.collide_handlers import CollideHandlers
from lib_blocktrain.ui.feature_form import BOX, DRAWN, FILE, NOTHING, WHOLE, WORD
from lib_blocktrain.ui.lora_controls import InitialState
from lib_blocktrain.ui.share_handlers import ShareHandlers
from lib_blocktrain.ui.solve_handlers import KIND_LABELS, SolveHandlers
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.workspace.lora_index import LoraIndex
from tests.analysis.miniature import MODELS, PROMPT, lora_for
from tests.tiny_models import assert_untouched, state_of


@pytest.fixture(scope="module")
def miniature():
    return MODELS["diffusers sd1"]()


@pytest.fixture
def handlers(host, controls, lora_index, jobs, miniature) -> Iterator[AnalyseHandlers]:
    host.loaded = miniature
    network = lora_for(miniature, ("attn2_to_q",), scale=0.3)
    write_network(host.lora_dirs[0] / "thing.safetensors", network)
    lora_index.refresh()
    before = state_of(miniature.unet)
    yield AnalyseHandlers(host, controls, lora_index, jobs)
    assert_untouched(miniature.unet, before)


@pytest.fixture
def filled(page):
    page.values |= {"analyse_lora": "thing", "analyse_prompts": f"{PROMPT}\n\n", "analyse_negative": ""}
    page.values |= {"analyse_seeds": "0, 1", "analyse_cfg": 1.0, "analyse_strength": 1.0, "analyse_method": "fast"}
    page.values |= {"analyse_pairs": False}
    page.values |= {"analyse_kind": WHOLE, "analyse_word": "", "analyse_box": "", "analyse_mask": None}
    page.values |= {"analyse_painted": "", "analyse_against": NOTHING, "analyse_against_word": ""}
    page.values |= {"analyse_against_box": "", "analyse_against_mask": None, "analyse_job": "", "analyse_found": ""}
    page.values |= {"analyse_rule": "strongest", "analyse_amount": 2, "analyse_preset": "THING"}
    page.values |= {"analyse_replace": False, "analyse_message": "", "analyse_status": ""}
    return page


def test_a_word_against_another(handlers, filled, host):
    filled.values |= {"analyse_kind": WORD, "analyse_word": "robot"}
    filled.values |= {"analyse_against": WORD, "analyse_against_word": "background", "analyse_seeds": "0 1"}
    filled.run(handlers.start(filled.values))
    shown = filled.values["analyse_bars"]
    blocks = [block for block, count in lora_for(host.loaded, ("attn2_to_q",)).blocks.items() if count]
    for block in blocks:
        row = re.search(f'<li data-block="{block}".*?</li>', shown)[0]
        assert row.count("blocktrain-bar-second") == 1  # B's bar below A's
        assert f"<td>{block}</td>" in filled.values["analyse_table"]
    ranks = [int(rank) for rank in re.findall('data-rank="([0-9]+)"', shown)]
    assert ranks == sorted(ranks)
    assert len(ranks) >= len(blocks)
    assert "blocktrain-answer" in filled.values["analyse_head"]
    assert "of the picture:" in shown
    assert "the word “robot” of thing" in filled.values["analyse_head"]
    assert "agree on the order" in filled.values["analyse_head"]
    assert 'data-values="{' in filled.values["analyse_map"]
    for shown in (filled.values["analyse_map"], handlers.show_weights(filled.values)["analyse_map"]):
        buttons = re.findall('<button type="button" data-values="([^"]*)" data-title="([^"]*)">([^<]*)', shown)
        values = [json.loads(unescape(found)) for found, _, _ in buttons]
        assert [label for _, _, label in buttons] == ["A “robot”", "B “background”", "A − B"]
        stored = handlers._results[filled.values["analyse_found"]]
        second = {figure.block: round(figure.mean, 4) for figure in stored.second.figures if not figure.within_noise}
        assert values[1] == second != values[0]
        rows = compare(stored.first, stored.second).rows
        points = {row.block: 100 * row.difference for row in rows if not row.within_noise}
        assert values[2] == pytest.approx(points, abs=0.06)
    assert f'data-ended="{filled.values["analyse_found"]}"' in filled.values["analyse_status"]
    assert filled.properties["analyse_cancel"]["interactive"] is False


def test_pairs_of_blocks_are_arcs_a_list_and_a_warning(handlers, filled):
    filled.values |= {"analyse_pairs": True}
    filled.run(handlers.start(filled.values))
    assert "pairs of blocks with the method fast: expected the method exact" in filled.values["analyse_status"]
    filled.values |= {"analyse_method": "exact"}
    filled.run(handlers.start(filled.values))
    job, stored = filled.values["analyse_found"], handlers._results[filled.values["analyse_found"]]
    assert stored.first.pairs
    weak, strong = (figure.block for figure in (ranked(stored.first)[-1], ranked(stored.first)[0]))
    pairs = (Pair(weak, strong, 0.3, 0.1, False), Pair(strong, weak, 0.2, 0.3, True))
    analyses = (replace(stored.first, pairs=pairs), *stored.result.analyses[1:])
    filled.take(handlers.store(job, replace(stored, result=replace(stored.result, analyses=analyses))))
    filled.take(handlers.show_weights({**filled.values, "analyse_amount": 1}))
    said = f"{weak} and {strong} need each other (30% of the effect)"
    assert f"<li>{said}</li>" in filled.values["analyse_bars"]
    assert filled.values["analyse_bars"].count("each other") == 1
    assert f'data-pairs="[[&#34;{weak}&#34;, &#34;{strong}&#34;, 0.3]]"' in filled.values["analyse_map"]
    assert f"Warning: {said}, and {weak} is not kept" in filled.values["analyse_weights"]


def test_to_sliders_preset_training_and_files(handlers, filled, host, controls):
    filled.values |= {"analyse_kind": BOX, "analyse_box": "0, 0, 0.5, 0.5"}
    filled.run(handlers.start(filled.values))
    result = handlers._results[filled.values["analyse_found"]].first
    two = {f.block for f in result.figures if f.rank <= 2}
    filled.values["analyse_amount"] = 2

    filled.take(handlers.to_sliders(filled.values))
    assert filled.properties["tabs"]["selected"] == "Preview"
    assert "thing and its weights are on the sliders: press Draw" in filled.values["status"]
    assert filled.values["selection"].active == "thing"
    assert {block for block, value in filled.weights().items() if value} == {"BASE", *two}
    assert "found for a feature that fills 25% of the canvas" in filled.values["understood"]
    copied = ShareHandlers(controls).copier("line")({**filled.values, "preset": "", "preset_name": ""})["line"]
    assert parse(copied, "sd1").area_share == 0.25

    filled.take(handlers.to_preset(filled.values))
    assert "Saved THING" in filled.values["analyse_message"]
    saved = controls.presets.own.read().presets["THING"]
    parsed = parse(saved.text, "sd1")
    assert (parsed.area_share, parsed.attributes["arch"]) == (0.25, "sd1")
    assert "already" in handlers.to_preset(filled.values)["analyse_message"]
    assert "A:B" in handlers.to_preset({**filled.values, "analyse_preset": "A:B"})["analyse_message"]

    filled.run(handlers.start({**filled.values, "analyse_box": "0,0,1,1"}))
    assert "Your preset THING: found for a feature that fills 25%" in filled.values["analyse_bars"]
    filled.run(handlers.start(filled.values))
    filled.values["analyse_amount"] = 2

    line = handlers.to_training(filled.values)["train_form"]["train_network_weights"]
    assert parse(line, "sd1").weights == parsed.weights
    assert parse(line, "sd1").area_share == 0.25

    filled.take(handlers.save(filled.values))
    (file,) = (host.output_dir / "blocktrain" / "analyses").glob("*.json")
    assert read_analysis(file) == handlers._results[filled.values["analyse_found"]].first
    assert file.with_suffix(".csv").exists()
    assert "expected 1 to" in handlers.to_sliders({**filled.values, "analyse_amount": 99})["analyse_message"]


def test_a_search_for_weights_to_sliders_preset_and_training(handlers, filled, controls):
    search = SolveHandlers(handlers)
    filled.values |= {"solve_pictures": 1, "solve_budget": 200, "solve_kind": KIND_LABELS["on-off"], "solve_found": ""}
    filled.values |= {"solve_preset": "KEPT", "solve_replace": False, "solve_job": "", "solve_place": 1}
    assert "press Search first" in search.to_sliders(filled.values)["analyse_message"]
    filled.run(search.start(filled.values))
    assert "nothing to keep: expected a word, a box or a mask as A" in filled.values["solve_status"]
    filled.values |= {"analyse_kind": WORD, "analyse_word": "robot"}
    filled.run(search.start({**filled.values, "solve_budget": 20}))
    assert "a budget of 20 U-Net evaluations: expected at least" in filled.values["solve_status"]
    filled.run(search.start(filled.values))
    solved = search._results[filled.values["solve_found"]].solved
    assert "of 200 U-Net evaluations on 1 pictures" in filled.values["solve_status"]
    shown = json.loads(unescape(re.search('data-front="([^"]*)"', filled.values["solve_front"])[1]))
    assert [place["picture"][:10] for place in shown["places"]] == ["data:image"] * len(solved.front)
    assert filled.values["solve_place"] == shown["chosen"] + 1
    last, chosen = len(solved.front), shown["chosen"] + 1
    for place, there in ((1, 1), (last, last), (None, chosen), (0, chosen), (last + 1, chosen), ("1", chosen)):
        assert search.show_again(filled.values["solve_found"], place)["solve_place"] == there  # after a reload
    assert search.show_again("unknown", 1) == {}
    filled.take(search.show({**filled.values, "solve_place": last}))
    weights = solved.front[-1].weights
    assert (
        json.loads(unescape(re.search('data-weights="([^"]*)"', filled.values["analyse_map"])[1])) == weights.with_base
    )
    assert 'data-values=""' in filled.values["analyse_map"]  # a map of values shows no weights
    filled.values["solve_place"] = last
    filled.take(search.to_sliders(filled.values))
    assert filled.weights() == weights.with_base
    filled.take(search.to_preset(filled.values))
    saved = parse(controls.presets.own.read().presets["KEPT"].text, "sd1")
    assert (saved.weights, saved.area_share) == (weights, pytest.approx(solved.area_share, abs=1e-3))
    stored = search._results[filled.values["solve_found"]]
    for value, said in ((0.25, ""), (-0.25, "OUT05: below 0 in the search, 0 here")):  # Start refuses those below 0
        moved = dataclasses.replace(solved.front[-1], weights=BlockWeights.uniform("sd1", 1.0).replace(OUT05=value))
        front = (*solved.front[:-1], moved)
        search._results[filled.values["solve_found"]] = dataclasses.replace(
            stored, solved=dataclasses.replace(solved, front=front)
        )
        answer = search.to_training(filled.values)
        line = answer["train_form"]["train_network_weights"]
        assert parse(line, "sd1").weights == moved.weights.replace(OUT05=max(value, 0.0))
        assert said in answer["train_message"]
        assert bool(said) == bool(answer["train_message"])
    assert f"expected 1 to {last}" in search.to_sliders({**filled.values, "solve_place": 99})["analyse_message"]


def test_weights_are_used_at_the_strength_they_were_found_at(handlers, filled):
    """A LoRA that is in use keeps its own, and the difference is said."""
    filled.values["analyse_strength"] = 0.5
    filled.run(handlers.start(filled.values))
    filled.take(handlers.to_sliders(filled.values))
    entries = filled.values["selection"].entries
    assert (list(entries), entries["thing"].strength) == (["thing", "robot"], 0.5)
    assert "strength" not in filled.values["status"]
    filled.values["loras"] = filled.values["loras"].replace("0.5", "0.8")
    filled.take(handlers.to_sliders(filled.values))
    assert filled.values["selection"].entries["thing"].strength == 0.8
    assert "thing is at strength 0.8 here; the weights were found at 0.5" in filled.values["status"]


def test_ending_a_search_keeps_what_was_found(handlers, filled):
    search = SolveHandlers(handlers)
    filled.values |= {"analyse_kind": WORD, "analyse_word": "robot", "solve_pictures": 1, "solve_budget": 100_000}
    filled.values |= {"solve_kind": KIND_LABELS["free"], "solve_found": "", "solve_job": "", "solve_place": 1}
    for changes in search.start(filled.values):
        filled.take(changes)
        if "of 100000" in str(filled.values.get("solve_status")):
            search.cancel(filled.values)
    assert "ended early, with the best until then" in filled.values["solve_status"]
    assert filled.properties["solve_using"]["visible"] is True


def test_what_a_rule_makes_is_said_before_it_is_used(handlers, filled):
    filled.take(handlers.open(filled.values))
    assert 'data-values="{}"' in filled.values["analyse_map"]
    assert handlers.show_weights(filled.values) == {}  # nothing is found yet

    filled.run(handlers.start(filled.values))
    assert filled.properties["analyse_using"]["visible"]
    assert filled.properties["analyse_save"]["interactive"]
    result = handlers._results[filled.values["analyse_found"]].first
    two = {f.block: f for f in result.figures if f.rank <= 2}
    kept = filled.values["analyse_amount"]  # the fewest that have 60 % of the effect
    strongest = sorted((f.share for f in result.figures if f.block not in ("BASE", "REST")), reverse=True)
    assert sum(strongest[:kept]) >= 0.6 > sum(strongest[: kept - 1])
    filled.values["analyse_amount"] = 2
    filled.take(handlers.show_weights(filled.values))
    curve = json.loads(unescape(re.search('data-keep="([^"]*)"', filled.values["analyse_keep"])[1]))
    assert curve["a"] == pytest.approx(strongest, abs=1e-4)
    assert (set(curve["kept"]), curve["live"]) == (set(two), True)
    share = sum(figure.share for figure in two.values())
    assert f" = 1; the others 0: {share:.0%} of the effect" in filled.values["analyse_weights"]
    assert all(block in filled.values["analyse_weights"] for block in two)
    weights = json.loads(unescape(re.search('data-weights="([^"]*)"', filled.values["analyse_map"])[1]))
    filled.take(handlers.to_sliders(filled.values))
    assert {block for block, value in weights.items() if value} == {"BASE", *two}
    assert {block: filled.weights()[block] for block in weights} == weights

    filled.take(handlers.show_weights({**filled.values, "analyse_amount": 99}))
    assert "expected 1 to" in filled.values["analyse_weights"]
    assert 'data-weights=""' in filled.values["analyse_map"]


def test_norms_need_no_model_and_no_prompt(handlers, filled, host):
    host.loaded = None
    filled.values |= {"analyse_method": "norms", "analyse_prompts": ""}
    filled.run(handlers.start(filled.values))
    assert "only one picture" in filled.values["analyse_head"]


def test_cancelling_ends_it(handlers, filled):
    filled.values |= {"analyse_method": "exact", "analyse_seeds": "0,1,2,3"}
    for changes in handlers.start(filled.values):
        filled.take(changes)
        if "of" in str(changes.get("analyse_status", "")):
            handlers.cancel(filled.values)
    assert "Cancelled" in filled.values["analyse_status"]
    assert "analyse_bars" not in filled.values


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"analyse_lora": None}, "no LoRA is chosen"),
        ({"analyse_lora": "../../etc/passwd"}, "there is no LoRA"),
        ({"analyse_prompts": " \n"}, "no prompt: expected at least one"),
        ({"analyse_seeds": "1,x"}, "expected whole numbers with commas"),
        ({"analyse_seeds": ""}, "seeds (): expected"),
        ({"analyse_kind": BOX, "analyse_box": "1,2"}, "expected left,top,right,bottom"),
        ({"analyse_kind": DRAWN}, "nothing is drawn"),
        ({"analyse_kind": FILE}, "no mask file is chosen"),
        ({"analyse_kind": WORD, "analyse_word": "<hat>"}, "&lt;hat&gt;"),
        ({"analyse_method": "guess"}, "expected one of exact"),
        ({"analyse_cfg": None}, "CFG None: expected a number from 0 to 30"),
        ({"analyse_cfg": 31}, "CFG 31: expected"),
        ({"analyse_strength": "1"}, "expected a number from -2 to 2"),
        ({"width": 7}, "width 7"),
    ],
)
def test_bad_input_is_said(handlers, filled, change, said):
    filled.values |= change
    filled.run(handlers.start(filled.values))
    assert "blocktrain-failure" in filled.values["analyse_status"]
    assert said in filled.values["analyse_status"]


def test_one_analysis_at_a_time(handlers, filled, host):
    """They share one Cancel: the first could not be reached, and its end took the second's away."""
    with host.queued():
        first = handlers.start(filled.values)
        filled.take(next(first))
        for again in (handlers.start, handlers.draw):
            changes = list(again(filled.values))
            assert [*changes[0]] == ["analyse_status"]
            assert "is not done: cancel it, or wait" in changes[0]["analyse_status"]
            assert len(changes) == 1
    filled.run(first)
    assert "done in" in filled.values["analyse_status"]
    filled.run(handlers.start(filled.values))
    assert "done in" in filled.values["analyse_status"]


def test_a_mask_file_and_one_that_is_none(handlers, filled, tmp_path):
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((0, 0, 31, 63), fill=255)
    mask.save(tmp_path / "mask.png")
    filled.values |= {"analyse_kind": FILE, "analyse_mask": tmp_path / "mask.png"}
    filled.run(handlers.start(filled.values))
    assert handlers._results[filled.values["analyse_found"]].first.area_share == 0.5
    (tmp_path / "mask.png").write_text("no picture")
    filled.run(handlers.start(filled.values))
    assert "expected a picture as the mask" in filled.values["analyse_status"]


def test_similar_loras_with_reasons(handlers, filled, host):
    (host.lora_dirs[0] / "broken.safetensors").write_bytes(b"x")
    filled.take(handlers.find_similar(filled.values))
    assert "robot" in filled.values["analyse_similar"]
    assert "blocks alike" in filled.values["analyse_similar"]
    assert "broken: " in filled.values["analyse_similar"]


def test_what_is_painted_becomes_a_mask(handlers, filled):
    """A broad line down the middle of the left half."""
    filled.values |= {"analyse_kind": DRAWN, "analyse_painted": "[[0.25, 0.25, 0, 0.25, 1]]"}
    filled.run(handlers.start(filled.values))
    assert handlers._results[filled.values["analyse_found"]].first.area_share == pytest.approx(0.5, abs=0.13)


def test_markup_in_names_is_text():
    from tests.analysis.test_results import analysis

    named = analysis(notices=("<i>note</i>",))
    object.__setattr__(named, "name", "<b>robot</b>")
    for shown in (analyse_html.answer(named), analyse_html.bars(named), analyse_html.table(named)):
        assert "<b>robot" not in shown
        assert "<i>" not in shown
    assert json.dumps(named.to_json())


def test_opening_while_headers_are_read_with_a_broken_file_first(host, controls, jobs, monkeypatch):
    (host.lora_dirs[0] / "a broken one.safetensors").write_bytes(b"not a network at all")
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # the background never begins
    index = LoraIndex(lambda: host.lora_dirs)
    monkeypatch.setattr(controls, "initial", InitialState())
    answer = AnalyseHandlers(host, controls, index, jobs).open({"analyse_lora": None})
    assert answer["analyse_lora"]["value"] == "a broken one"
    assert "OUT11" in answer["analyse_map"]


def test_two_loras_are_compared_and_used_together(handlers, filled, host, controls):
    collide = CollideHandlers(handlers)
    filled.values |= {"collide_with": None, "collide_effects": False, "collide_job": "", "collide_found": ""}
    other = lora_for(host.loaded, ("attn2_to_q", "attn1_to_q"), scale=0.2)
    write_network(host.lora_dirs[0] / "other.safetensors", other)
    controls.lora_index.refresh()
    filled.take(collide.open(filled.values))
    assert "other" in filled.properties["collide_with"]["choices"]
    filled.run(collide.start(filled.values))
    assert "choose another LoRA" in filled.values["collide_status"]
    filled.values["collide_with"] = "other"
    filled.run(collide.start(filled.values))
    assert "Weights for both" in filled.values["collide_table"]
    assert filled.properties["collide_use"]["interactive"]
    rows = [{"key": key, "strength": strength, "muted": False} for key, strength in (("robot", 0.7), ("other", 0.4))]
    filled.values["loras"] = json.dumps({"loras": rows, "active": "robot"})
    filled.take(collide.to_preview(filled.values))
    entries = filled.values["selection"].entries
    assert {key: entry.strength for key, entry in entries.items()} == {"thing": 1.0, "other": 0.4, "robot": 0.7}
    assert "thing and other and their weights are on the sliders" in filled.values["status"]
    shown = collide._results[filled.values["collide_found"]][1].weights
    for entry, weights in zip((entries["thing"], entries["other"]), shown, strict=True):
        assert entry.block_weights("sd1") == weights
    filled.values |= {"collide_effects": True, "analyse_seeds": "0"}
    filled.run(collide.start(filled.values))
    cells = re.findall("<td>(.*?)</td>", filled.values["collide_table"])
    assert all(cell != "–" for cell in cells[5::6])
