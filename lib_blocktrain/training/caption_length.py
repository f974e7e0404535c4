"""Which captions of a dataset are longer than a run's `max_tokens`, and so are cut off."""

from __future__ import annotations

from collections.abc import Iterable

from lib_blocktrain.model.clip_tokens import TokenCounter

_NAMED = 5  # pictures that a notice names


def cut_off(captions: Iterable[tuple[str, str]], max_tokens: int) -> tuple[str, ...]:
    """Return a notice of the captions, by the picture's name, that lose tokens; none if none does.

    The most is lost first. Embeddings of a WebUI count as the words that they are called by.
    """
    counter, lost = TokenCounter(), dict[str, int]()
    for name, caption in captions:
        tokens = counter.count(caption)
        if tokens is not None and tokens.count > max_tokens:
            lost[name] = tokens.count - max_tokens
    if not lost:
        return ()
    ordered = sorted(lost, key=lambda name: -lost[name])
    named = [f"{name} loses {lost[name]} tokens" for name in ordered[:_NAMED]]
    more = [f"and {len(ordered) - _NAMED} more pictures"] if len(ordered) > _NAMED else []
    return (f"max_tokens = {max_tokens} cuts captions off: {', '.join([*named, *more])}",)
