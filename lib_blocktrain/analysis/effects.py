"""Exactly: the change of the predicted noise when one block is taken away, or is all there is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lib_blocktrain.analysis.instrumented_model import InstrumentedModel, States
from lib_blocktrain.analysis.trajectory import TrajectoryPoint
from lib_blocktrain.blocks import BASE, REST
from lib_blocktrain.weights.block_weights import BlockWeights

Changes = dict[str, Tensor]  # by block: (seeds, 4, h, w)
Pause = Callable[[], None]  # called between blocks; may raise, which ends the analysis


@torch.no_grad()
def leave_one_out(
    stage: InstrumentedModel, moment: TrajectoryPoint, value: float = 0.0, pause: Pause | None = None
) -> Changes:
    """Return eps(w) - eps(w with w_b = value) for every block b that the network acts in."""
    return {
        block: moment.noise - noise
        for block, noise in _one_by_one(stage, moment, stage.weights, lambda _: value, pause)
    }


@torch.no_grad()
def one_only(stage: InstrumentedModel, moment: TrajectoryPoint, pause: Pause | None = None) -> Changes:
    """Return eps(w_b alone) - eps(0) for every block b that the network acts in."""
    off, plain = BlockWeights.uniform(stage.weights.architecture, 0.0), []
    changed = _one_by_one(stage, moment, off, lambda block: stage.weights[block], pause, plain.append)
    return {block: noise - plain[0] for block, noise in changed}


@torch.no_grad()
def without(stage: InstrumentedModel, moment: TrajectoryPoint) -> Tensor:
    """Return eps(0), what the model predicts without the network."""
    stage.weigh(BlockWeights.uniform(stage.weights.architecture, 0.0))
    return stage.predict(moment.latents, moment.timestep, moment.prompt)


def _one_by_one(
    stage: InstrumentedModel,
    moment: TrajectoryPoint,
    weights: BlockWeights,
    value_of: Callable[[str], float],
    pause: Pause | None,
    given: Callable[[Tensor], None] | None = None,
):
    """Yield (block, noise) with one block changed; what stands in front of it is kept from one whole pass.

    `given` receives the noise of that pass. A block's layers stand in no other block, so that nothing in front of it
    can feel the change; BASE and REST are felt everywhere and take a whole pass of their own.
    """
    at = moment.latents, moment.timestep, moment.prompt
    states: States = {}
    stage.weigh(weights)
    noise = stage.predict(*at, keep=states)
    if given is not None:
        given(noise)
    for block in stage.blocks:
        if pause is not None:
            pause()
        # REST as it is: weights that are all 0 would switch it off
        stage.weigh(weights.replace({REST: weights.rest, block: value_of(block)}))
        if block in (BASE, REST):
            yield block, stage.predict(*at)
        else:
            yield block, stage.predict(*at, start=block, states=states)
            states.pop(block)
