"""The exact change of the predicted noise when one block is taken away, or when it is all there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    instrumented: InstrumentedModel, point: TrajectoryPoint, value: float = 0.0, pause: Pause | None = None
) -> Changes:
    """Return eps(w) - eps(w with w_b = value) for every block b that the network acts in."""
    weights = instrumented.weights
    changed = _one_by_one(instrumented, point, weights, lambda _: value, pause)
    return {block: point.noise - noise for block, noise in changed}


@torch.no_grad()
def one_only(instrumented: InstrumentedModel, point: TrajectoryPoint, pause: Pause | None = None) -> Changes:
    """Return eps(w_b alone) - eps(0) for every block b that the network acts in."""
    plain: list[Tensor] = []
    off, on = BlockWeights.uniform(instrumented.weights.architecture, 0.0), instrumented.weights
    changed = _one_by_one(instrumented, point, off, lambda block: on[block], pause, plain.append)
    return {block: noise - plain[0] for block, noise in changed}


@torch.no_grad()
def without(instrumented: InstrumentedModel, point: TrajectoryPoint) -> Tensor:
    """Return eps(0), what the model predicts without the network."""
    instrumented.set_weights(BlockWeights.uniform(instrumented.weights.architecture, 0.0))
    return instrumented.predict(point.latents, point.timestep, point.prompt)


def _one_by_one(
    instrumented: InstrumentedModel,
    point: TrajectoryPoint,
    weights: BlockWeights,
    value_of: Callable[[str], float],
    pause: Pause | None,
    on_whole_pass: Callable[[Tensor], None] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (block, noise) with one block changed; what stands in front of it is kept from one whole pass.

    `on_whole_pass` receives the noise of that pass. A block's layers stand in no other block, so that nothing in front
    of it depends on the change; BASE and REST act everywhere and take a whole pass of their own.
    """
    at = point.latents, point.timestep, point.prompt
    states: States = {}
    instrumented.set_weights(weights)
    noise = instrumented.predict(*at, keep=states)
    if on_whole_pass is not None:
        on_whole_pass(noise)
    for block in instrumented.blocks:
        if pause is not None:
            pause()
        # REST as it is: weights that are all 0 would switch it off
        instrumented.set_weights(weights.replace({REST: weights.rest, block: value_of(block)}))
        resume = None if block in (BASE, REST) else (block, states.pop(block))
        yield block, instrumented.predict(*at, resume=resume)
