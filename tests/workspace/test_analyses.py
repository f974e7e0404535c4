"""Analyses on a host's model, by its own sampler."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.request import AnalysisRequest, Options
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.ui.analyse_html import answer
from lib_blocktrain.workspace.analyses import run_analysis
from tests.analysis.miniature import MODELS, lora_for


@pytest.fixture(scope="module")
def sd1():
    return MODELS["diffusers sd1"]()


SYNTAX = ("a robot <lora:x:1>", "a (red:1.5) robot", "a robot <lora:x:1> BREAK")


@pytest.mark.parametrize("method", ["exact", "fast", "one-only"])
def test_syntax_in_a_prompt_is_said_in_the_result(sd1, method):
    """In every host: these methods encode the prompt themselves, as literal text."""
    host = SimpleNamespace(model=lambda: sd1, samplers=("DDIM",))
    grid = SamplingGrid(SYNTAX, negative="[dark:2]", seeds=(0,), width=64, height=64)
    request = AnalysisRequest(lora_for(sd1, ("attn2_to_q",)), grid, method)
    (analysis,) = run_analysis(host, request).analyses
    assert [text.split(" is read")[0] for text in analysis.notices] == [
        "the prompt: '<lora:x:1>'",
        "the prompt: '(red:1.5)'",
        "the prompt: 'BREAK'",
        "the negative prompt: '[dark:2]'",
    ]
    assert "(red:1.5)" in str(answer(analysis))
    plain = replace(request, grid=replace(grid, prompts=("a robot",), negative=""))
    assert run_analysis(host, plain).analyses[0].notices == ()


def test_what_the_host_says_of_its_images_is_in_the_result_once(sd1):
    def sample(request, progress=None):
        request.say("the prompt has 80 tokens")
        return Image.new("RGB", (64, 64))

    host = SimpleNamespace(model=lambda: sd1, samplers=("DDIM",), sample=sample)
    grid = SamplingGrid(("a robot",), seeds=(4,), width=64, height=64)
    request = AnalysisRequest(lora_for(sd1, ("attn2_to_q",)), grid, "rendered", image_steps=2)
    (analysis,) = run_analysis(host, request).analyses
    assert analysis.notices.count("the prompt has 80 tokens") == 1


def test_rendered_through_a_host(sd1):
    """Every picture is asked for with its block lowered, under the question's settings; the cost is counted."""

    class Painter:
        samplers = ("DDIM",)

        def __init__(self):
            self.requests = []

        def model(self):
            return sd1

        def sample(self, request, progress=None):
            self.requests.append(request)
            progress(request.steps, request.steps)
            (placement,) = request.placements
            lost = sum(1 - value for value in placement.weights.values.values())
            return Image.new("RGB", (64, 64), (int(100 * lost), 0, 0))

    network, host, seen = lora_for(sd1, ("attn2_to_q",)), Painter(), []
    grid = SamplingGrid(("a robot",), seeds=(4,), guidance=3.0, width=64, height=64)
    options = Options(multiplier=0.7, value=0.5)
    request = AnalysisRequest(network, grid, "rendered", (Feature(box=(0, 0, 0.5, 1)),), options, image_steps=2)
    found = run_analysis(host, request, lambda done, total: seen.append((done, total)))
    (analysis,) = found.analyses
    assert len(host.requests) == len(analysis.blocks) + 1
    assert {(r.prompt, r.seed, r.steps, r.cfg, r.width) for r in host.requests} == {("a robot", 4, 2, 3.0, 64)}
    assert {r.placements[0].multiplier for r in host.requests} == {0.7}
    assert analysis.evaluations == len(host.requests) * 2 * 2
    assert analysis.area_share == 0.5
    for share in analysis.settings["changed_share"].values():
        assert share == pytest.approx(0.5 / 3, abs=0.02)  # the red samples of one half
    assert seen[-1][0] == seen[-1][1]
    assert list(found.sheets) == ["sheet-1-1-4"]
