"""Measures the demo model: ``python demo/evaluate.py`` classifies images that it draws from random prompts.

Prints the classifier's accuracy on composites (where the emoji font is installed) and, for each factor, the share of
images that are classified as their prompt says. ``--sheet PNG`` saves the images. ``--lora FILE --subject robot``
measures a LoRA instead: how often its subject is recognised with and without it (``--weights``: block weights).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from demo.classifier import FACTORS, Classifier, read
from demo.composites import ACCESSORIES, SUBJECTS, Scene, compose, draw_scene
from demo.pictures import as_tensor, sheet
from lib_blocktrain.hosts.host import SampleRequest
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.networks.hooks import Placement
from lib_blocktrain.weights.preset_strings import parse


def load_classifier(folder: Path) -> Classifier:
    network = Classifier()
    network.load_state_dict({k: v.float() for k, v in load_file(folder / "classifier.safetensors").items()})
    return network.eval()


def on_composites(network: Classifier, count: int = 1000) -> dict[str, dict[str, float]]:
    """Return the accuracy of each factor on composites unseen in training, with and without accessories."""
    report = {}
    for kind, accessories in (("bare", (None,)), ("with an accessory", tuple(ACCESSORIES))):
        rng, right = random.Random(99), Counter()
        for _ in range(count // 100):
            scenes = [
                replace(draw_scene(rng, list(FACTORS["subject"]), FACTORS["style"]), accessory=rng.choice(accessories))
                for _ in range(100)
            ]
            found = read(network, torch.stack([as_tensor(compose(s, rng)) for s in scenes]))
            for name in FACTORS:
                right[name] += sum((getattr(s, name) or "none") == word for s, word in zip(scenes, found[name]))
        report[kind] = {name: right[name] / count for name in FACTORS}
    return report


def on_model(
    network: Classifier, host: StandaloneHost, scenes: list[Scene], steps: int, placements: Sequence[Placement] = ()
) -> tuple[dict, list]:
    """Return, for each factor, the share of images drawn from captions that show what their caption says."""
    requests = [
        SampleRequest(prompt=scene.caption, seed=seed, steps=steps, placements=placements)
        for seed, scene in enumerate(scenes)
    ]
    pictures = [host.sample(request) for request in requests]
    found = read(network, torch.stack([as_tensor(p) for p in pictures]))
    factors = ("subject", "size", "position", "background", "style")
    shares = {
        name: sum(getattr(s, name) == word for s, word in zip(scenes, found[name])) / len(scenes) for name in factors
    }
    return shares, pictures


def with_lora(network: Classifier, host: StandaloneHost, arguments: argparse.Namespace) -> tuple[dict, list]:
    """Return the shares for prompts with one subject, with and without the LoRA, at the same seeds."""
    rng, pictures = random.Random(8), []
    scenes = [draw_scene(rng, [arguments.subject], ("photo",)) for _ in range(arguments.count)]
    weights = parse(arguments.weights, host.model().architecture).weights
    placement = Placement(read_network(arguments.lora), weights)
    report = {"pictures": len(scenes), "lora": arguments.lora.name, "weights": weights.to_line("weights")}
    for name, placements in (("with it", [placement]), ("without it", [])):
        report[name], drawn = on_model(network, host, scenes, arguments.steps, placements)
        pictures += drawn
    return report, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--count", type=int, default=200, help="prompts to draw (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="sampler steps (%(default)s)")
    parser.add_argument("--sheet", type=Path, help="file for the images, on one sheet")
    parser.add_argument("--lora", type=Path, help="a LoRA of one subject, to measure instead")
    parser.add_argument("--subject", choices=FACTORS["subject"], help="the LoRA's subject")
    parser.add_argument("--weights", default="ALL", help="preset or preset string for the LoRA (%(default)s)")
    arguments = parser.parse_args()
    if bool(arguments.lora) != bool(arguments.subject):
        parser.error("--lora and --subject go together")
    network = load_classifier(arguments.model)
    host = StandaloneHost()
    host.use(load_demo(arguments.model))
    if arguments.lora:
        report, pictures = with_lora(network, host, arguments)
    else:
        try:
            report = {"classifier on composites": on_composites(network)}
        except FileNotFoundError as error:
            report = {"classifier on composites": str(error)}
        rng = random.Random(7)
        scenes = [draw_scene(rng, list(SUBJECTS)) for _ in range(arguments.count)]
        shares, pictures = on_model(network, host, scenes, arguments.steps)
        report["model"] = {"pictures": len(scenes), "steps": arguments.steps, **shares}
    print(json.dumps(report, indent=2))
    if arguments.sheet:
        sheet(pictures, columns=20).save(arguments.sheet)


if __name__ == "__main__":
    main()
