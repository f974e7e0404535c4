"""Pairs of blocks: what two are worth together, against whole passes, and what they say of kept blocks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lib_blocktrain.analysis.instrumented_model import instrument
from lib_blocktrain.analysis.pairs import Pair, broken, notable
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.request import Options, build_request
from lib_blocktrain.analysis.results import Analysis
from lib_blocktrain.analysis.run import analyse
from lib_blocktrain.analysis.trajectory import initial_noise
from lib_blocktrain.blocks import BASE, REST
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.analysis.miniature import GRID, PROMPT, lora_for
from tests.tiny_models import assert_untouched, state_of

TOP = Feature(box=(0, 0, 1, 0.25))


def test_an_interaction_is_what_whole_passes_say(sd1):
    """At the first timestep, whose latents are the noise; REST acts in all of them, and the model is as before."""
    network = lora_for(sd1, ("attn2_to_q", "time_emb", "linear_1"), scale=0.5)
    before = state_of(sd1.unet)
    (found,) = analyse(sd1, network, GRID, "exact", (TOP,), options=Options(pairs=True))
    assert_untouched(sd1.unet, before)
    blocks = [block for block in found.blocks if block not in (BASE, REST)]
    assert REST in found.blocks
    assert len(found.pairs) == len(blocks) * (len(blocks) - 1) / 2
    assert [abs(pair.value) for pair in found.pairs] == sorted((abs(pair.value) for pair in found.pairs), reverse=True)
    strongest, whole = found.pairs[0], BlockWeights.uniform("sd1", 1.0)
    with instrument(sd1, network, GRID) as on:
        noise, timestep = initial_noise(on, GRID.seeds), found.observations[0].timestep
        top = slice(0, noise.shape[2] // 4)

        def predicted(weights):
            on.set_weights(weights)
            return on.predict(noise, timestep, PROMPT)[:, :, top]

        none = predicted(BlockWeights.uniform("sd1", 0.0))
        e = predicted(whole) - none

        def g(*off):
            change = predicted(whole.replace({REST: 1.0, **dict.fromkeys(off, 0.0)})) - none
            return (change * e).sum(dim=(1, 2, 3)) / (e * e).sum(dim=(1, 2, 3))

        first, second = strongest.first, strongest.second
        expected = g() - g(first) - g(second) + g(first, second)
    assert strongest.value == pytest.approx(float(expected.mean()), rel=0.02, abs=1e-4)
    assert abs(strongest.value) > 1e-3
    again = Analysis.from_json(json.loads(json.dumps(found.to_json())))
    assert again.pairs == found.pairs
    of_before = {name: value for name, value in found.to_json().items() if name != "pairs"}
    assert Analysis.from_json(of_before) == replace(found, pairs=())


def test_a_chosen_set_that_breaks_a_pair_is_named():
    replacing, needing = Pair("IN04", "OUT07", -0.2, 0.05, False), Pair("M00", "OUT03", 0.1, 0.05, False)
    pairs = (replacing, needing, Pair("IN01", "IN02", 0.05, 0.1, True))
    assert notable(pairs) == (replacing, needing)
    assert broken(pairs, {"IN04", "M00", "OUT03"}) == () == broken(pairs, {"OUT07"})
    (said,) = broken(pairs, {"IN01"})
    assert said.startswith("IN04 and OUT07 replace each other (20% of the effect), and neither is kept")
    (said,) = broken(pairs, {"IN04", "M00"})
    assert said == "M00 and OUT03 need each other (10% of the effect), and OUT03 is not kept"


def test_pairs_are_of_the_exact_method(sd1):
    with pytest.raises(ValueError, match="pairs of blocks with the method fast: expected the method exact"):
        build_request(lora_for(sd1), method="fast", prompts=(PROMPT,), pairs=True)
