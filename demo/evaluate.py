"""How good is the demo model? ``python demo/evaluate.py`` draws prompts at random and lets the classifier read them.

Prints the classifier's accuracy on real composites (where the emoji font is installed) and the share of drawn
pictures in which it reads each factor as the prompt says. ``--sheet PNG`` keeps the pictures.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path

import torch
from classifier import FACTORS, Classifier, draw_labelled, labels, read
from composites import SUBJECTS, Scene, compose, draw_scene
from pictures import as_tensor, sheet
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib_blocktrain.hosts.host import SampleRequest
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo


def load_classifier(folder: Path) -> Classifier:
    network = Classifier()
    network.load_state_dict({k: v.float() for k, v in load_file(folder / "classifier.safetensors").items()})
    return network.eval()


def on_composites(network: Classifier, count: int = 2000) -> dict[str, float]:
    """Accuracy of each factor on composites that the training has not seen (another seed)."""
    rng, right = random.Random(99), Counter()
    for _ in range(count // 100):
        scenes = [draw_labelled(rng) for _ in range(100)]
        told = read(network, torch.stack([as_tensor(compose(s, rng)) for s in scenes]))
        for name, targets in labels(scenes).items():
            right[name] += sum(FACTORS[name][t] == word for t, word in zip(targets.tolist(), told[name]))
    return {name: right[name] / count for name in FACTORS}


def on_model(network: Classifier, host: StandaloneHost, scenes: list[Scene], steps: int) -> tuple[dict, list]:
    """Share of pictures, drawn from the scenes' captions, in which each factor is read as the caption says."""
    pictures = [host.sample(SampleRequest(prompt=s.caption, seed=seed, steps=steps)) for seed, s in enumerate(scenes)]
    told = read(network, torch.stack([as_tensor(p) for p in pictures]))
    factors = ("subject", "size", "position", "background", "style")
    shares = {
        name: sum(getattr(s, name) == word for s, word in zip(scenes, told[name])) / len(scenes) for name in factors
    }
    return shares, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--count", type=int, default=200, help="prompts to draw (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="sampler steps (%(default)s)")
    parser.add_argument("--sheet", type=Path, help="where to keep the pictures")
    arguments = parser.parse_args()
    network = load_classifier(arguments.model)
    try:
        report = {"classifier on composites": on_composites(network)}
    except FileNotFoundError as error:
        report = {"classifier on composites": str(error)}
    host = StandaloneHost()
    host.use(load_demo(arguments.model))
    rng = random.Random(7)
    scenes = [draw_scene(rng, list(SUBJECTS)) for _ in range(arguments.count)]
    shares, pictures = on_model(network, host, scenes, arguments.steps)
    report["model"] = {"pictures": len(scenes), "steps": arguments.steps, **shares}
    print(json.dumps(report, indent=2))
    if arguments.sheet:
        sheet(pictures, columns=20).save(arguments.sheet)


if __name__ == "__main__":
    main()
