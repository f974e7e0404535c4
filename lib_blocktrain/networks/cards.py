"""Recommended block weights of a network file, in its card or its metadata.

The card is `NAME.json` beside `NAME.safetensors`. The WebUI's editor writes it and keeps the keys that it does not
know. Standard library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_blocktrain.files import atomic_write
from lib_blocktrain.networks.header import json_object, read_header
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights

RECORD = "ss_blocktrain"  # our entry in a network file's metadata: JSON
BLOCK_WEIGHTS = "block weights"  # in a card: a preset string, with arch= and canvas= after the values
SOURCE = "block weights from"  # in a card: where they come from, as words
ADDITIONAL = "additional weight"  # in a card: the same by funnel-jp's sd-webui-lora-block-weight-ui, for lbw=
RECOMMENDED = "recommended"  # in RECORD: {"weights": a preset string, "from": words}
USAGE_HINT = "modelspec.usage_hint"
MAX_CARD = 1_000_000  # bytes


class CardError(ValueError):
    """A card that cannot be read, or a network file without recommended weights; the message names the file."""


@dataclass(frozen=True)
class Recommended:
    """Recommended block weights: a preset string, where they come from, and the name of the file that holds them."""

    text: str
    source: str = ""
    file: str = ""


def card_path(network_file: Path) -> Path:
    """Return the path of the card of a network file."""
    return network_file.with_suffix(".json")


def read_card(path: Path, *, strict: bool = False) -> dict[str, Any]:
    """Return the object that a card holds; raise CardError, or OSError where there is none.

    With `strict`, refuse what writing it back would lose: a key that is there twice, or a number that is not finite.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_CARD + 1)
    if len(content) > MAX_CARD:
        raise CardError(f"{path}: more than {MAX_CARD} bytes: expected the JSON of a WebUI's card")
    try:
        data = json.loads(content, object_pairs_hook=_no_key_twice if strict else dict)
    except (ValueError, RecursionError) as error:
        raise CardError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CardError(f"{path}: expected a JSON object")
    return data


def change_card(path: Path, changes: Mapping[str, object]) -> None:
    """Set these keys of a card, None removes one; other keys keep their values and order. Raises CardError, OSError.

    The file is replaced whole, in the format of the WebUI's editor; it is made where there is none.
    """
    card = read_card(path, strict=True) if path.exists() else {}
    for key, value in changes.items():
        if value is None:
            card.pop(key, None)
        else:
            card[key] = value
    try:
        content = json.dumps(card, indent=4, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which the file had as an escape
        content = json.dumps(card, indent=4).encode()
    with atomic_write(path) as temporary:
        temporary.write_bytes(content + b"\n")


def recommend(
    network_file: Path, weights: BlockWeights | None, source: str = "", area_share: float | None = None
) -> Path:
    """Write recommended weights into the card of a network file, None removes them; return the card's path.

    `source` says where they come from, `area_share` (0 to 1) for which share of the canvas they were found. A text of
    another extension in "additional weight" is removed, since the new weights replace it. Raises CardError, OSError.
    """
    path = card_path(network_file)
    text = None if weights is None else weights.to_line(with_architecture=True, area_share=area_share)
    change_card(path, {BLOCK_WEIGHTS: text, SOURCE: source or None if text else None, ADDITIONAL: None})
    return path


def recommended_in_card(card: Mapping[str, Any], file: str = "") -> Recommended | None:
    """Return the recommended weights of a card, ours before another extension's; None if it has none."""
    text = _text(card, BLOCK_WEIGHTS)
    if text:
        return Recommended(text, _text(card, SOURCE), file)
    text = _text(card, ADDITIONAL)
    return Recommended(text, f"“{ADDITIONAL}” of the card", file) if text else None


def recommended_in_metadata(metadata: Mapping[str, str], file: str = "") -> Recommended | None:
    """Return the recommended weights in a network file's metadata, None if it has none."""
    found = json_object(metadata.get(RECORD, "")).get(RECOMMENDED)
    if not isinstance(found, dict) or not _text(found, "weights"):
        return None
    return Recommended(_text(found, "weights"), _text(found, "from"), file)


def recommended_of(network_file: Path) -> Recommended | None:
    """Return the recommended weights of a network file: those of its card, else those in its metadata.

    Raises CardError, NetworkFileError, OSError for a file that cannot be read.
    """
    path = card_path(network_file)
    found = recommended_in_card(read_card(path), path.name) if path.is_file() else None
    return found or recommended_in_metadata(read_header(network_file).metadata, network_file.name)


def recommended_text(network_file: Path) -> str:
    """Return the preset string of the recommended weights; raise CardError if there are none, as `recommended_of`."""
    found = recommended_of(network_file)
    if found is None:
        raise CardError(
            f"{network_file.stem} has no recommended block weights: expected “{BLOCK_WEIGHTS}” in"
            f" {card_path(network_file).name}, or a file that has them inside"
        )
    return found.text


def with_recommended(
    metadata: Mapping[str, str],
    weights: BlockWeights | LayerWeights,
    source: str,
    hint: str,
    area_share: float | None = None,
) -> dict[str, str]:
    """Return a network file's metadata with recommended weights; `hint` says how to use the file, for modelspec."""
    record = json_object(metadata.get(RECORD, ""))
    line = weights.to_line(with_architecture=True, area_share=area_share)
    record[RECOMMENDED] = {"weights": line, "from": source}
    return {**metadata, RECORD: json.dumps(record), USAGE_HINT: hint}


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return value.strip() if isinstance(value, str) else ""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"{key!r} is there twice")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key!r} is not a finite number")
        table[key] = value
    return table
