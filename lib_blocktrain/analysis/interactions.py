"""Pairs of blocks that replace or need each other in a feature.

With e = eps(all) - eps(0) and g(S) = <eps(S) - eps(0), e> / |e|^2 inside the feature's region, where the blocks S are
on, blocks i and j have

    I = g(all) - g(without i) - g(without j) + g(without both)

which is 0 where what the two are worth adds up. Below 0 they replace each other: only without both is it lost. Above 0
they need each other: what one is worth is lost without the other. It is the second difference that interaction indices
average over all sets of blocks (Sundararajan et al. 2020, 1902.05622), at the whole LoRA and in the predicted noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lib_blocktrain.analysis.instrumented_model import InstrumentedModel, States
from lib_blocktrain.analysis.pairs import Names
from lib_blocktrain.analysis.trajectory import TrajectoryPoint
from lib_blocktrain.blocks import BASE, REST


@torch.no_grad()
def leave_two_out(
    instrumented: InstrumentedModel, point: TrajectoryPoint, pause: Callable[[], None] | None = None
) -> dict[Names | tuple[str], Tensor]:
    """Return eps(w) - eps(w without these blocks) for each block and each pair, `(seeds, 4, h, w)`.

    What comes before a block is kept from the pass that it changes.
    """
    weights, at = instrumented.weights, (point.latents, point.timestep, point.prompt)
    blocks = [block for block in instrumented.blocks if block not in (BASE, REST)]
    whole: States = {}
    instrumented.set_weights(weights)
    instrumented.predict(*at, keep=whole)
    found: dict[Names | tuple[str], Tensor] = {}
    for place, first in enumerate(blocks):
        if pause is not None:
            pause()
        states: States = {}
        # REST as it is: weights that are all 0 would switch it off
        without = weights.replace({REST: weights.rest, first: 0.0})
        instrumented.set_weights(without)
        found[(first,)] = point.noise - instrumented.predict(*at, resume=(first, whole.pop(first)), keep=states)
        for second in blocks[place + 1 :]:
            instrumented.set_weights(without.replace({REST: weights.rest, second: 0.0}))
            found[first, second] = point.noise - instrumented.predict(*at, resume=(second, states.pop(second)))
    instrumented.set_weights(weights)
    return found


def interactions(
    changes: Mapping[Names | tuple[str], Tensor], effect: Tensor, region: Tensor | None
) -> dict[Names, list[float]]:
    """Return I of each pair for each seed, from what `leave_two_out` gives and e, in a region `(seeds, 1, h, w)`."""
    inside = effect if region is None else effect * region
    size = (inside * effect).sum(dim=(1, 2, 3)).clamp(min=torch.finfo(effect.dtype).tiny)
    worth = {names: (change * inside).sum(dim=(1, 2, 3)) / size for names, change in changes.items()}
    pairs = [names for names in worth if len(names) == 2]
    return {(i, j): (worth[(i,)] + worth[(j,)] - worth[i, j]).tolist() for i, j in pairs}
