"""HTML of the Train tab: the contents of a dataset, and the estimated cost of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.estimate import Estimate
from lib_blocktrain.training.pace import Pace
from lib_blocktrain.ui import html
from lib_blocktrain.ui.icons import icon
from lib_blocktrain.ui.train_checks import Check

SHOWN_TAGS, LISTED_TAGS = 10, 200  # at once, and when they are unfolded
SHOWN_BROKEN = 8
STEPS = (  # name, id to go to
    ("Pictures", "blocktrain_train_set"),
    ("Blocks", "blocktrain_train_map"),
    ("Settings", "blocktrain_train_name"),
    ("Start", "blocktrain_train_start"),
)
_TIME = Markup('<p class="blocktrain-cost-t">{}<small>{}</small></p>')
_FOOT = Markup('<p class="blocktrain-foot">{}</p>')
_PARTS = {"model": "model", "activations": "activations", "network": "LoRA, optimizer", "rest": "rest"}  # in the bar
_PART_OF = {
    "model": "model", "activations": "activations", "network": "network", "optimizer": "network",
    "gradients": "network",
}  # fmt: skip
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
    now = next((number for number, (_, ready) in enumerate(done) if not ready), None)
    for number, (name, anchor) in enumerate(STEPS):
        said, ready = done[number] if number < len(done) else ("", False)
        state = "blocktrain-is-done" if ready else "blocktrain-is-now" if number == now else ""
        mark = "✓" if ready else str(number + 1)
        lines.append(
            Markup(
                '<a class="blocktrain-step {}" href="#{}"><i aria-hidden="true">{}</i><span><b>{}</b><small>{}</small>'
                "</span></a>"
            ).format(state, anchor, mark, name, said)
        )
    return Markup('<nav class="blocktrain-steps" aria-label="Steps to a run">{}</nav>').format(Markup("").join(lines))


def folds(groups: Sequence[Sequence[tuple[str, str]]]) -> Markup:
    """What is set inside each of the folded groups; `javascript/train_form.js` puts it beside their titles."""
    lines = []
    for number, entries in enumerate(groups):
        parts = [Markup("<span>{}</span>{}").format(label, f" {value}" if value else "") for label, value in entries]
        said = Markup(" · ").join(parts)
        lines.append(Markup('<p data-fold="{}">{}</p>').format(number, said))
    return Markup("").join(lines)


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


def run_time(config: RunConfig, cost: Estimate, pace: Pace | None) -> str:
    """How long a run takes, such as "about 5 min"; "" where that is not known."""
    if pace is None or config.epochs:  # the pictures of an epoch are not counted here
        return ""
    return f"about {html.duration(60 * pace.minutes(config.steps, cost.gflop))}"


def in_short(cost: Estimate, time: str) -> Markup:
    """Time and memory of a run, for the action bar."""
    free = Markup("<small> of {:,.0f}</small>").format(cost.free_mib) if cost.free_mib else ""
    memory = Markup("{:,.0f} MiB{}").format(cost.total_mib, free)
    kind = " blocktrain-over" if cost.enough is False else ""
    line = Markup('<p class="blocktrain-bar-cost{}">{}<span>{}</span></p>')
    return line.format(kind, Markup("<b>{}</b> ").format(time) if time else "", memory)


def checks(found: Sequence[Check]) -> Markup:
    """What is to be known before the start, a line each."""
    line = Markup('<li class="blocktrain-is-{}">{}<span>{}</span></li>')
    lines = Markup("").join(line.format(one.state, icon(one.state), one.text) for one in found)
    return Markup('<ul class="blocktrain-checks">{}</ul>').format(lines)


def cost(config: RunConfig, found: Estimate, pace: Pace | None) -> Markup:
    """The time of a run, its memory by part beside what is free, a step beside one of all blocks; what would fit.

    Of a run of epochs the time of 100 steps.
    """
    if pace is None:
        time = _TIME.format("", "The time is known once a run has started.")
    else:
        steps = 100 if config.epochs else config.steps
        duration = html.duration(60 * pace.minutes(steps, found.gflop))
        judged = f"{steps:,} steps, judging by {pace.source}"
        time = _TIME.format(Markup("<b>about {}</b>").format(duration), judged)
    stops = f"The backward pass stops at {found.first_block}." if found.first_block else ""
    step = _meter("A step, beside all blocks", f"{found.relative_time:.2f} ×", [("step", found.relative_time)])
    meters = _memory(found) + step + (_FOOT.format(stops) if stops else "") + _sizes(config, found)
    notes = Markup("").join(html.note(notice) for notice in found.notices)
    if found.enough is False:
        choice = f"choose {', or '.join(found.fits)}" if found.fits else "no choice of blocks or batch fits"
        needed = f"about {found.total_mib:,.0f} MiB, you have {found.free_mib:,.0f}"
        notes = html.failure(f"{needed}: {choice}") + notes
    return Markup('<div class="blocktrain-cost">{}{}</div>{}').format(time, meters, notes)


def _sizes(config: RunConfig, found: Estimate) -> Markup:
    """What is trained, the size of the file, and how many samples are drawn."""
    itemsize = 4 if config.save_dtype == "fp32" else 2
    file = f"{found.parameters * itemsize / 2**20:.1f} MiB, {config.save_dtype}"
    rows = [("Trained", f"{found.parameters:,} numbers"), ("File", file), ("A step", found.title)]
    prompts, every = len(config.samples.prompts), config.samples.every
    if prompts and every and not config.epochs:
        times = -(-config.steps // every) + config.samples.first
        rows.append(("Samples", f"{prompts} × {times}"))
    body = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(*row) for row in rows)
    return Markup('<dl class="blocktrain-facts">{}</dl>').format(body)


def _memory(estimate: Estimate) -> Markup:
    """The memory by part, beside all that is free where that is known, and what the colours are."""
    total, free = estimate.total_mib, estimate.free_mib
    words = f"{total:,.0f} of {free:,.0f} MiB free" if free else f"{total:,.0f} MiB"
    mib: dict[str, float] = {}
    for name, needed in estimate.mib.items():
        part = _PART_OF.get(name, "rest")
        mib[part] = mib.get(part, 0.0) + needed
    parts = sorted(((part, needed) for part, needed in mib.items()), key=lambda one: list(_PARTS).index(one[0]))
    whole = max(total, free or 0.0) or 1.0
    bar = _meter("Memory", words, [(part, needed / whole) for part, needed in parts], over=estimate.enough is False)
    key = Markup('<li><i class="blocktrain-m-{}"></i>{} {:,.0f}</li>')
    keys = Markup("").join(key.format(part, _PARTS[part], needed) for part, needed in parts)
    said = ", ".join(f"{name} {needed:,.0f}" for name, needed in estimate.mib.items())
    return bar + Markup('<ul class="blocktrain-legend" title="{} MiB">{}</ul>').format(said, keys)


def _meter(name: str, value: str, parts: Sequence[tuple[str, float]], over: bool = False) -> Markup:
    """A name and a figure over a bar of parts, each a share of the bar."""
    fill = Markup('<i class="blocktrain-m-{}" style="width: {:.1f}%"></i>')
    fills = Markup("").join(fill.format(part, 100 * min(share, 1.0)) for part, share in parts)
    kind = " blocktrain-over" if over else ""
    return Markup(
        '<p class="blocktrain-meter-h"><span>{}</span><b>{}</b></p><p class="blocktrain-meter{}">{}</p>'
    ).format(name, value, kind, fills)


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
