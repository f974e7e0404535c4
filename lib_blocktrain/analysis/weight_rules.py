"""Block weights made of an analysis by a rule: for the sliders, a preset or a training run."""

from __future__ import annotations

from collections.abc import Mapping

from lib_blocktrain.analysis.results import Analysis, compare
from lib_blocktrain.analysis.statistics import Figure
from lib_blocktrain.blocks import ARCHITECTURES, BASE, REST
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_files import named_preset
from lib_blocktrain.weights.presets import Preset

STEP = 0.05  # of weights made of figures: a few seeds do not justify finer ones


def strongest(analysis: Analysis, count: int) -> BlockWeights:
    """Keep the `count` strongest blocks at 1, the others at 0."""
    order = ranked(analysis)
    if not 1 <= count <= len(order):
        raise ValueError(f"{count} blocks: expected 1 to {len(order)}, as many as the LoRA acts in")
    return _weights(analysis, {figure.block: 1.0 for figure in order[:count]}, rest=0.0)


def down_to(analysis: Analysis, effect: float) -> BlockWeights:
    """Keep the fewest blocks that together have this part (0 to 1) of the effect at 1, the others at 0."""
    if not 0 < effect <= 1:
        raise ValueError(f"{effect:g} of the effect: expected more than 0, up to 1")
    return _weights(analysis, {figure.block: 1.0 for figure in fewest(analysis, effect)}, rest=0.0)


def fewest(analysis: Analysis, effect: float) -> list[Figure]:
    """Return the fewest blocks of the U-Net that together have this part (0 to 1) of the effect, the strongest first.

    All that add to it, if they have less.
    """
    kept: list[Figure] = []
    for figure in ranked(analysis):
        if sum(one.share for one in kept) >= effect - 1e-9 or figure.share <= 0:
            break
        kept.append(figure)
    return kept


def proportional(analysis: Analysis) -> BlockWeights:
    """Weigh each block by its figure, the strongest with 1; blocks within the noise get 0."""
    top = max(figure.mean for figure in analysis.figures)
    if top <= 0:
        raise ValueError("no block adds to the effect: there is nothing to weigh by")
    kept = {
        figure.block: rounded(figure.mean / top)
        for figure in analysis.figures
        if figure.mean > 0 and not figure.within_noise
    }
    return _weights(analysis, kept, rest=0.0)


def lowering(wanted: Analysis, unwanted: Analysis) -> BlockWeights:
    """Lower the blocks that matter more to the unwanted feature, and keep the others at 1.

    The weight of such a block is the ratio of its share of the wanted feature's effect to that of the unwanted one's.
    """
    values = {}
    for row in compare(wanted, unwanted).rows:
        if row.second > row.first and not row.within_noise:
            values[row.block] = rounded(row.first / row.second)
    return _weights(wanted, values, rest=1.0)


def preset_of(analysis: Analysis, weights: BlockWeights, name: str, purpose: str = "") -> Preset:
    """Return a preset that says for which architecture and area share it was found.

    Raises ValueError for a name that cannot be one.
    """
    share = None if analysis.area_share is None else round(analysis.area_share, 3)
    line = weights.to_line(name, with_architecture=True, area_share=share)
    purpose = purpose or f"{analysis.feature} of {analysis.name}, {analysis.method}"
    return named_preset(line, name, purpose)


RULES = {
    "strongest": "keep the given number of strongest blocks",
    "down-to": "keep the fewest blocks that have the given percentage of the effect",
    "proportional": "weigh every block by its figure",
    "lower": "lower the blocks that carry another feature",
}


def weights_by_rule(
    rule: str, analysis: Analysis, amount: float | None = None, other: Analysis | None = None
) -> BlockWeights:
    """Return the weights by the name of a rule; `other` is the analysis of the unwanted feature, for "lower"."""
    if rule == "strongest":
        return strongest(analysis, int(_given(amount, rule)))
    if rule == "down-to":
        return down_to(analysis, _given(amount, rule) / 100)
    if rule == "proportional":
        return proportional(analysis)
    if rule == "lower":
        if other is None:
            raise ValueError("lower what carries another feature: expected an analysis of that feature too")
        return lowering(analysis, other)
    raise ValueError(f"rule {rule!r}: expected one of {', '.join(RULES)}")


def _given(amount: float | None, rule: str) -> float:
    if amount is None:
        raise ValueError(f"{rule}: expected a number with it ({RULES[rule]})")
    return amount


def ranked(analysis: Analysis) -> list[Figure]:
    """Return the figures of the U-Net's blocks, without BASE and REST, the strongest first."""
    return sorted((f for f in analysis.figures if f.block not in (BASE, REST)), key=lambda figure: figure.rank)


def _weights(analysis: Analysis, values: Mapping[str, float], rest: float) -> BlockWeights:
    """Return weights with these values, `rest` for the other blocks, and 1 for BASE unless it has a value."""
    ids = ARCHITECTURES[analysis.architecture].block_ids
    base = values.get(BASE, 1.0)
    return BlockWeights(analysis.architecture, {block: values.get(block, rest) for block in ids}, base)


def rounded(value: float) -> float:
    """Return the nearest multiple of STEP."""
    return round(round(value / STEP) * STEP, 2)
