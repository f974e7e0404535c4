"""Solve: the gradient by a second route, the budget, the front, Cancel, and what cannot be asked."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib_blocktrain.analysis.instrumented_model import instrument
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.solve import clipped, seeds_apart, solve
from lib_blocktrain.analysis.solve_effect import (
    Effect,
    gradient,
    latents_under,
    means_inside,
    measure_effect,
    shared_change,
)
from lib_blocktrain.analysis.solve_result import (
    TOGETHER,
    Solution,
    Solved,
    SolveRequest,
    build_solve_request,
    front_of,
    parts,
    worth,
)
from lib_blocktrain.blocks import BASE, REST
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse
from tests.analysis.miniature import PROMPT, TEXT_KEY, lora_for
from tests.tiny_models import assert_untouched, state_of

GRID = SamplingGrid((PROMPT,), negative="bad", seeds=(0, 1), steps=2, guidance=3.0)
ROBOT, TOP = Feature(word="robot"), Feature(box=(0, 0, 1, 0.25))
BUDGET = 200


def asked(model, **options) -> SolveRequest:
    options = {"grid": GRID, "keep": ROBOT, "budget": BUDGET, **options}
    return SolveRequest(lora_for(model, scale=0.3), **options)


@pytest.mark.parametrize("small", [True, False])
def test_the_gradient_equals_differences_of_whole_pictures(sd1, small, monkeypatch):
    """With the activations of all steps kept, and with each step computed again; BASE and REST stay as they are."""
    monkeypatch.setattr("lib_blocktrain.analysis.solve_effect.SMALL", 10_000 if small else 0)
    whole = BlockWeights.uniform("sd1", 1.0).replace({BASE: 0.5, REST: 0.5})
    network = lora_for(sd1, ("attn2_to_q", "attn1_to_v", "time_emb", "linear_1"), scale=0.3, text=True)
    with instrument(sd1, network, GRID, whole) as on:
        effect = measure_effect(on, PROMPT, (0, 1), ROBOT, TOP)
        weights = {block: 0.5 + n / 40 for n, block in enumerate(b for b in on.blocks if b not in (BASE, REST))}
        before = on.evaluations

        def losses(latents):
            kept, leaked = effect.shares(latents)
            return (1 - kept).square() + leaked.square()

        def at(**changed) -> np.ndarray:
            drawn = whole.replace({BASE: 0.5, REST: 0.5, **weights, **changed})
            return losses(latents_under(on, PROMPT, (0, 1), drawn).double()).numpy()

        found = dict(zip(weights, gradient(on, effect, weights, lambda latents: losses(latents).sum()).T.numpy()))
        assert on.evaluations - before == 2 * 2 * 2 * (3 if small else 4)  # steps, seeds, texts; forward and backward
        for block in ("IN01", "M00", "OUT05", "OUT11"):
            step = 0.003
            expected = (at(**{block: weights[block] + step}) - at(**{block: weights[block] - step})) / (2 * step)
            assert found[block] == pytest.approx(expected, rel=0.05, abs=2e-3), block
    assert (np.abs([*found.values()]).max(axis=0) > 0.05).all()


@pytest.mark.parametrize("kind", ["free", "sparse", "on-off"])
def test_a_solution_keeps_its_budget_its_bounds_and_the_model(sd1, kind):
    before = state_of(sd1.unet)
    reports: list[tuple[int, int]] = []
    solved = solve(sd1, asked(sd1, kind=kind), progress=lambda done, of: reports.append((done, of)))
    assert_untouched(sd1.unet, before)
    assert BUDGET * 0.75 < solved.evaluations <= BUDGET
    assert solved.finished
    assert reports == sorted(reports)
    assert reports[-1][0] < reports[-1][1] == BUDGET
    kept, leaked = ([getattr(one, name) for one in solved.front] for name in ("kept", "leaked"))
    assert len(solved.front) > 1
    assert (kept, leaked) == (sorted(kept, reverse=True), sorted(leaked, reverse=True))
    assert 0 < solved.area_share < 1
    for solution in solved.front:
        values = np.array([*solution.weights.values.values()])
        allowed = np.isin(values, (0, 1)) if kind == "on-off" else (values >= -0.5) & (values <= 1.5)
        assert allowed.all()
        assert solution.picture is not None
        assert kind != "sparse" or not ((values != 0) & (abs(values) < 0.25)).any()
    preset = solved.preset("FOUND")
    read = parse(preset.text, "sd1")
    assert read.weights == solved.best.weights
    assert read.area_share == pytest.approx(solved.area_share, abs=1e-3)
    again = Solved.from_json(json.loads(json.dumps(solved.to_json())))
    assert again == replace(solved, front=tuple(replace(one, picture=None) for one in solved.front))
    assert f"of {BUDGET} U-Net evaluations" in solved.to_table()


@pytest.mark.parametrize("drop", [TOP, None])
def test_what_is_said_of_a_solution_is_so_on_pictures_that_were_not_searched_with(sd1, drop, monkeypatch):
    """Measured again: by the change that pictures share in the strip, and by each picture's own elsewhere."""
    monkeypatch.setattr("lib_blocktrain.analysis.solve_effect.SHARED", 0 if drop else 1)
    grid = replace(GRID, seeds=(0, 1, 2))
    solved = solve(sd1, asked(sd1, grid=grid, drop=drop, budget=220))
    last, (_, unseen) = solved.front[-1], seeds_apart(grid.seeds)
    assert unseen == (2,)
    with instrument(sd1, lora_for(sd1, scale=0.3), grid) as on:
        effects = [measure_effect(on, PROMPT, (seed,), ROBOT, drop) for seed in grid.seeds]
        drawn = latents_under(on, PROMPT, unseen, last.weights)
    effect = effects[2]
    near, far = (float(((drawn - z) ** 2 * effect.keep).sum()) for z in (effect.whole, effect.without))
    assert last.kept == pytest.approx(far / (far + near), abs=2e-3)
    if drop is None:
        e = (effect.whole - effect.without) * effect.drop
        assert last.leaked == pytest.approx(float((e * (drawn - effect.without)).sum() / (e * e).sum()), abs=2e-3)
        return
    assert shared_change(effects) is not None
    without, whole = (
        torch.stack([getattr(one, name)[0, :, one.drop[0, 0] > 0].mean(dim=1) for one in effects]).mean(dim=0)
        for name in ("without", "whole")
    )
    change, means = whole - without, drawn[0, :, effect.drop[0, 0] > 0].mean(dim=1)
    assert last.leaked == pytest.approx(float((means - without) @ change / (change @ change)), abs=2e-3)


