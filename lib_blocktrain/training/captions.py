"""Captions of a training step: tags kept, shuffled, dropped. Text is literal: brackets are no emphasis."""

from __future__ import annotations

import random

from lib_blocktrain.training.config import DatasetConfig


def varies(config: DatasetConfig) -> bool:
    """Return whether a picture's caption differs from step to step."""
    return bool(config.shuffle_tags or config.tag_dropout or config.caption_dropout)


def caption_of(caption: str, config: DatasetConfig, rng: random.Random) -> str:
    """Return the caption for one step, as sd-scripts' `process_caption`: dropped whole, or its tags changed.

    The first `keep_tags` tags stay in front, whatever happens to the others.
    """
    if config.caption_dropout and rng.random() < config.caption_dropout:
        return ""
    if not (config.shuffle_tags or config.tag_dropout):
        return caption
    tags = [tag.strip() for tag in caption.strip().split(config.separator)]
    kept, others = tags[: config.keep_tags], tags[config.keep_tags :]
    if config.shuffle_tags:
        rng.shuffle(others)
    if config.tag_dropout:
        others = [tag for tag in others if rng.random() >= config.tag_dropout]
    return f"{config.separator} ".join(kept + others)
