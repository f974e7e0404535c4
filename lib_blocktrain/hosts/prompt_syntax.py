"""What of a WebUI's prompt syntax a prompt holds: the standalone host and the noise analyses take it as words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Each part can match at one place only: no backtracking on long texts.
_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")
_WEIGHTED = re.compile(r"[(\[][^()\[\]]*:\s*[+-]?[0-9.]+\s*[)\]]")
_WORD = re.compile(r"(?<!\S)(BREAK|AND)(?!\S)")
SHOWN = 40  # characters


def unread_notices(prompts: Iterable[str], negative: str = "", name: str = "prompt") -> tuple[str, ...]:
    """Return what to say of prompts, called by `name`, in which no syntax is read; each sentence once."""
    texts = [*((name, prompt) for prompt in prompts), (f"negative {name}", negative)]
    return tuple(dict.fromkeys(f"the {what}: {sentence}" for what, text in texts for sentence in unread_syntax(text)))


def unread_syntax(prompt: str) -> Iterator[str]:
    """Yield a sentence for each kind of syntax that is not read: tags, weights of words, and the words between parts.

    Brackets without a number, and those after a backslash, are left alone: they are common in captions.
    """
    tag, weighted, word = _TAG.search(prompt), _first_weighted(prompt), _WORD.search(prompt)
    if tag:
        yield f"{_shown(tag[0])} is read as words: no LoRA is chosen by a prompt here"
    if weighted:
        yield f"{_shown(weighted)} is read as words: weights of words are not known here"
    if word:
        yield f"{word[0]!r} is read as a word: the prompt is one part here"


def _first_weighted(prompt: str) -> str | None:
    found = (match for match in _WEIGHTED.finditer(prompt) if not prompt[: match.start()].endswith("\\"))
    return next((match[0] for match in found), None)


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")
