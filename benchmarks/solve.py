"""Compares ways to find block weights that keep A and drop B: ``python benchmarks/solve.py`` (an hour on a CPU).

Each way has the same number of U-Net evaluations and gives some weights, from most of A to least of B. Their pictures
are drawn for ``--count`` seeds that no way has seen; the demo's classifier says in how many A is kept and B dropped.
The area under that curve, of the best that a way reaches, is compared with the search's by a bootstrap over the seeds.

``--cases`` names the LoRAs (``benchmarks/solve_cases.py``). ``--figures`` asks another question: for random weights,
how well does the sum of a method's figures predict what is counted? What is done stands in ``--out``, a line each, and
is not done again; ``--minutes`` ends early; ``--known docs/solve.jsonl`` begins with what was done for the documents.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.solve_cases import CASES, Case, network_of
from benchmarks.solve_methods import SEARCHES, Measure, paired_coalitions
from benchmarks.solve_tables import comparison, figures, packed
from demo.classifier import read
from demo.evaluate import load_classifier
from demo.loop import half
from demo.pictures import as_tensor
from lib_blocktrain.analysis.attribution import weight_norms
from lib_blocktrain.analysis.instrumented_model import instrument
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.run import analyse
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.solve import solve
from lib_blocktrain.analysis.solve_effect import latents_under
from lib_blocktrain.analysis.solve_result import BUDGET, SEEDS, WALKED, build_solve_request
from lib_blocktrain.analysis.weight_rules import weights_by_rule
from lib_blocktrain.files import atomic_write
from lib_blocktrain.hosts import demo_model
from lib_blocktrain.hosts.standalone import load_demo
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse

UNSEEN = 100  # the first seed of the counted pictures
STRIP = Feature(box=(0.0, 0.0, 1.0, 0.1))  # background only, for the rules that compare two features
STEPS, AT_ONCE = 10, 16
FIGURES_SEEDS, FIGURES_STEPS = 12, 5


class Bench:
    """The model, its classifier, and what is done, by key: a line each of the file `out`."""

    def __init__(self, out: Path, known: Sequence[Path], work: Path, until: float):
        self.out, self._work, self._until = out, work, until
        self.data: dict[str, Any] = {}
        for path in [*known, *([out] if out.is_file() else [])]:
            self.data |= (json.loads(line) for line in path.read_text("utf-8").splitlines())
        self.model = load_demo(demo_model.MODEL)
        self._classifier = load_classifier(demo_model.MODEL)

    def keep(self, key: str, value: object) -> None:
        self.data[key] = value
        self.write()
        print(f"{time.strftime('%H:%M:%S')} {key}", file=sys.stderr, flush=True)
        if time.monotonic() > self._until:
            raise SystemExit("time is over; run again to go on")

    def write(self) -> None:
        with atomic_write(self.out) as temporary:
            temporary.write_text("".join(json.dumps(pair) + "\n" for pair in sorted(self.data.items())), "utf-8")

    def network(self, name: str) -> Network:
        return network_of(name, self.model, self._work)

    @torch.no_grad()
    def seen(self, name: str, line: str, seeds: Sequence[int], steps: int) -> dict[str, str]:
        """Return what the classifier reads in the pictures of these seeds under these weights."""
        case, network, found = CASES[name], self.network(name), {}
        grid, weights = SamplingGrid((case.prompt,), seeds=tuple(seeds), steps=steps), parse(line, "sd1").weights
        with instrument(self.model, network, grid) as on, half(torch.device("cpu")):
            for start in range(0, len(seeds), AT_ONCE):
                latents = latents_under(on, case.prompt, grid.seeds[start : start + AT_ONCE], weights)
                pictures = [p for n in range(0, len(latents), 4) for p in self.model.decode(latents[n : n + 4].float())]
                with torch.autocast("cpu", enabled=False):
                    read_now = read(self._classifier, torch.stack([as_tensor(picture) for picture in pictures]))
                for factor, values in read_now.items():
                    found.setdefault(factor, []).extend(values)
        return packed(found, case.factors)

    # --- the comparison ---------------------------------------------------------------------------------------------

    def compare(self, name: str, methods: Sequence[str], count: int, budget: int) -> None:
        case, network = CASES[name], self.network(name)
        seeds = range(UNSEEN, UNSEEN + count)
        for fixed, strength in (("without", 0.0), ("whole", 1.0)):
            self._judge(f"{name}|{fixed}|0", name, BlockWeights.uniform("sd1", strength).to_line(), seeds)
        for method in methods:
            key = f"{name}|{method}"
            if key not in self.data:
                began = time.process_time()
                lines, spent = self._found(method, name, case, network, budget)
                self.keep(key, {"weights": lines, "evaluations": spent, "cpu seconds": time.process_time() - began})
            for n, line in reversed([*enumerate(self.data[key]["weights"])]):
                self._judge(f"{key}|{n}", name, line, seeds)

    def _judge(self, key: str, name: str, line: str, seeds: Sequence[int]) -> None:
        if key not in self.data:
            self.keep(key, self.seen(name, line, seeds, STEPS))

    def _found(self, method: str, name: str, case: Case, network: Network, budget: int) -> tuple[list[str], float]:
        """Return a method's weights and their cost in U-Net evaluations."""
        if method == "search":
            request = build_solve_request(
                network, prompts=(case.prompt,), keep=case.keep, drop=case.drop, budget=budget
            )
            solved = solve(self.model, request)
            self.data[f"{name}|solved"] = solved.to_json()
            return [one.weights.to_line() for one in solved.front[1:]], solved.evaluations
        if method == "strength":
            return [BlockWeights.uniform("sd1", x).to_line() for x in (0.8, 0.7, 0.6, 0.5, 0.4)], 0.0
        if method in ("rule: strongest", "other rules"):
            grid = SamplingGrid((case.prompt,))
            wanted, unwanted = analyse(self.model, network, grid, "exact", (case.keep, case.drop or STRIP))
            rules = {"rule: strongest": [("strongest", k) for k in (3, 5, 7, 9)]}.get(
                method, [("down-to", 80.0), ("proportional", None), ("lower", None)]
            )
            made = [weights_by_rule(rule, wanted, amount, unwanted) for rule, amount in rules]
            return [weights.to_line() for weights in made], wanted.evaluations
        grid = SamplingGrid((case.prompt,), seeds=tuple(range(SEEDS)), steps=WALKED)
        with instrument(self.model, network, grid) as on:
            measure = Measure(on, case.keep, case.drop, budget)
            found = SEARCHES[method](measure, np.random.default_rng(0))
            for values in found:  # as the search measures its front
                measure.shares(values, measure.unseen)
            return [measure.weights(values).to_line() for values in found], on.evaluations

    # --- what figures predict ---------------------------------------------------------------------------------------

    def figures(self, name: str, number: int, budget: int) -> None:
        case, network = CASES[name], self.network(name)
        features = (case.keep, case.drop or STRIP)
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
                measure = Measure(on, case.keep, case.drop, budget)
                tries = paired_coalitions(measure, np.random.default_rng(0))
                found_pairs = [[mask.tolist(), kept, leaked] for mask, kept, leaked in tries]
                self.keep(
                    f"{key}|pairs", {"tries": found_pairs, "evaluations": on.evaluations, "blocks": measure.blocks}
                )
        blocks, seeds = self.data[f"{key}|pairs"]["blocks"], range(UNSEEN, UNSEEN + FIGURES_SEEDS)
        if f"{key}|without" not in self.data:
            nothing = BlockWeights.uniform("sd1", 0.0).to_line()
            self.keep(f"{key}|without", self.seen(name, nothing, seeds, FIGURES_STEPS))
        rng = np.random.default_rng(1)
        for n in range(number):
            drawn = rng.uniform(0, 1, len(blocks)).round(2) if n % 2 else (rng.random(len(blocks)) < 0.5).astype(float)
            if f"{key}|{n}" not in self.data:
                weights = BlockWeights.uniform("sd1", 1.0).replace(dict(zip(blocks, drawn.tolist())))
                seen = self.seen(name, weights.to_line(), seeds, FIGURES_STEPS)
                self.keep(f"{key}|{n}", {"weights": drawn.tolist(), "seen": seen})


