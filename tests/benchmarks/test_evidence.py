"""The evidence's figures against ones found by hand or by another route, and its commands in miniature."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")

from benchmarks import evidence
from benchmarks.trial import arms, cells, comparing, figure, measures, replicate, report, scenes
from benchmarks.trial.drawing import Sampler
from lib_blocktrain.blocks import ARCHITECTURES


def test_least_leakage_and_area_by_hand():
    """A curve that rises evenly: the leakage at half the fidelity is half of it, and the area a triangle."""
    curve = [(0.1, 0.0), (0.5, 0.2), (0.9, 0.4)]
    assert comparing.least_leakage(curve, 0.3) == pytest.approx(0.1, abs=2e-3)
    assert comparing.area(curve, 0.9) == pytest.approx(0.2, abs=2e-3)
    with pytest.raises(ValueError, match=r"0\.950: the curve reaches 0\.900"):
        comparing.least_leakage(curve, 0.95)


def test_a_curve_that_turns_back():
    """Stronger and worse: fidelity falls again while leakage goes on; the earlier strength is what counts."""
    curve = [(0.0, 0.0), (0.8, 0.1), (0.6, 0.5)]
    assert comparing.least_leakage(curve, 0.6) == pytest.approx(0.075, abs=2e-3)
    assert comparing.reach(curve) == 0.8


def test_matched_compares_where_both_are():
    weak, strong = [(0.0, 0.0), (0.4, 0.1)], [(0.0, 0.0), (0.4, 0.2), (0.8, 0.9)]
    level, ours, theirs, areas = comparing.matched(weak, strong)
    assert (level, ours) == (0.4, pytest.approx(0.1))
    assert theirs == pytest.approx(0.2, abs=2e-3)
    assert areas == pytest.approx(-0.05, abs=2e-3)


def test_interval_covers_as_often_as_it_says():
    """Means of 15 normal numbers: the 95 % interval of a percentile bootstrap holds 0 in 88 to 96 of 100 cases."""
    rng = np.random.default_rng(1)
    held = [
        i.low <= 0 <= i.high for i in (comparing.interval(rng.normal(size=15).tolist(), draws=500) for _ in range(300))
    ]
    assert 0.86 < np.mean(held) < 0.97
    same = comparing.interval([0.2, 0.2, 0.2])
    assert (same.mean, same.low, same.high) == pytest.approx((0.2, 0.2, 0.2))
    assert comparing.interval([1e-4, 2e-4] * 3).verdict == "not told apart"
    assert [comparing.interval(v).verdict for v in ([0.1, 0.2] * 3, [-0.1, -0.2] * 3, [-1, 1] * 3, [0.1] * 4)] == [
        "more",
        "less",
        "not told apart",
        "too few",
    ]


@pytest.mark.parametrize("name", scenes.BIASES)
def test_a_biased_dataset_never_shows_what_is_asked_and_does_not_say_so(name):
    bias = scenes.BIASES[name]
    shown = scenes.training_scenes(bias, "robot", seed=3)
    asked = scenes.asked_scenes(bias, "robot")
    assert {getattr(scene, bias.factor) for scene in shown} == {bias.value}
    assert all(bias.value not in bias.silent(scene) and "robot" in bias.silent(scene) for scene in shown)
    assert bias.value not in {getattr(scene, bias.factor) for scene in asked}
    assert len(asked) == scenes.PROMPTS
    assert asked == scenes.asked_scenes(bias, "robot")


def test_random_blocks_are_as_many_and_others():
    found = arms.on(["OUT03", "OUT04", "M00"])
    drawn = set()
    for seed in range(20):
        plan = arms.random_blocks(argparse.Namespace(analysed=lambda: found, name=f"background/robot-{seed}"))
        blocks = arms.kept(plan.weights)
        assert len(blocks) == 3
        assert set(blocks) != {"OUT03", "OUT04", "M00"}
        drawn.add(tuple(blocks))
    assert len(drawn) > 10


def test_a_rank_is_read_from_the_cell_that_has_it(tmp_path):
    """*out, lower rank* takes the rank of *lower rank*: where that arm is measured, no LoRA is trained to find it."""
    found = replicate.Replicate(replicate.EXPERIMENTS["size"], "robot", 1, tmp_path, model=None)
    place = {"experiment": "size", "subject": "robot", "seed": 1, "arm": "lower rank", "rank": 3}
    cells.write(replicate.path_of(tmp_path, False, place), place)
    assert found.plan("out, lower rank").rank == 3
    assert found.rank_of("masked") == arms.RANK  # no cell: that of its plan


def test_only_the_arms_that_are_asked_for():
    found = list(evidence.tasks(["background", "dressed"], ["out, lower rank", "masked"], ["robot"], 2, second=False))
    assert [(task.experiment, task.seed, task.arm) for task in found] == [
        ("background", 0, "masked"),
        ("background", 0, "out, lower rank"),
        ("dressed", 0, "masked"),
        ("background", 1, "masked"),
        ("background", 1, "out, lower rank"),
        ("dressed", 1, "masked"),
    ]


def test_parts_share_the_work_and_keep_a_replicate_together():
    found = list(evidence.tasks(list(replicate.EXPERIMENTS), evidence.ARMS, ["robot", "koala"], 3, second=True))
    parts = [evidence.part_of(found, f"{k}/3") for k in (1, 2, 3)]
    assert sorted(str(task) for part in parts for task in part) == sorted(map(str, found))
    places = [{(t.experiment.partition("-")[0], t.subject, t.seed) for t in part} for part in parts]
    assert not places[0] & places[1]
    assert not places[1] & places[2]


@pytest.fixture
def drawn(monkeypatch):
    """A font for everyone: every glyph a disc of its own colour."""
    from PIL import Image, ImageDraw

    from demo import composites

    def glyph(character):
        picture = Image.new("RGBA", (80, 80))
        colour = tuple(random.Random(character).choices(range(256), k=3))
        ImageDraw.Draw(picture).ellipse((2, 2, 78, 78), fill=(*colour, 255))
        return picture

    monkeypatch.setattr(composites, "glyph", glyph)
    composites.stamp.cache_clear()
    yield
    composites.stamp.cache_clear()


@pytest.fixture
def bench(random_model):
    import torch

    from demo.classifier import Classifier
    from lib_blocktrain.hosts.standalone import load_demo

    torch.manual_seed(0)
    return cells.Bench(measures.Reader(load_demo(random_model), Classifier().eval(), Sampler(steps=1)), "tiny")


@pytest.mark.long
def test_run_and_report(drawn, bench, monkeypatch, tmp_path, caplog):
    """Five arms of one replicate; ended and begun again it makes only what is missing, and the report counts cells."""
    few = {name: arms.BIASED[name] for name in ("all", "analysis", "lower rank", "same norm", "random")}
    monkeypatch.setattr(replicate.Replicate, "analysed", lambda self: arms.on(["OUT09", "OUT10", "OUT11"]))
    monkeypatch.setattr(replicate, "EXPERIMENTS", {"background": replicate.Experiment("background", few)})
    monkeypatch.setattr(evidence, "EXPERIMENTS", replicate.EXPERIMENTS)
    monkeypatch.setattr(report, "EXPERIMENTS", replicate.EXPERIMENTS)
    monkeypatch.setattr(evidence, "bench_of", lambda folder: bench)
    monkeypatch.setattr(cells, "TEST_SEEDS", (1, 2))
    monkeypatch.setattr(scenes, "asked_scenes", lambda bias, subject, of=scenes.asked_scenes: of(bias, subject, 2))
    monkeypatch.setattr(scenes, "other_scenes", lambda of=scenes.other_scenes: of(1))
    for name, count in (("training_scenes", 4), ("held_out_scenes", 2)):
        made_by = getattr(scenes, name)
        monkeypatch.setattr(scenes, name, lambda *given, made_by=made_by, count=count: made_by(*given, count))
    monkeypatch.setattr(cells, "HELD_OUT", 2)
    arguments = argparse.Namespace(
        work=tmp_path, model=None, second_model=None, minutes=None, part="1/1", only=["background"], subjects=["robot"],
        seeds=1, steps=2, out=tmp_path / "evidence.md", known=None, arms=evidence.ARMS,
    )  # fmt: skip
    before = {name: value.clone() for name, value in bench.reader.model.unet.state_dict().items()}
    evidence.run(arguments)
    made = {path.stem: json.loads(path.read_text("utf-8")) for path in (tmp_path / "cells").rglob("*.json")}
    assert set(made) == {"all", "analysis", "lower-rank", "same-norm", "random"}
    assert made["lower-rank"]["parameters"] == pytest.approx(made["analysis"]["parameters"], rel=0.25)
    assert made["same-norm"]["strength"] * made["all"]["norm"] == pytest.approx(made["analysis"]["norm"], rel=1e-3)
    assert all(value.equal(before[name]) for name, value in bench.reader.model.unet.state_dict().items())
    first = (tmp_path / "cells" / "background" / "robot-0" / "all.json").stat().st_mtime_ns
    (tmp_path / "cells" / "background" / "robot-0" / "random.json").unlink()
    with caplog.at_level("INFO", "evidence"):
        evidence.run(arguments)
    assert "5 cells, 1 of them" in caplog.text
    assert (tmp_path / "cells" / "background" / "robot-0" / "all.json").stat().st_mtime_ns == first
    evidence.write_report(arguments)
    text = arguments.out.read_text("utf-8")
    assert "background: 5 cells of 1 replicate)" in text
    assert "| analysis | 1 |" in text
    assert f"{made['all']['curve'][0]['subject']:.3f}" in text
    kept, again = tmp_path / "evidence.jsonl", tmp_path / "again"
    evidence.write_report(argparse.Namespace(**{**vars(arguments), "work": None}))
    assert arguments.out.read_text("utf-8") == text
    with caplog.at_level("INFO", "evidence"):
        evidence.run(argparse.Namespace(**{**vars(arguments), "work": again, "known": kept}))
    assert "5 cells, 0 of them" in caplog.text
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in (again / "cells").rglob("*.json")}
    assert {arm: found[arm] for arm in made if arm != "random"} == {a: made[a] for a in made if a != "random"}


def test_the_report_names_what_is_missing_and_what_was_not_learnt():
    """On the cells in the repository, without two replicates of one arm and all of another."""
    found = [row for row in cells.read_packed(evidence.ROOT / "docs" / "evidence.jsonl") if not row["moved"]]
    gone = [("background", "out", "robot", 0), ("background", "out", "koala", 1)]
    fewer = [row for row in found if (row["experiment"], row["arm"], row["subject"], row["seed"]) not in gone]
    fewer = [row for row in fewer if (row["experiment"], row["arm"]) != ("size", "dropout")]
    told = report._unfinished(fewer)
    assert "*out* 13 (" in told
    assert "robot-0" not in told.partition("*out* 13 (")[2].partition(")")[0]
    assert "not run *dropout*" in told
    assert "*same norm*" not in told
    dressed = report.by_arm(row for row in found if row["experiment"] == "dressed")
    assert "No arm learnt" in report._dressed_in_words(dressed)
    learnt = {
        key: {**cell, "curve": [{**row, "asked": 0.5} for row in cell["curve"]]} for key, cell in dressed["all"].items()
    }
    assert "No arm learnt" not in report._dressed_in_words({**dressed, "all": learnt})


def test_the_report_begins_with_the_answer():
    """On the cells in the repository: block weights first, each line with its verdict; arms of few replicates not."""
    found = [row for row in cells.read_packed(evidence.ROOT / "docs" / "evidence.jsonl") if not row["moved"]]
    by_experiment = {name: report.by_arm(row for row in found if row["experiment"] == name) for name in report.TITLES}
    background, size, pencil, dressed = report._in_short(by_experiment).strip().split("\n")
    assert background.startswith(
        "- **Subject always on one background**, nothing asked. Less leakage: the OUT blocks only (-0."
    )
    assert "not told apart: a lower rank, exact masks." in size
    assert pencil.endswith("Not told apart: the OUT blocks only, a lower rank.")
    assert "all blocks 0.7" in dressed
    few = {name: of_arm for name, of_arm in by_experiment["dressed"].items() if name != "face only"}
    few["face only"] = dict(list(by_experiment["dressed"]["face only"].items())[:4])
    assert "OUT03-OUT05 only" not in report._in_short({"dressed": few})
    assert "(4 replicates)" in report._dressed_in_words(few)
    assert report._in_short({}) == ""


def test_rivals_are_trained_as_they_say(drawn, bench, tmp_path):
    """Each remedy is in its run's configuration, with its pictures, and every arm has a title for the report."""
    from PIL import Image

    one = replicate.Replicate(replicate.EXPERIMENTS["background"], "robot", 0, tmp_path, bench.reader.model, steps=1)
    runs = {rival: one._run(one.plan(rival)) for rival in arms.RIVALS}
    assert runs["t-lora"].network.noise_scaling == "rank"
    assert runs["dropout"].dataset.caption_dropout == 0.3
    assert runs["preservation"].loss.preservation == 1.0
    assert runs["preservation"].loss.trigger == "robot"
    assert [folder.regularisation for folder in runs["prior"].dataset.folders] == [False, True]
    masked = Path(runs["masked"].dataset.folders[0].path)
    masks = sorted(masked.glob("*.mask.png"))
    assert len(masks) == scenes.COUNT
    shares = [sum(Image.open(path).getdata()) / 255 / 128**2 for path in masks]
    assert 0.02 < min(shares) < max(shares) < 0.9
    for name in ("000.png", "017.png"):  # the same pictures as the other arms'
        assert (masked / name).read_bytes() == (one.dataset / name).read_bytes()
    for experiment in replicate.EXPERIMENTS.values():
        assert set(experiment.arms) <= set(report.ARMS)
    network = one.network(one.plan("out, masked"))
    assert {block[:3] for block in network.blocks} == {"OUT"}


