"""Layer weights: block weights, and what differs from them by kind of layer and over the steps of sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lib_blocktrain import blocks
from lib_blocktrain.blocks import BASE, REST
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.weights.curves import Curve
from lib_blocktrain.weights.elements import is_of
from lib_blocktrain.weights.tag_steps import ALWAYS, Steps


@dataclass(frozen=True)
class LayerRule:
    """A weight of its own for some blocks, or for one kind of layer in them.

    `element` is "" for all layers, whose value is a curve, or as in `elements.is_of`. A curve is not for BASE.
    """

    blocks: tuple[str, ...]
    element: str
    value: float | Curve

    def text(self, architecture_id: str) -> str:
        """Return the rule as entries of a preset string."""
        block_ids = blocks.architecture(architecture_id).block_ids
        value = self.value.text if isinstance(self.value, Curve) else number(self.value)
        everything = {*block_ids, REST} if isinstance(self.value, Curve) else {*block_ids, BASE, REST}
        targets = ["*"] if everything == set(self.blocks) else _ranges(self.blocks, block_ids)
        return ",".join(f"{target}{'.' if self.element else ''}{self.element}={value}" for target in targets)


class Gate(Protocol):
    """A factor over the steps: a strength's curve, or the steps between `start=` and `stop=`."""

    @property
    def items(self) -> list[str]:
        """The entries of a preset string that say this."""

    def at(self, step: int, steps: int | None) -> float:
        """Return the factor in a step, counted from 1, of so many; None where only the first step is asked for."""


@dataclass(frozen=True)
class LayerWeights:
    """The weight of every layer in every step: that of its block, unless a rule says otherwise; the last rule counts.

    `gates` are factors of all layers of the U-Net: the prompt is encoded before the first step.
    """

    blocks: BlockWeights
    rules: tuple[LayerRule, ...] = ()
    gates: tuple[Gate, ...] = ()

    @classmethod
    def of(cls, weights: BlockWeights | LayerWeights) -> LayerWeights:
        """Return the weights as they are, or block weights without rules."""
        return weights if isinstance(weights, LayerWeights) else cls(weights)

    @property
    def architecture(self) -> str:
        return self.blocks.architecture

    @property
    def constant(self) -> bool:
        """Whether every step has the same weights."""
        return not self.gates and not any(isinstance(rule.value, Curve) for rule in self.rules)

    @property
    def simplest(self) -> BlockWeights | LayerWeights:
        """The block weights alone if nothing differs from them."""
        return self if self.rules or self.gates else self.blocks

    @property
    def off(self) -> bool:
        """Whether every weight is 0."""
        return not self.rules and self.blocks.off

    @property
    def whole(self) -> bool:
        """Whether this is the LoRA as it is, in every layer and step."""
        return not self.rules and not self.gates and self.blocks == BlockWeights.uniform(self.architecture, 1.0)

    def at(self, step: int, steps: int | None = None) -> LayerWeights:
        """Return the weights in a step, counted from 1, of so many; None where only the first step is asked for."""
        if self.constant:
            return self
        gate = 1.0
        for factor in self.gates:
            gate *= factor.at(step, steps)
        base, rest = self.blocks.base, self.blocks.rest * gate
        values = {block_id: value * gate for block_id, value in self.blocks.values.items()}
        rules: list[LayerRule] = []
        for rule in self.rules:
            value = rule.value.at(step, steps) if isinstance(rule.value, Curve) else rule.value
            if rule.element:
                if BASE in rule.blocks and gate != 1:
                    rules.append(replace(rule, blocks=(BASE,), value=value))
                    rule = replace(rule, blocks=tuple(block_id for block_id in rule.blocks if block_id != BASE))
                rules.append(replace(rule, value=value * gate))
                continue
            values |= {block_id: value * gate for block_id in rule.blocks if block_id in values}
            rest = value * gate if REST in rule.blocks else rest
        return LayerWeights(BlockWeights(self.architecture, values, base, rest), tuple(rules))

    def weight(self, block: str, layer: str) -> float:
        """Return the weight of a layer of this block, by its name, under constant weights (see `at`)."""
        for rule in reversed(self.rules):
            if block in rule.blocks and (not rule.element or is_of(rule.element, block, layer, self.architecture)):
                assert not isinstance(rule.value, Curve), "expected the weights of one step"
                return rule.value
        return self.blocks[block]

    def times(self, te: float, unet: float) -> LayerWeights:
        """Return the weights with those of the text encoder and of the U-Net multiplied; a curve only by 0 and 1."""
        if unet not in (0, 1):
            raise ValueError(f"{unet}: expected 0 or 1 for the U-Net, whose weights may be curves")
        values = {block_id: unet * value for block_id, value in self.blocks.values.items()}
        blocks = BlockWeights(self.architecture, values, te * self.blocks.base, unet * self.blocks.rest)
        return replace(self, blocks=blocks, rules=self.rules if unet else ())

    def with_gates(self, *gates: Gate) -> LayerWeights:
        """Return the weights with more factors of all layers of the U-Net."""
        return replace(self, gates=(*self.gates, *gates))

    def with_gates_in_one(self) -> LayerWeights:
        """Return the weights with the steps of all gates in one, as a preset string has them.

        Raises ValueError for two strengths over the steps.
        """
        steps, others = ALWAYS, []
        for gate in self.gates:
            if isinstance(gate, Steps):
                steps = steps.within(gate.as_counted)
            else:
                others.append(gate)
        if len(others) > 1:
            both = " and ".join(item for gate in others for item in gate.items)
            raise ValueError(f"{both}: expected one strength over the steps")
        return replace(self, gates=(*(() if steps.all else (steps,)), *others))

    def to_json(self) -> dict[str, object]:
        """Return plain values for `json.dumps`: those of the block weights and, if there are any, `changes`."""
        changes = {"changes": self.changes} if self.changes else {}
        return {**self.blocks.to_json(), **changes}

    @property
    def changes(self) -> str:
        """The rules and gates as entries of a preset string."""
        rules = [rule.text(self.architecture) for rule in self.rules]
        return ",".join([*rules, *(item for gate in self.gates for item in gate.items)])

    def to_line(
        self, name: str | None = None, *, with_architecture: bool = False, area_share: float | None = None
    ) -> str:
        """Return the line of the block weights, with the rules and gates as changes after the values."""
        line = self.blocks.to_line(name, with_architecture=with_architecture, area_share=area_share)
        values, bar, attributes = line.partition(" | ")
        return ",".join(filter(None, [values, self.changes])) + bar + attributes


def _ranges(found: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return the blocks as targets, those that follow each other as a range."""
    runs: list[list[str]] = []
    for block_id in found:
        if runs and block_id in order and order.index(block_id) and order[order.index(block_id) - 1] == runs[-1][-1]:
            runs[-1].append(block_id)
        else:
            runs.append([block_id])
    return [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
