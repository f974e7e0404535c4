"""Elements: kinds of layers inside a block, such as its cross-attention, and LoRA Block Weight's lists of them.

An element is `attn1` (self-attention), `attn2` (cross-attention), `ff` (feed-forward), `proj` (`proj_in` and
`proj_out`), `conv` (all of residual blocks, down- and upsampling), or a part of a layer's name as LDM has it, such as
`attn` for both attentions or `attn2_to_v`. In text encoders `attn1` is their attention, `ff` the layers after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache

from lib_blocktrain import blocks
from lib_blocktrain.blocks import BASE, BLOCK_IDS, KEPT_NAMES
from lib_blocktrain.weights.text_spans import Span

ELEMENTS = ("attn1", "attn2", "ff", "proj", "conv")
_CONVOLUTIONS = ("conv", "res", "down", "up")
_ATTENTION = tuple(f"{name}_{part}" for name in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out_0"))
_INNER = {  # the layers in each kind of part, as LDM names them
    "conv": ("",),
    "res": ("in_layers_0", "in_layers_2", "emb_layers_1", "out_layers_0", "out_layers_3", "skip_connection"),
    "attn": ("norm", "proj_in", "proj_out", *_ATTENTION, "ff_net_0_proj", "ff_net_2", "norm1", "norm2", "norm3"),
    "down": ("op",),
    "up": ("conv",),
}
_IN_TEXT = ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2")
_LDM = {  # of diffusers' names of layers in residual blocks and downsampling
    "res": {
        "norm1": "in_layers_0",
        "conv1": "in_layers_2",
        "time_emb_proj": "emb_layers_1",
        "norm2": "out_layers_0",
        "conv2": "out_layers_3",
        "conv_shortcut": "skip_connection",
    },
    "down": {"conv": "op"},
}
# Identifiers that LoRA Block Weight b403cb7 ships, in its own notation
LBW_IDENTIFIERS: Mapping[str, str] = {
    "ATTNDEEPON": "IN05-OUT05:attn:1",
    "ATTNDEEPOFF": "IN05-OUT05:attn:0",
    "PROJDEEPOFF": "IN05-OUT05:proj:0",
    "XYZ": "::1",
}


@lru_cache(maxsize=KEPT_NAMES)
def is_of(element: str, block: str, name: str, architecture: str) -> bool:
    """Return whether a layer of this block belongs to an element; `name` is in any spelling of `blocks.block_of`."""
    flat = re.sub(r"_(?:weight|bias)$", "", name.replace(".", "_"))
    if block == BASE:
        return _is_of_text(element, flat)
    found = next(((kind, at + len(part)) for part, kind in _parts(architecture) if (at := flat.find(part)) >= 0), None)
    if found is None:
        return False
    kind, after = found
    inner = flat[after:]
    return _is_of_layer(element, kind, _LDM.get(kind, {}).get(inner, inner))


@cache
def _parts(architecture: str) -> tuple[tuple[str, str], ...]:
    """Return the beginning of the name of each part's layers, in both spellings, and the part's kind."""
    parts = [part for block in blocks.architecture(architecture).blocks for part in block.parts]
    names = [(name.replace(".", "_"), part.kind) for part in parts for name in (part.ldm, part.diffusers)]
    return tuple((name if kind == "conv" else f"{name}_", kind) for name, kind in names)


def _is_of_layer(element: str, kind: str, inner: str) -> bool:
    if element == "conv":
        return kind in _CONVOLUTIONS
    if element == "proj":
        return kind == "attn" and inner.startswith("proj_")
    return element in inner


def _is_of_text(element: str, name: str) -> bool:
    if element in ("attn1", "ff"):
        return ("attn" if element == "attn1" else "mlp") in name
    return element not in ELEMENTS and element in name


def exists(element: str, block: str, architecture: str) -> bool:
    """Return whether a block of this architecture, or the text encoders, can have layers of an element."""
    if block == BASE:
        return any(_is_of_text(element, name) for name in _IN_TEXT)
    parts = blocks.architecture(architecture).block(block).parts
    return any(_is_of_layer(element, part.kind, inner) for part in parts for inner in _INNER[part.kind])


def from_lbw(text: str) -> str:
    """Return the changes, `IN05-OUT05.attn=0`, that an `lbwe=` of LoRA Block Weight means.

    `text` is an identifier that it ships, or entries `BLOCKS:ELEMENTS:VALUE` with commas between them. There an element
    is any part of a layer's name. Raises PresetStringError.
    """
    whole = Span(text).strip()
    if whole.text in LBW_IDENTIFIERS:
        whole = Span(LBW_IDENTIFIERS[whole.text])
    elif ":" not in whole.text:
        known = ", ".join(LBW_IDENTIFIERS)
        raise whole.error(f"lbwe={whole.text}: expected {known}, or what it stands for, such as IN05-OUT05:attn:0")
    return ",".join(change for entry in whole.split(",") for change in _changes(entry))


def _changes(entry: Span) -> Iterator[str]:
    parts = entry.split(":")
    if len(parts) != 3:
        raise entry.error(f"{entry.shown}: expected BLOCKS:ELEMENTS:VALUE, such as IN05-OUT05:attn:0")
    named, elements, value = parts
    value.number()
    for target in _targets(named):
        for element in elements.text.split() or [""]:
            if element == "NOT":
                raise elements.error("NOT before elements is not read: name the other elements")
            yield from (f"{name}={value.text}" for name in _translated(target, element))


def _targets(named: Span) -> list[str]:
    """Return our targets for LoRA Block Weight's blocks: words with spaces between them, NOT before them, or none."""
    words = named.text.split()
    order = [BASE, *BLOCK_IDS]
    if words[:1] == ["NOT"]:
        without: set[str] = set()
        for word in words[1:]:
            first, _, last = word.partition("-")
            if first not in order or (last or first) not in order:
                raise named.error(f"{named.shown}: expected blocks such as IN05-OUT05")
            without.update(order[order.index(first) : order.index(last or first) + 1])
        return [block_id for block_id in order if block_id not in without]
    return words or ["*"]


def _translated(target: str, element: str) -> list[str]:
    """Return the names of the same layers here; a text encoder's `self_attn` has no `attn1` there."""
    if not element:
        return [target]
    targets = ["IN", "MID", "OUT"] if target == "*" else [target]
    if element == "proj":  # also the first layer of the feed-forward part, and the text encoders' q_proj
        names = [f"{one}.{part}" for one in targets if one != BASE for part in ("proj", "ff_net_0_proj")]
        return [*names, *([f"{BASE}._proj"] if target in ("*", BASE) else [])]
    if element == "conv":
        raise Span(element).error("conv is the convolution of upsampling alone there: not read")
    if element in ELEMENTS:
        return [f"{one}.{element}" for one in targets if one != BASE]
    return [f"{target}.{element}"]
