"""What a search for weights keeps and drops, counted on pictures of other seeds: ``python benchmarks/solve.py``.

``robot-on-green``, a LoRA that has learnt a background with its subject. The search keeps the word "robot" and drops
everything else; each place of its front is then drawn for ``--count`` seeds that it has not seen, and the demo's
classifier counts robots and green backgrounds, beside the LoRA as it is, at lower strengths, and under the five blocks
of docs/worked-example.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.classifier import read
from demo.evaluate import load_classifier
from demo.pictures import as_tensor
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.solve_result import BUDGET, KINDS, build_solve_request
from lib_blocktrain.hosts import demo_model
from lib_blocktrain.hosts.host import SampleRequest
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.networks.files import Network, read_network
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace.analyses import run_solve

PROMPT = "a photo of a large robot in the center"
FIVE = ("IN02", "OUT07", "OUT08", "OUT09", "OUT10")
UNSEEN = 100  # the first seed of the counted pictures


def counted(host: StandaloneHost, network: Network, weights: BlockWeights, count: int) -> tuple[int, int]:
    """Return how many of so many pictures show a robot, and how many a green background."""
    placements = (Placement(network, weights),)
    drawn = [host.sample(SampleRequest(PROMPT, seed=UNSEEN + n, cfg=5.0, placements=placements)) for n in range(count)]
    seen = read(load_classifier(demo_model.MODEL), torch.stack([as_tensor(picture) for picture in drawn]))
    return seen["subject"].count("robot"), seen["background"].count("green")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=int, default=BUDGET, help="U-Net evaluations (%(default)s)")
    parser.add_argument("--kind", choices=tuple(KINDS), default="free", help="of weights (%(default)s)")
    parser.add_argument("--seeds", type=int, default=12, help="pictures of the search (%(default)s)")
    parser.add_argument("--count", type=int, default=48, help="pictures to count (%(default)s)")
    arguments = parser.parse_args()
    host = StandaloneHost()
    host.use(load_demo(demo_model.MODEL))
    network = read_network(demo_model.LORAS / "robot-on-green.safetensors")
    request = build_solve_request(
        network,
        prompts=(PROMPT,),
        keep=Feature(word="robot"),
        kind=arguments.kind,
        budget=arguments.budget,
        seeds=tuple(range(arguments.seeds)),
    )
    with host.queued():
        solved = run_solve(host, request)
        print(solved.to_table(), end="\n\n")
        whole = BlockWeights.uniform("sd1", 1.0)
        five = whole.replace({block: float(block in FIVE) for block in whole.values})
        arms = {f"all at {x:g}": BlockWeights.uniform("sd1", x) for x in (1.0, 0.7, 0.5)} | {"five blocks": five}
        arms |= {f"search, place {n}": one.weights for n, one in enumerate(solved.front[1:], start=2)}
        print(f"{f'of {arguments.count}':<18}{'robots':>8}{'greens':>8}")
        for title, weights in arms.items():
            robots, greens = counted(host, network, weights, arguments.count)
            print(f"{title:<18}{robots:>8}{greens:>8}", flush=True)


if __name__ == "__main__":
    main()