@pytest.mark.parametrize("subject", evidence.SUBJECTS)
@pytest.mark.parametrize("name", ["background", "dressed"])
def test_a_search_has_different_prompts(name, subject):
    """Two tests may differ in the background alone, of which these prompts say nothing: so do the raccoon's first."""
    prompts, drop = replicate.EXPERIMENTS[name].search(subject)
    assert len(prompts) == len(set(prompts)) == (2 if name == "background" else 1)
    assert all(subject in prompt for prompt in prompts)
    assert drop is None if name == "background" else drop.word in prompts[0]


@pytest.mark.parametrize("name", ["background", "dressed"])
def test_weights_found_early_are_those_of_the_training(drawn, bench, tmp_path, monkeypatch, name):
    """The search sees a LoRA of a tenth of the steps; the training has its weights, without the negative ones."""
    asked = []

    def solve(model, request):
        asked.append(request)
        found = arms.weights("ALL").replace({"IN01": -0.4, "OUT08": 1.3, "OUT09": 0.2})
        return argparse.Namespace(best=argparse.Namespace(weights=found))

    monkeypatch.setattr(replicate, "solve", solve)
    one = replicate.Replicate(replicate.EXPERIMENTS[name], "robot", 0, tmp_path, bench.reader.model, steps=20)
    plan = one.plan("solved before training")
    run = one._run(plan)
    assert [run.network.weights["weights"][block] for block in ("IN01", "OUT08", "OUT09", "M00")] == [0, 1.3, 0.2, 1]
    assert (run.steps, run.schedule.warmup) == (20, 10)
    (request,) = asked
    assert request.network.metadata["ss_max_train_steps"] == "2"
    assert set(request.grid.seeds).isdisjoint(cells.TEST_SEEDS)
    assert all("robot" in prompt for prompt in request.grid.prompts)
    if name == "background":
        assert request.drop is None
        assert not any("background" in prompt for prompt in request.grid.prompts)
    else:
        assert request.drop.word in request.grid.prompts[0]
    one.plan("solved before training")
    assert len(asked) == 1


