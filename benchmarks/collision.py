"""Two demo LoRAs together: in how many pictures subject and style are both kept, under several pairs of weights.

    python benchmarks/collision.py [--pictures 24] [--first-seed 100] [--sheet FILE.png]

The weights come from `analysis/collision.py`, with the files alone and with the model; the pictures' seeds are not
those of the analysis. The demo's classifier reads them. `--sheet` writes the pictures of three rows, two lines each.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.trial.drawing import Sampler, acting, decode, draw
from demo.classifier import FACTORS
from demo.evaluate import load_classifier
from lib_blocktrain.analysis.collision import collide
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.hosts.demo_model import DEMO, MODEL
from lib_blocktrain.hosts.standalone import load_demo
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.weights.block_weights import BlockWeights

LORAS = ("robot", "pixel-art")
PROMPT = "a pixel art of a large robot in the center, blue background"
WANTED = {"subject": "robot", "style": "pixel art"}
ON_SHEET = ("both at 1", "divided, by the effects", "robot at 0.5")
GAP = 8  # pixels
ANALYSED_SEEDS = (0, 1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    model, classifier = load_demo(MODEL), load_classifier(MODEL)
    networks = [read_network(DEMO / "loras" / f"{name}.safetensors") for name in LORAS]
    files = collide(networks[0], networks[1])
    effects = collide(networks[0], networks[1], model, SamplingGrid((PROMPT,), seeds=ANALYSED_SEEDS))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.pictures)
    drawn: dict[str, torch.Tensor] = {}

    def row(title: str, pair: Sequence[BlockWeights | None], strengths: Sequence[float] = (1.0, 1.0)) -> None:
        with (
            torch.no_grad(),
            acting(model, networks[0], pair[0], strengths[0]),
            acting(model, networks[1], pair[1], strengths[1]),
        ):
            latents = draw(model, [PROMPT] * len(seeds), list(seeds), Sampler(steps=10))
        with torch.no_grad():
            drawn[title] = decode(model, latents)
            logits = classifier(drawn[title])
        kept = {f: logits[f].argmax(-1) == FACTORS[f].index(word) for f, word in WANTED.items()}
        both = torch.stack(list(kept.values())).all(dim=0)
        counts = "  ".join(f"{word} {int(kept[f].sum()):>2}" for f, word in WANTED.items())
        sys.stdout.write(f"{title:<34}{counts}  both {int(both.sum()):>2} of {len(seeds)}\n")
        sys.stdout.flush()

    row("neither", (None, None), (0.0, 0.0))
    row("robot alone", (None, None), (1.0, 0.0))
    row("pixel-art alone", (None, None), (0.0, 1.0))
    row("both at 1", (None, None))
    for strength in (0.85, 0.7, 0.5):
        row(f"both at {strength}", (None, None), (strength, strength))
    for strength in (0.7, 0.5):
        row(f"robot at {strength}", (None, None), (strength, 1.0))
    for title, found in (("divided, by the files alone", files), ("divided, by the effects", effects)):
        row(title, found.weights)
        sys.stdout.write("".join(f"    {w.to_line(name)}\n" for name, w in zip(found.names, found.weights)))
    if arguments.sheet is not None:
        whole = sheet([drawn[title] for title in ON_SHEET])
        half = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.LANCZOS)
        half.quantize(256).save(arguments.sheet, optimize=True)


def sheet(rows: Sequence[torch.Tensor]) -> Image.Image:
    """Return pictures `(n, 3, h, w)` in -1..1 as one image: two lines for each row, with a gap between rows."""
    _, _, height, width = rows[0].shape
    columns = math.ceil(len(rows[0]) / 2)
    step = 2 * height + GAP
    found = Image.new("RGB", (columns * width, len(rows) * step - GAP), "white")
    for number, pictures in enumerate(rows):
        for place, picture in enumerate(((pictures + 1) * 127.5).round().clamp(0, 255).byte()):
            at = place % columns * width, number * step + place // columns * height
            found.paste(Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()), at)
    return found


if __name__ == "__main__":
    main()
