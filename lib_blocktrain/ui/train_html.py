"""HTML of the Train tab: the contents of a dataset, and the estimated cost of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lib_blocktrain.training.estimate import Estimate
from lib_blocktrain.training.pace import Pace
from lib_blocktrain.ui import html

SHOWN_TAGS, LISTED_TAGS = 10, 200  # at once, and when they are unfolded
SHOWN_BROKEN = 8
STEPS = (  # name, id to go to
    ("Pictures", "blocktrain_train_set"),
    ("Blocks", "blocktrain_train_map"),
    ("Settings", "blocktrain_train_name"),
    ("Start", "blocktrain_train_start"),
)
SET = Markup('<div class="blocktrain-train-set"></div>')  # javascript/dataset_train.js shows the chosen pictures in it
FROZEN = "A block at 0 is frozen: it costs no memory for gradients, and the file has nothing there."
MEANINGS = {
    "scale": f"A block's weight scales its LoRA (alpha × weight), while it learns and in the file. {FROZEN}",
    "lr": f"A block's learning rate is the rate × its weight. {FROZEN}",
    "rank": f"A block's rank is the rank × its weight. {FROZEN}",
    "max_norm": f"The norm of a block's change stays below the cap × its weight. {FROZEN}",
}


def steps(done: Sequence[tuple[str, bool]]) -> Markup:
    """The path to a run: its steps with what each holds now, and whether it is done."""
    lines = []
    for number, (name, anchor) in enumerate(STEPS):
        said, ready = done[number] if number < len(done) else ("", False)
        state = "blocktrain-is-done" if ready else ""
        mark = "✓" if ready else str(number + 1)
        lines.append(
            Markup(
                '<a class="blocktrain-step {}" href="#{}"><i aria-hidden="true">{}</i><span><b>{}</b><small>{}</small>'
                "</span></a>"
            ).format(state, anchor, mark, name, said)
        )
    return Markup('<nav class="blocktrain-steps" aria-label="Steps to a run">{}</nav>').format(Markup("").join(lines))


def meaning(mode: str) -> Markup:
    """What a weight does in training, in words."""
    return Markup('<p class="blocktrain-foot">{}</p>').format(MEANINGS[mode])


def dataset_table(contents: Mapping[str, Any]) -> Markup:
    """The contents of a dataset, as `Dataset.describe` returns them."""
    rows = [
        ("pictures", _pictures(contents)),
        ("folders", ", ".join(contents["folders"])),
        ("buckets", ", ".join(f"{size} ({count})" for size, count in contents["buckets"].items())),
    ]
    if contents["regularisation"]:
        rows.append(("regularisation", f"{contents['regularisation']} pictures"))
    if contents["held_out"]:
        rows.append(("held out", f"{contents['held_out']} pictures, for the validation loss"))
    if contents["masks"]:
        share = f"{contents['canvas_share']:.0%} of the picture"
        rows.append(("masks", f"{contents['masks']}, which cover {share}"))
    if contents["without_caption"]:
        rows.append(("without caption", f"{contents['without_caption']} pictures"))
    rows.append(("caption tags", _tags(contents["tags"])))
    body = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(name, text) for name, text in rows)
    broken = [f"left out: {line}" for line in contents["broken"][:SHOWN_BROKEN]]
    if len(contents["broken"]) > SHOWN_BROKEN:
        broken.append(f"and {len(contents['broken']) - SHOWN_BROKEN} more are left out")
    said = [*contents["notices"], *(f"left out: {line}" for line in contents["left_out"])]
    notes = Markup("").join([*map(html.note, said), *map(html.failure, broken)])
    return Markup('<dl class="blocktrain-facts">{}</dl>{}').format(body, notes)


def cost(estimate: Estimate, steps: int | None, pace: Pace | None) -> Markup:
    """The time of a run relative to training all blocks, its memory, what is free, and choices that would fit.

    `steps` None: of a run of epochs, whose pictures are not counted here.
    """
    bars = _bar("time", min(estimate.relative_time, 1.0), _time(estimate, steps, pace))
    memory = f"{estimate.total_mib:,.0f} MiB"
    if estimate.free_mib:
        memory += f" of {estimate.free_mib:,.0f} that are free"
        bars += _bar("memory", min(estimate.total_mib / estimate.free_mib, 1.0), memory, estimate.enough is False)
    else:
        bars += _bar("memory", 0.0, memory)
    parts = ", ".join(f"{name} {mib:,.0f}" for name, mib in estimate.mib.items())
    details = f"{estimate.title} · {parts} MiB · {estimate.parameters:,} trained parameters"
    notes = Markup("").join(html.note(notice) for notice in estimate.notices)
    if estimate.enough is False:
        choice = f"choose {', or '.join(estimate.fits)}" if estimate.fits else "no choice of blocks or batch fits"
        needed = f"about {estimate.total_mib:,.0f} MiB, you have {estimate.free_mib:,.0f}"
        notes = html.failure(f"{needed}: {choice}") + notes
    return Markup('<div class="blocktrain-cost">{}<small>{}</small></div>{}').format(bars, details, notes)


def _time(estimate: Estimate, steps: int | None, pace: Pace | None) -> str:
    relative = f"a step takes {estimate.relative_time:.2f} of one that trains all blocks"
    if estimate.first_block:
        relative += f"; the backward pass stops at {estimate.first_block}"
    if pace is None:
        return f"{relative}. The time in minutes is known once a run has started"
    duration = html.duration(60 * pace.minutes(steps or 100, estimate.gflop))
    duration += " for 100 steps" if steps is None else ""
    return f"about {duration}, judging by {pace.source}: {relative}"


def _bar(name: str, share: float, words: str, over: bool = False) -> Markup:
    kind = "blocktrain-meter blocktrain-over" if over else "blocktrain-meter"
    fill = Markup('<span class="{}"><span style="width: {:.0f}%"></span></span>').format(kind, share * 100)
    return Markup("<div><b>{}</b>{}<span>{}</span></div>").format(name, fill, words)


def _pictures(contents: Mapping[str, Any]) -> str:
    count, repeated = contents["pictures"], contents["with_repeats"]
    return f"{count}, {repeated} with their repeats" if repeated != count else f"{count}"


def _tags(tags: Mapping[str, int]) -> Markup | str:
    lines = [Markup("{} <small>{}</small>").format(tag, count) for tag, count in tags.items()]
    shown, folded = lines[:SHOWN_TAGS], lines[SHOWN_TAGS:LISTED_TAGS]
    if not shown:
        return "none"
    more = Markup("")
    if folded:
        more = Markup("<details><summary>and {} more</summary>{}</details>").format(
            len(lines) - len(shown), _tag_list(folded)
        )
    return _tag_list(shown) + more


def _tag_list(lines: list[Markup]) -> Markup:
    return Markup('<ul class="blocktrain-tags">{}</ul>').format(html.items(lines))