def shares(analysis: Any) -> list[float]:
    return [float(figure.share) for figure in analysis.figures]


METHODS = ("search", *SEARCHES, "strength", "rule: strongest", "other rules")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=["robot-on-green"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--budget", type=int, default=BUDGET, help="U-Net evaluations of each (%(default)s)")
    parser.add_argument("--count", type=int, default=48, help="pictures to count for each weights (%(default)s)")
    parser.add_argument("--figures", type=int, metavar="N", help="predict the effect of N random weights instead")
    parser.add_argument("--out", type=Path, default=Path("outputs/solve.jsonl"), help="%(default)s")
    parser.add_argument("--known", type=Path, nargs="+", default=(), metavar="FILE", help="begin with what these have")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/solve"), help="folder of LoRAs that are trained for it (%(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=1e6, help="end after these")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    logging.getLogger("lib_blocktrain").setLevel(logging.ERROR)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.out, arguments.known, arguments.work, time.monotonic() + 60 * arguments.minutes)
    if arguments.known:
        bench.write()
    for name in arguments.cases:
        if arguments.figures and not arguments.table:
            bench.figures(name, arguments.figures, arguments.budget)
        elif not arguments.table:
            bench.compare(name, arguments.methods, arguments.count, arguments.budget)
        rows = figures(bench.data, name) if arguments.figures else comparison(bench.data, name, arguments.methods)
        print(*rows, sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
