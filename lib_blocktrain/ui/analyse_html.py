"""HTML of the Analyse tab: the answer in words, bars with their noise, tables, two features side by side, images.

A is amber, B slate; colour-blind readers can distinguish them, and every bar also has its figure in numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup
from PIL import Image

from lib_blocktrain.analysis.pairs import broken, notable
from lib_blocktrain.analysis.results import MEANINGS, Analysis, Comparison
from lib_blocktrain.analysis.similar import Ranking
from lib_blocktrain.analysis.statistics import rounded
from lib_blocktrain.analysis.weight_rules import fewest, ranked
from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.ui import html
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.workspace.images import png_of
from lib_blocktrain.workspace.jobs import Step

SHOWN_MATCHES = 20
HALF = 0.5  # of the effect: most of it
NAMED = 4  # blocks in a sentence
SENTENCES = {  # by method, where the figures are not of a picture
    "norms": "Most of the LoRA's size is in {blocks}.",
    "probe": "Training on these pictures would change {blocks} most.",
}


def answer(analysis: Analysis) -> Markup:
    """What the figures say in one sentence for the user; the figures of the analysis itself beneath."""
    parts = [f"{analysis.feature} of {analysis.name}: {MEANINGS[analysis.method]}", *analysis.summary()]
    if analysis.stability is None:
        parts.append("only one picture: the noise cannot be estimated")
    text = "; ".join([*parts, *analysis.notices])
    return Markup('<p class="blocktrain-answer" role="status">{}</p><p class="blocktrain-analysis-head">{}</p>').format(
        _sentence(analysis), text
    )


def _sentence(analysis: Analysis) -> str:
    """Which blocks make most of the feature, in words: the fewest that have half of the effect."""
    sure = [figure for figure in ranked(analysis) if figure.share > 0 and not figure.within_noise]
    feature = analysis.feature.removeprefix("the word ")
    if not sure:
        return f"No block stands out from the noise for {feature}: try more seeds."
    most = fewest(analysis, HALF)
    if len(most) > NAMED:
        first = sure[0]
        return (
            f"{feature[:1].upper()}{feature[1:]} is spread over the blocks: {first.block} leads with {first.share:.0%}."
        )
    names = [figure.block for figure in most]
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return SENTENCES.get(analysis.method, "Most of {feature} comes from {blocks}.").format(
        feature=feature, blocks=listed
    )


def bars(analysis: Analysis, other: Analysis | None = None) -> Markup:
    """A bar for each block, the strongest first, with its noise as a line across the end of the bar.

    Beneath it a thin bar for `other`, a second feature, in its own scale. `javascript/analyse_keep.js` can order the
    rows by place in the U instead, and marks those that are kept.
    """
    highest = max((abs(f.mean) + (f.noise or 0.0) for f in analysis.figures), default=0.0) or 1.0
    lowest = min((f.mean - (f.noise or 0.0) for f in analysis.figures), default=0.0)
    scale = 100 / (highest - min(lowest, 0.0))  # these are in % of the width
    zero = max(-lowest * scale, 0.0)
    seconds = {} if other is None else {figure.block: figure.mean for figure in other.figures}
    most = max(seconds.values(), default=0.0) or 1.0
    rows = []
    for place, figure in enumerate(analysis.figures):
        end = zero + max(figure.mean * scale, -zero)
        kind = "noise" if figure.within_noise else "minus" if figure.mean < 0 else "plus"
        pieces = _piece(kind, min(zero, end), max(zero, end))
        if figure.noise is not None:
            low, high = (min(max(end + sign * figure.noise * scale, 0.0), 100.0) for sign in (-1, 1))
            pieces += _piece("spread", low, high)
        if figure.block in seconds:
            pieces += _piece("second", zero, zero + max(seconds[figure.block], 0.0) / most * (100 - zero))
        noise = "noise" if figure.within_noise else "" if figure.noise is None else f"±{figure.noise:.3f}"
        rows.append((figure.rank, place, _row(figure.block, pieces, f"{figure.mean:.3f}", noise, figure.rank, place)))
    ordered = [row for _, _, row in sorted(rows, key=lambda row: row[:2])]
    return _order_buttons() + _legend(analysis, other) + _bars(f"{analysis.feature} by block", ordered)


def _order_buttons() -> Markup:
    return Markup(
        '<div class="blocktrain-seg" role="group" aria-label="Order of the bars">'
        '<button type="button" data-order="rank" aria-pressed="true">By effect</button>'
        '<button type="button" data-order="place" aria-pressed="false">By place</button></div>'
    )


def _legend(analysis: Analysis, other: Analysis | None) -> Markup:
    """What the colours of the bars are; the letters only where there are two features."""
    parts = [Markup('<li><i class="blocktrain-k-a"></i>{}{}</li>').format("A " if other else "", analysis.feature)]
    if analysis.stability is not None:
        parts.append(Markup('<li><i class="blocktrain-k-noise"></i>± over seeds and prompts</li>'))
    if other is not None:
        parts.append(Markup('<li><i class="blocktrain-k-b"></i>B {}, in its own scale</li>').format(other.feature))
    return Markup('<ul class="blocktrain-legend">{}</ul>').format(Markup("").join(parts))


def keep(analysis: Analysis, other: Analysis | None, kept: BlockWeights, live: bool) -> Markup:
    """What keeping the strongest blocks keeps, as a curve over their number with a slider on it.

    `javascript/analyse_keep.js` draws it from `data-keep`: the blocks from the strongest down, and the share that each
    adds to A (and to B); `start` are the shares without any block, those of the text encoder. Without `live` the
    weights come from another rule: the curve stands still, and marks the blocks that `kept` keeps.
    """
    order = [figure.block for figure in ranked(analysis)]
    data: dict[str, object] = {"blocks": order, "live": live}
    data["kept"] = [block for block in order if kept[block]]
    for letter, found in (("a", analysis), ("b", other)):
        if found is not None:
            shares = {figure.block: figure.share for figure in found.figures}
            data[letter] = [round(shares.get(block, 0.0), 4) for block in order]
            data[f"{letter}Start"] = round(sum(share for block, share in shares.items() if block not in order), 4)
            data[f"{letter}Name"] = found.feature
    return Markup('<div class="blocktrain-keep" data-keep="{}"></div>').format(json.dumps(data))


def comparison(compared: Comparison) -> Markup:
    """Two features side by side as a table: each one's share by block, and which of them a block favours."""
    rows = []
    for row in compared.rows:
        advice = "about alike" if row.within_noise else "favours A" if row.difference > 0 else "favours B"
        shares = (f"{rounded(share, 3):.1%}" for share in (row.first, row.second))
        rows.append((row.block, *shares, f"{rounded(100 * row.difference, 1):+.1f}", advice))
    lines = [f"{letter}: {title}" for letter, title in zip("AB", compared.titles)]
    lines.append(f"rank correlation {compared.correlation:.2f}")
    head = Markup('<ul class="blocktrain-problems">{}</ul>').format(html.items(lines))
    return head + _table(("block", "A", "B", "A - B", ""), rows)


