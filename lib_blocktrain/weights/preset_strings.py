"""Preset strings: the text forms of block weights, read for one architecture.

    FACE:1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0    17 values, LoRA Block Weight's form for SD1; also 12, 19, 20, 25, 26
    OUTD                                      the name of a preset
    OUTD,IN08=-0.4                            a preset with changes
    *=1,IN04-OUT02=0.5,OUT=0                  ranges; the later entry wins, * is everything, blocks not named are 0
    OUTD,OUT03.attn2=0.5,*.ff=0               for a kind of layer (elements.py), in place of the block's weight
    OUTD,OUT=1@0-0.4,0.3@0.4-1                over the steps (curves.py)
    OUTD,start=5,stop=20,strength=0.5@0,1@1   all of it in these steps (tag_steps.py), at this strength (curves.py)
    down_lr_weight=... mid_lr_weight=...      sd-scripts' network_args (kohya_arguments.py)
    {"architecture": "sd1", "weights": ...}   JSON, as BlockWeights.to_json

Changes may follow values, too. Values may be R (random, 0 to 1), U (random, -0.5 to 1.5), X and X+0.1. After `|` follow
attributes: `arch=` (the architecture that it was made for), `canvas=` (the feature's share of the canvas, 0 to 1),
`rest=` (the weight of REST). `#` begins a comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from lib_blocktrain import blocks
from lib_blocktrain.blocks import ARCHITECTURES, BASE, BLOCK_IDS, REST, Architecture, spans
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.curves import Curve
from lib_blocktrain.weights.kohya_arguments import has_kohya_arguments, read_kohya_arguments
from lib_blocktrain.weights.layer_weights import Gate, LayerRule, LayerWeights
from lib_blocktrain.weights.preset_entries import RANDOM_RANGES, EntryReader
from lib_blocktrain.weights.presets import Preset, shipped_presets
from lib_blocktrain.weights.text_spans import NUMBER, PresetStringError, Span

if TYPE_CHECKING:
    pass

__all__ = ["FORMS", "Form", "Parsed", "PresetStringError", "parse"]


class Form(NamedTuple):
    """A list of a certain length: the block of each value, and the architectures that have these blocks."""

    entries: tuple[str, ...]
    architectures: tuple[str, ...]


def _with_attention(architecture_id: str) -> tuple[str, ...]:
    return tuple(block.id for block in blocks.architecture(architecture_id).blocks if block.lora_modules)


LONGEST = 20_000  # characters, ten times as many as the longest useful string has
NEAREST = 3  # presets that an error about an unknown name lists
_SD, _SDXL = ("sd1", "sd2"), ("sdxl",)
FORMS = {  # by the number of values
    12: Form((BASE, *_with_attention("sdxl")), _SDXL),
    17: Form((BASE, *_with_attention("sd1")), _SD),
    19: Form(ARCHITECTURES["sdxl"].block_ids, _SDXL),
    20: Form((BASE, *ARCHITECTURES["sdxl"].block_ids), _SDXL),
    25: Form(BLOCK_IDS, (*_SD, *_SDXL)),
    26: Form((BASE, *BLOCK_IDS), (*_SD, *_SDXL)),
}


@dataclass(frozen=True)
class Parsed:
    """A preset string as it was read; `notices` are for its author: what was left out, dropped or drawn.

    `rules` are for kinds of layers and over the steps, `gates` for all; only `parse(..., layers=True)` gives any.
    """

    weights: BlockWeights
    form: str
    name: str | None = None
    notices: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[LayerRule, ...] = ()
    gates: tuple[Gate, ...] = ()

    @property
    def layers(self) -> LayerWeights:
        """The weights with the rules and gates."""
        return LayerWeights(self.weights, self.rules, self.gates)

    @property
    def acting(self) -> BlockWeights | LayerWeights:
        """The weights as a network acts under them: with the rules and gates, if there are any."""
        return self.layers.simplest

    @property
    def area_share(self) -> float | None:
        """The feature's share of the canvas, 0 to 1, None if the string has none."""
        return float(self.attributes["canvas"]) if "canvas" in self.attributes else None


