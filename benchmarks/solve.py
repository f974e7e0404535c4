"""Compares ways to find block weights that keep A and drop B: ``python benchmarks/solve.py`` (an hour on a CPU).

Each way has the same number of U-Net evaluations and gives some weights, from most of A to least of B. Their pictures
are drawn for ``--count`` seeds that no way has seen; the demo's classifier says in how many A is kept and B dropped.
The area under that curve, of the best that a way reaches, is compared with the search's by a bootstrap over the seeds.

``--figures`` asks another question: for random weights, how well does the sum of a method's figures predict what is
counted? What is done stands in ``--out`` and is not done again; ``--minutes`` ends early.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.solve_methods import SEARCHES, Measure, paired_coalitions, surrogates
from demo.classifier import read
from demo.evaluate import load_classifier
from demo.pictures import as_tensor
from lib_blocktrain.analysis.attribution import weight_norms
from lib_blocktrain.analysis.instrumented_model import instrument
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.run import analyse
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.solve import solve
from lib_blocktrain.analysis.solve_effect import latents_under
from lib_blocktrain.analysis.solve_result import BUDGET, SEEDS, WALKED, build_solve_request
from lib_blocktrain.analysis.statistics import spearman
from lib_blocktrain.analysis.weight_rules import weights_by_rule
from lib_blocktrain.files import atomic_write
from lib_blocktrain.hosts import demo_model
from lib_blocktrain.hosts.standalone import load_demo
from lib_blocktrain.networks.files import Network, read_network
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse

UNSEEN = 100  # the first seed of the counted pictures
STRIP = Feature(box=(0.0, 0.0, 1.0, 0.1))  # background only, for the rules that compare two features
STEPS, AT_ONCE = 10, 16
RESAMPLES = 4000
FIGURES_SEEDS, FIGURES_STEPS = 12, 5


@dataclass(frozen=True)
class Case:
    """A LoRA; A is kept where `factor` reads `value`, B dropped where the background is not `leak`.

    `leak` None: where it is that of the picture without the LoRA.
    """

    lora: str
    prompt: str
    word: str
    factor: str
    value: str
    leak: str | None

    def counted(self, seen: Mapping[str, Sequence[str]], without: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Return whether A is kept and whether B is dropped in each picture, `(2, pictures)`."""
        kept = [one == self.value for one in seen[self.factor]]
        pairs = zip(seen["background"], without["background"])
        dropped = [(one != self.leak) if self.leak else (one == plain) for one, plain in pairs]
        return np.array([kept, dropped], dtype=float)


CASES = {
    "robot-on-green": Case(
        "robot-on-green", "a photo of a large robot in the center", "robot", "subject", "robot", "green"
    ),
    "robot": Case("robot", "a photo of a large robot in the center", "robot", "subject", "robot", None),
    "pixel-art": Case("pixel-art", "a pixel art of a large fox in the center", "fox", "style", "pixel art", None),
}


