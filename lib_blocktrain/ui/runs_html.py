"""HTML of the Runs tab: the status of a run, its curves, samples and events."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from lib_blocktrain.files import PICTURE_FORMATS
from lib_blocktrain.runner import Status
from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui import html
from lib_blocktrain.ui.curves import chart
from lib_blocktrain.ui.history import History, Sample

THUMBNAIL = 160  # pixels
SHOWN_SAMPLES = 24  # the latest of each prompt
SHOWN_EVENTS = 8


def label(status: Status) -> str:
    """One line of the list, as plain text, without the step of an active run, which changes all the time."""
    step = "" if status.is_active else f" · {status.step}/{status.steps}"
    return f"{status.name} · {status.state}{step}"


def head(status: Status) -> Markup:
    """The status of the run: a progress bar, figures, and the reason if it has failed."""
    line = Markup(
        '<div class="blocktrain-progress" data-state="{state}"><progress max="100" value="{percent:.1f}"></progress>'
        "<span><b>{name}</b> <em>{state}</em> {figures}</span></div>"
    ).format(
        state=status.state,
        percent=status.step / max(status.steps, 1) * 100,
        name=status.name,
        figures=" · ".join(_figures(status)),
    )
    if status.reason:
        line += (html.failure if status.state in ("failed", "diverged") else html.note)(status.reason)
    return line + Markup("").join(html.note(notice) for notice in status.notices)


def _figures(status: Status) -> list[str]:
    figures = [f"step {status.step} of {status.steps}"]
    if status.state == "preparing":
        encoded = status.encoded
        figures = [f"encoding picture {encoded[0]} of {encoded[1]}" if encoded else "waiting for the model"]
    if status.smoothed is not None:
        figures.append(f"loss {status.smoothed:.4f}")
    if status.lr is not None:
        figures.append(f"learning rate {status.lr:.2g}")
    if status.seconds_a_step is not None and status.is_active:
        figures.append(f"{status.seconds_a_step:.2f} s a step")
        figures.append(f"{html.duration(status.seconds_left)} left")
    if status.memory_mib is not None:
        figures.append(f"{status.memory_mib:,.0f} MiB at most")
    return figures


def curves(history: History) -> Markup:
    """Charts of loss, validation loss, learning rate, and of each block; those without points are left out."""
    named, by_block = history.curves, history.by_block
    charts = [
        chart("loss", {"loss": named["loss"], "smoothed": named["smoothed"]}),
        chart("validation loss", {"validation": named["validation"]}),
        chart("learning rate", {"lr": named["lr"]}),
        chart("norm of the delta weights, by block", by_block["norms"], by_block=True),
        chart("norm of the gradient, by block", by_block["gradients"], logarithmic=True, by_block=True),
        chart("share of the change, by block", by_block["shares"], by_block=True),
    ]
    if not any(charts):
        return Markup("")
    return Markup('<div class="blocktrain-charts">{}</div>').format(Markup("").join(charts))


def events(history: History) -> Markup:
    """The latest events, the newest first."""
    lines = [f"step {step}: {event}" for step, event in reversed(history.events[-SHOWN_EVENTS:])]
    return Markup('<ul class="blocktrain-events">{}</ul>').format(html.items(lines)) if lines else Markup("")


def samples(run: Run, history: History) -> Markup:
    """The sample images: a row for each prompt, from the first step to the last."""
    rows: dict[tuple[str, str], list[Sample]] = {}
    for sample in history.samples:
        rows.setdefault((sample.file.partition("-")[2], sample.prompt), []).append(sample)
    strips = []
    for (_, prompt), of_prompt in rows.items():
        figures = Markup("").join(_figure(run, sample) for sample in of_prompt[-SHOWN_SAMPLES:])
        strips.append(Markup('<p>{}</p><div class="blocktrain-strip">{}</div>').format(prompt, figures))
    return Markup("").join(strips)


def queue(runs: Sequence[Run], held: bool) -> Markup:
    if not runs:
        return Markup("")
    title = "The queue is held" if held else "The queue"
    names = html.items(run.folder.name for run in runs)
    return Markup('<p>{}:</p><ol class="blocktrain-queue">{}</ol>').format(title, names)


def _figure(run: Run, sample: Sample) -> Markup:
    path = run.folder / "samples" / sample.file
    try:
        url = _thumbnail(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # a truncated file, or not an image
        return Markup("")
    return Markup(
        '<figure><img alt="step {step}: {prompt}" src="{url}"><figcaption>step {step}</figcaption></figure>'
    ).format(step=sample.step, prompt=sample.prompt, url=url)


@functools.lru_cache(maxsize=256)
def _thumbnail(path: Path, modified: int) -> str:
    """A thumbnail as a data URL; `modified` is in the cache's key, so that a replaced file is read again."""
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
