"""What the place Analyse shows as HTML: bars a block with their noise, tables, two features side by side, pictures.

Colours are told apart by all eyes (blue against orange) and lightness says the same; figures stand beside every bar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from lib_blocktrain.analysis.results import MEANINGS, Analysis, Comparison
from lib_blocktrain.analysis.similar import Ranking
from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.ui import html
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.workspace.images import png_of
from lib_blocktrain.workspace.jobs import Step

SHOWN_MATCHES = 20


def heading(analysis: Analysis) -> str:
    """One sentence of what was asked and what it cost."""
    said = [f"{analysis.feature} of {analysis.name}: {MEANINGS[analysis.method]}", *analysis.told()]
    if analysis.stability is None:
        said.append("one picture alone: how sure this is cannot be told")
    said += analysis.notices
    return f'<p class="blocktrain-analysis-head" role="status">{escape("; ".join(said))}</p>'


def bars(analysis: Analysis) -> str:
    """A bar a block in the order of the forward pass, with the noise as a line over its end."""
    widest = max((abs(f.mean) + (f.noise or 0.0) for f in analysis.figures), default=0.0) or 1.0
    least = min((f.mean - (f.noise or 0.0) for f in analysis.figures), default=0.0)
    zero = 25.0 if least < 0 else 0.0  # all in % of a bar's place
    scale = (100 - zero) / widest
    rows = []
    for figure in analysis.figures:
        end = zero + max(figure.mean * scale, -zero)
        kind = "noise" if figure.within_noise else "minus" if figure.mean < 0 else "plus"
        pieces = _piece(kind, min(zero, end), max(zero, end))
        if figure.noise is not None:
            pieces += _piece("spread", *(min(max(end + sign * figure.noise * scale, 0.0), 100.0) for sign in (-1, 1)))
        said = f"{figure.mean:.3f} · {figure.share:.1%}"
        rows.append(_row(figure.block, pieces, said, "within the noise" if figure.within_noise else ""))
    return _bars(f"{analysis.feature} by block", rows)


def comparison(found: Comparison) -> str:
    """Two features side by side: blue to the left is the first's, orange to the right the second's."""
    widest = max((max(row.first, row.second) for row in found.rows), default=0.0) or 1.0
    rows = []
    for row in found.rows:
        first, second = (share / widest * 50 for share in (row.first, row.second))
        advice = "about alike" if row.within_noise else "raise for A" if row.difference > 0 else "lower against B"
        pieces = _piece("plus", 50 - first, 50) + _piece("minus", 50, 50 + second)
        rows.append(_row(row.block, pieces, f"{100 * row.difference:+.1f}", advice))
    head = "".join(f"<li>{letter}: {escape(title)}</li>" for letter, title in zip("AB", found.titles))
    said = f"<ul class='blocktrain-problems'>{head}<li>rank correlation {found.correlation:.2f}</li></ul>"
    return said + _bars("two features by block", rows)


def weights(analysis: Analysis, found: BlockWeights) -> str:
    """The weights that a rule makes of it, and how much of the effect they let through."""
    groups = html.by_value(found.values, ARCHITECTURES[found.architecture])
    on = [f"{ids} = {number(value)}" for value, ids in sorted(groups.items(), reverse=True) if value]
    kept = sum(figure.share * min(abs(found[figure.block]), 1.0) for figure in analysis.figures)
    others = ["the others 0"] if 0.0 in groups and on else []
    return html.note(f"{'; '.join([*on, *others]) or 'every block 0'}: {kept:.0%} of the effect")


def table(analysis: Analysis) -> str:
    """The figures as a table, the strongest block first."""
    rows = []
    for f in sorted(analysis.figures, key=lambda figure: figure.rank):
        noise, spread = ("–" if value is None else f"{value:.4f}" for value in (f.noise, f.spread))
        cells = (f.block, f"{f.mean:.4f}", noise, spread, f"{f.share:.1%}", "yes" if f.within_noise else "")
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("block", "figure", "±", "spread", "share", "within the noise"))
    return f'<table class="blocktrain-figures"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def sheets(pictures: Mapping[str, Image.Image]) -> str:
    """The sheets of a rendered analysis, one below the other."""
    return "".join(f"<figure>{_image(picture, name)}</figure>" for name, picture in pictures.items())


def to_paint_on(picture: Image.Image) -> str:
    """A picture that the page lets one paint over; see `painting`."""
    image = _image(picture, "the picture to paint over")
    return f'<div class="blocktrain-painter" data-target="blocktrain_analyse_painted">{image}</div>'


def _image(picture: Image.Image, alt: str) -> str:
    return f'<img alt="{escape(alt, quote=True)}" src="{html.data_url(png_of(picture))}">'


def progress(step: Step) -> str:
    """How far the analysis is, and how long it will take."""
    return html.bar(step, f"{step.what}: {step.done} of {step.steps}")


def ranking(found: Ranking) -> str:
    """LoRAs that are alike, with the reasons, and files that cannot be read."""
    shown = found.matches[:SHOWN_MATCHES]
    rows = []
    for match in shown:
        cells = (f"{match.likeness:.0%}", match.profile.name, "; ".join(match.reasons))
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    more = len(found.matches) - len(shown)
    head = "".join(f"<th>{name}</th>" for name in ("likeness", "LoRA", "why"))
    body = f'<table class="blocktrain-figures"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    body += f"<p>and {more} less alike</p>" if more > 0 else ""
    broken: Sequence[str] = [f"<li>{escape(p.name)}: {escape(p.problem)}</li>" for p in found.unreadable]
    return body + (f'<p>Not readable:</p><ul class="blocktrain-problems">{"".join(broken)}</ul>' if broken else "")


def _bars(label: str, rows: Sequence[str]) -> str:
    return f'<ul class="blocktrain-bars" aria-label="{escape(label, quote=True)}">{"".join(rows)}</ul>'


def _row(block: str, pieces: str, figures: str, remark: str) -> str:
    """A block's name, its bar and its figures, which come under each other where the page is narrow."""
    said = escape(figures) + (f" <small>{escape(remark)}</small>" if remark else "")
    place = f'<span class="blocktrain-bar-place" aria-hidden="true">{pieces}</span>'
    return f'<li data-block="{escape(block)}"><span>{escape(block)}</span>{place}<span>{said}</span></li>'


def _piece(kind: str, start: float, end: float) -> str:
    """A part of a bar, from here to there in % of its place."""
    return f'<i class="blocktrain-bar-{kind}" style="left:{start:.2f}%;width:{end - start:.2f}%"></i>'
