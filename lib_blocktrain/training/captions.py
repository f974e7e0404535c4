"""The caption of a picture for one step, as sd-scripts' `process_caption` makes it: its lines, wildcards and tags."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from lib_blocktrain.training.dataset_config import ImageOptions

_NUMBER_BEHIND = re.compile(r"[\s(]*\d+[\s)]*$")
_CHOICE = re.compile(r"\{([^}]+)\}")


class RunStep(NamedTuple):
    """Where a run is: the number of the step, from 0 on, and of all its steps."""

    step: int
    steps: int


def captions_vary(options: ImageOptions) -> bool:
    """Whether a caption differs from step to step."""
    changed = options.shuffle_tags or options.tag_dropout or options.caption_dropout
    return bool(changed or options.wildcards or options.tag_warmup)


def framed_caption(text: str, options: ImageOptions) -> str:
    """Return the caption with the text that every one begins and ends with (`--caption_prefix`, `--caption_suffix`).

    As in sd-scripts a caption of several lines has them before its first and after its last.
    """
    text = f"{options.prefix} {text}" if options.prefix else text
    return f"{text} {options.suffix}" if options.suffix else text


def as_words(name: str) -> str:
    """Return a name of a file or folder as text: `red-robot_(3)` gives "red robot"."""
    return _NUMBER_BEHIND.sub("", " ".join(re.split(r"[\s_\-]+", name))).strip()


def plain_caption(caption: str, options: ImageOptions) -> str:
    """Return the caption with nothing left to chance: its first line, the first of each choice, all tags in order."""
    fixed = replace(options, wildcards=False, shuffle_tags=False, tag_dropout=0.0, caption_dropout=0.0, tag_warmup=0.0)
    line = caption.split("\n", 1)[0]
    if options.wildcards:
        line = _chosen(line, lambda choices: choices[0])
    return augmented_caption(line, fixed, random.Random(0))


def augmented_caption(caption: str, options: ImageOptions, rng: random.Random, at: RunStep | None = None) -> str:
    """Return the caption for one step: dropped whole, or a line of it, with its choices made and its tags changed.

    Without `at` all tags are there, whatever their warm-up. The first `keep_tags` tags stay in front, or
    those before `keep_separator`, and those after a second one at the end, whatever happens to the others. Round and
    square brackets are not emphasis.
    """
    if options.caption_dropout and rng.random() < options.caption_dropout:
        return ""
    if "\n" in caption:
        lines = caption.split("\n")
        caption = rng.choice(lines) if options.wildcards else lines[0]
    if options.wildcards:
        caption = _chosen(caption, rng.choice)
    divided = bool(options.keep_separator) and options.keep_separator in caption
    if options.shuffle_tags or options.tag_dropout or options.tag_warmup or divided:
        caption = _with_tags(caption, options, rng, at)
    if options.secondary_separator:
        caption = caption.replace(options.secondary_separator, options.separator)
    return caption


def _with_tags(caption: str, options: ImageOptions, rng: random.Random, at: RunStep | None) -> str:
    first, others, last = _parts(caption, options)
    if at is not None and options.tag_warmup:
        others = others[: _tags_at(at, options, len(others))]
    if options.shuffle_tags:
        rng.shuffle(others)
    if options.tag_dropout:
        others = [tag for tag in others if rng.random() >= options.tag_dropout]
    return f"{options.separator} ".join(first + others + last)


def _parts(caption: str, options: ImageOptions) -> tuple[list[str], list[str], list[str]]:
    """Return the tags that stay in front, those that may change, and those that stay at the end."""

    def tags(text: str) -> list[str]:
        return [tag.strip() for tag in text.split(options.separator)]

    if options.keep_separator and options.keep_separator in caption:
        first, *others = (list(filter(None, tags(part))) for part in caption.split(options.keep_separator, 2))
        return first, others[0], others[1] if len(others) > 1 else []
    found = tags(caption.strip())
    return found[: options.keep_tags], found[options.keep_tags :], []


def _tags_at(at: RunStep, options: ImageOptions, count: int) -> int:
    """Return how many tags there are at a step: `tag_warmup_least` at first, all when the warm-up is over."""
    steps = options.tag_warmup if options.tag_warmup >= 1 else math.floor(options.tag_warmup * at.steps)
    if at.step >= steps:
        return count
    return math.floor(at.step * ((count - options.tag_warmup_least) / steps)) + options.tag_warmup_least


def _chosen(caption: str, choose: Callable[[list[str]], str]) -> str:
    """Return the caption with one of each `{a|b}`; a double brace is a brace."""
    opening, closing = "⦅", "⦆"
    while opening in caption or closing in caption:
        opening, closing = opening + "⦅", closing + "⦆"
    caption = caption.replace("{{", opening).replace("}}", closing)
    caption = _CHOICE.sub(lambda match: choose(match[1].split("|")), caption)
    return caption.replace(opening, "{").replace(closing, "}")