class Bench:
    def __init__(self, out: Path, until: float):
        self.out, self._until = out, until
        self.data: dict[str, Any] = json.loads(out.read_text("utf-8")) if out.is_file() else {}
        self.model = load_demo(demo_model.MODEL)
        self._classifier = load_classifier(demo_model.MODEL)

    def keep(self, key: str, value: object) -> None:
        self.data[key] = value
        with atomic_write(self.out) as temporary:
            temporary.write_text(json.dumps(self.data, indent=1), "utf-8")
        print(f"{time.strftime('%H:%M:%S')} {key}", flush=True)
        if time.monotonic() > self._until:
            raise SystemExit("time is over; run again to go on")

    @torch.no_grad()
    def seen(self, case: Case, line: str, seeds: Sequence[int], steps: int) -> dict[str, list[str]]:
        """Return what the classifier reads in the pictures of these seeds under these weights, in bf16."""
        network, found = read_network(demo_model.LORAS / f"{case.lora}.safetensors"), {}
        grid, weights = SamplingGrid((case.prompt,), seeds=tuple(seeds), steps=steps), parse(line, "sd1").weights
        with instrument(self.model, network, grid) as on, torch.autocast("cpu", torch.bfloat16):
            for start in range(0, len(seeds), AT_ONCE):
                latents = latents_under(on, case.prompt, grid.seeds[start : start + AT_ONCE], weights)
                pictures = [p for n in range(0, len(latents), 4) for p in self.model.decode(latents[n : n + 4].float())]
                with torch.autocast("cpu", enabled=False):
                    read_now = read(self._classifier, torch.stack([as_tensor(picture) for picture in pictures]))
                for name, values in read_now.items():
                    found.setdefault(name, []).extend(values)
        return found

    # --- the comparison ---------------------------------------------------------------------------------------------

    def compare(self, name: str, methods: Sequence[str], count: int, budget: int) -> None:
        case = CASES[name]
        network = read_network(demo_model.LORAS / f"{case.lora}.safetensors")
        seeds = range(UNSEEN, UNSEEN + count)
        for method in methods:
            key = f"{name}|{method}"
            if key not in self.data:
                began = time.process_time()
                lines, spent = self._found(method, case, network, budget)
                self.keep(key, {"weights": lines, "evaluations": spent, "cpu seconds": time.process_time() - began})
            for n, line in reversed([*enumerate(self.data[key]["weights"])]):
                self._judge(f"{key}|{n}", case, line, seeds)
        for fixed, strength in (("without", 0.0), ("whole", 1.0)):
            self._judge(f"{name}|{fixed}|0", case, BlockWeights.uniform("sd1", strength).to_line(), seeds)

    def _judge(self, key: str, case: Case, line: str, seeds: Sequence[int]) -> None:
        if key not in self.data:
            self.keep(key, self.seen(case, line, seeds, STEPS))

    def _found(self, method: str, case: Case, network: Network, budget: int) -> tuple[list[str], float]:
        """Return a method's weights and their cost in U-Net evaluations."""
        word = Feature(word=case.word)
        if method == "search":
            request = build_solve_request(network, prompts=(case.prompt,), keep=word, budget=budget)
            solved = solve(self.model, request)
            self.data[f"{case.lora}|solved"] = solved.to_json()
            return [one.weights.to_line() for one in solved.front[1:]], solved.evaluations
        if method == "strength":
            return [BlockWeights.uniform("sd1", x).to_line() for x in (0.8, 0.7, 0.6, 0.5, 0.4)], 0.0
        if method in ("rule: strongest", "other rules"):
            grid = SamplingGrid((case.prompt,))
            wanted, unwanted = analyse(self.model, network, grid, "exact", (word, STRIP))
            rules = {"rule: strongest": [("strongest", k) for k in (3, 5, 7, 9)]}.get(
                method, [("down-to", 80.0), ("proportional", None), ("lower", None)]
            )
            made = [weights_by_rule(rule, wanted, amount, unwanted) for rule, amount in rules]
            return [weights.to_line() for weights in made], wanted.evaluations
        grid = SamplingGrid((case.prompt,), seeds=tuple(range(SEEDS)), steps=WALKED)
        with instrument(self.model, network, grid) as on:
            measure = Measure(on, word, None, budget)
            found = SEARCHES[method](measure, np.random.default_rng(0))
            for values in found:  # as the search measures its front
                measure.shares(values, measure.unseen)
            return [measure.weights(values).to_line() for values in found], on.evaluations

    def table(self, name: str, methods: Sequence[str]) -> Iterator[str]:
        """Yield the comparison's rows as Markdown."""
        case, without = CASES[name], self.data[f"{name}|without|0"]
        whole = case.counted(self.data[f"{name}|whole|0"], without)
        nothing = case.counted(without, without)
        points = {
            m: [
                case.counted(self.data[f"{name}|{m}|{n}"], without)
                for n in range(len(self.data[f"{name}|{m}"]["weights"]))
            ]
            for m in methods
            if f"{name}|{m}" in self.data
        }
        count = whole.shape[1]
        rng = np.random.default_rng(0)
        draws = rng.integers(0, count, (RESAMPLES, count))
        areas = {m: np.array([area([whole, nothing, *of], draw) for draw in draws]) for m, of in points.items()}
        every = np.arange(count)
        yield f"| {name}: kept / dropped of {count} | area | search is better by | evaluations |"
        yield "|---|---:|---:|---:|"
        for method, of in points.items():
            pairs = ", ".join(f"{one[0].sum():.0f} / {one[1].sum():.0f}" for one in of)
            low, high = np.percentile(areas["search"] - areas[method], (2.5, 97.5))
            better = "" if method == "search" else f"{low:+.3f} to {high:+.3f}"
            spent = self.data[f"{name}|{method}"]["evaluations"]
            yield f"| {method}: {pairs} | {area([whole, nothing, *of], every):.3f} | {better} | {spent:.0f} |"

    # --- what figures predict ---------------------------------------------------------------------------------------

    def figures(self, name: str, number: int, budget: int) -> None:
        case = CASES[name]
        network = read_network(demo_model.LORAS / f"{case.lora}.safetensors")
        features = (Feature(word=case.word), STRIP)
        key = f"{name}|figures"
        if key not in self.data:
            norms = weight_norms(network)
            found = {"weight norms": ([dict(zip(norms.blocks, shares(norms)))] * 2, 0.0)}
            for title, method in (
                ("leave one out", "exact"),
                ("one only", "one-only"),
                ("integrated gradients", "fast"),
            ):
                both = analyse(self.model, network, SamplingGrid((case.prompt,)), method, features)
                found[title] = [dict(zip(one.blocks, shares(one))) for one in both], both[0].evaluations
            self.keep(key, found)
        if f"{key}|pairs" not in self.data:
            grid = SamplingGrid((case.prompt,), seeds=tuple(range(SEEDS)), steps=WALKED)
            with instrument(self.model, network, grid) as on:
                measure = Measure(on, features[0], None, budget)
                tries = paired_coalitions(measure, np.random.default_rng(0))
                found_pairs = [[mask.tolist(), kept, leaked] for mask, kept, leaked in tries]
                self.keep(
                    f"{key}|pairs", {"tries": found_pairs, "evaluations": on.evaluations, "blocks": measure.blocks}
                )
        blocks = self.data[f"{key}|pairs"]["blocks"]
        rng = np.random.default_rng(1)
        for n in range(number):
            drawn = rng.uniform(0, 1, len(blocks)).round(2) if n % 2 else (rng.random(len(blocks)) < 0.5).astype(float)
            if f"{key}|{n}" not in self.data:
                weights = BlockWeights.uniform("sd1", 1.0).replace(dict(zip(blocks, drawn.tolist())))
                seen = self.seen(case, weights.to_line(), range(UNSEEN, UNSEEN + FIGURES_SEEDS), FIGURES_STEPS)
                self.keep(f"{key}|{n}", {"weights": drawn.tolist(), "seen": seen})

    def figures_table(self, name: str) -> Iterator[str]:
        """Yield R2, of the best line through the prediction, and the rank correlation, for A and B, as Markdown."""
        case, key = CASES[name], f"{name}|figures"
        of_pairs, rows = self.data[f"{key}|pairs"], []
        while f"{key}|{len(rows)}" in self.data:
            rows.append(self.data[f"{key}|{len(rows)}"])
        drawn = np.array([row["weights"] for row in rows])
        kept = np.array([np.mean([one == case.value for one in row["seen"][case.factor]]) for row in rows])
        leaked = np.array([np.mean([one == case.leak for one in row["seen"]["background"]]) for row in rows])
        predicted = {
            title: [drawn @ np.array([of.get(block, 0.0) for block in of_pairs["blocks"]]) for of in both]
            for title, (both, _) in self.data[key].items()
        }
        predicted["SHAP with pairs"] = [
            f(drawn) for f in surrogates([(np.array(m), *s) for m, *s in of_pairs["tries"]])
        ]
        costs = {title: cost for title, (_, cost) in self.data[key].items()}
        costs["SHAP with pairs"] = of_pairs["evaluations"]
        yield f"| {len(rows)} random weights, {name} | A: R² | A: rank | B: R² | B: rank | evaluations |"
        yield "|---|---:|---:|---:|---:|---:|"
        for title, both in predicted.items():
            cells = [
                f"{np.corrcoef(x, y)[0, 1] ** 2:.2f} | {spearman(x, y):+.2f}" for x, y in zip(both, (kept, leaked))
            ]
            yield f"| {title} | {cells[0]} | {cells[1]} | {costs[title]:.0f} |"


