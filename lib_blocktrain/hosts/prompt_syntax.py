"""What of a WebUI's prompt syntax a prompt holds: the standalone host reads none, and draws it as words."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Each part can match at one place only: no backtracking on long texts.
_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")
_WEIGHTED = re.compile(r"[(\[][^()\[\]]*:\s*[+-]?[0-9.]+\s*[)\]]")
_WORD = re.compile(r"(?<!\S)(BREAK|AND)(?!\S)")
SHOWN = 40  # characters


def unread_syntax(prompt: str) -> Iterator[str]:
    """Yield a sentence for each kind of syntax that is not read: tags, weights of words, and the words between parts.

    Brackets without a number, and those after a backslash, are left alone: they are common in captions.
    """
    tag, weighted, word = _TAG.search(prompt), _first_weighted(prompt), _WORD.search(prompt)
    if tag:
        yield f"{_shown(tag[0])} is read as words: choose the LoRA and its weights beside the prompt instead"
    if weighted:
        yield f"{_shown(weighted)} is read as words: weights of words are not known here"
    if word:
        yield f"{word[0]!r} is read as a word: the prompt is one part here"


def _first_weighted(prompt: str) -> str | None:
    found = (match for match in _WEIGHTED.finditer(prompt) if not prompt[: match.start()].endswith("\\"))
    return next((match[0] for match in found), None)


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")
