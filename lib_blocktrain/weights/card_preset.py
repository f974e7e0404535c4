"""`card` in place of a preset's name: the block weights that the card of a LoRA recommends.

<lora:NAME:1:bw=card>             the recommended weights
<lora:NAME:1:bw=card,IN08=0>      the same with a change
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lib_blocktrain.weights.preset_strings import Parsed, PresetStringError, parse
from lib_blocktrain.weights.presets import Preset, shipped_presets

CARD = "card"
_USES_CARD = re.compile(rf"\s*{CARD}\s*(,|\||#|$)")


def uses_card(text: str) -> bool:
    """Whether a preset string is `card`, alone or with changes."""
    return _USES_CARD.match(text) is not None


def parse_with_card(
    text: str,
    architecture: str,
    recommended: Callable[[], str],
    *,
    seed: int | None = None,
    x: float | None = None,
    presets: Mapping[str, Preset] | None = None,
    layers: bool = False,
) -> Parsed:
    """Read a preset string as `preset_strings.parse`, in which `card` names the weights that a LoRA recommends.

    `recommended` returns these as a preset string. Raises PresetStringError, and what `recommended` raises.
    """
    if not uses_card(text):
        return parse(text, architecture, seed=seed, x=x, presets=presets, layers=layers)
    known = {preset.name: preset for preset in shipped_presets()} if presets is None else presets
    written = recommended()
    try:
        weights = parse(written, architecture, seed=seed, x=x, presets=known, layers=True).layers
    except PresetStringError as error:
        raise PresetStringError(f"the card's block weights {written[:80]!r}: {error.message}", 0) from error
    card = Preset(CARD, (architecture,), weights.to_line())
    return parse(text, architecture, seed=seed, x=x, presets={**known, CARD: card}, layers=layers)