def shares(analysis: Any) -> list[float]:
    return [float(figure.share) for figure in analysis.figures]


def area(points: Sequence[np.ndarray], draw: np.ndarray) -> float:
    """Return the area under the most that is dropped (0 to 1) where at least so much is kept (0 to 1)."""
    shares_of = sorted((tuple(one[:, draw].mean(axis=1)) for one in points), reverse=True)
    total, best, right = 0.0, 0.0, None
    for kept, dropped in shares_of:
        if right is not None:
            total += best * (right - kept)
        best, right = max(best, dropped), kept
    return float(total + best * (right or 0.0))


METHODS = ("search", *SEARCHES, "strength", "rule: strongest", "other rules")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=["robot-on-green"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--budget", type=int, default=BUDGET, help="U-Net evaluations of each (%(default)s)")
    parser.add_argument("--count", type=int, default=48, help="pictures to count for each weights (%(default)s)")
    parser.add_argument("--figures", type=int, metavar="N", help="predict the effect of N random weights instead")
    parser.add_argument("--out", type=Path, default=Path("outputs/solve.json"), help="%(default)s")
    parser.add_argument("--minutes", type=float, default=1e6, help="end after these")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.out, time.monotonic() + 60 * arguments.minutes)
    for name in arguments.cases:
        if arguments.figures and not arguments.table:
            bench.figures(name, arguments.figures, arguments.budget)
        elif not arguments.table:
            bench.compare(name, arguments.methods, arguments.count, arguments.budget)
        rows = bench.figures_table(name) if arguments.figures else bench.table(name, arguments.methods)
        print(*rows, sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
