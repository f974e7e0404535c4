"""Figures with their noise, tables, JSON and CSV, comparisons, and the block weights made of them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from lib_blocktrain.analysis.results import Analysis, Observation, compare, read_analysis, write_analysis
from lib_blocktrain.analysis.solve_result import Solution, Solved
from lib_blocktrain.analysis.statistics import figures, rank_stability, ranks, spearman
from lib_blocktrain.analysis.weight_rules import down_to, lowering, preset_of, proportional, strongest, weights_by_rule
from lib_blocktrain.ui import analyse_html
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_files import PresetFile
from lib_blocktrain.weights.preset_strings import parse

BLOCKS = ("IN04", "M00", "OUT03", "OUT09")


def analysis(*rows, method="exact", **facts) -> Analysis:
    rows = rows or ((0.4, 0.0, 0.1, 0.5), (0.5, 0.001, 0.15, 0.4), (0.45, 0.0, 0.12, 0.45))
    return Analysis(
        method=method,
        architecture="sd1",
        name="robot",
        model="demo",
        feature="the word “robot”",
        blocks=BLOCKS,
        observations=tuple(Observation("a robot", seed, 901) for seed in range(len(rows))),
        values=tuple(map(tuple, rows)),
        **facts,
    )


def test_spearman_and_ranks():
    """The textbook's example: IQ and hours of television, rho = -29/165; and ties, which share their ranks."""
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    assert spearman(iq, hours) == pytest.approx(-29 / 165)
    assert ranks([3, 1, 3, 2]).tolist() == [3.5, 1, 3.5, 2]
    assert spearman([1, 2, 3], [1, 1, 1]) == 0