def test_one_picture_cannot_outweigh_the_others():
    slopes = torch.tensor([[3.0, -4.0], [0.3, 0.0], [0.0, 0.0]])
    assert torch.allclose(clipped(slopes), torch.tensor([[0.3, -0.4], [0.3, 0.0], [0.0, 0.0]]))


def test_a_change_is_shared_where_pictures_go_the_same_way():
    """Two pictures that become the same colour, and two that become opposite ones."""
    region, without = torch.ones(2, 1, 4, 4), torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)) / 10
    colour = torch.tensor([1.0, -2.0, 0.0, 3.0])[:, None, None]
    towards = torch.stack([colour.expand(4, 4, 4)] * 2)
    apart = torch.stack([colour.expand(4, 4, 4), -colour.expand(4, 4, 4)])
    alike = Effect("", (0, 1), without, towards, region, region)
    shared = shared_change([alike])
    assert shared is not None
    of = replace(alike, shared=shared).of([1])
    assert of.shares(towards[1:])[1].tolist() == pytest.approx([1.0])
    assert of.shares(without[:1])[1].tolist() == pytest.approx([0.0], abs=0.05)
    assert shared.part(means_inside(without, region)).mean().item() == pytest.approx(0.0, abs=1e-6)
    assert shared_change([replace(alike, whole=apart)]) is None