def test_figure_shows_mean_and_band():
    """By hand: a line goes as far as four in five replicates, its height is their mean."""
    straight = [[(0.0, 0.0), (1.0, slope)] for slope in (0.2, 0.4, 0.6, 0.8)]
    short = [(0.0, 0.0), (0.5, 0.5)]
    assert figure.line("x", [*straight, *straight, short, short]).points[-1][0] == pytest.approx(1.0)
    assert figure.line("x", [*straight, *straight[:2], *[short] * 4]).points[-1][0] == pytest.approx(0.5)
    fidelity, mean, low, high = figure.line("x", [*straight, [(0.0, 0.0), (1.0, 1.0)]]).points[20]
    assert (fidelity, mean) == pytest.approx((0.5, 0.3))  # half of the mean slope, 0.6
    assert low < mean < high
    drawn = figure.drawn({"a": [*straight, straight[0]], "none": straight[:1]}, "x <", "y")
    assert drawn.count("<polyline") == 1
    assert "x &lt;" in drawn


def test_norm_is_that_of_the_deltas(model_lora):
    import torch

    whole = sum(float(m.delta_weight(torch.zeros(m.up.shape[0], m.down.shape[1])).square().sum()) for m in model_lora)
    found = measures.norm_of(argparse.Namespace(modules={m.key: m for m in model_lora}))
    assert found == pytest.approx(whole**0.5, rel=1e-5)


@pytest.fixture
def model_lora():
    import torch

    from lib_blocktrain.networks.adapters import LoRA

    generator = torch.Generator().manual_seed(0)
    return [
        LoRA(
            f"lora_unet_{n}", torch.randn(2, 5, generator=generator), torch.randn(7, 2, generator=generator), alpha=1.0
        )
        for n in range(3)
    ]


def test_attention_blocks_are_those_of_a_lora():
    assert len(arms.ATTENTION) == 16
    assert set(arms.ATTENTION) <= set(ARCHITECTURES["sd1"].block_ids)