def parse(
    text: str,
    architecture: str,
    *,
    seed: int | None = None,
    x: float | None = None,
    presets: Mapping[str, Preset] | None = None,
    layers: bool = False,
) -> Parsed:
    """Read a preset string for this architecture ("sd1", "sd2", "sdxl").

    `seed` is for R and U, `x` for X, `presets` (by default the shipped ones) for names. With `layers` it may hold
    weights for kinds of layers and over the steps; where these cannot act they are an error. Raises PresetStringError,
    which has the position of the error.
    """
    if presets is None:
        presets = {preset.name: preset for preset in shipped_presets()}
    reader = _Reader(blocks.architecture(architecture), seed, x, presets)
    try:
        parsed = reader.read(text)
        if parsed.layers.changes and not layers:
            raise _one_number_a_block(parsed.layers, reader)
        return parsed
    except PresetStringError as error:
        hint = _width_hint(text)
        if hint is None:
            raise
        raise PresetStringError(f"{error.message}; {hint}", error.position) from error


def change(weights: LayerWeights, text: str, *, seed: int | None = None) -> LayerWeights:
    """Return the weights with these changes, `OUT03=0.5,*.ff=0`; raises PresetStringError."""
    return _Reader(blocks.architecture(weights.architecture), seed, None, {}).changed(weights, Span(text).strip())


def _one_number_a_block(weights: LayerWeights, reader: _Reader) -> PresetStringError:
    rule = next(iter(weights.rules), None)
    over_steps = rule is None or isinstance(rule.value, Curve)
    what = "a weight over the steps" if over_steps else "a weight for a kind of layer"
    said = weights.changes if rule is None else rule.text(reader.architecture.id)
    return PresetStringError(
        f"{said} is {what}, which acts in prompts, in previews and, if it is not over the"
        " steps, in baked files: expected one number for each block (training has network.elements)",
        reader.first_rule,
    )


@contextmanager
def weights_in_errors(text: str) -> Iterator[None]:
    """Raise a PresetStringError as ValueError that quotes the weights: a request may hold several."""
    try:
        yield
    except PresetStringError as error:
        raise ValueError(f"weights {Span(text).shown}: {error}") from error


def _width_hint(text: str) -> str | None:
    """What to say of the first full-width character of a text that cannot be read; Asian keyboards give ， ： ＝ １."""
    for position, character in enumerate(text[:LONGEST]):
        if "\uff01" <= character <= "\uff5e" or character == "\u3001":
            meant = "," if character == "\u3001" else chr(ord(character) - 0xFEE0)
            return f"{character!r} is a full-width character: expected {meant!r} at character {position + 1}"
    return None


def has_name(text: str) -> bool:
    """Whether a preset string begins with a name, `NAME:`."""
    kohya = has_kohya_arguments(text)  # may come quoted, as JSON or TOML, with colons between the quotes
    return re.match(r"[^,=\"'\[]*:" if kohya else "[^,=]*:", text) is not None


def has_random_values(text: str) -> bool:
    """Whether a preset string holds R or U, for which values are drawn."""
    return any(word in RANDOM_RANGES for word in re.split(r"[\s,=|:]+", text))


