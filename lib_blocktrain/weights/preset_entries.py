"""The entries of a preset string, `IN04-OUT02=0.5,OUT03.attn2=0.5,OUT=1@0-0.4,start=5`, and its single values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from lib_blocktrain.blocks import BASE, REST, Architecture
from lib_blocktrain.weights.block_weights import number
from lib_blocktrain.weights.curves import Curve, Strength, read_curve, read_strength
from lib_blocktrain.weights.elements import ELEMENTS, exists
from lib_blocktrain.weights.layer_weights import Gate, LayerRule, LayerWeights
from lib_blocktrain.weights.tag_steps import ALWAYS, STEP_ITEMS, Steps, TagError, read_steps
from lib_blocktrain.weights.text_spans import PresetStringError, Span

if TYPE_CHECKING:
    from random import Random

RANDOM_RANGES = {"R": (0.0, 1.0), "U": (-0.5, 1.5)}
STRENGTH = "strength"
_GATES = (*STEP_ITEMS, STRENGTH)  # entries that are no block's


class Entries(NamedTuple):
    """What the entries of a string say: weights by block, and what acts by kind of layer and over the steps."""

    given: dict[str, float]
    rules: tuple[LayerRule, ...]
    gates: tuple[Gate, ...]


class EntryReader:
    """Reads entries and values for one architecture, and collects the notices."""

    def __init__(self, architecture: Architecture, seed: int | None, x: float | None):
        self.architecture = architecture
        self.seed = seed
        self.x = x
        self.notices: list[str] = []
        self.first_rule = 0  # the position of the first weight for a kind of layer or over the steps

    def changed(self, weights: LayerWeights, body: Span) -> LayerWeights:
        """Return the weights with the changes that this says."""
        found = self.entries(body, weights.rules, weights.gates)
        return LayerWeights(weights.blocks.replace(found.given), found.rules, found.gates)

    def entries(self, body: Span, before: tuple[LayerRule, ...] = (), gates: tuple[Gate, ...] = ()) -> Entries:
        """Return what the entries say; what was said before of the same is gone."""
        given: dict[str, float] = {}
        rules = list(before)
        entries = self._targets_and_values(body)
        of_gates = [entry for entry in entries if entry[0].text in _GATES]
        for target, values in entries:
            if target.text in _GATES:
                continue
            named, dot, element = target.text.partition(".")
            block_ids = self._targets(target.cut(0, len(named)).strip())
            value, drawn = self._number_or_curve(values)
            if isinstance(value, Curve):
                block_ids = self._without_base(block_ids, target)
            if dot:
                self._check_element(element, block_ids, target)
            rules = list(_without(rules, block_ids, element))
            if not dot:
                given |= dict.fromkeys(block_ids, value.at(1, None) if isinstance(value, Curve) else value)
            if dot or isinstance(value, Curve):
                self.first_rule = self.first_rule or target.position
                if rules and (rules[-1].element, rules[-1].value) == (element, value):
                    block_ids = (*rules.pop().blocks, *block_ids)
                rules.append(LayerRule(block_ids, element, value))
            if drawn:
                self.notices.append(f"{target.text}: {drawn}")
        return Entries(given, tuple(rules), self._gates(of_gates, gates))

    def _gates(self, entries: list[tuple[Span, list[Span]]], before: tuple[Gate, ...]) -> tuple[Gate, ...]:
        """Return what acts on all layers over the steps: the steps between `start=` and `stop=`, and `strength=`."""
        steps = next((gate for gate in before if isinstance(gate, Steps)), ALWAYS)
        strength = next((gate for gate in before if isinstance(gate, Strength)), None)
        for target, values in entries:
            self.first_rule = self.first_rule or target.position
            if target.text == STRENGTH:
                strength = read_strength(";".join(value.text for value in values))
                continue
            try:
                steps = read_steps({target.text: values[0].text}, steps)
            except TagError as error:
                raise target.error(str(error)) from error
        return (*(() if steps.all else (steps,)), *(() if strength is None else (strength,)))

    def _targets_and_values(self, body: Span) -> list[tuple[Span, list[Span]]]:
        """Return the entries; `0.3@0.4-1` alone goes on with the curve before it."""
        found: list[tuple[Span, list[Span]]] = []
        for entry in body.split(","):
            if not entry.text:
                raise entry.error("empty entry: expected, for example, IN04-OUT02=0.5")
            if "=" in entry.text:
                target, written = entry.partition("=")
                found.append((target, [written]))
            elif "@" in entry.text and found and "@" in found[-1][1][0].text:
                found[-1][1].append(entry)
            else:
                raise entry.error(f"{entry.shown}: expected, for example, IN04-OUT02=0.5")
        return found

    def _number_or_curve(self, values: list[Span]) -> tuple[float | Curve, str | None]:
        if "@" not in values[0].text:
            return self.value(values[0])
        points = []
        for written in values:
            value, position = written.partition("@")
            points.append((self.value(value)[0], position))
        return read_curve(points), None

    def _without_base(self, block_ids: tuple[str, ...], target: Span) -> tuple[str, ...]:
        """Return the blocks of a curve; `*` is all of the U-Net then."""
        if block_ids == (BASE,):
            raise target.error(f"{BASE} over the steps: the prompt is encoded before the first, expected a number")
        return tuple(block_id for block_id in block_ids if block_id != BASE)

    def _check_element(self, element: str, block_ids: tuple[str, ...], target: Span) -> None:
        there = [block_id for block_id in block_ids if block_id != REST]
        if not re.fullmatch("[a-z0-9_]+", element) or not any(exists(element, b, self.architecture.id) for b in there):
            raise target.error(
                f"{target.shown}: no such layer: expected {', '.join(ELEMENTS)}, or a part of a layer's name, as to_v"
            )

    def _targets(self, target: Span) -> tuple[str, ...]:
        """Return the blocks that the left side of an entry stands for."""
        ids = self.architecture.block_ids
        if target.text == "*":
            return (*ids, BASE, REST)
        if target.text in (BASE, REST):
            return (target.text,)
        if target.text in ("IN", "OUT"):
            return tuple(block_id for block_id in ids if block_id.startswith(target.text))
        if target.text == "MID":
            return ("M00",)
        ends = target.split("-")
        for end in ends:
            if end.text not in ids:
                hint = f"expected {ids[0]}..{ids[-1]}, IN, MID, OUT, {BASE}, {REST} or *"
                lacks = f"{self.architecture.title} has no block {end.shown}"
                raise end.error(f"{lacks}: {hint}")
        first, last = ids.index(ends[0].text), ids.index(ends[-1].text)
        if len(ends) > 2 or last < first:
            raise target.error(f"{target.shown}: expected a first and a last block, in the order of the forward pass")
        return ids[first : last + 1]

    def is_target(self, body: Span) -> bool:
        """Whether this alone stands for blocks: `OUT09`, `IN04-OUT02`."""
        try:
            return bool(self._targets(body))
        except PresetStringError:
            return False

    def value(self, item: Span) -> tuple[float, str | None]:
        """Return a value and, for R, U and X, a notice."""
        if item.text in RANDOM_RANGES:
            return self._draw(item)
        if item.text.startswith("X"):
            step = item.cut(1).strip()
            if not step.text or step.text[0] in "+-":
                return self._from_x(item, step.number() if step.text else 0.0)
        return item.number(), None

    def _draw(self, item: Span) -> tuple[float, str]:
        if self.seed is None:
            raise item.error(f"{item.shown} is drawn at random: expected a seed with it")
        low, high = RANDOM_RANGES[item.text]
        value = round(low + (high - low) * self.random.random(), 3)  # short enough to copy
        return value, f"{item.text} drawn as {number(value)} (seed {self.seed})"

    @cached_property
    def random(self) -> Random:
        """The source of random values, from the seed."""
        from random import Random  # rarely needed, and slow to import

        return Random(self.seed)

    def _from_x(self, item: Span, step: float) -> tuple[float, str]:
        if self.x is None:
            raise item.error(f"{item.shown}: expected a value of x with it")
        value = Span(repr(self.x + step), item.position).number()
        return value, f"{item.text} is {number(value)}"


def _without(rules: list[LayerRule], block_ids: tuple[str, ...], element: str) -> Iterator[LayerRule]:
    """Yield the rules without these blocks: those for this element, or all if it is ""."""
    for rule in rules:
        if element and rule.element != element:
            yield rule
            continue
        left = tuple(block_id for block_id in rule.blocks if block_id not in block_ids)
        if left:
            yield replace(rule, blocks=left)