def test_noise_is_half_the_95_percent_interval():
    """Of many sets of three draws, 95 % contain the true mean."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        (found,) = figures(["M00"], rng.normal(1.0, 0.3, (3, 1)))
        hits += abs(found.mean - 1.0) <= found.noise
    assert 0.935 < hits / 2000 < 0.965
    strong, unsure, tiny = figures(["IN01", "IN02", "M00"], np.array([[1.0, 0.5, 0.004], [1.1, -0.4, 0.004]]))
    assert not strong.within_noise
    assert unsure.within_noise
    assert tiny.within_noise  # certain, but nobody can see it
    (alone,) = figures(["M00"], np.array([[1.0]]))
    assert (alone.noise, alone.spread) == (None, None)


def test_timesteps_are_averaged_by_their_part_of_the_way():
    at = [Observation("a", 0, 901, stretch=0.75), Observation("a", 0, 400, stretch=0.25), Observation("a", 1, 901)]
    found = replace(analysis(*[(1, 0, 0, 0), (5, 0, 0, 0), (3, 1, 0, 0)]), observations=tuple(at))
    assert found.draws.tolist() == [[2, 0, 0, 0], [3, 1, 0, 0]]
    assert found.means() == {"IN04": 2.5, "M00": 0.5, "OUT03": 0, "OUT09": 0}
    assert rank_stability(np.array([[1, 2, 3], [1, 2, 3], [3, 2, 1]])) == pytest.approx(-1 / 3)


def test_files_read_back_and_say_the_same(tmp_path):
    found = analysis(area_share=0.12, evaluations=61.5, notices=("note",), settings={"prompts": ["a"]})
    json_path, csv_path = write_analysis(found, tmp_path / "out", "analysis")
    assert read_analysis(json_path) == found
    rows = list(csv.DictReader(csv_path.read_text("utf-8").splitlines()))
    assert [row["block"] for row in rows] == list(BLOCKS)
    for row, figure in zip(rows, found.figures):
        assert float(row["mean"]) == figure.mean
        assert row["within_noise"] == str(figure.within_noise)
    assert found.to_table().splitlines()[1].startswith("IN04")
    assert "within the noise" in found.to_table()
    for broken in ("[]", "{", '{"format": "other"}', json.dumps({**found.to_json(), "values": [[1]]})):
        json_path.write_text(broken, "utf-8")
        with pytest.raises(ValueError, match=r"analysis\.json: "):
            read_analysis(json_path)


def test_two_analyses_side_by_side():
    robot = analysis((0.6, 0.0, 0.2, 0.2), (0.62, 0.0, 0.2, 0.18))
    back = analysis((0.1, 0.0, 0.2, 0.7), (0.12, 0.0, 0.2, 0.68))
    found = compare(robot, back)
    differences = {row.block: row.difference for row in found.rows}
    assert differences["IN04"] == pytest.approx(0.61 - 0.11)
    assert differences["OUT09"] == pytest.approx(0.19 - 0.69)
    assert [row.block for row in found.rows if not row.within_noise] == ["IN04"] or not found.rows[3].within_noise
    assert found.correlation == spearman(list(robot.means().values()), list(back.means().values()))
    with pytest.raises(ValueError, match="sdxl"):
        compare(robot, replace(back, architecture="sdxl", blocks=("IN04", "M00", "OUT03", "IN05")))


def test_weights_by_every_rule():
    found = analysis()  # means .45, ~0, .123, .45
    assert _on(strongest(found, 2)) == {"IN04": 1, "OUT09": 1}
    assert _on(down_to(found, 0.4)) == {"IN04": 1}
    assert _on(down_to(found, 0.95)) == {"IN04": 1, "OUT03": 1, "OUT09": 1}
    assert _on(proportional(found)) == {"IN04": 1, "OUT03": 0.25, "OUT09": 1}
    back = analysis((0.4, 0.0, 0.1, 2.0), (0.4, 0.0, 0.1, 2.0), (0.4, 0.0, 0.1, 2.0))
    lowered = lowering(found, back)
    assert (lowered["OUT09"], lowered["IN04"], lowered["IN00"]) == (0.55, 1, 1)
    assert weights_by_rule("lower", found, other=back) == lowered
    assert weights_by_rule("down-to", found, 40) == down_to(found, 0.4)
    for rule, amount in (("strongest", 9), ("strongest", 0), ("down-to", 120), ("down-to", None), ("lower", None)):
        with pytest.raises(ValueError, match="expected"):
            weights_by_rule(rule, found, amount)
    with pytest.raises(ValueError, match="'best'"):
        weights_by_rule("best", found)


def test_a_preset_says_what_it_was_found_for(tmp_path):
    preset = preset_of(analysis(area_share=0.1234), down_to(analysis(), 0.85), "ROBOT")
    file = PresetFile(tmp_path / "presets.txt")
    file.put(preset)
    (read,) = file.read().presets.values()
    parsed = parse(read.text, "sd1")
    assert (parsed.area_share, parsed.attributes["arch"]) == (0.123, "sd1")
    assert _on(parsed.weights) == {"IN04": 1, "OUT09": 1}
    assert read.purpose == "the word “robot” of robot, exact"
    with pytest.raises(ValueError, match="A:B"):
        preset_of(analysis(), strongest(analysis(), 1), "A:B")


def test_a_wrong_analysis_is_refused():
    with pytest.raises(ValueError, match="shape \\(1, 2\\): expected \\(1, 4\\)"):
        analysis((1.0, 2.0))
    with pytest.raises(ValueError, match="finite"):
        analysis((1.0, 2.0, float("nan"), 1.0))
    with pytest.raises(ValueError, match="'quick'"):
        analysis(method="quick")


def _on(weights) -> dict[str, float]:
    assert weights.base == 1
    return {block: value for block, value in weights.values.items() if value}


def test_no_text_has_a_minus_before_zero():
    draws = ((0.5, -1e-6, 0.1, 0.4), (0.5, -1e-6, 0.1, 0.4))
    found = analysis(*draws)
    assert "-0.0" not in found.to_table()
    assert "0.0%" in found.to_table()
    compared = compare(found, analysis(*(((0.5, 3e-6, 0.1, 0.4),) * 2)))
    assert {row.block: row.difference < 0 for row in compared.rows}["M00"]
    assert "-0.0" not in compared.to_table()
    for html in (analyse_html.comparison(compared), analyse_html.table(found)):
        assert "-0.0" not in html
    whole = Solution(BlockWeights.uniform("sd1", 1.0), 1.0, 1.003)
    solved = Solved("sd1", "robot", "demo", "A", "B", "free", (whole,), 0, 0.2, 10, 10, 1.0, 4)
    assert " 0%" in solved.to_table()
    assert "drops 0% of B" in solved.preset("ROBOT").purpose