def weights(analysis: Analysis, block_weights: BlockWeights) -> Markup:
    """The weights that a rule gives for the figures, and how much of the effect they keep."""
    groups = html.by_value(block_weights.values, ARCHITECTURES[block_weights.architecture])
    on = [f"{ids} = {number(value)}" for value, ids in sorted(groups.items(), reverse=True) if value]
    off = ["the others 0"] if 0.0 in groups and on else []
    effect = sum(figure.share * min(abs(block_weights[figure.block]), 1.0) for figure in analysis.figures)
    said = html.note(f"{'; '.join([*on, *off]) or 'every block 0'}: {effect:.0%} of the effect")
    kept = [block for block, weight in block_weights.values.items() if weight]
    return said + Markup("").join(html.note(f"Warning: {lost}") for lost in broken(analysis.pairs, kept))


def pairs(analysis: Analysis) -> Markup:
    """The pairs of blocks that replace or need each other, strongest first; "" where nobody asked."""
    if not analysis.pairs:
        return Markup("")
    found = notable(analysis.pairs)
    if not found:
        return html.note("No pair of blocks is beyond the noise: what they do adds up.")
    rows = Markup("").join(Markup("<li>{}</li>").format(pair.says) for pair in found)
    return Markup('<ul class="blocktrain-pairs">{}</ul>').format(rows)


def table(analysis: Analysis) -> Markup:
    """The figures as a table, the strongest block first."""
    rows = []
    for figure in sorted(analysis.figures, key=lambda figure: figure.rank):
        noise, spread = ("–" if value is None else f"{value:.4f}" for value in (figure.noise, figure.spread))
        within = "yes" if figure.within_noise else ""
        mean, share = rounded(figure.mean, 4), rounded(figure.share, 3)
        rows.append((figure.block, f"{mean:.4f}", noise, spread, f"{share:.1%}", within))
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


def _row(block: str, pieces: Markup, figure: str, noise: str, rank: int, place: int) -> Markup:
    """A block's name, its bar, its figure and the figure's noise."""
    return Markup(
        '<li data-block="{block}" data-rank="{rank}" data-place="{place}"><b>{block}</b>'
        '<span class="blocktrain-bar-place" aria-hidden="true">{pieces}</span><span>{figure} <small>{noise}</small>'
        "</span></li>"
    ).format(block=block, rank=rank, place=place, pieces=pieces, figure=figure, noise=noise)


def _piece(kind: str, start: float, end: float) -> Markup:
    """A part of a bar; `start` and `end` are in % of the width."""
    return Markup('<i class="blocktrain-bar-{}" style="left:{:.2f}%;width:{:.2f}%"></i>').format(
        kind, start, end - start
    )
