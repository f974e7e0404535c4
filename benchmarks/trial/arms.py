"""The arms that are compared: which weights, how they are found, where they act (in training or at inference)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.trial.measures import norm_of, parameters_of
from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse

RANK = 8
SD1 = "sd1"
ATTENTION = tuple(block.id for block in ARCHITECTURES[SD1].blocks if block.lora_modules)  # what a LoRA reaches
MULTIPLIERS = (0.4, 0.7, 1.0)
TENTH = 0.1  # of the steps, before a search for the weights to train under


@dataclass(frozen=True)
class Plan:
    """How an arm comes to its pictures.

    `trained` names the training whose file it takes; `weights` are those in training, `inference` those on the finished
    file; `multipliers` the strengths at which it is drawn, `rank` the network's. `rival` is another remedy in training,
    with the weights or without: one of RIVALS. `part` is the share of the steps that it is trained for.
    """

    trained: str
    weights: BlockWeights
    rank: int = RANK
    inference: BlockWeights | None = None
    multipliers: tuple[float, ...] = MULTIPLIERS
    rival: str = ""
    part: float = 1.0

    @property
    def strength(self) -> float:
        """The strength that stands for the arm where one must."""
        return 1.0 if 1.0 in self.multipliers else self.multipliers[0]

    @property
    def file_stem(self) -> str:
        return re.sub("[^a-z0-9]+", "-", self.trained)


class Replicate(Protocol):
    """What an arm may ask of the replicate that it belongs to; see `benchmarks.trial.replicate`."""

    @property
    def name(self) -> str: ...

    def plan(self, arm: str) -> Plan: ...

    def rank_of(self, arm: str) -> int: ...

    def network(self, plan: Plan) -> Network: ...

    def analysed(self) -> BlockWeights: ...

    def solved(self, plan: Plan) -> BlockWeights: ...

    def at_other_share(self) -> Replicate: ...


Maker = Callable[[Replicate], Plan]


def weights(text: str) -> BlockWeights:
    return parse(text, SD1).weights


def on(blocks: Sequence[str]) -> BlockWeights:
    """Return weights that are 1 in these blocks and 0 in the others."""
    return BlockWeights(SD1, {block: float(block in blocks) for block in ARCHITECTURES[SD1].block_ids}, 0.0)


def kept(found: BlockWeights) -> list[str]:
    """Return the blocks with attention whose weight is not 0."""
    return [block for block in ATTENTION if found[block]]


def fixed(name: str, text: str) -> Maker:
    return lambda replicate: Plan(name, weights(text))


def from_analysis(replicate: Replicate) -> Plan:
    """Train under the weights that the analysis of this replicate's first LoRA gives."""
    return Plan("analysis", replicate.analysed())


def lower_rank(replicate: Replicate) -> Plan:
    """Train all blocks, with a rank that leaves as many numbers as the analysis's blocks have at full rank."""
    whole, part = (parameters_of(replicate.network(replicate.plan(arm))) for arm in ("all", "analysis"))
    return Plan("lower rank", weights("ALL"), rank=max(1, round(RANK * part / whole)))


def same_norm(replicate: Replicate) -> Plan:
    """Take the LoRA of all blocks at the strength that makes its delta weights as large as the analysis's."""
    whole, part = (norm_of(replicate.network(replicate.plan(arm))) for arm in ("all", "analysis"))
    return Plan("all", weights("ALL"), multipliers=(round(part / whole, 4),))


def random_blocks(replicate: Replicate) -> Plan:
    """Train as many blocks as the analysis keeps, drawn at random, and not those."""
    chosen, rng = kept(replicate.analysed()), random.Random(f"blocks {replicate.name}")
    drawn = sorted(rng.sample(ATTENTION, len(chosen)))
    while len(chosen) < len(ATTENTION) and drawn == sorted(chosen):
        drawn = sorted(rng.sample(ATTENTION, len(chosen)))
    return Plan("random", on(drawn))


def at_inference(text: str | None = None) -> Maker:
    """Take the LoRA of all blocks, and weigh it when it is used: by these weights, or by the analysis's."""

    def plan(replicate: Replicate) -> Plan:
        found = replicate.analysed() if text is None else weights(text)
        return Plan("all", weights("ALL"), inference=found)

    return plan


def by_other_share(replicate: Replicate) -> Plan:
    """Train under the weights that the analysis found where the subject has another share of the canvas."""
    return Plan("crossed", replicate.at_other_share().analysed())


def solved(replicate: Replicate) -> Plan:
    """Take the LoRA of all blocks under the weights that the search finds: the subject kept, the rest dropped."""
    found = replicate.solved(Plan("all", weights("ALL")))
    return Plan("all", weights("ALL"), inference=found)


def solved_before_training(replicate: Replicate) -> Plan:
    """Search on a LoRA of all blocks that was trained for a tenth of the steps, and train under the weights found.

    Those below 0 become 0, no training: a run refuses negative weights.
    """
    found = replicate.solved(Plan("a tenth", weights("ALL"), part=TENTH))
    trained = {block: max(found[block], 0.0) for block in ARCHITECTURES[SD1].block_ids}
    return Plan("solved before training", found.replace(trained))


def with_rival(name: str, text: str, rival: str) -> Maker:
    return lambda replicate: Plan(name, weights(text), rival=rival)


def lower_rank_out(replicate: Replicate) -> Plan:
    """Train the OUT blocks with the rank of *lower rank*."""
    return Plan("out, lower rank", weights("OUT=1"), rank=replicate.rank_of("lower rank"))


ALL = {"all": fixed("all", "ALL")}
RIVALS = {  # the field's other remedies against what a LoRA learns with its subject
    "t-lora": "fewer ranks at high noise (Soboleva et al. 2025, 2507.05964)",
    "masked": "loss only where the subject is",
    "prior": "regularisation pictures of other subjects (DreamBooth, Ruiz et al. 2022, 2208.12242)",
    "preservation": "differential output preservation: the model's own prediction for another word in the caption",
    "dropout": "three captions in ten left out",
}
RIVAL_ARMS: dict[str, Maker] = {  # each alone, and with block weights
    **{rival: with_rival(rival, "ALL", rival) for rival in RIVALS},
    **{f"out, {rival}": with_rival(f"out, {rival}", "OUT=1", rival) for rival in RIVALS},
}
BIASED: dict[str, Maker] = {  # in the order in which they are made: what needs no training of its own early
    **ALL,
    "analysis at inference": at_inference(),
    "analysis": from_analysis,
    "same norm": same_norm,
    "out": fixed("out", "OUT=1"),
    "random": random_blocks,
    "lower rank": lower_rank,
    "in": fixed("in", "IN=1"),
}
SEARCHED: dict[str, Maker] = {"solved": solved, "solved before training": solved_before_training}
BESIDE_RIVALS: dict[str, Maker] = {**BIASED, **RIVAL_ARMS, "out, lower rank": lower_rank_out, **SEARCHED}
FACE = "OUT03-OUT05"
DRESSED: dict[str, Maker] = {
    **ALL,
    "without the face": fixed("without the face", f"*=1,{FACE}=0"),
    "face lowered": fixed("face lowered", f"*=1,{FACE}=0.3"),
    "face only": fixed("face only", f"{FACE}=1"),
    "without at inference": at_inference(f"*=1,{FACE}=0"),
    "out": fixed("out", "OUT=1"),
    **RIVAL_ARMS,
    **SEARCHED,
}
SHARE: dict[str, Maker] = {**ALL, "matched": from_analysis, "crossed": by_other_share}
