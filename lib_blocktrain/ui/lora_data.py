"""What the page's script knows of the LoRA files, as data in the page, and the card of one of them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.ui import html
from lib_blocktrain.workspace.lora_files import LoraFile, Sidecar
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.lora_listing import listing

_DATA = Markup('<div class="blocktrain-lora-data" data-json="{}"></div>')
_BUTTON = Markup('<button type="button" class="blocktrain-btn" data-use="{}" data-value="{}">{}</button>')
SHOWN = 300  # characters of recommended weights and of where they come from
_MODEL = Markup('<div class="blocktrain-lora-model" data-architecture="{}" data-title="{}"></div>')
_TURN = Markup('<div class="blocktrain-lora-turn" data-turn="{}"></div>')


def data(index: LoraIndex, folders: Sequence[Path], since: int = 0) -> Markup:
    """The files that have changed since a revision, all of them with 0, for `javascript/lora_store.js`."""
    return _DATA.format(json.dumps(listing(index, folders, since), ensure_ascii=False, separators=(",", ":")))


def model(architecture_id: str | None) -> Markup:
    """For which models a LoRA is of use here; None without a model."""
    return _MODEL.format(architecture_id or "", ARCHITECTURES[architecture_id].title if architecture_id else "")


def turn(text: str | None) -> Markup:
    """The number that the page's script gave to a change of its list, so that it knows which one was answered."""
    try:
        number = json.loads(text or "{}").get("turn")
    except (ValueError, AttributeError, RecursionError):
        number = None
    return _TURN.format(number) if isinstance(number, int) else Markup("")


def card(file: LoraFile, weights: str = "", problem: str = "") -> Markup:
    """What a LoRA is for and contains: the user's own words from its sidecar first, then its header.

    ``weights`` are the recommended ones as JSON, with ``changes`` as text, ``problem`` says why they cannot be read.
    """
    beside, parts = file.sidecar or Sidecar(), []
    activation = beside.activation or (file.facts.trigger if file.facts else "")
    if activation:
        parts.append(_text("activation text", activation, "prompt", "Into the prompt"))
    if beside.negative:
        parts.append(_text("negative text", beside.negative, "negative", "Into the negative prompt"))
    if beside.weight:
        parts.append(_text("preferred strength", f"{beside.weight:g}", "strength", "Use"))
    recommended = file.recommended
    if recommended is not None:
        use = _use("weights", weights, "Use") if weights else html.failure(problem)
        source = Markup(" <small>{}</small>").format(recommended.source[:SHOWN]) if recommended.source else ""
        row = Markup('<dt title="in {}">block weights</dt><dd><code>{}</code>{} {}</dd>')
        parts.append(row.format(recommended.file, recommended.text[:SHOWN], source, use))
    for name, text in (("notes", beside.notes), ("description", beside.description)):
        if text:
            parts.append(Markup('<dt>{}</dt><dd class="blocktrain-own-words">{}</dd>').format(name, text))
    own = Markup('<dl class="blocktrain-facts">{}</dl>').format(Markup("").join(parts)) if parts else Markup("")
    template = Markup('<div class="blocktrain-lora-card" data-key="{}">{}{}</div>')
    return template.format(file.key, own, html.facts(file))


def no_card(key: str, problem: str) -> Markup:
    """In place of the card of a file that is not there any more: why there is none."""
    return Markup('<div class="blocktrain-lora-card" data-key="{}">{}</div>').format(key, html.failure(problem))


def answered(card: Markup) -> Markup:
    """A card that was asked for. The number makes it a new one: the page does not notice the same text again."""
    return Markup('<div data-number="{}">{}</div>').format(time.monotonic_ns(), card)


def _text(name: str, text: str, use: str, label: str) -> Markup:
    return Markup("<dt>{}</dt><dd>{} {}</dd>").format(name, text, _use(use, text, label))


def _use(what: str, value: str, label: str) -> Markup:
    return _BUTTON.format(what, value, label)
