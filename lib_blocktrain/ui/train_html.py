"""What the place Train shows as HTML: what was found in a dataset, and what a run will cost."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from lib_blocktrain.training.estimate import Estimate
from lib_blocktrain.training.pace import Pace
from lib_blocktrain.ui import html

SHOWN_TAGS, LISTED_TAGS = 10, 200  # at once, and when they are unfolded
SHOWN_BROKEN = 8


def dataset_table(found: Mapping[str, Any]) -> str:
    """The table of what was found, of ``Dataset.describe``."""
    rows = [
        ("pictures", _pictures(found)),
        ("folders", ", ".join(found["folders"])),
        ("buckets", ", ".join(f"{size} ({count})" for size, count in found["buckets"].items())),
    ]
    if found["regularisation"]:
        rows.append(("regularisation", f"{found['regularisation']} pictures"))
    if found["held_out"]:
        rows.append(("held out", f"{found['held_out']} pictures, for the validation loss"))
    if found["masks"]:
        rows.append(("masks", f"{found['masks']}, which let through {found['canvas_share']:.0%} of the canvas"))
    if found["without_caption"]:
        rows.append(("without caption", f"{found['without_caption']} pictures"))
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    body += f"<dt>caption tags</dt><dd>{_tags(found['tags'])}</dd>"
    said = "".join(html.note(notice) for notice in found["notices"])
    said += "".join(html.failure(f"left out: {line}") for line in found["broken"][:SHOWN_BROKEN])
    if len(found["broken"]) > SHOWN_BROKEN:
        said += html.failure(f"and {len(found['broken']) - SHOWN_BROKEN} more are left out")
    return f'<dl class="blocktrain-facts">{body}</dl>{said}'


def cost(found: Estimate, steps: int, pace: Pace | None) -> str:
    """What a run will cost: time against training everything, memory against what there is, and what would fit."""
    share = min(found.relative_time, 1.0)
    time = f"a step takes {found.relative_time:.2f} of one that trains all blocks"
    if found.first_block:
        time += f"; the backward pass stops at {found.first_block}"
    if pace is None:
        time += ". How many minutes that is here shows once a run has begun"
    else:
        time = f"about {html.duration(60 * pace.minutes(steps, found.gflop))}, as {pace.source} went: {time}"
    bars = _bar("time", share, time)
    memory = f"{found.total_mib:,.0f} MiB"
    if found.free_mib:
        memory += f" of {found.free_mib:,.0f} that are free"
        bars += _bar("memory", min(found.total_mib / found.free_mib, 1.0), memory, found.enough is False)
    else:
        bars += _bar("memory", 0.0, memory)
    parts = ", ".join(f"{name} {mib:,.0f}" for name, mib in found.mib.items())
    small = f"<small>{escape(found.title)} · {escape(parts)} MiB · {found.parameters:,} numbers are trained</small>"
    said = "".join(html.note(notice) for notice in found.notices)
    if found.enough is False:
        choice = f"choose {', or '.join(found.fits)}" if found.fits else "no choice of blocks or batch fits"
        said = html.failure(f"about {found.total_mib:,.0f} MiB, you have {found.free_mib:,.0f}: {choice}") + said
    return f'<div class="blocktrain-cost">{bars}{small}</div>{said}'


def _bar(name: str, share: float, words: str, over: bool = False) -> str:
    kind = "blocktrain-bar blocktrain-over" if over else "blocktrain-bar"
    fill = f'<span class="{kind}"><span style="width: {share * 100:.0f}%"></span></span>'
    return f"<div><b>{escape(name)}</b>{fill}<span>{escape(words)}</span></div>"


def _pictures(found: Mapping[str, Any]) -> str:
    text = str(found["pictures"])
    repeated = found["with_repeats"]
    return f"{text}, {repeated} with their repeats" if repeated != found["pictures"] else text


def _tags(tags: Mapping[str, int]) -> str:
    items = [f"<li>{escape(tag)} <small>{count}</small></li>" for tag, count in tags.items()]
    shown, folded = items[:SHOWN_TAGS], items[SHOWN_TAGS:LISTED_TAGS]
    if not shown:
        return "none"
    more = f'<ul class="blocktrain-tags">{"".join(folded)}</ul>'
    more = f"<details><summary>and {len(items) - len(shown)} more</summary>{more}</details>" if folded else ""
    return f'<ul class="blocktrain-tags">{"".join(shown)}</ul>{more}'
