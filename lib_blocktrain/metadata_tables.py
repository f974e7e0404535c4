"""What stands as JSON in a network file's metadata. They come from anywhere: what is no table is an empty one."""

from __future__ import annotations

import json


def table(text: str) -> dict:
    """Return the JSON object of a text; an empty one for anything else."""
    try:
        data = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def tag_counts(text: str) -> dict[str, float]:
    """Return how often each tag stood in the captions of all folders, from sd-scripts' ``ss_tag_frequency``."""
    counts: dict[str, float] = {}
    for folder in table(text).values():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            if isinstance(count, (int, float)) and not isinstance(count, bool) and count > 0 and tag.strip():
                counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    return counts
