"""Block weights out of sd-scripts' `network_args`: `*_lr_weight`, `block_dims`, `block_alphas`.

Read as by networks/lora.py of kohya-ss/sd-scripts 48d368fa, except that a list of the wrong length is an error: there
it is padded with 1, cut, or crashes.
"""

import math
import re
from collections.abc import Sequence

from lib_blocktrain.blocks import BASE, REST, Architecture
from lib_blocktrain.weights.block_weights import BlockWeights, kohya_entries, number
from lib_blocktrain.weights.text_spans import Span

_LR_KEYS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
_RANK_KEYS = ("block_dims", "block_alphas")
BLOCK_ARGUMENTS = (*_LR_KEYS, *_RANK_KEYS, "block_lr_zero_threshold")
_WHOLES = {"block_dims": "network_dim", "block_alphas": "network_alpha"}  # the whole of which each is a fraction
_KEY = re.compile(r"[A-Za-z_]\w*\s*=")
# The quotes and brackets that a command line, JSON or TOML has before the first key.
_DRESSING = re.compile(r"""[\s"',;()\[\]\\-]*(?:network_args)?[\s"',;()\[\]\\=-]*""")

# Position along one side, 0 to 1, to learning rate; each may be followed by +OFFSET.
_CURVES = {
    "sine": lambda t: math.sin(math.pi / 2 * t),
    "cosine": lambda t: math.sin(math.pi / 2 * (1 - t)),
    "linear": lambda t: t,
    "reverse_linear": lambda t: 1 - t,
    "zeros": lambda t: 0.0,
}


def has_kohya_arguments(text: str) -> bool:
    """Return whether the text sets one of the block arguments."""
    return re.search(rf"\b(?:{'|'.join(BLOCK_ARGUMENTS)})\s*=", text) is not None


def read_kohya_arguments(span: Span, architecture: Architecture) -> tuple[BlockWeights, list[str]]:
    """Return the weights and notices about them; raise PresetStringError.

    Learning rates are the weights themselves. Alphas and ranks are fractions of `network_alpha` and `network_dim`,
    where the text has them, else of the largest. Where both are given, the weights come from the alphas, unless these
    are all the same.
    """
    arguments = _arguments(span)
    ranks = [key for key in _RANK_KEYS if key in arguments]
    rates = [key for key in BLOCK_ARGUMENTS if key in arguments and key not in _RANK_KEYS]
    if ranks and rates:
        raise arguments[rates[0]].error(f"{ranks[0]} and {rates[0]} together: expected one number per block")
    values, notices = (_read_ranks if ranks else _read_rates)(arguments, architecture)
    known = {*BLOCK_ARGUMENTS, *(_WHOLES.values() if ranks else ())}
    ignored = [key for key in arguments if key not in known]
    if ignored:
        notices.append(f"{', '.join(ignored)} not about blocks: ignored")
    notices.append(f"{BASE} is not in kohya's arguments: set to 1")
    rest = values.pop(REST, None)
    return BlockWeights(architecture.id, values, rest=rest), notices


def _arguments(span: Span) -> dict[str, Span]:
    """Return the value of every `key=value`, without the quotes and brackets that people paste with them."""
    dressing = _DRESSING.match(span.text)
    start = dressing.end() if dressing else 0
    keys = list(_KEY.finditer(span.text, start))
    if keys[0].start() != start:
        unread = span.cut(start, keys[0].start()).strip()
        raise unread.error(f"{unread.shown}: expected key=value")
    arguments: dict[str, Span] = {}
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        name = span.cut(key.start(), key.end() - 1).strip()
        if name.text in arguments:
            raise name.error(f"{name.text} is given twice")
        value = span.cut(key.end(), following.start() if following else None)
        value = value.cut(len(value.text) - len(value.text.lstrip(" \t\r\n\"'([")))
        length = len(re.split(r"[\"')\];\\]", value.text, maxsplit=1)[0])
        value, closing = value.cut(0, length).strip(), value.cut(length)
        unread = closing.strip(" \t\r\n\"',;()[]\\-")
        if unread.text:
            raise unread.error(f"{unread.shown}: expected key=value")
        between = following and not closing.text and value.text.endswith(",")
        arguments[name.text] = value.cut(0, -1).strip() if between else value
    return arguments


