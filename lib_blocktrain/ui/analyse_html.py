"""HTML of the Analyse tab: bars with their noise, tables, two features side by side, images.

The bars are blue and orange, which colour-blind readers can distinguish; every bar also has its figure in numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup
from PIL import Image

from lib_blocktrain.analysis.results import MEANINGS, Analysis, Comparison
from lib_blocktrain.analysis.similar import Ranking
from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.ui import html
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.workspace.images import png_of
from lib_blocktrain.workspace.jobs import Step

SHOWN_MATCHES = 20


def heading(analysis: Analysis) -> Markup:
    """One sentence: what was analysed, and its cost."""
    parts = [f"{analysis.feature} of {analysis.name}: {MEANINGS[analysis.method]}", *analysis.summary()]
    if analysis.stability is None:
        parts.append("only one picture: the noise cannot be estimated")
    text = "; ".join([*parts, *analysis.notices])
    return Markup('<p class="blocktrain-analysis-head" role="status">{}</p>').format(text)


def bars(analysis: Analysis) -> Markup:
    """A bar for each block in the order of the forward pass, with its noise as a line across the end of the bar."""
    highest = max((abs(f.mean) + (f.noise or 0.0) for f in analysis.figures), default=0.0) or 1.0
    lowest = min((f.mean - (f.noise or 0.0) for f in analysis.figures), default=0.0)
    zero = 25.0 if lowest < 0 else 0.0  # these are in % of the width
    scale = (100 - zero) / highest
    rows = []
    for figure in analysis.figures:
        end = zero + max(figure.mean * scale, -zero)
        kind = "noise" if figure.within_noise else "minus" if figure.mean < 0 else "plus"
        pieces = _piece(kind, min(zero, end), max(zero, end))
        if figure.noise is not None:
            low, high = (min(max(end + sign * figure.noise * scale, 0.0), 100.0) for sign in (-1, 1))
            pieces += _piece("spread", low, high)
        text = f"{figure.mean:.3f} · {figure.share:.1%}"
        rows.append(_row(figure.block, pieces, text, "within the noise" if figure.within_noise else ""))
    return _bars(f"{analysis.feature} by block", rows)


def comparison(compared: Comparison) -> Markup:
    """Two features side by side: blue to the left is the first's share, orange to the right the second's."""
    largest = max((max(row.first, row.second) for row in compared.rows), default=0.0) or 1.0
    rows = []
    for row in compared.rows:
        first, second = (share / largest * 50 for share in (row.first, row.second))
        advice = "about alike" if row.within_noise else "favours A" if row.difference > 0 else "favours B"
        pieces = _piece("plus", 50 - first, 50) + _piece("minus", 50, 50 + second)
        rows.append(_row(row.block, pieces, f"{100 * row.difference:+.1f}", advice))
    lines = [f"{letter}: {title}" for letter, title in zip("AB", compared.titles)]
    lines.append(f"rank correlation {compared.correlation:.2f}")
    head = Markup('<ul class="blocktrain-problems">{}</ul>').format(html.items(lines))
    return head + _bars("two features by block", rows)


def weights(analysis: Analysis, block_weights: BlockWeights) -> Markup:
    """The weights that a rule gives for the figures, and how much of the effect they keep."""
    groups = html.by_value(block_weights.values, ARCHITECTURES[block_weights.architecture])
    on = [f"{ids} = {number(value)}" for value, ids in sorted(groups.items(), reverse=True) if value]
    off = ["the others 0"] if 0.0 in groups and on else []
    effect = sum(figure.share * min(abs(block_weights[figure.block]), 1.0) for figure in analysis.figures)
    return html.note(f"{'; '.join([*on, *off]) or 'every block 0'}: {effect:.0%} of the effect")


def table(analysis: Analysis) -> Markup:
    """The figures as a table, the strongest block first."""
    rows = []
    for figure in sorted(analysis.figures, key=lambda figure: figure.rank):
        noise, spread = ("–" if value is None else f"{value:.4f}" for value in (figure.noise, figure.spread))
        within = "yes" if figure.within_noise else ""
        rows.append((figure.block, f"{figure.mean:.4f}", noise, spread, f"{figure.share:.1%}", within))
    return _table(("block", "figure", "±", "spread", "share", "within the noise"), rows)


def sheets(images: Mapping[str, Image.Image]) -> Markup:
    """The contact sheets of a rendered analysis, from top to bottom."""
    return Markup("").join(Markup("<figure>{}</figure>").format(_image(image, name)) for name, image in images.items())


def paintable(image: Image.Image) -> Markup:
    """An image on which the user can paint a mask (`javascript/mask_painter.js`)."""
    return Markup('<div class="blocktrain-painter" data-target="blocktrain_analyse_painted">{}</div>').format(
        _image(image, "the picture to paint over")
    )


def progress(step: Step) -> Markup:
    return html.bar(step, f"{step.what}: {step.done} of {step.steps}")


def ranking(ranked: Ranking) -> Markup:
    """The most similar LoRAs, with reasons, and the files that cannot be read."""
    shown = ranked.matches[:SHOWN_MATCHES]
    rows = [(f"{match.likeness:.0%}", match.profile.name, "; ".join(match.reasons)) for match in shown]
    found = _table(("likeness", "LoRA", "why"), rows)
    if len(ranked.matches) > len(shown):
        found += Markup("<p>and {} less alike</p>").format(len(ranked.matches) - len(shown))
    if ranked.unreadable:
        lines = html.items(f"{profile.name}: {profile.problem}" for profile in ranked.unreadable)
        found += Markup('<p>Not readable:</p><ul class="blocktrain-problems">{}</ul>').format(lines)
    return found


def _image(image: Image.Image, alt: str) -> Markup:
    return Markup('<img alt="{}" src="{}">').format(alt, html.data_url(png_of(image)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    columns = Markup("").join(Markup("<th>{}</th>").format(name) for name in head)
    lines = (Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row) for row in rows)
    body = Markup("").join(Markup("<tr>{}</tr>").format(line) for line in lines)
    return Markup('<table class="blocktrain-figures"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(
        columns, body
    )


def _bars(label: str, rows: Iterable[Markup]) -> Markup:
    return Markup('<ul class="blocktrain-bars" aria-label="{}">{}</ul>').format(label, Markup("").join(rows))


def _row(block: str, pieces: Markup, figures: str, remark: str) -> Markup:
    """A block's name, its bar and its figures; stacked on a narrow page."""
    small = Markup(" <small>{}</small>").format(remark) if remark else ""
    return Markup(
        '<li data-block="{block}"><span>{block}</span><span class="blocktrain-bar-place" aria-hidden="true">{pieces}'
        "</span><span>{figures}{small}</span></li>"
    ).format(block=block, pieces=pieces, figures=figures, small=small)


def _piece(kind: str, start: float, end: float) -> Markup:
    """A part of a bar; `start` and `end` are in % of the width."""
    return Markup('<i class="blocktrain-bar-{}" style="left:{:.2f}%;width:{:.2f}%"></i>').format(
        kind, start, end - start
    )
