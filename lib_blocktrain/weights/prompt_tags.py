"""One prompt tag `<lora:NAME:1:bw=PRESET>`, and its block weights; `tagged_prompts` has whole prompts.

    <lora:NAME:1:bw=OUTD>                 a preset, or 25 or 26 values, or ranges such as OUT=1,IN=0.5
    <lora:NAME:1:bw=card>                 what the LoRA's card recommends
    <lora:NAME:1:bw=1,R,0,...:x=0.3>      R and U are drawn from the picture's seed, X is the tag's x=
    <lora:NAME:1:bw=OUTD:start=5>         acts on the U-Net from the fifth step on (steps count from 1)
    <lora:NAME:1:bw=OUTD:stop=5>          acts before the fifth step; step=5-10 is start=5:stop=10
    <lora:NAME:1:lbw=OUTD>                LoRA Block Weight's spelling, where that is not installed; then start= and
                                          stop= count as there: start=5 acts from the sixth step on
    <lora:NAME:1:bw=OUTD,OUT03.attn2=0.5>       a weight for a kind of layer; lbwe= is read as such changes
    <lora:NAME:1:bw=OUT=1@0-0.4,0.3@0.4-1>      over the steps
    <lora:NAME:0.5@0,1@0.5>               loractl's strength over the steps, of the U-Net

The WebUI itself reads `te=` and `unet=`. Nothing here depends on a WebUI: a host passes a tag's items (the texts
between its colons) and applies the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.weights.card_preset import parse_with_card
from lib_blocktrain.weights.curves import read_strength
from lib_blocktrain.weights.elements import LBW_IDENTIFIERS, from_lbw
from lib_blocktrain.weights.layer_weights import Gate, LayerWeights
from lib_blocktrain.weights.preset_strings import PresetStringError
from lib_blocktrain.weights.preset_strings import change as with_changes
from lib_blocktrain.weights.presets import Preset
from lib_blocktrain.weights.tag_steps import ALWAYS, STEP_ITEMS, Steps, TagError, read_steps
from lib_blocktrain.weights.text_spans import Span

_OURS = ("bw", *STEP_ITEMS, "x")
_LBW = ("lbw", "lbwe")
_WEBUIS = ("te", "unet", "dyn")
# What follows `bw=NAME:` in a preset string with a name: values, or ranges such as OUT=1.
_GOES_ON = re.compile(r"[^=]*,|\s*(\*|BASE|REST|MID|M00|(IN|OUT)([0-9]{2})?)(-[A-Z0-9]+)?\s*=")
_LOOKS_LIKE_WEIGHTS = re.compile(r"\s*([A-Z][A-Z0-9._]+|[^,]+(,[^,]+){11,})\s*")
TAG = re.compile(r"<(lora|lyco):([^>]+)>")
_FOR_ONE = re.compile(r"<lora:([^:>]+)>\s*:(.*)")  # a line of the accordion


@dataclass(frozen=True)
class Tag:
    """One LoRA of a prompt. `weights` is the preset string as written, None if the tag has none.

    `plain` are the items that the WebUI reads itself: name, multipliers, `te=`, `unet=`, `dyn=`. With a `strength` over
    the steps, as loractl writes it, their third is the U-Net's multiplier, 1.
    """

    name: str
    plain: tuple[str, ...]
    weights: str | None = None
    steps: Steps = ALWAYS
    x: float | None = None
    notices: tuple[str, ...] = ()
    strength: str | None = None

    @property
    def gates(self) -> tuple[Gate, ...]:
        """What scales the LoRA in the U-Net over the steps."""
        steps: tuple[Gate, ...] = () if self.steps.all else (self.steps,)
        return steps if self.strength is None else (*steps, read_strength(self.strength))

    @property
    def items(self) -> list[str]:
        """The items of a tag that says this."""
        ours = [] if self.weights is None else [f"{'lbw' if self.steps.as_reported else 'bw'}={self.weights}"]
        ours += self.steps.items
        ours += [] if self.x is None else [f"x={number(self.x)}"]
        plain = self.plain if self.strength is None else (*self.plain[:2], self.strength, *self.plain[3:])
        return [*plain, *ours]


@dataclass(frozen=True)
class PageWeights:
    """Block weights for a picture from elsewhere than its prompt.

    `text` is the accordion's: a preset string for every LoRA whose tag has no weights, or lines `NAME: preset string`.
    A name that no LoRA of the prompt has is a preset's, and the line is for every LoRA; `<lora:NAME>: preset string` is
    for this one only.
    The axes of an X/Y/Z plot set the others: `instead` replaces the weights of every LoRA, and `changes` (`OUT03=0.5`,
    `IN02+OUT09=0`) are applied last.
    """

    text: str = ""
    instead: str | None = None
    changes: tuple[str, ...] = ()

    def for_lora(self, name: str, loras: Collection[str]) -> str | None:
        """The accordion's preset string for this LoRA, None if it has none; `loras` are those of the prompt."""
        return self.for_loras({*loras, name})[name]

    def for_loras(self, loras: Collection[str]) -> dict[str, str | None]:
        """The accordion's preset string for each LoRA of the prompt, None if it has none."""
        own: dict[str, str] = {}
        known, everyone = set(loras), None
        for line in filter(None, map(str.strip, self.text.split("\n"))):
            head, colon, rest = line.partition(":")
            for_one = _FOR_ONE.match(line)
            if for_one:
                own.setdefault(for_one[1], for_one[2].strip())
            elif colon and head.strip() in known:
                own.setdefault(head.strip(), rest.strip())
            else:  # PRESET, or a line `NAME:values` with the name of a preset
                everyone = line
        return {name: own.get(name, everyone) for name in known}


