"""The comparison of ways to find weights: its areas and tables against figures found by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("diffusers")

from benchmarks import solve_tables
from benchmarks.solve_cases import CASES, HAT, SUBJECT, without_hat
from demo.composites import BACKGROUNDS

pytestmark = pytest.mark.long

EVERY = np.arange(4)
WHOLE, NOTHING = np.array([[1, 1, 1, 1], [0, 0, 0, 0]]), np.array([[0, 0, 0, 0], [1, 1, 1, 1]])


def test_area_by_hand():
    """Half of A and all of B: a square of half the width; three quarters of A and half of B add a quarter's half."""
    half, more = np.array([[1, 1, 0, 0], [1, 1, 1, 1]]), np.array([[1, 1, 1, 0], [0, 0, 1, 1]])
    assert solve_tables.area([WHOLE, NOTHING], EVERY) == 0
    assert solve_tables.area([WHOLE, NOTHING, half], EVERY) == 0.5
    assert solve_tables.area([WHOLE, NOTHING, more, half], EVERY) == 0.5 + 0.25 * 0.5
    beaten = np.array([[1, 0, 0, 0], [0, 0, 1, 1]])
    assert solve_tables.area([WHOLE, NOTHING, half, beaten], EVERY) == 0.5
    assert solve_tables.area([WHOLE, NOTHING, half], np.array([0, 0, 1, 1])) == 1


def seen(subjects: str, backgrounds: str) -> dict[str, str]:
    return {"subject": subjects, "background": backgrounds}


def test_counted_beside_the_picture_without_the_lora_or_beside_the_leak():
    one = solve_tables.unpacked(seen("robot,robot,cat", "green,blue,blue"))
    without = solve_tables.unpacked(seen("cat,cat,cat", "green,green,blue"))
    assert CASES["robot"].counted(one, without).tolist() == [[1, 1, 0], [1, 0, 1]]
    assert CASES["robot-on-green"].counted(one, without).tolist() == [[1, 1, 0], [0, 1, 1]]


def test_comparison_leaves_out_what_is_not_counted_yet():
    name = "robot-on-green"
    results = {
        f"{name}|without|0": seen("cat,cat,cat,cat", "blue,blue,blue,blue"),
        f"{name}|whole|0": seen("robot,robot,robot,robot", "green,green,green,green"),
        f"{name}|search": {"weights": ["1"], "evaluations": 2040},
        f"{name}|search|0": seen("robot,robot,robot,robot", "blue,blue,blue,green"),
        f"{name}|strength": {"weights": ["1"], "evaluations": 0},
        f"{name}|strength|0": seen("robot,robot,cat,cat", "blue,blue,blue,blue"),
        f"{name}|random": {"weights": ["1", "1"], "evaluations": 2040},
        f"{name}|random|1": seen("robot,robot,cat,cat", "blue,blue,blue,blue"),
    }
    rows = list(solve_tables.comparison(results, name, ["search", "random", "strength"]))
    assert rows[2] == "| all blocks at 1: 4 / 0; at 0: 0 / 4 | 0.000 | | 0 |"
    assert rows[3] == "| search: 4 / 3 | 0.750 |  | 2,040 |"
    assert re.fullmatch(r"\| strength: 2 / 4 \| 0\.500 \| [-+]0\.\d+ to \+0\.\d+ \| 0 \|", rows[4])
    assert len(rows) == 5


def test_figures_that_are_what_is_counted_predict_it():
    """A's figure is all in one block and its pictures follow that block's weight; B's have nothing to do with it."""
    name, rng = "robot-on-green", np.random.default_rng(0)
    key, blocks = f"{name}|figures", ["IN01", "OUT05"]
    results = {
        key: {"all of it": ([{"OUT05": 1.0}, {"IN01": 1.0}], 7.0)},
        f"{key}|pairs": {"blocks": blocks, "evaluations": 9.0, "tries": [([1, 0], 0.0, 1.0), ([0, 1], 1.0, 0.0)]},
        f"{key}|without": seen(",".join(["cat"] * 10), ",".join(["blue"] * 10)),
    }
    for n in range(40):
        kept, leaked = rng.integers(0, 11, 2)
        subjects = ["robot"] * kept + ["cat"] * (10 - kept)
        results[f"{key}|{n}"] = {
            "weights": [round(float(rng.uniform()), 2), kept / 10],
            "seen": seen(",".join(subjects), ",".join(["green"] * leaked + ["blue"] * (10 - leaked))),
        }
    first, second = list(solve_tables.figures(results, name))[2:]
    assert first.startswith("| all of it | 1.00 (1.00 to 1.00) | +1.00 (+1.00 to +1.00) | 0.")
    assert first.endswith("| 7 |")
    assert second.startswith("| SHAP with pairs | 1.00")


def test_a_hat_that_no_caption_names():
    experiment = CASES["koala, hat"].experiment
    scenes = experiment.training_scenes(SUBJECT, 0)
    assert {scene.accessory for scene in scenes} == {HAT}
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert all(HAT in scene.caption and HAT not in experiment.caption(scene) for scene in scenes)
    assert without_hat(scenes[0]).startswith("a photo of a large koala in the center, ")


def test_a_case_without_counts_says_so():
    assert list(solve_tables.comparison({}, "koala, style", ["search"])) == ["koala, style: nothing is counted yet"]
    (row,) = solve_tables.figures({}, "robot")
    assert row == "robot: no random weights are counted yet"
