"""HTML of the page, as `markupsafe.Markup`: plain text that is put into it is escaped, wherever it comes from.

Markup is written as a constant template and filled by ``format``; parts are put together by ``Markup("").join``.
`tests/ui/test_html.py` finds tags in f-strings, and the shim escapes what is shown without being Markup.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from lib_blocktrain.blocks import ARCHITECTURES, REST, Architecture, spans
from lib_blocktrain.weights.block_weights import number
from lib_blocktrain.weights.preset_files import LineProblem
from lib_blocktrain.weights.preset_strings import Parsed, PresetStringError
from lib_blocktrain.workspace.jobs import Step
from lib_blocktrain.workspace.lora_files import LoraFile
from lib_blocktrain.workspace.lora_listing import rank_text


def note(text: str, title: str = "") -> Markup:
    more = Markup(' title="{}"').format(title) if title else ""
    return Markup('<p class="blocktrain-note" role="status"{}>{}</p>').format(more, text) if text else Markup("")


def done(text: str) -> Markup:
    """A note that something was done, with a check mark in the action bar."""
    return Markup('<p class="blocktrain-note blocktrain-done" role="status">{}</p>').format(text)


def failure(text: str) -> Markup:
    return Markup('<p class="blocktrain-failure" role="alert">{}</p>').format(text)


def items(lines: Iterable[str]) -> Markup:
    return Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)


def changed_elsewhere(lora: str | None, other: str | None = None) -> Markup:
    """The note in Preview when another tab has set its weights: the pictures shown were drawn before that."""
    if other:
        return note(f"{lora} and {other} and their weights are on the sliders: press Draw to see what they do")
    return note(f"{lora} and its weights are on the sliders: press Draw to see what they do" if lora else "")


def ended(job_id: str, shown: str) -> Markup:
    """The end of a job, marked with its id so that the page's scripts notice each new one."""
    return Markup('<div data-ended="{}">{}</div>').format(job_id, shown)


def facts(file: LoraFile | None) -> Markup:
    """What a LoRA file contains, and the useful part of its metadata."""
    if file is None or file.facts is None:
        return note("Add a LoRA above: its blocks, rank, tags and training are shown here")
    if file.problem:
        return failure(file.problem)
    found = file.facts
    rows = [
        ("architecture", ARCHITECTURES[file.architecture].title),
        ("algorithm", ", ".join(file.algorithms)),
        ("rank", rank_text(found.rank) if found.rank is not None else "none"),
        ("blocks", _blocks(file.blocks)),
    ]
    texts = (("trigger words", found.trigger), ("name in prompts", found.output_name), ("trained on", found.trained_on))
    rows += [(name, text) for name, text in texts if text.strip()]
    if found.tags:
        rows.append(("caption tags", _tags(found.tags, found.tag_count)))
    for name, value in found.block_arguments.items():
        rows.append((name, Markup("<code>{}</code>").format(value)))
    if found.unread:
        rows.append(("not understood", f"{found.unread} tensors, which are ignored"))
    rows += [("note", notice) for notice in found.notices]
    body = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in rows)
    return Markup('<dl class="blocktrain-facts">{}</dl>').format(body)


def _tags(tags: Sequence[tuple[str, float]], count: int) -> Markup:
    more = Markup("<li><small>and {} more</small></li>").format(count - len(tags)) if count > len(tags) else ""
    return Markup('<ul class="blocktrain-tags">{}{}</ul>').format(_counted(tags), more)


def _blocks(blocks: Mapping[str, int]) -> Markup:
    lacking = [block for block, count in blocks.items() if not count and block != REST]
    without = Markup("<p>none in {}</p>").format(", ".join(lacking)) if lacking else ""
    there = _counted([(block, count) for block, count in blocks.items() if count])
    return Markup('<ul class="blocktrain-tags">{}</ul>{}').format(there, without)


def _counted(counts: Iterable[tuple[str, float]]) -> Markup:
    return items(Markup("{} <small>{}</small>").format(name, count) for name, count in counts)


def by_value(weights: Mapping[str, float], architecture: Architecture) -> dict[float, str]:
    """The blocks of each weight, as text: IN02, OUT07-OUT10."""
    groups: dict[float, list[str]] = {}
    for block_id, value in weights.items():
        groups.setdefault(value, []).append(block_id)
    return {value: spans(ids, architecture.block_ids) for value, ids in groups.items()}


def understood(parsed: Parsed) -> Markup:
    """How a pasted preset string was read."""
    weights = parsed.weights
    architecture = ARCHITECTURES[weights.architecture]
    name = f" “{parsed.name}”" if parsed.name else ""
    on = [f"{ids} = {number(value)}" for value, ids in by_value(weights.with_base, architecture).items() if value]
    lines = [
        f"Understood as {parsed.form}{name} for {architecture.title}: {'; '.join(on) or 'everything off'}",
        *parsed.notices,
    ]
    if parsed.layers.changes:
        lines.append(f"then {parsed.layers.changes}")
    if parsed.area_share is not None:
        lines.append(f"found for a feature that fills {parsed.area_share:.0%} of the canvas")
    if not weights.rest_follows:
        lines.append(f"{REST} = {number(weights[REST])} has no slider: it is 1 here, and 0 when all blocks are 0")
    return Markup('<ul class="blocktrain-understood" role="status">{}</ul>').format(items(lines))


def not_understood(text: str, error: PresetStringError) -> Markup:
    """What is wrong with a pasted preset string, with a caret under the character."""
    start = text.rfind("\n", 0, error.position) + 1
    end = text.find("\n", error.position)
    line, column = text[start : end if end >= 0 else None], error.position - start
    if column > 50:  # keeps the character in view, whatever the string's length
        line, column = "…" + line[column - 40 :], 41
    line = line.replace("\t", " ")
    mark = f"{' ' * column}^"
    return failure(str(error)) + Markup('<pre class="blocktrain-caret">{}\n{}</pre>').format(line[:120], mark)


def duration(seconds: float | None) -> str:
    """A time as text; "?" where it is unknown."""
    if seconds is None:
        return "?"
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s" if minutes else f"{left} s"


def clock(seconds: float | None) -> str:
    """A time as 2:10, or 1:02:10 from an hour on."""
    minutes, left = divmod(round(seconds or 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def problems(found: Iterable[LineProblem]) -> Markup:
    """What is wrong with lines of a preset file."""
    lines = [str(p) if p.line else p.message for p in found]
    return Markup('<ul class="blocktrain-problems">{}</ul>').format(items(lines)) if lines else Markup("")


def progress(step: Step) -> Markup:
    """The progress of pictures; the page shows it on the picture that is drawn, too, found by ``data-number``."""
    words = f"Picture {step.number + 1} of {step.of} · step {step.done}/{step.steps}"
    data = Markup('<div data-drawing="{}" data-done="{}" data-steps="{}">{}</div>')
    return data.format(step.number, step.done, step.steps, bar(step, words))


def bar(step: Step, words: str) -> Markup:
    """A progress bar with words and the time that is left."""
    left = step.seconds / step.share - step.seconds if step.share else None
    rest = f" · {duration(left)} left" if left is not None and step.seconds > 1 else ""
    return Markup(
        '<div class="blocktrain-progress" role="status"><progress max="100" value="{:.0f}"></progress>'
        "<span>{}</span></div>"
    ).format(step.share * 100, words + rest)


def data_url(content: bytes, kind: str = "png") -> str:
    """A picture within the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