NO_PAGE_WEIGHTS = PageWeights()


class Multipliers(NamedTuple):
    """A LoRA's strength in the text encoder and in the U-Net; `others` are items of its tag that say neither."""

    te: float
    unet: float
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, tag: Tag) -> Multipliers:
        """Return those of a tag as the WebUI reads it; raise TagError for what is no number."""
        positional = [item for item in tag.plain[1:] if "=" not in item]
        named = {name.strip(): value for name, _, value in (i.partition("=") for i in tag.plain[1:] if "=" in i)}
        te = named.pop("te", positional[0] if positional else "1")
        unet = named.pop("unet", positional[1] if len(positional) > 1 else te)
        others = (*positional[2:], *(f"{name}={value}" for name, value in named.items()))
        return cls(_number("te", te), _number("unet", unet), others)


@dataclass(frozen=True)
class Resolved:
    """A LoRA of the prompt with its weights; None is the LoRA as it is, everywhere."""

    tag: Tag
    weights: BlockWeights | LayerWeights | None
    notices: tuple[str, ...] = ()

    def layers(self, architecture: str) -> LayerWeights:
        """Return the weights as they act, which the tag may scale over the steps."""
        weights = BlockWeights.uniform(architecture, 1.0) if self.weights is None else self.weights
        return LayerWeights.of(weights).with_gates(*self.tag.gates)

    @property
    def fixed(self) -> Tag:
        """The tag with its weights as numbers, which depend on no preset, seed or x."""
        return replace(self.tag, weights=None if self.weights is None else self.weights.to_line(), x=None)


def read_tag(items: Sequence[str], *, reads_lbw: bool = True) -> Tag:
    """Read a tag's items, `["NAME", "1", "bw=OUTD"]`.

    With `reads_lbw` False a tag without `bw=` belongs to LoRA Block Weight, and all its items are plain, unless its
    strength is a curve, which only this reads. Raises TagError.
    """
    items = whole_items(items)
    given, plain = _split_items(items)
    if not reads_lbw and "bw" not in given and not any("@" in item for item in plain[1:]):
        return Tag(items[0], tuple(items))
    if "bw" in given and "lbw" in given:
        raise TagError(f"bw={given['bw']} and lbw={given['lbw']}: expected one of them")
    weights = given.get("bw", given.get("lbw"))
    notices = tuple(_misspelt(plain))
    try:
        if "lbwe" in given:
            weights = _with_changes(weights or "*=1", from_lbw(given["lbwe"]))
        plain, strength = _split_strength(plain)
    except PresetStringError as error:
        raise TagError(str(error)) from error
    if strength is not None:
        notices += tuple(f"{item} is ignored: a hires pass has the strength of the first" for item in _hires(plain))
    x = _number("x", given["x"]) if "x" in given else None
    if given or strength is not None:  # one bad number would make the WebUI drop all LoRAs of the prompt
        _check_plain(plain)
    return Tag(items[0], tuple(plain), weights, read_steps(given), x, notices, strength)


def _with_changes(weights: str, changes: str) -> str:
    """Return a preset string with more changes, before its attributes."""
    values, bar, attributes = weights.partition("|")
    return ",".join(filter(None, [values.strip(), changes])) + (f" | {attributes.strip()}" if bar else "")


