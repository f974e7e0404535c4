"""Which blocks two LoRAs both want: the overlap of their deltas and of their effects, and weights that divide them.

Without a model, for each block: the cosine of the two delta weights, <A, B> / |A| |B| (Frobenius, over its layers), and
the share of each one's squared norm that lies in the other's subspace, of what it reads (inputs) and of what it writes
(outputs); by chance rank over width. With a model: the cosine of what each block alone changes in the predicted noise.

The weights follow `weight_rules.lowering` both ways: where a block matters more to one LoRA, the other gets the ratio
of their shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_blocktrain.analysis.attribution import Changes, one_only, weight_norms
from lib_blocktrain.analysis.instrumented_model import instrument
from lib_blocktrain.analysis.request import Options
from lib_blocktrain.analysis.results import Analysis
from lib_blocktrain.analysis.run import analyse
from lib_blocktrain.analysis.sampling_grid import TIMESTEPS, SamplingGrid
from lib_blocktrain.analysis.trajectory import TrajectoryPoint, walk
from lib_blocktrain.analysis.weight_rules import lowering
from lib_blocktrain.blocks import ARCHITECTURES, BASE, REST
from lib_blocktrain.model.protocol import Model, Progress
from lib_blocktrain.networks.adapters import LoRA
from lib_blocktrain.networks.adapters.base import matrix
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights


@dataclass(frozen=True)
class BlockOverlap:
    """A block that both LoRAs act in. `first` and `second` are its shares of each LoRA's figures, 0 to 1.

    `cosine` is of the delta weights, -1 to 1; `inputs` and `outputs` are the share of each one's squared norm that lies
    in the other's subspace, the mean of both, 0 to 1; None without layers in common whose factors are known. `effect`
    is the cosine of the changes of the predicted noise, None without a model.
    """

    block: str
    first: float
    second: float
    cosine: float | None
    inputs: float | None
    outputs: float | None
    effect: float | None = None


@dataclass(frozen=True)
class Collision:
    """Two LoRAs side by side, and weights for each that leave a block to the one that needs it more."""

    names: tuple[str, str]
    architecture: str
    method: str
    blocks: tuple[BlockOverlap, ...]
    weights: tuple[BlockWeights, BlockWeights]
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return plain values for `json.dumps`."""
        lines = [weights.to_line(with_architecture=True) for weights in self.weights]
        rows = [vars(row) for row in self.blocks]
        data = {"names": list(self.names), "architecture": self.architecture, "method": self.method}
        return {**data, "blocks": rows, "weights": lines, "notices": list(self.notices)}

    def to_table(self) -> str:
        """Return the blocks as lines of text, and the weights."""
        head = f"{'block':<6}{'first':>7}{'second':>8}{'cosine':>8}{'inputs':>8}{'outputs':>9}{'effect':>8}"
        rows = [
            f"{row.block:<6}{row.first:>7.1%}{row.second:>8.1%}{_number(row.cosine):>8}{_percent(row.inputs):>8}"
            f"{_percent(row.outputs):>9}{_number(row.effect):>8}"
            for row in self.blocks
        ]
        names = [f"{word}: {name}" for word, name in zip(("first", "second"), self.names)]
        lines = [f"{name}: {weights.to_line()}" for name, weights in zip(self.names, self.weights)]
        return "\n".join([*names, head, *rows, *(f"note: {n}" for n in self.notices), "weights for both:", *lines])


def collide(
    first: Network,
    second: Network,
    model: Model | None = None,
    grid: SamplingGrid | None = None,
    *,
    progress: Progress | None = None,
) -> Collision:
    """Compare two LoRAs block by block; with a model and a grid their effects too.

    What each needs is its delta weights' size, or with a model its exact figures. Raises ValueError for LoRAs of
    different architectures, or without a block in common.
    """
    if ARCHITECTURES[first.architecture].block_ids != ARCHITECTURES[second.architecture].block_ids:
        titles = [ARCHITECTURES[network.architecture].title for network in (first, second)]
        raise ValueError(
            f"{first.name!r} is for {titles[0]} and {second.name!r} for {titles[1]}: expected one architecture"
        )
    effects: dict[str, float] = {}
    if model is not None and grid is not None:
        found = [analyse(model, n, grid, "exact", options=Options(), progress=progress)[0] for n in (first, second)]
        effects = _effects(model, (first, second), grid)
    else:
        found = [weight_norms(first), weight_norms(second)]
    shares = [{figure.block: figure.share for figure in analysis.figures} for analysis in found]
    order = (BASE, REST, *ARCHITECTURES[first.architecture].block_ids)
    common = [block for block in order if block in shares[0] and block in shares[1]]
    if not common:
        raise ValueError(f"{first.name!r} and {second.name!r} act in no block together: they cannot collide")
    overlaps, left_out = _overlaps(first, second)
    rows = []
    for block in common:
        cosine, inputs, outputs = overlaps.get(block, (None, None, None))
        of_each = shares[0][block], shares[1][block]
        rows.append(BlockOverlap(block, of_each[0], of_each[1], cosine, inputs, outputs, effects.get(block)))
    notices = (f"{left_out} layers of other algorithms are left out of the overlap",) if left_out else ()
    names, weights = (first.name, second.name), divided(found[0], found[1])
    return Collision(names, first.architecture, found[0].method, tuple(rows), weights, notices)


