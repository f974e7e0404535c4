"""Smaller files: the modules of a network at a lower rank, by singular value decomposition, block by block."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters import LoRA, NetworkModule
from lib_blocktrain.networks.adapters.base import matrix
from lib_blocktrain.networks.cards import RECORD
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.header import json_object
from lib_blocktrain.weights.block_weights import kohya_entries, number

KEPT_NORM = 0.99  # the share of a block's norm that "auto" keeps


@dataclass(frozen=True)
class BlockReduction:
    """A block before and after: the highest ranks of its modules, and |delta' - delta| / |delta| (Frobenius)."""

    rank_before: int
    rank: int
    error: float


@dataclass(frozen=True)
class Reduction:
    """What was reduced: `blocks` by id, and the `error` of the whole network; `kept` modules stay as they are."""

    blocks: Mapping[str, BlockReduction]
    error: float
    numbers_before: int
    numbers: int
    kept: int

    def to_json(self) -> dict[str, object]:
        return {**vars(self), "blocks": {block: vars(found) for block, found in self.blocks.items()}}


@dataclass(frozen=True)
class _Factors:
    """A LoRA module's delta weight as `left` (out, rank) diag(values) `right` (rank, in * k * k), orthonormal."""

    module: LoRA
    left: Tensor
    values: Tensor
    right: Tensor


def reduced(network: Network, rank: int | None = None, keep: float = KEPT_NORM) -> tuple[Network, Reduction]:
    """Return the network with its LoRA modules at a lower rank, and what that changes.

    The rank is `rank`, or, where it is None, the lowest for each block that keeps the share `keep` of the norm of the
    block's delta weights; linear layers and convolutions of a block have ranks of their own. All modules get one alpha,
    since diffusers (0.35) reads one for a file. Modules of other algorithms, and LoRA's CP form, stay as they are.
    Raises ValueError for a rank or share out of range, and a network without such modules.
    """
    if rank is not None and rank < 1:
        raise ValueError(f"rank {rank}: expected 1 or more, or auto")
    if not 0 < keep <= 1:
        raise ValueError(f"{keep:g} of the norm: expected a share, more than 0, up to 1")
    groups: dict[tuple[str, bool], list[_Factors]] = {}
    for key, module in network.modules.items():
        if _reducible(module):
            assert isinstance(module, LoRA)
            groups.setdefault((network.block_of(key), _is_kernel(module)), []).append(_factors(module))
    if not groups:
        raise ValueError(f"{network.name!r} has no LoRA modules whose rank could be lowered")
    alpha = _common_alpha([found.module for group in groups.values() for found in group])
    changed: dict[str, NetworkModule] = {}
    for group in groups.values():
        lowest = rank or _rank_that_keeps(group, keep)
        changed |= {found.module.key: _cut(found, lowest, alpha) for found in group}
    modules = {key: changed.get(key, module) for key, module in network.modules.items()}
    report = _report(network, changed)
    metadata = _metadata(network, changed, alpha, report)
    return replace(network, modules=modules, metadata=metadata, path=None), report


def _reducible(module: NetworkModule) -> bool:
    return isinstance(module, LoRA) and module.mid is None


def _is_kernel(module: LoRA) -> bool:
    return math.prod(module.down.shape[2:]) > 1


@torch.no_grad()
def _factors(module: LoRA) -> _Factors:
    """Decompose up @ down by QR of both: the cost is that of matrices of the rank, not of the layer's."""
    up, down = (matrix(tensor.detach()).to("cpu", torch.float64) for tensor in (module.up, module.down))
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    u, values, vh = torch.linalg.svd(upper @ lower.T * module.scale)
    return _Factors(module, left @ u, values, vh @ right.T)


def _rank_that_keeps(group: list[_Factors], share: float) -> int:
    """Return the lowest rank at which the modules together keep this share of their norm."""
    longest = max(len(found.values) for found in group)
    squares = torch.zeros(longest, dtype=torch.float64)
    for found in group:
        squares[: len(found.values)] += found.values.square()
    kept = squares.cumsum(0)
    if not kept[-1]:
        return 1
    enough = (kept >= share**2 * kept[-1] * (1 - 1e-12)).nonzero()
    return int(enough[0]) + 1


def _cut(found: _Factors, rank: int, alpha: float) -> LoRA:
    module = found.module
    if rank >= module.rank and module.effective_alpha == alpha:
        return module  # as it is, to the last bit
    rank = min(rank, len(found.values))
    root = found.values[:rank].sqrt()
    dtype = module.up.dtype if module.up.element_size() > 1 else torch.float16
    up = found.left[:, :rank] * root * (rank / alpha)
    down = root[:, None] * found.right[:rank]
    return LoRA(
        module.key,
        alpha=alpha,
        down=down.reshape(rank, *module.down.shape[1:]).to(dtype),
        up=up.reshape(module.up.shape[0], rank, *module.up.shape[2:]).to(dtype),
    )