class _Reader(EntryReader):
    """Reads one string and collects the notices."""

    def __init__(self, architecture: Architecture, seed: int | None, x: float | None, presets: Mapping[str, Preset]):
        super().__init__(architecture, seed, x)
        self.presets = presets

    def read(self, text: str) -> Parsed:
        if len(text) > LONGEST:
            raise PresetStringError(f"{len(text)} characters: expected up to {LONGEST}", LONGEST)
        if text.lstrip().startswith("{"):
            return self._json(Span(text))
        line = Span(text).cut(0, text.find("#") if "#" in text else None)
        body, tail = line.partition("|")
        attributes = self._attributes(tail)
        if not body.text:
            raise body.error("nothing written: expected a preset's name, values, or ranges such as IN04-OUT02=0.5")
        parsed = self._body(body)
        if "rest" in attributes:
            rest, drawn = self.value(attributes["rest"])
            if drawn:
                self.notices.append(f"{REST}: {drawn}")
            parsed = replace(parsed, weights=parsed.weights.replace({REST: rest}))
        words = {**parsed.attributes, **{key: value.text for key, value in attributes.items()}}
        return replace(parsed, attributes=words, notices=(*parsed.notices, *self.notices))

    def _body(self, body: Span) -> Parsed:
        name = None
        if has_name(body.text):
            name, body = body.partition(":")
            if not name.text:
                raise name.error("no name before the colon")
        if has_kohya_arguments(body.text):
            weights, notices = read_kohya_arguments(body, self.architecture)
            self.notices += notices
            form = "kohya network_args"
        elif "=" in body.text and self._begins_with_preset(body):
            return self._changed_preset(body, name.text if name else None)
        elif "=" in body.text and re.match(rf"{NUMBER}\s*,|[RUX][^=]*,", body.text):
            return self._changed_list(body, name.text if name else None)
        elif "=" in body.text:
            return replace(self._ranges(body), name=name.text if name else None)
        elif name or "," in body.text or re.fullmatch(NUMBER, body.text):
            weights, form = self._list(body)
        else:
            return self._preset(body)
        return Parsed(weights, form, name.text if name else None)

    def _list(self, body: Span) -> tuple[BlockWeights, str]:
        """Read values in the order of the form that has this many."""
        items = body.split(",")
        values = [self.value(item) for item in items]
        form = self._form(items, body)
        given = {}
        for block_id, (value, drawn) in zip(form.entries, values, strict=True):
            given[block_id] = value
            if drawn:
                self.notices.append(f"{block_id}: {drawn}")
        dropped = [block_id for block_id in given if block_id not in (BASE, *self.architecture.block_ids)]
        if dropped:
            blocks_there = f"{self.architecture.title} has {len(self.architecture.blocks)} blocks"
            self.notices.append(f"{spans(dropped)} dropped: {blocks_there}")
        return self._weights(given, f"not in the {len(items)}-value form"), f"{len(items)} values"

    def _form(self, items: list[Span], body: Span) -> Form:
        form, title = FORMS.get(len(items)), self.architecture.title
        known = [count for count, form in FORMS.items() if self.architecture.id in form.architectures]
        if form and self.architecture.id in form.architectures:
            return form
        expected = f"expected {', '.join(map(str, known[:-1]))} or {known[-1]} for {title}"
        if form:
            owners = " and ".join(ARCHITECTURES[owner].title for owner in form.architectures)
            raise body.error(f"{len(items)} values are a form of {owners}: {expected}")
        surplus = items[known[-1] :]
        where = surplus[0] if surplus else Span("", body.end)
        raise where.error(f"{len(items)} value{'s' * (len(items) > 1)}: {expected}")

    def _ranges(self, body: Span) -> Parsed:
        """Read `IN04-OUT02=0.5,OUT=1`; the later entry wins."""
        found = self.entries(body)
        if not found.given and found.gates and not found.rules:
            raise body.error(f"{body.shown} alone: expected weights before it, such as ALL,{body.text[:40]}")
        return Parsed(self._weights(found.given, "not named"), "ranges", rules=found.rules, gates=found.gates)

    def _changed_list(self, body: Span, name: str | None) -> Parsed:
        """Read values with changes behind them, `1,0,...,OUT03.attn2=0.5`."""
        items = body.split(",")
        count = next(index for index, item in enumerate(items) if "=" in item.text)
        values = body.cut(0, items[count - 1].end - body.position)
        weights, form = self._list(values)
        changed = self.changed(LayerWeights(weights), body.cut(items[count].position - body.position))
        return Parsed(changed.blocks, f"{form} with changes", name, rules=changed.rules, gates=changed.gates)

    def _begins_with_preset(self, body: Span) -> bool:
        """Whether the first entry is a name, of a preset that is there or not: `OUTD,IN08=-0.4`."""
        first, rest = body.partition(",")
        return "=" not in first.text and bool(rest.text) and re.match(NUMBER, first.text) is None and bool(first.text)

    def _changed_preset(self, body: Span, name: str | None) -> Parsed:
        first, rest = body.partition(",")
        if first.text not in self.presets and self.is_target(first):
            raise first.error(f"{first.shown}: expected, for example, {first.text}=0.5")
        base = self._preset(first)
        changed = self.changed(base.layers, rest)
        rules, gates, form = changed.rules, changed.gates, "preset with changes"
        return Parsed(changed.blocks, form, name or base.name, base.notices, rules=rules, gates=gates)

    def _weights(self, given: dict[str, float], why: str) -> BlockWeights:
        """Return the weights; a notice says that blocks which were not given are 0, and that BASE is 1."""
        omitted = [block_id for block_id in self.architecture.block_ids if block_id not in given]
        if omitted:
            self.notices.append(f"{spans(omitted)} {why}: set to 0")
        if BASE not in given:
            self.notices.append(f"{BASE} {why}: set to 1")
        values = {block_id: given.get(block_id, 0.0) for block_id in self.architecture.block_ids}
        return BlockWeights(self.architecture.id, values, given.get(BASE, 1.0), given.get(REST))

    def _preset(self, body: Span) -> Parsed:
        preset = self.presets.get(body.text)
        if preset is None and self.is_target(body):
            self.notices.append(f"{body.text} is read as {body.text}=1")
            return self._ranges(Span(f"{body.text}=1", body.position))
        if preset is None:
            raise body.error(f"unknown preset {body.shown}: {self._near(body.text)}")
        if self.architecture.id not in preset.architectures:
            owners = " and ".join(ARCHITECTURES[owner].title for owner in preset.architectures)
            raise body.error(f"preset {body.shown} is for {owners}, not for {self.architecture.title}")
        try:
            text = preset.on(self.architecture.id).text
            parsed = parse(text, self.architecture.id, seed=self.seed, x=self.x, presets={}, layers=True)
        except PresetStringError as error:
            raise body.error(f"preset {body.shown}: {error}") from error
        return replace(parsed, form="preset", name=body.text)

    def _near(self, name: str) -> str:
        """Name the nearest presets for this architecture."""
        from difflib import get_close_matches

        folded = {p.name.casefold(): p.name for p in self.presets.values() if self.architecture.id in p.architectures}
        if not folded:
            return f"there is no preset for {self.architecture.title}"
        sought = name[:60].casefold()
        near = [match for match in folded if sought in match] or get_close_matches(sought, folded, NEAREST, 0.5)
        if near:
            return f"did you mean {' or '.join(folded[match] for match in near[:NEAREST])}?"
        nearest = get_close_matches(sought, folded, NEAREST, 0.0)
        return f"the nearest of {len(folded)} are {', '.join(folded[match] for match in nearest)}"

    def _attributes(self, span: Span) -> dict[str, Span]:
        """Read `arch=sdxl canvas=0.12 rest=0`; unknown attributes are kept, with a notice."""
        attributes: dict[str, Span] = {}
        for match in re.finditer(r"[^\s,|]+", span.text):
            word = span.cut(match.start(), match.end())
            key, value = word.partition("=")
            if not key.text or not value.text:
                raise word.error(f"{word.shown} after '|': expected, for example, arch=sdxl")
            if key.text in attributes:
                raise word.error(f"{key.text} is given twice")
            attributes[key.text] = value
        if "arch" in attributes:
            self._check_architecture(attributes["arch"])
        share = attributes.get("canvas")
        if share and not 0 < share.number() <= 1:
            raise share.error(f"canvas={share.text}: expected a share, more than 0, up to 1")
        unknown = [f"{key}={value.text}" for key, value in attributes.items() if key not in ("arch", "canvas", "rest")]
        if unknown:
            self.notices.append(f"{', '.join(unknown)} not known here: ignored")
        return attributes

    def _check_architecture(self, given: Span) -> None:
        if given.text not in ARCHITECTURES:
            raise given.error(f"unknown architecture {given.shown}: expected one of {', '.join(ARCHITECTURES)}")
        made_for = ARCHITECTURES[given.text]
        if made_for.block_ids != self.architecture.block_ids:
            raise given.error(f"made for {made_for.title}: expected {self.architecture.title}")
        if made_for.id != self.architecture.id:
            self.notices.append(f"made for {made_for.title}, whose blocks {self.architecture.title} has too")

    def _json(self, span: Span) -> Parsed:
        begin = span.strip()
        # integers are read as floats: one of a thousand digits becomes infinite, and is refused as such
        decoder = json.JSONDecoder(object_pairs_hook=_no_key_twice, parse_int=float)
        try:
            data, end = decoder.raw_decode(span.text, begin.position)
            tail = span.cut(end).strip()
            data = data if "weights" in data else {"weights": data}
            if "architecture" in data:
                self._check_architecture(Span(str(data["architecture"]), begin.position))
            weights = BlockWeights.from_json({**data, "architecture": self.architecture.id})
        except json.JSONDecodeError as error:
            raise PresetStringError(f"JSON: {error.msg}", error.pos) from error
        except PresetStringError:
            raise
        except (ValueError, RecursionError) as error:
            raise begin.error(f"JSON: {error}") from error
        if tail.text:
            raise tail.error(f"{tail.shown} after the JSON object: expected nothing")
        return Parsed(weights, "JSON", notices=tuple(self.notices))


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"{key!r} is given twice")
        table[key] = value
    return table
