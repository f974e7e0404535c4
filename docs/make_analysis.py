"""Write docs/worked-example.md with its pictures: `python docs/make_analysis.py` (minutes on a CPU).

The worked example: a LoRA that has learnt its background along with its subject. A word of the prompt is analysed, and
block weights made of it keep the subject and drop the background.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from demo.classifier import read  # noqa: E402
from demo.evaluate import load_classifier  # noqa: E402
from demo.pictures import as_tensor  # noqa: E402
from lib_blocktrain.analysis.regions import Feature, area_sentence  # noqa: E402
from lib_blocktrain.analysis.request import AnalysisRequest  # noqa: E402
from lib_blocktrain.analysis.results import compare  # noqa: E402
from lib_blocktrain.analysis.sampling_grid import SamplingGrid  # noqa: E402
from lib_blocktrain.analysis.weight_rules import preset_of, weights_by_rule  # noqa: E402
from lib_blocktrain.hosts import demo_model  # noqa: E402
from lib_blocktrain.hosts.host import SampleRequest  # noqa: E402
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo  # noqa: E402
from lib_blocktrain.networks.files import read_network  # noqa: E402
from lib_blocktrain.networks.placement import Placement  # noqa: E402
from lib_blocktrain.weights.block_weights import BlockWeights  # noqa: E402
from lib_blocktrain.workspace.analyses import run_analysis  # noqa: E402
from lib_blocktrain.workspace.images import image_grid  # noqa: E402

LORA = "robot-on-green"
PROMPT = "a photo of a large robot in the center"
WANTED, ABOVE = "robot", (0.0, 0.0, 1.0, 0.1)  # the second is a strip where there is background only
SEEDS, SHOWN, COUNTED = (0, 1, 2), 3, 24
TEXT = """\
# A worked example: which blocks carry it?

Written by `python docs/make_analysis.py`, with the figures and pictures that it measured.

`{lora}` was trained on pictures that all have the same green background, which no caption mentions: it has learnt
both the robots and the green. Asked for “{prompt}” it draws the second row below. Which blocks make the robot?

<!-- in the tests: a minute; with --seeds 0 --method fast -->
```bash
python -m lib_blocktrain analyse --lora demo/loras/{lora}.safetensors \\
    --prompt "{prompt}" \\
    --word {wanted} --against-box {box} --keep {keep} --preset ROBOT --out found
```

{sentence}

The blocks that carry “{wanted}”, compared with their effect in a strip at the top, where there is only background:

```text
{comparison}
```

The weights made from it, with the architecture and the share of the picture that they were found for:

```text
{line}
```

![Without the LoRA, with it, and under these weights, for three seeds](images/analysis.png)

In {counted} pictures of this prompt the demo's classifier finds

{read}

Cost: {evaluations:.0f} U-Net evaluations for both features together; the `rendered` method, one picture per block at
20 steps, takes {rendered:.0f}. See [how to analyse](analysis.md) for the other options.
"""


def _drawn(host: StandaloneHost, placements: tuple[Placement, ...]) -> list[Image.Image]:
    return [host.sample(SampleRequest(PROMPT, seed=n, cfg=5.0, placements=placements)) for n in range(COUNTED)]


def _read(model: Path, drawn: Mapping[str, list[Image.Image]]) -> str:
    """What the demo's classifier sees, as a table: how often a robot, how often green."""
    network, rows = load_classifier(model), ["| | robot | green background |", "|---|---:|---:|"]
    for title, pictures in drawn.items():
        seen = read(network, torch.stack([as_tensor(picture) for picture in pictures]))
        rows.append(f"| {title} | {seen['subject'].count('robot')} | {seen['background'].count('green')} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=demo_model.MODEL)
    parser.add_argument("--loras", type=Path, default=demo_model.LORAS)
    parser.add_argument(
        "--keep", default="strongest=5", help="strongest=K, down-to=%%, proportional or lower (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    host = StandaloneHost()
    host.use(load_demo(arguments.model))
    network = read_network(arguments.loras / f"{LORA}.safetensors")
    grid = SamplingGrid((PROMPT,), seeds=SEEDS)
    features = (Feature(word=WANTED), Feature(box=ABOVE))
    with host.queued():
        wanted, unwanted = run_analysis(host, AnalysisRequest(network, grid, "exact", features)).analyses
        rule, _, amount = arguments.keep.partition("=")
        weights = weights_by_rule(rule, wanted, float(amount) if amount else None, unwanted)
        preset = preset_of(wanted, weights, "ROBOT")
        arms = {"without": None, "all blocks at 1": BlockWeights.uniform("sd1", 1.0), "ROBOT": weights}
        drawn = {title: _drawn(host, () if w is None else (Placement(network, w),)) for title, w in arms.items()}
    shown = [(f"{title}, seed {n}", p) for title, of in drawn.items() for n, p in enumerate(of[:SHOWN])]
    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    image_grid(shown, columns=SHOWN).save(arguments.out / "images" / "analysis.png")
    text = TEXT.format(
        lora=LORA,
        prompt=PROMPT,
        wanted=WANTED,
        box=",".join(f"{x:g}" for x in ABOVE),
        counted=COUNTED,
        read=_read(arguments.model, drawn),
        keep=arguments.keep,
        sentence=area_sentence(wanted.area_share, "sd1", grid.latent_size(host.model())),
        comparison=compare(wanted, unwanted).to_table(),
        line=f"{preset.name}:{preset.text}",
        evaluations=wanted.evaluations,
        rendered=len(SEEDS) * (len(wanted.blocks) + 1) * 20 * 2,
    )
    (arguments.out / "worked-example.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