def _read_rates(arguments: dict[str, Span], architecture: Architecture) -> tuple[dict[str, float], list[str]]:
    block_ids, middle = architecture.block_ids, architecture.block_ids.index("M00")
    down, mid, up = (arguments.get(key) for key in _LR_KEYS)
    threshold = arguments["block_lr_zero_threshold"].number() if "block_lr_zero_threshold" in arguments else 0.0
    values = dict.fromkeys(block_ids, 1.0)
    notices = [f"{key} is not given: set to 1" for key in _LR_KEYS if key not in arguments]
    for key, span, ids in (("down_lr_weight", down, block_ids[:middle]), ("up_lr_weight", up, block_ids[middle + 1 :])):
        if span is not None:
            values |= zip(ids, _curve(span, len(ids)) or _numbers(span, key, ids).values(), strict=True)
    if mid is not None:
        values |= _numbers(mid, "mid_lr_weight", ("M00",) * (3 if architecture.id == "sdxl" else 1))
    below = [block_id for block_id, value in values.items() if value <= threshold and value != 0]
    if below:
        notices.append(f"{', '.join(below)} not above block_lr_zero_threshold={number(threshold)}: set to 0")
    return {block_id: 0.0 if value <= threshold else value for block_id, value in values.items()}, notices


def _read_ranks(arguments: dict[str, Span], architecture: Architecture) -> tuple[dict[str, float], list[str]]:
    entries = kohya_entries(architecture.id)
    given = {key: _numbers(arguments[key], key, entries) for key in _RANK_KEYS if key in arguments}
    dims, alphas = given.get("block_dims"), given.get("block_alphas")
    for block_id, dim in (dims or {}).items():
        if dim < 0 or dim != int(dim):
            raise arguments["block_dims"].error(f"{block_id} = {number(dim)} in block_dims: expected a rank, 0 or more")
    for block_id, alpha in (alphas or {}).items():
        # sd-scripts reads alpha 0 as alpha = rank, not as off
        if alpha < 0 or (alpha == 0 and (dims is None or dims[block_id])):
            raise arguments["block_alphas"].error(f"{block_id} = {number(alpha)} in block_alphas: expected more than 0")

    notices: list[str] = []
    if dims is None or alphas is None:
        ((key, numbers),) = given.items()
        return _fractions(numbers, arguments, key, notices), notices
    by_alpha = _fractions(alphas, arguments, "block_alphas", notices)
    trained = [block_id for block_id, dim in dims.items() if dim]
    if len({dims[block_id] for block_id in trained}) > 1:
        by_dim = _fractions(dims, arguments, "block_dims", notices)
        if len({alphas[block_id] for block_id in trained}) == 1:
            return by_dim, notices
        half_a_rank = 0.5 / max(dims.values())  # the largest error of a weight by rounding to a whole rank
        if any(abs(by_dim[i] - by_alpha[i]) > half_a_rank * max(by_dim.values()) and dims[i] > 1 for i in trained):
            notices.append("block_dims do not follow block_alphas: the weights are those of block_alphas")
    return {block_id: by_alpha[block_id] if dim else 0.0 for block_id, dim in dims.items()}, notices


def _fractions(numbers: dict[str, float], arguments: dict[str, Span], key: str, notices: list[str]) -> dict[str, float]:
    """Return the numbers of `key` as fractions of the network's rank or alpha."""
    whole_key = _WHOLES[key]
    whole = arguments[whole_key].number() if whole_key in arguments else max(numbers.values())
    if whole_key in arguments and whole <= 0:
        raise arguments[whole_key].error(f"{whole_key} = {number(whole)}: expected more than 0")
    if whole_key not in arguments:
        notices.append(f"{whole_key} is not given: the largest of {key}, {number(whole)}, counts as weight 1")
    fractions = {block_id: value / (whole or 1) for block_id, value in numbers.items()}
    if not all(map(math.isfinite, fractions.values())):
        raise arguments[key].error(f"{key} over {whole_key} = {number(whole)}: expected finite weights")
    return fractions


def _curve(span: Span, count: int) -> list[float] | None:
    """Return a named curve along `count` blocks, or None if this is a list of numbers."""
    name, offset = span.partition("+")
    if name.text not in _CURVES:
        return None
    base = offset.number() if "+" in span.text else 0.0
    return [_CURVES[name.text](i / (count - 1)) + base for i in range(count)]


def _numbers(span: Span, key: str, entries: Sequence[str]) -> dict[str, float]:
    """Return a number for each entry; entries of the same name must agree."""
    items = span.split(",")
    values = [item.number() for item in items]
    if len(values) != len(entries):
        curves = f" or one of {', '.join(_CURVES)}" if key in ("down_lr_weight", "up_lr_weight") else ""
        where = items[min(len(items), len(entries)) - 1]
        raise where.error(f"{key} has {len(values)} value{'s' * (len(values) > 1)}: expected {len(entries)}{curves}")
    numbers: dict[str, float] = {}
    for entry, item, value in zip(entries, items, values, strict=True):
        if numbers.setdefault(entry, value) != value:
            raise item.error(f"{key}: {item.shown} for {entry}, which was {number(numbers[entry])} before")
    return numbers
