"""Invalid values, texts and bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import strategies as st

JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-10, 10),
        st.sampled_from([10**400, -(10**18), 2**63, 1e308, -0.0, 0.5]),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(["", "ALL", "../../etc/passwd", "a\0b", "\ud800", "x" * 5000, "1,2", "{", "torch.optim.SGD"]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@st.composite
def damaged_text(draw, valid: Sequence[str], pieces: Sequence[str]):
    """A valid text with some stretches removed, repeated, or replaced by pieces of others."""
    text = draw(st.sampled_from(list(valid)))
    for _ in range(draw(st.integers(0, 4))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        end = min(end, start + 12)
        piece = draw(st.sampled_from(list(pieces)) | st.text(max_size=4))
        kind = draw(st.sampled_from(["remove", "repeat", "put", "replace"]))
        middle = {"remove": "", "repeat": text[start:end] * 3, "put": text[start:end] + piece, "replace": piece}[kind]
        text = text[:start] + middle + text[end:]
    return text


@st.composite
def damaged_bytes(draw, valid: Sequence[bytes]):
    """A valid file with some bytes changed, put in or taken out, or cut short."""
    content = bytearray(draw(st.sampled_from(list(valid))))
    for _ in range(draw(st.integers(1, 5))):
        # the beginning, where the structure is, more often than the rest
        place = draw(st.integers(0, min(len(content), 64)) | st.integers(0, len(content)))
        kind = draw(st.sampled_from(["change", "put", "take", "cut"]))
        if kind == "change" and place < len(content):
            content[place] = draw(st.integers(0, 255))
        elif kind == "put":
            content[place:place] = draw(st.binary(max_size=8))
        elif kind == "take":
            del content[place : place + draw(st.integers(1, 16))]
        elif kind == "cut" and draw(st.booleans()):
            del content[place:]
    return bytes(content)


@st.composite
def damaged_json(draw, valid: dict):
    """A JSON object of which one to three values became something else, went away, or got company."""
    data = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        at, key = data, None
        while isinstance(at, dict | list) and at and (key is None or draw(st.booleans())):
            parent, key = at, draw(st.sampled_from(list(at) if isinstance(at, dict) else list(range(len(at)))))
            at = parent[key]
        if key is None:
            break
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "replace":
            parent[key] = draw(JUNK)
        elif kind == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=10))] = draw(JUNK)
        else:
            parent.append(draw(JUNK))
    return data