def divided(first: Analysis, second: Analysis) -> tuple[BlockWeights, BlockWeights]:
    """Return weights for two LoRAs: each is lowered where the other needs the block more; BASE and REST stay at 1."""
    plain = {BASE: 1.0, REST: 1.0}
    return lowering(first, second).replace(plain), lowering(second, first).replace(plain)


@dataclass(eq=False)
class _Sums:
    """Sums over a block's layers, each in fp64."""

    inner: float = 0.0
    squares: tuple[float, float] = (0.0, 0.0)
    inputs: tuple[float, float] = (0.0, 0.0)
    outputs: tuple[float, float] = (0.0, 0.0)


def _overlaps(first: Network, second: Network) -> tuple[dict[str, tuple[float, float, float]], int]:
    """Return (cosine, inputs, outputs) of each block, and how many common layers have no such factors."""
    sums: dict[str, _Sums] = {}
    left_out = 0
    for key in first.modules.keys() & second.modules.keys():
        pair = first.modules[key], second.modules[key]
        if not all(isinstance(module, LoRA) and module.mid is None for module in pair):
            left_out += 1
            continue
        one, other = (_factors(module) for module in pair if isinstance(module, LoRA))
        if one[0].shape[0] != other[0].shape[0] or one[1].shape[1] != other[1].shape[1]:
            raise ValueError(f"{key}: layers of different sizes in {first.name!r} and {second.name!r}")
        _add(sums.setdefault(first.block_of(key), _Sums()), one, other)
    found = {}
    for block, of in sums.items():
        sizes = [math.sqrt(square) for square in of.squares]
        if not all(sizes):
            continue
        inputs, outputs = (
            sum(part / square for part, square in zip(parts, of.squares)) / 2 for parts in (of.inputs, of.outputs)
        )
        found[block] = (of.inner / (sizes[0] * sizes[1]), inputs, outputs)
    return found, left_out


@torch.no_grad()
def _factors(module: LoRA) -> tuple[Tensor, Tensor]:
    up, down = (matrix(tensor.detach()).to("cpu", torch.float64) for tensor in (module.up, module.down))
    return up * module.scale, down


@torch.no_grad()
def _add(sums: _Sums, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    """Add a layer: its inner product, both squares, and each one's squared norm inside the other's subspaces."""

    def square(up: Tensor, down: Tensor) -> float:
        return float(((up.T @ up) * (down @ down.T)).sum())

    sums.inner += float(((one[0].T @ other[0]) * (one[1] @ other[1].T)).sum())
    spaces = [(torch.linalg.qr(up)[0], torch.linalg.qr(down.T)[0]) for up, down in (one, other)]
    pairs = ((one, spaces[1]), (other, spaces[0]))
    squares, inputs, outputs = [], [], []
    for (up, down), (writes, reads) in pairs:
        squares.append(square(up, down))
        inputs.append(square(up, down @ reads))
        outputs.append(square(writes.T @ up, down))
    sums.squares = (sums.squares[0] + squares[0], sums.squares[1] + squares[1])
    sums.inputs = (sums.inputs[0] + inputs[0], sums.inputs[1] + inputs[1])
    sums.outputs = (sums.outputs[0] + outputs[0], sums.outputs[1] + outputs[1])


def _effects(model: Model, networks: Sequence[Network], grid: SamplingGrid) -> dict[str, float]:
    """Return the cosine of what each block alone changes, at the points of the first LoRA's trajectories.

    Both LoRAs are measured at the same latents, one after the other.
    """
    grid = grid.with_timesteps(TIMESTEPS)
    with instrument(model, networks[0], grid) as instrumented:
        points = list(walk(instrumented).points)
        firsts = list(_changes(points, lambda point: one_only(instrumented, point)))
    with instrument(model, networks[1], grid) as other:
        seconds = list(_changes(points, lambda point: one_only(other, point)))
    found = {}
    for block in firsts[0].keys() & seconds[0].keys():
        inner, squares = 0.0, [0.0, 0.0]
        for point, one, two in zip(points, firsts, seconds):
            inner += point.stretch * float((one[block] * two[block]).sum())
            squares[0] += point.stretch * float(one[block].square().sum())
            squares[1] += point.stretch * float(two[block].square().sum())
        if all(squares):
            found[block] = inner / math.sqrt(squares[0] * squares[1])
    return found


def _changes(points: Sequence[TrajectoryPoint], measure: Callable[[TrajectoryPoint], Changes]) -> Iterator[Changes]:
    for point in points:
        yield {block: change.double().cpu() for block, change in measure(point).items()}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