def _common_alpha(modules: list[LoRA]) -> float:
    alphas = {module.effective_alpha for module in modules}
    return alphas.pop() if len(alphas) == 1 else float(max(module.rank for module in modules))


def _report(network: Network, changed: Mapping[str, NetworkModule]) -> Reduction:
    squares: dict[str, list[float]] = {}  # by block: of the difference, of the delta
    ranks: dict[str, list[int]] = {}
    for key, after in changed.items():
        before = network.modules[key]
        assert isinstance(before, LoRA)
        assert isinstance(after, LoRA)
        own, cross, other = _inner(before, before), _inner(before, after), _inner(after, after)
        sums = squares.setdefault(network.block_of(key), [0.0, 0.0])
        sums[0] += max(0.0, own - 2 * cross + other)
        sums[1] += own
        highest = ranks.setdefault(network.block_of(key), [0, 0])
        highest[0], highest[1] = max(highest[0], before.rank), max(highest[1], after.rank)
    blocks = {
        block: BlockReduction(highest[0], highest[1], _ratio(*squares[block])) for block, highest in ranks.items()
    }
    total = [sum(column) for column in zip(*squares.values(), strict=True)]
    before_count = sum(_count(module) for module in network.modules.values())
    after_count = sum(_count(changed.get(key, module)) for key, module in network.modules.items())
    kept = len(network.modules) - len(changed)
    return Reduction(blocks, _ratio(total[0], total[1]), before_count, after_count, kept)


@torch.no_grad()
def _inner(one: LoRA, other: LoRA) -> float:
    """Return the inner product of two delta weights, by their factors."""
    up, down = (matrix(tensor.detach()).to("cpu", torch.float64) for tensor in (one.up, one.down))
    other_up, other_down = (matrix(tensor.detach()).to("cpu", torch.float64) for tensor in (other.up, other.down))
    return float(((up.T @ other_up) * (down @ other_down.T)).sum() * one.scale * other.scale)


def _ratio(difference: float, whole: float) -> float:
    return math.sqrt(difference / whole) if whole else 0.0


def _count(module: NetworkModule) -> int:
    return sum(tensor.numel() for tensor in module.to_tensors().values() if tensor.ndim)


def _metadata(
    network: Network, changed: Mapping[str, NetworkModule], alpha: float, report: Reduction
) -> dict[str, str]:
    """Return the metadata with the new ranks where programs look for them, and a record of what was reduced."""
    ranks = dict(_ranks(network, changed))
    linear = {block: rank for (block, is_kernel), rank in ranks.items() if not is_kernel}
    kernels = {block: rank for (block, is_kernel), rank in ranks.items() if is_kernel}
    arguments = json_object(network.metadata.get("ss_network_args", ""))
    for prefix, found in (("", linear), ("conv_", kernels)):
        for name in ("block_dims", "block_alphas"):
            arguments.pop(f"{prefix}{name}", None)
        if len(set(found.values())) > 1:
            entries = [found.get(block, 0) for block in kohya_entries(network.architecture)]
            arguments[f"{prefix}block_dims"] = ",".join(map(str, entries))
            arguments[f"{prefix}block_alphas"] = ",".join(number(alpha) if rank else "0" for rank in entries)
    if kernels:
        arguments |= {"conv_dim": str(max(kernels.values())), "conv_alpha": number(alpha)}
    record = json_object(network.metadata.get(RECORD, ""))
    record["reduced"] = {"ranks": {**linear, **{f"{b}.conv": r for b, r in kernels.items()}}, "error": report.error}
    return {
        **network.metadata,
        "ss_network_dim": str(max(linear.values(), default=max(ranks.values()))),
        "ss_network_alpha": number(alpha),
        **({"ss_network_args": json.dumps(arguments)} if arguments else {}),
        RECORD: json.dumps(record),
    }


def _ranks(network: Network, changed: Mapping[str, NetworkModule]) -> Iterator[tuple[tuple[str, bool], int]]:
    """Yield the highest rank of each block's linear layers and of its convolutions."""
    found: dict[tuple[str, bool], int] = {}
    for key, module in changed.items():
        assert isinstance(module, LoRA)
        group = (network.block_of(key), _is_kernel(module))
        found[group] = max(found.get(group, 0), module.rank)
    yield from found.items()
