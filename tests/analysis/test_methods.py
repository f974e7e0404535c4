"""Leave one out, one only and integrated gradients, each number by a second route."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_blocktrain.analysis.attribution import (
    gauss_legendre,
    integrated_gradients,
    leave_one_out,
    norm,
    one_only,
    without,
)
from lib_blocktrain.analysis.instrumented_model import instrument
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.request import Options
from lib_blocktrain.analysis.run import NOISE_METHODS, analyse
from lib_blocktrain.analysis.trajectory import walk
from lib_blocktrain.blocks import REST, architecture
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.analysis.miniature import GRID, PROMPT, lora_for
from tests.tiny_models import assert_untouched, state_of

EVERYWHERE = ("attn2_to_q", "conv1", "in_layers_2", "time_emb", "emb_layers", "ff_net_2", "linear_1")


def plainly(model, network, weights, point):
    """The guided noise by whole passes of the model under hooks, seed by seed, text by text."""
    rows = []
    with torch.no_grad(), applied({"unet": model.unet, **model.text_encoders}, network, weights):
        for latents in point.latents:
            negative, positive = (
                model.predict(latents[None], torch.tensor([point.timestep]), model.encode_prompt(text))
                for text in ("bad", PROMPT)
            )
            rows.append(negative + 3.0 * (positive - negative))
    return torch.cat(rows)


def test_one_block_at_a_time_equals_whole_passes(model):
    """With layers in every kind of block, in REST and in the text encoder, from the states of one pass."""
    network = lora_for(model, EVERYWHERE, scale=0.2, text=model.architecture == "sd1")
    one = BlockWeights.uniform(model.architecture, 1.0)
    off = BlockWeights.uniform(model.architecture, 0.0)
    before = state_of(model.unet)
    with instrument(model, network, GRID) as instrumented:
        (point,) = walk(instrumented).points
        left_out, alone = leave_one_out(instrumented, point, value=0.25), one_only(instrumented, point)
        blocks = instrumented.blocks
    assert {"IN01", "M00", "OUT02", REST} <= set(blocks)
    assert list(left_out) == list(blocks) == list(alone)
    whole, nothing = plainly(model, network, one, point), plainly(model, network, off, point)
    felt = 0
    for block in ("BASE", REST, "IN01", "IN05", "M00", "OUT02", blocks[-1]):
        if block not in blocks:
            continue
        changed = whole - plainly(model, network, one.replace({REST: 1.0, block: 0.25}), point)
        only = plainly(model, network, off.replace({REST: 0.0, block: 1.0}), point) - nothing
        for found, expected in ((left_out[block], changed), (alone[block], only)):
            # a batch rounds otherwise than one by one, and norms over a few values magnify that
            assert (found - expected).norm() < 0.02 * expected.norm() + 1e-4, block
            felt += float(expected.norm()) > 0.01
    assert felt >= 8
    assert_untouched(model.unet, before)


def test_blocks_in_front_are_not_computed_again(sd1):
    network = lora_for(sd1)
    with instrument(sd1, network, GRID) as instrumented:
        (point,) = walk(instrumented).points
        before = instrumented.evaluations
        leave_one_out(instrumented, point)
        spent = instrumented.evaluations - before
        known = architecture("sd1").blocks
        total = sum(block.forward_share for block in known)
        from_block = {b.id: sum(x.forward_share for x in known[n:]) / total for n, b in enumerate(known)}
        # two seeds, guided: four latents, a whole pass and what is left of one for each block
        assert spent == pytest.approx(4 * (1 + sum(from_block[block] for block in instrumented.blocks)))
        assert spent < 0.61 * 4 * (1 + len(instrumented.blocks))


def test_gradients_equal_numerical_derivatives(model):
    """One node is half of the weights; the region counts; each seed has a derivative of its own.

    At 64 pixels the deepest norms are over two values, and bend too sharply for any step.
    """
    network = lora_for(model, scale=0.3)
    weights = BlockWeights.uniform(model.architecture, 0.8)
    region = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    with instrument(replace(model, native_size=128), network, GRID, weights) as instrumented:
        (point,) = walk(instrumented).points
        found = integrated_gradients(instrumented, point, region, nodes=1)
        effect = (point.noise - without(instrumented, point)) * region.sqrt()
        direction = effect * region.sqrt() / norm(effect).view(-1, 1, 1, 1)

        def projected(block: str, weight: float) -> torch.Tensor:
            half = BlockWeights.uniform(model.architecture, 0.4).replace({block: weight})
            instrumented.set_weights(half)
            with torch.no_grad():
                noise = instrumented.predict(point.latents, point.timestep, PROMPT)
            return (noise * direction).sum(dim=(1, 2, 3)).double()

        assert torch.allclose(found.whole.float(), norm(effect), rtol=1e-5)
        for block in (instrumented.blocks[0], "M00", instrumented.blocks[-1]):
            derivative = (projected(block, 0.42) - projected(block, 0.38)) / 0.04
            ours = found.values[:, found.blocks.index(block)]
            assert torch.allclose(ours, 0.8 * derivative, rtol=0.03, atol=5e-3 * float(found.whole.max())), block


def test_attributions_add_up_to_the_whole_effect(sd1):
    """With the text encoder among them, whose gradients go through the prompt."""
    network = lora_for(sd1, scale=0.1, text=True)
    with instrument(replace(sd1, native_size=128), network, GRID) as instrumented:
        (point,) = walk(instrumented).points
        found = integrated_gradients(instrumented, point)
        assert found.blocks[0] == "BASE"
        assert found.values[:, 0].abs().min() > 0.01 * found.whole.max()
        assert torch.allclose(found.completeness, torch.ones(2, dtype=torch.float64), atol=0.02)


def test_gauss_legendre_is_exact_for_polynomials():
    for nodes in (1, 2, 3):
        degree = 2 * nodes - 1
        assert sum(share * at**degree for at, share in gauss_legendre(nodes)) == pytest.approx(1 / (degree + 1))


def test_v_prediction_is_told_as_noise(sd1):
    network = lora_for(sd1)
    with instrument(sd1, network, replace(GRID, seeds=(0,))) as instrumented:
        (point,) = walk(instrumented).points
        of_noise = leave_one_out(instrumented, point)["M00"]
    with instrument(replace(sd1, prediction="v"), network, GRID) as instrumented:
        of_v = leave_one_out(
            instrumented, replace(point, noise=instrumented.predict(point.latents, point.timestep, PROMPT))
        )["M00"]
        root = instrumented.alpha(point.timestep) ** 0.5
    assert torch.allclose(of_v, root * of_noise, atol=1e-5)


@pytest.mark.parametrize("method", NOISE_METHODS)
def test_one_run_serves_several_features(sd1, method):
    """The halves' squared effects add up to the whole's; what is said of the model and the cost is there."""
    network, seen = lora_for(sd1, scale=0.3), []
    features = (Feature(), Feature(box=(0, 0, 0.5, 1)), Feature(box=(0.5, 0, 1, 1)))
    whole, left, right = analyse(
        sd1, network, GRID, method, features, progress=lambda done, total: seen.append((done, total))
    )
    assert whole.blocks == tuple(b for b in architecture("sd1").block_ids if network.blocks.get(b))
    for at, a, b in zip(whole.observations, left.observations, right.observations):
        assert (at.prompt, at.seed, at.timestep) == (a.prompt, a.seed, a.timestep)
        assert at.whole**2 == pytest.approx(a.whole**2 + b.whole**2, rel=1e-4)
    assert (left.area_share, whole.area_share) == (0.5, None)
    assert whole.evaluations == left.evaluations > 8
    assert whole.settings["seeds"] == [0, 1]
    assert seen[-1][0] == seen[-1][1]
    assert sorted(seen) == seen
    assert (whole.completeness is not None) == (method == "fast")


def test_a_cancelled_analysis_leaves_no_trace(sd1):
    class Cancelled(RuntimeError):
        pass

    def stop(done: int, total: int) -> None:
        if done == total // 2:
            raise Cancelled

    before, asked = state_of(sd1.unet), [p.requires_grad for p in sd1.unet.parameters()]
    for method in NOISE_METHODS:
        with pytest.raises(Cancelled):
            analyse(sd1, lora_for(sd1), GRID, method, (Feature(word="robot"),), progress=stop)
        assert_untouched(sd1.unet, before)
        assert [p.requires_grad for p in sd1.unet.parameters()] == asked


def test_what_cannot_be_asked_is_said(sd1):
    off = Options(weights=BlockWeights.uniform("sd1", 0.0))
    with pytest.raises(ValueError, match="acts in no block under the weights 0,0"):
        analyse(sd1, lora_for(sd1), GRID, options=off)
    with pytest.raises(ValueError, match="'exakt': expected one of exact, fast, one-only"):
        analyse(sd1, lora_for(sd1), GRID, "exakt")
    with pytest.raises(ValueError, match="seeds \\(0, 0\\): expected different ones"):
        replace(GRID, seeds=(0, 0))
    with pytest.raises(ValueError, match="width 100: expected a multiple of 8"):
        replace(GRID, width=100)
