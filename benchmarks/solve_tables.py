"""The tables of benchmarks/solve.py, from what it has done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.solve_cases import CASES
from benchmarks.solve_methods import surrogates
from lib_blocktrain.analysis.statistics import spearman

RESAMPLES = 4000

Results = Mapping[str, Any]


def comparison(results: Results, name: str, methods: Sequence[str]) -> Iterator[str]:
    """Yield a case's rows as Markdown, of the methods whose weights are all counted."""
    if not {f"{name}|without|0", f"{name}|whole|0"} <= results.keys():
        yield f"{name}: nothing is counted yet"
        return
    case, without = CASES[name], read_of(results, f"{name}|without|0")
    whole, nothing = (case.counted(one, without) for one in (read_of(results, f"{name}|whole|0"), without))
    points = {}
    for method in methods:
        keys = [f"{name}|{method}|{n}" for n in range(len(results.get(f"{name}|{method}", {}).get("weights", ())))]
        if keys and all(key in results for key in keys):
            points[method] = [case.counted(read_of(results, key), without) for key in keys]
    count = whole.shape[1]
    draws = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    areas = {m: np.array([area([whole, nothing, *of], draw) for draw in draws]) for m, of in points.items()}
    every = np.arange(count)
    yield f"| {name}: kept / dropped of {count} | area | the search is better by | U-Net evaluations |"
    yield "|---|---:|---:|---:|"
    yield f"| all blocks at 1: {pair(whole)}; at 0: {pair(nothing)} | {area([whole, nothing], every):.3f} | | 0 |"
    for method, of in points.items():
        better = ""
        if method != "search" and "search" in areas:
            low, high = np.percentile(areas["search"] - areas[method], (2.5, 97.5))
            better = f"{low:+.3f} to {high:+.3f}"
        spent = results[f"{name}|{method}"]["evaluations"]
        cells = f"{area([whole, nothing, *of], every):.3f} | {better} | {spent:,.0f}"
        yield f"| {method}: {', '.join(map(pair, of))} | {cells} |"


def figures(results: Results, name: str) -> Iterator[str]:
    """Yield R2, of the best line through the prediction, and the rank correlation, for A and B, as Markdown.

    Each with the interval that a bootstrap over the random weights gives it.
    """
    case, key = CASES[name], f"{name}|figures"
    rows: list[Any] = []
    while f"{key}|{len(rows)}" in results:
        rows.append(results[f"{key}|{len(rows)}"])
    if not rows:
        yield f"{name}: no random weights are counted yet"
        return
    of_pairs, drawn = results[f"{key}|pairs"], np.array([row["weights"] for row in rows])
    without = read_of(results, f"{key}|without")
    counts = np.array([case.counted(unpacked(row["seen"]), without).mean(axis=1) for row in rows])
    counted = counts[:, 0], 1 - counts[:, 1]
    predicted = {
        title: [drawn @ np.array([of.get(block, 0.0) for block in of_pairs["blocks"]]) for of in both]
        for title, (both, _) in results[key].items()
    }
    shap = surrogates([(np.array(mask), *found) for mask, *found in of_pairs["tries"]])
    predicted["SHAP with pairs"] = [predict(drawn) for predict in shap]
    costs = {title: cost for title, (_, cost) in results[key].items()}
    costs["SHAP with pairs"] = of_pairs["evaluations"]
    draws = np.random.default_rng(0).integers(0, len(rows), (RESAMPLES // 4, len(rows)))
    yield f"| {len(rows)} random weights, {name} | A: R² | A: rank | B: R² | B: rank | U-Net evaluations |"
    yield "|---|---:|---:|---:|---:|---:|"
    for title, both in predicted.items():
        cells = [cell for x, y in zip(both, counted) for cell in correlations(np.asarray(x), y, draws)]
        yield f"| {title} | {' | '.join(cells)} | {costs[title]:,.0f} |"


def correlations(x: np.ndarray, y: np.ndarray, draws: np.ndarray) -> tuple[str, str]:
    """Return R2 and the rank correlation, each with the interval of its resamples."""
    found = []
    for form, of in (
        ("{:.2f}", lambda a, b: np.corrcoef(a, b)[0, 1] ** 2),
        ("{:+.2f}", lambda a, b: spearman(a, b)),
    ):
        low, high = np.percentile([of(x[draw], y[draw]) for draw in draws], (2.5, 97.5))
        found.append(f"{form} ({form} to {form})".format(of(x, y), low, high))
    return found[0], found[1]


def pair(counted: np.ndarray) -> str:
    return f"{counted[0].sum():.0f} / {counted[1].sum():.0f}"


def read_of(results: Results, key: str) -> dict[str, list[str]]:
    return unpacked(results[key])


def packed(seen: Mapping[str, Sequence[str]], factors: Sequence[str]) -> dict[str, str]:
    """Return what was read of these factors, each in one text, so that a file of many is small."""
    return {factor: ",".join(seen[factor]) for factor in dict.fromkeys(factors)}


def unpacked(seen: Mapping[str, str]) -> dict[str, list[str]]:
    return {factor: values.split(",") for factor, values in seen.items()}


def area(points: Sequence[np.ndarray], draw: np.ndarray) -> float:
    """Return the area under the most that is dropped (0 to 1) where at least so much is kept (0 to 1)."""
    shares_of = sorted((tuple(one[:, draw].mean(axis=1)) for one in points), reverse=True)
    total, best, right = 0.0, 0.0, None
    for kept, dropped in shares_of:
        if right is not None:
            total += best * (right - kept)
        best, right = max(best, dropped), kept
    return float(total + best * (right or 0.0))