def test_it_is_said_that_a_and_b_cannot_be_parted(sd1, monkeypatch):
    """In one region a picture is nearer to the LoRA's just where it has more than half of its change."""
    monkeypatch.setattr("lib_blocktrain.analysis.solve_effect.SHARED", 1)
    same = {"keep": Feature(box=(0, 0, 1, 0.25)), "drop": Feature(box=(0, 0, 1, 0.2499))}
    solved = solve(sd1, asked(sd1, **same))
    assert solved.notices == (TOGETHER,)
    assert solve(sd1, asked(sd1, **same), stop=lambda: True).notices == ()
    at = [Solution(BlockWeights.uniform("sd1", 1.0), *shares) for shares in ((1.0, 1.0), (0.6, 0.5), (0.4, 0.1))]
    assert [parts(at), parts(at[:1]), parts(at[::2])] == [True, False, False]


def test_a_stopped_search_gives_the_best_until_then(sd1):
    asked_before = 0

    def after(count):
        def stop() -> bool:
            nonlocal asked_before
            asked_before += 1
            return asked_before > count

        return stop

    at_once = solve(sd1, asked(sd1), stop=after(0))
    assert (at_once.finished, at_once.evaluations) == (False, 0)
    assert [(one.weights, one.leaked) for one in at_once.front] == [(BlockWeights.uniform("sd1", 1.0), 1.0)]
    asked_before = 0
    whole = solve(sd1, asked(sd1), stop=after(1000))
    asked_before, of = 0, asked_before
    part = solve(sd1, asked(sd1), stop=after(of - 2))
    assert not part.finished
    assert 0 < part.evaluations < whole.evaluations
    assert 1 <= len(part.front) <= len(whole.front)


def test_what_leaves_nothing_to_choose_is_refused(sd1):
    with pytest.raises(ValueError, match="a budget of 20 U-Net evaluations: expected at least 80 for 2 pictures"):
        solve(sd1, asked(sd1, budget=20))
    with pytest.raises(ValueError, match="the LoRA changes nothing in B: there is nothing to drop"):
        solve(sd1, asked(sd1, keep=Feature(box=(0, 0, 1, 1))))
    network = lora_for(sd1, text=True)
    only_text = replace(network, modules={TEXT_KEY: network.modules[TEXT_KEY]})
    with pytest.raises(ValueError, match="acts in no block of the U-Net"):
        solve(sd1, replace(asked(sd1), network=only_text))
    for wrong, said in (
        ({"kind": "best"}, "kind 'best': expected one of free, sparse, on-off"),
        ({"keep": Feature()}, "nothing to keep"),
        ({"drop": Feature()}, "B is the whole picture"),
        ({"drop": ROBOT}, "A and B are both the word"),
        ({"budget": 0}, "budget 0: expected 1 to"),
    ):
        with pytest.raises(ValueError, match=said):
            asked(sd1, **wrong)
    with pytest.raises(ValueError, match="no prompt"):
        build_solve_request(lora_for(sd1), prompts=(), keep=ROBOT)


def test_the_front_is_of_what_nothing_beats():
    weights = BlockWeights.uniform("sd1", 1.0)
    points = [(1.0, 1.0), (0.9, 0.4), (0.85, 0.5), (0.84, 0.39), (0.7, 0.1), (0.2, -0.4), (0.0, 0.0)]
    front = front_of([Solution(weights, kept, leaked) for kept, leaked in points])
    assert [(one.kept, one.leaked) for one in front] == [(1.0, 1.0), (0.9, 0.4), (0.7, 0.1), (0.2, -0.4)]


def test_a_choice_goes_by_pictures_that_show_a_and_not_b():
    assert worth([1.0, 1.0], [1.0, 1.0]) == 0 == worth([0.0, 0.0], [-0.5, 0.4])
    assert worth([0.6, 0.9], [0.4, -1.0]) == 1.0, "more of A, or less of B, shows nothing else"
    assert worth([0.25, 0.5], [0.75, 0.5]) == pytest.approx((0.5 + 1 - 0.5 - 0) / 2)