def _split_strength(plain: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the items with numbers for multipliers, and the U-Net's strength over the steps, None if it has none.

    params_to_weights of cheald/sd-webui-loractl: what is not given for the U-Net is that of the text encoder, which
    here has the value of the first step.
    """
    if not any("@" in item for item in plain[1:]):
        return list(plain), None
    positional = [item for item in plain[1:] if "=" not in item]
    named = dict(item.split("=", 1) for item in plain[1:] if "=" in item)
    text = named.pop("te", positional[0] if positional else "1")
    unet = named.pop("unet", positional[1] if len(positional) > 1 else text)
    more = [*positional[2:], *(f"{name}={value}" for name, value in named.items())]
    encoder = number(read_strength(text).at(1, None)) if "@" in text else text
    if "@" not in unet:
        return [plain[0], encoder, unet, *more], None
    read_strength(unet)
    return [plain[0], encoder, "1", *more], unet


def _hires(plain: Sequence[str]) -> list[str]:
    """Return loractl's items for a hires pass."""
    return [item for item in plain[1:] if item.partition("=")[0].strip() in ("hr", "hrte", "hrunet")]


def resolve(
    tag: Tag,
    architecture: str,
    *,
    page: PageWeights = NO_PAGE_WEIGHTS,
    loras: Collection[str] = (),
    seed: int | None = None,
    presets: Mapping[str, Preset] | None = None,
    recommended: Callable[[str], str] | None = None,
) -> Resolved:
    """Return the block weights of a LoRA of a prompt with these `loras`, for this architecture.

    `recommended` returns the preset string that the card of the LoRA of this name recommends, for `bw=card`. Raises
    PresetStringError for weights that cannot be read, TagError for an empty `bw=`, and what `recommended` raises.
    """
    text = page.instead or tag.weights or page.for_lora(tag.name, loras)
    weights, notices = None, tag.notices
    if tag.weights == "":
        raise TagError("bw= is empty: expected a preset's name or values")
    if text:
        card = partial(recommended or _no_card, tag.name)
        parsed = parse_with_card(text, architecture, card, seed=seed, x=tag.x, presets=presets, layers=True)
        weights, notices = parsed.acting, (*notices, *parsed.notices)
    for change in page.changes:
        weights = changed(weights or BlockWeights.uniform(architecture, 1.0), change, seed=seed)
    return Resolved(tag, weights, notices)


def _no_card(name: str) -> str:
    raise TagError(f"the card of {name} cannot be read here")


def changed(
    weights: BlockWeights | LayerWeights, change: str, *, seed: int | None = None
) -> BlockWeights | LayerWeights:
    """Return the weights with one change: `OUT03=0.5`, `IN04-OUT02=1`, `IN02+OUT09=0`, `OUT.ff=0` or `IN=1@0-0.5`.

    Raises PresetStringError.
    """
    if "=" not in change:
        raise PresetStringError(f"{change!r}: expected, for example, OUT03=0.5", 0)
    targets, _, value = change.rpartition("=")
    ranges = ",".join(f"{target.strip()}={value.strip()}" for target in targets.split("+"))
    return with_changes(LayerWeights.of(weights), ranges, seed=seed).simplest


def holds_weights(item: str) -> bool:
    """Whether an item of a tag is `bw=` or `lbw=`."""
    return item.partition("=")[0].strip().casefold() in ("bw", "lbw")


def whole_items(items: Sequence[str]) -> list[str]:
    """Return a tag's items with weights in one piece, `bw=NAME:1,0,...`, which the colon cuts in two."""
    whole: list[str] = []
    for item in items:
        if whole and (_goes_on_with(whole[-1], item)):
            whole[-1] += f":{item}"
        else:
            whole.append(item)
    return whole


def _goes_on_with(before: str, item: str) -> bool:
    """Whether a colon has cut an item: `bw=NAME:1,0,...` or `lbwe=BLOCKS:ELEMENTS:VALUE`."""
    if holds_weights(before):
        return ":" not in before and _GOES_ON.match(item) is not None
    name, _, value = before.partition("=")
    if name.strip().casefold() != "lbwe" or value in LBW_IDENTIFIERS or "=" in item:
        return False
    return value.split(",")[-1].count(":") < 2


def weights_in_tag(text: str) -> tuple[str, float | None]:
    """Return the weights and the x of a text that is one whole tag, `<lora:x:1:lbw=OUTALL>`; another text as it is.

    Raises PresetStringError for a tag without weights.
    """
    found = TAG.fullmatch(text.strip())
    if found is None:
        return text, None
    try:
        tag = read_tag(found[2].split(":"))
    except TagError as error:
        raise PresetStringError(str(error), 0) from error
    if not tag.weights:
        raise PresetStringError(f"{Span(text).shown} has no block weights: expected bw=, such as bw=OUTD", 0)
    return tag.weights, tag.x


def _misspelt(plain: Sequence[str]) -> Iterator[str]:
    """Yield what to say of items that look like block weights, and that nobody reads: `w=OUTD`."""
    for item in plain[1:]:
        name, equals, value = item.partition("=")
        if equals and name.strip() not in _WEBUIS and _LOOKS_LIKE_WEIGHTS.fullmatch(value):
            yield f"{Span(item.strip()).shown} is ignored: expected bw=, such as bw={value.strip()[:40]}"


def _split_items(items: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the values of our items by name, and the other items. Raises TagError."""
    given: dict[str, str] = {}
    plain: list[str] = []
    for item in items:
        name, equals, value = item.partition("=")
        name = name.strip().casefold()
        if not equals or name not in (*_OURS, *_LBW):
            plain.append(item)
        elif name in given:
            raise TagError(f"{name}= is given twice")
        else:
            given[name] = value.strip()
    return given, plain


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value or abs(value) == float("inf"):
        raise TagError(f"{name}={text}: expected a number")
    return value


def _check_plain(items: Sequence[str]) -> None:
    for item in items[1:]:
        name, equals, value = item.partition("=")
        if not equals or name in _WEBUIS:
            _number(name if equals else "multiplier", value if equals else item)
