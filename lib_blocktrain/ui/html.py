"""What the tab shows as HTML. Whatever comes from files and people is text, and never becomes markup."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from lib_blocktrain.blocks import ARCHITECTURES, BASE, REST, Architecture, spans
from lib_blocktrain.weights.block_weights import number
from lib_blocktrain.weights.preset_files import LineProblem
from lib_blocktrain.weights.preset_strings import Parsed, PresetStringError
from lib_blocktrain.workspace.drawing import Rendered, Variant
from lib_blocktrain.workspace.images import png_of, to_png
from lib_blocktrain.workspace.jobs import Step
from lib_blocktrain.workspace.lora_index import SHOWN_TAGS, LoraFile

LARGE = 512  # pixels; in a set of many pictures larger ones are shown at this size
MANY = 4
SHOWN_METADATA = {
    "modelspec.trigger_phrase": "trigger words",
    "ss_output_name": "name in prompts",
    "ss_sd_model_name": "trained on",
}


def note(text: str) -> str:
    """Something worth knowing."""
    return f'<p class="blocktrain-note" role="status">{escape(text)}</p>' if text else ""


def folders(paths: Iterable[Path]) -> str:
    """Where LoRA files are looked for; what is made here goes to the first."""
    shown = ", ".join(f"<code>{escape(str(path))}</code>" for path in paths)
    return f'<p class="blocktrain-folders">from {shown}</p>'


def failure(text: str) -> str:
    """Something that did not work."""
    return f'<p class="blocktrain-failure" role="alert">{escape(text)}</p>'


def brought(lora: str | None) -> str:
    """What Preview says when weights or a LoRA were brought from another place: its pictures are older than they."""
    return note(f"{lora} and its weights are on the sliders: press Preview to draw with them" if lora else "")


def ended(job_id: str, html: str) -> str:
    """What a job came to, in a mark by which the page tells one end from the next."""
    return f'<div data-ended="{escape(job_id, quote=True)}">{html}</div>'


def label(file: LoraFile) -> str:
    """One line of the LoRA list."""
    if file.problem:
        return f"{file.key} · cannot be read"
    there = sum(bool(n) for block, n in file.blocks.items() if block not in (BASE, REST))
    parts = [ARCHITECTURES[file.architecture].title, "+".join(file.algorithms), f"{there} blocks"]
    if file.rank is not None:
        parts.insert(2, f"rank {_rank(file.rank)}")
    return f"{file.key} · {' · '.join(parts)}"


def facts(file: LoraFile | None) -> str:
    """What a LoRA file contains, and what its metadata say."""
    if file is None:
        return note("Tick a LoRA above: its blocks, rank, tags and training are shown here")
    if file.problem:
        return failure(file.problem)
    rows: list[tuple[str, str]] = [
        ("architecture", escape(ARCHITECTURES[file.architecture].title)),
        ("algorithm", escape(", ".join(file.algorithms))),
        ("rank", escape(_rank(file.rank) if file.rank is not None else "none")),
        ("blocks", _blocks(file.blocks)),
    ]
    for key, name in SHOWN_METADATA.items():
        if file.metadata.get(key, "").strip():
            rows.append((name, escape(file.metadata[key][:200])))
    if file.tags:
        words = (f"<li>{escape(tag)} <small>{count}</small></li>" for tag, count in file.tags[:SHOWN_TAGS])
        more = f"<li><small>and {len(file.tags) - SHOWN_TAGS} more</small></li>" if len(file.tags) > SHOWN_TAGS else ""
        rows.append(("caption tags", f'<ul class="blocktrain-tags">{"".join(words)}{more}</ul>'))
    for name, value in file.block_arguments.items():
        rows.append((escape(name), f"<code>{escape(value)}</code>"))
    if file.unread:
        rows.append(("not understood", f"{file.unread} tensors, which do nothing here"))
    body = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f'<dl class="blocktrain-facts">{body}</dl>'


def _rank(rank: int | tuple[int, ...]) -> str:
    return str(rank) if isinstance(rank, int) else f"{rank[0]} to {rank[-1]}"


def _blocks(blocks: Mapping[str, int]) -> str:
    there = [f"<li>{block} <small>{count}</small></li>" for block, count in blocks.items() if count]
    lacking = [block for block, count in blocks.items() if not count and block != REST]
    without = f"<p>none in {', '.join(lacking)}</p>" if lacking else ""
    return f'<ul class="blocktrain-tags">{"".join(there)}</ul>{without}'


def by_value(weights: Mapping[str, float], known: Architecture) -> dict[float, str]:
    """The blocks that share a weight, written as a row: IN02, OUT07-OUT10."""
    groups: dict[float, list[str]] = {}
    for block_id, value in weights.items():
        groups.setdefault(value, []).append(block_id)
    return {value: spans(ids, known.block_ids) for value, ids in groups.items()}


def understood(parsed: Parsed) -> str:
    """What a pasted preset string means."""
    known = ARCHITECTURES[parsed.weights.architecture]
    name = f" “{parsed.name}”" if parsed.name else ""
    values = {BASE: parsed.weights.base, **parsed.weights.values}
    on = [f"{ids} = {number(value)}" for value, ids in by_value(values, known).items() if value]
    lines = [
        f"Understood as {parsed.form}{name} for {known.title}: {'; '.join(on) or 'everything off'}",
        *parsed.notices,
    ]
    if parsed.canvas is not None:
        lines.append(f"found for a feature that fills {parsed.canvas:.0%} of the canvas")
    if not parsed.weights.rest_follows:
        lines.append(f"{REST} = {number(parsed.weights.rest)} has no slider: it is 1 here, and 0 when all blocks are 0")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="blocktrain-understood" role="status">{items}</ul>'


def not_understood(text: str, error: PresetStringError) -> str:
    """What is wrong with a pasted preset string, with a caret under the character."""
    start = text.rfind("\n", 0, error.position) + 1
    end = text.find("\n", error.position)
    line, column = text[start : end if end >= 0 else None], error.position - start
    if column > 50:  # the character in view, whatever the string's length
        line, column = "…" + line[column - 40 :], 41
    line = line.replace("\t", " ")
    mark = f"{' ' * column}^"
    return f'{failure(str(error))}<pre class="blocktrain-caret">{escape(line[:120])}\n{mark}</pre>'


def duration(seconds: float | None) -> str:
    """So much time in words; "?" where nobody can tell."""
    if seconds is None:
        return "?"
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s" if minutes else f"{left} s"


def problems(found: Iterable[LineProblem]) -> str:
    """What is wrong with lines of a preset file."""
    items = "".join(f"<li>{escape(str(p) if p.line else p.message)}</li>" for p in found)
    return f'<ul class="blocktrain-problems">{items}</ul>' if items else ""


def progress(step: Step) -> str:
    """How far the pictures are, and how long they will take."""
    return bar(step, f"Picture {step.number + 1} of {step.of}, {step.what}: step {step.done} of {step.steps}")


def bar(step: Step, words: str) -> str:
    """How far a work is, as a bar and in words, and how long it will take."""
    left = step.seconds / step.share - step.seconds if step.share else None
    rest = f", {left:.0f} s left" if left is not None and step.seconds > 1 else ""
    return (
        f'<div class="blocktrain-progress" role="status"><progress max="100" value="{step.share * 100:.0f}">'
        f"</progress><span>{escape(words + rest)}</span></div>"
    )


def pictures(variants: Sequence[Variant], drawn: Mapping[int, Rendered], size: tuple[int, int]) -> str:
    """The pictures of a comparison side by side; those that are still to come have their place already."""
    figures = []
    for place, variant in enumerate(variants):
        found = drawn.get(place)
        if found is None:
            ratio = f"{size[0]} / {size[1]}"
            inner = f'<div class="blocktrain-empty" style="aspect-ratio: {ratio}"></div>'
        else:
            inner = _image(found, small=len(variants) >= MANY)
        figures.append(
            f'<figure data-arm="{variant.name}">{inner}<figcaption>{escape(variant.title)}{_again(found)}</figcaption></figure>'
        )
    kind = "blocktrain-pictures blocktrain-grid" if len(variants) >= MANY else "blocktrain-pictures"
    return f'<div class="{kind}">{"".join(figures)}</div>'


def _again(drawn: Rendered | None) -> str:
    return " <small>(the same)</small>" if drawn and drawn.again else ""


def _image(drawn: Rendered, small: bool) -> str:
    alt = escape(f"{drawn.variant.title}: {drawn.request.prompt}, seed {drawn.request.seed}", quote=True)
    if small and max(drawn.picture.size) > LARGE:
        reduced = drawn.picture.copy()
        reduced.thumbnail((LARGE, LARGE), Image.LANCZOS)
        return f'<img alt="{alt}" src="{data_url(png_of(reduced))}">'
    return f'<img alt="{alt}" src="{data_url(to_png(drawn.picture, drawn.request, drawn.model))}">'


def data_url(png: bytes) -> str:
    """A picture within the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
