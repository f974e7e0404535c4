"""What the place Runs shows as HTML. Names, prompts and reasons come from files: they are text, never markup."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from lib_blocktrain.runner import Status
from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui import html
from lib_blocktrain.ui.curves import chart
from lib_blocktrain.ui.history import History, Sample

THUMBNAIL = 160  # pixels
SHOWN_SAMPLES = 24  # of a prompt, the latest
SHOWN_EVENTS = 8


def label(status: Status) -> str:
    """One line of the list."""
    far = "" if status.goes_on else f" · {status.step}/{status.steps}"  # while it goes on, the head says it
    return f"{status.name} · {status.state}{far}"


def head(status: Status) -> str:
    """How the chosen run stands."""
    share = status.step / max(status.steps, 1) * 100
    parts = [f"step {status.step} of {status.steps}"]
    if status.state == "preparing":
        encoded = status.encoded
        parts = [f"encoding picture {encoded[0]} of {encoded[1]}"] if encoded else ["waiting for the model"]
    if status.smoothed is not None:
        parts.append(f"loss {status.smoothed:.4f}")
    if status.lr is not None:
        parts.append(f"learning rate {status.lr:.2g}")
    if status.seconds_a_step is not None and status.goes_on:
        parts.append(f"{status.seconds_a_step:.2f} s a step")
        parts.append(f"{html.duration(status.seconds_left)} left")
    if status.memory_mib is not None:
        parts.append(f"{status.memory_mib:,.0f} MiB at most")
    bar = f'<progress max="100" value="{share:.1f}"></progress>'
    words = f"<b>{escape(status.name)}</b> <em>{escape(status.state)}</em> {escape(' · '.join(parts))}"
    said = f'<div class="blocktrain-progress" data-state="{escape(status.state)}">{bar}<span>{words}</span></div>'
    if status.reason:
        say = html.failure if status.state in ("failed", "diverged") else html.note
        said += say(status.reason)
    return said + "".join(html.note(notice) for notice in status.notices)


def curves(history: History) -> str:
    """Loss, validation loss, learning rate, and the blocks."""
    found = history.curves
    charts = [
        chart("loss", {"loss": found["loss"], "smoothed": found["smoothed"]}),
        chart("validation loss", {"validation": found["validation"]}),
        chart("learning rate", {"lr": found["lr"]}),
        chart("norm of the delta weights, by block", history.by_block["norms"], by_block=True),
        chart("norm of the gradient, by block", history.by_block["gradients"], logarithmic=True, by_block=True),
        chart("share of the change, by block", history.by_block["shares"], by_block=True),
    ]
    return f'<div class="blocktrain-charts">{"".join(charts)}</div>' if any(charts) else ""


def events(history: History) -> str:
    """What happened, the latest first."""
    items = [f"<li>step {step}: {escape(said)}</li>" for step, said in reversed(history.events[-SHOWN_EVENTS:])]
    return f'<ul class="blocktrain-events">{"".join(items)}</ul>' if items else ""


def samples(run: Run, history: History) -> str:
    """The pictures drawn on the way: a row a prompt, from the first to the last."""
    rows: dict[tuple[str, str], list[Sample]] = {}
    for sample in history.samples:
        rows.setdefault((sample.file.partition("-")[2], sample.prompt), []).append(sample)
    strips = []
    for (_, prompt), found in rows.items():
        figures = "".join(_figure(run, sample) for sample in found[-SHOWN_SAMPLES:])
        strips.append(f'<p>{escape(prompt)}</p><div class="blocktrain-strip">{figures}</div>')
    return "".join(strips)


def waiting(runs: Sequence[Run], held: bool) -> str:
    """The queue."""
    if not runs:
        return ""
    items = "".join(f"<li>{escape(run.folder.name)}</li>" for run in runs)
    said = "The queue is held" if held else "The queue"
    return f'<p>{said}:</p><ol class="blocktrain-queue">{items}</ol>'


def _figure(run: Run, sample: Sample) -> str:
    path = run.folder / "samples" / sample.file
    try:
        stamp = path.stat().st_mtime_ns
        url = _thumbnail(path, stamp)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # cut short, or no picture of ours
        return ""
    alt = escape(f"step {sample.step}: {sample.prompt}", quote=True)
    return f'<figure><img alt="{alt}" src="{url}"><figcaption>step {sample.step}</figcaption></figure>'


@functools.lru_cache(maxsize=256)
def _thumbnail(path: Path, stamp: int) -> str:
    """A small copy as a data URL; `stamp` tells a file that was replaced from what it was."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
