"""What the place Analyse shows as HTML: bars a block with their noise, tables, two features side by side, pictures.

Colours are told apart by all eyes (blue against orange) and lightness says the same; figures stand beside every bar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from lib_blocktrain.analysis.results import MEANINGS, Analysis, Comparison
from lib_blocktrain.analysis.similar import Ranking
from lib_blocktrain.pictures import png_of
from lib_blocktrain.ui import texts
from lib_blocktrain.ui.jobs import Step

BAR, ROW, LABEL, FIGURES = 300, 18, 56, 215  # pixels
SHOWN_MATCHES = 20


def heading(analysis: Analysis) -> str:
    """One sentence of what was asked and what it cost."""
    said = [f"{analysis.feature} of {analysis.name}: {MEANINGS[analysis.method]}", *analysis.told()]
    if analysis.stability is None:
        said.append("one picture alone: how sure this is cannot be told")
    said += analysis.notices
    return f'<p class="blocktrain-analysis-head" role="status">{escape("; ".join(said))}</p>'


def bars(analysis: Analysis) -> str:
    """A bar a block in the order of the forward pass, with the noise as a line over its end; SVG."""
    widest = max((abs(f.mean) + (f.noise or 0.0) for f in analysis.figures), default=0.0) or 1.0
    least = min((f.mean - (f.noise or 0.0) for f in analysis.figures), default=0.0)
    zero = LABEL + (BAR * 0.25 if least < 0 else 0.0)
    scale = (LABEL + BAR - zero) / widest
    rows = []
    for number, figure in enumerate(analysis.figures):
        y = number * ROW
        end = zero + max(figure.mean * scale, LABEL - zero)
        x, width = min(zero, end), max(abs(end - zero), 0.5)
        kind = "noise" if figure.within_noise else "minus" if figure.mean < 0 else "plus"
        said = f"{figure.mean:.3f} · {figure.share:.1%}" + (" · within the noise" if figure.within_noise else "")
        row = (
            f'<text x="0" y="{y + 13}">{escape(figure.block)}</text>'
            f'<rect class="blocktrain-bar-{kind}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}"/>'
        )
        if figure.noise is not None:
            low, high = (max(LABEL, end + sign * figure.noise * scale) for sign in (-1, 1))
            high = min(high, LABEL + BAR + 6)
            row += f'<path class="blocktrain-bar-spread" d="M{low:.1f} {y + ROW / 2}H{high:.1f}"/>'
        row += f'<text x="{LABEL + BAR + 10}" y="{y + 13}">{said}</text>'
        rows.append(f'<g data-block="{escape(figure.block)}">{row}</g>')
    return _svg(f"{analysis.feature} by block", rows)


def comparison(found: Comparison) -> str:
    """Two features side by side: blue to the left is the first's, orange to the right the second's."""
    half = BAR / 2
    widest = max((max(row.first, row.second) for row in found.rows), default=0.0) or 1.0
    middle, rows = LABEL + half, []
    for number, row in enumerate(found.rows):
        y = number * ROW
        first, second = (share / widest * half for share in (row.first, row.second))
        advice = "about alike" if row.within_noise else "raise for A" if row.difference > 0 else "lower against B"
        rows.append(
            f'<g data-block="{escape(row.block)}"><text x="0" y="{y + 13}">{escape(row.block)}</text>'
            f'<rect class="blocktrain-bar-plus" x="{middle - first:.1f}" y="{y + 3}" width="{first:.1f}" height="12"/>'
            f'<rect class="blocktrain-bar-minus" x="{middle:.1f}" y="{y + 3}" width="{second:.1f}" height="12"/>'
            f'<text x="{LABEL + BAR + 10}" y="{y + 13}">{100 * row.difference:+.1f} · {advice}</text></g>'
        )
    head = "".join(f"<li>{letter}: {escape(title)}</li>" for letter, title in zip("AB", found.titles))
    said = f"<ul class='blocktrain-problems'>{head}<li>rank correlation {found.correlation:.2f}</li></ul>"
    return said + _svg("two features by block", rows)


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
    return f'<img alt="{escape(alt, quote=True)}" src="{texts.data_url(png_of(picture))}">'


def progress(step: Step) -> str:
    """How far the analysis is, and how long it will take."""
    return texts.bar(step, f"{step.what}: {step.done} of {step.steps}")


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


def _svg(label: str, rows: Sequence[str]) -> str:
    size = f'viewBox="0 0 {LABEL + BAR + FIGURES} {ROW * len(rows)}"'
    name = escape(label, quote=True)
    return f'<svg class="blocktrain-bars" role="img" aria-label="{name}" {size}>{"".join(rows)}</svg>'
