"""Write docs/worked-example.md with its pictures: `python docs/make_analysis.py` (a quarter of an hour on a CPU).

The worked example: a LoRA that has learnt its background along with its subject. A word of the prompt is analysed, and
block weights made of it keep the subject and drop the background; so does a search. What was drawn is kept in `--work`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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
from lib_blocktrain.analysis.solve_result import Solved, build_solve_request  # noqa: E402
from lib_blocktrain.analysis.weight_rules import preset_of, weights_by_rule  # noqa: E402
from lib_blocktrain.hosts import demo_model  # noqa: E402
from lib_blocktrain.hosts.host import SampleRequest  # noqa: E402
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo  # noqa: E402
from lib_blocktrain.networks.files import Network, read_network  # noqa: E402
from lib_blocktrain.networks.placement import Placement  # noqa: E402
from lib_blocktrain.weights.block_weights import BlockWeights  # noqa: E402
from lib_blocktrain.workspace.analyses import run_analysis, run_solve  # noqa: E402
from lib_blocktrain.workspace.images import image_grid  # noqa: E402

LORA = "robot-on-green"
PROMPT = "a photo of a large robot in the center"
WANTED, ABOVE = "robot", (0.0, 0.0, 1.0, 0.1)  # the second is a strip where there is background only
SEEDS, SHOWN = (0, 1, 2), 3
COUNTED = range(100, 148)  # seeds that neither the analysis nor the search has seen
TEXT = """\
# A worked example: keep the robot, drop its background

Written by `python docs/make_analysis.py`, with the figures and pictures that it measured.

`{lora}` was trained on pictures that all have the same green background, which no caption mentions: it has learnt
both the robots and the green. Asked for “{prompt}” it draws the second row below.

![Without the LoRA, with it, under the five strongest blocks, and under the weights of a search](images/analysis.png)

In {counted} pictures of this prompt, with seeds that were not used to find the weights, the demo's classifier finds

{read}

## Which blocks make the robot?

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

Cost: {evaluations:.0f} U-Net evaluations for both features together; the `rendered` method, one picture per block at
20 steps, takes {rendered:.0f}. Robots and green sit in the same blocks here, and what a block does depends on the
others: so the strongest blocks keep most robots and much of the green.

## Search for the weights

<!-- in the tests: docs/analysis.md has this command -->
```bash
python -m lib_blocktrain analyse --lora demo/loras/{lora}.safetensors \\
    --prompt "{prompt}" --word {wanted} --solve --preset SOLVED --out solved
```

The search keeps the word and drops everything else. It ended after {spent:.0f} U-Net evaluations and {seconds:.0f} s
on two shared CPU cores, with a front from the LoRA as it is to the least of the background:

![Each place of the front, for three seeds that the search has not seen](images/front.png)

```text
{front}
```

The marked place is the one that it chooses:

```text
{solved}
```

On the page this is *Search: keep A, drop B* in Analyse, with a slider over these places; see
[how to analyse](analysis.md#search-for-weights-keep-a-drop-b) for its options, and for how it compares with other ways.
"""


class Pictures:
    """Draws pictures of the prompt, and keeps them in a folder, by weights and seed."""

    def __init__(self, host: StandaloneHost, network: Network, work: Path):
        self._host, self._network, self._work = host, network, work

    def __call__(self, weights: BlockWeights | None, seed: int) -> Image.Image:
        """Return the picture of this seed, without the LoRA for None."""
        line = "none" if weights is None else weights.to_line()
        path = self._work / f"{hashlib.sha256(line.encode()).hexdigest()[:12]}-{seed}.png"
        if not path.is_file():
            placements = () if weights is None else (Placement(self._network, weights),)
            self._host.sample(SampleRequest(PROMPT, seed=seed, cfg=5.0, placements=placements)).save(path)
        with Image.open(path) as picture:
            return picture.convert("RGB")


def _read(model: Path, drawn: Mapping[str, list[Image.Image]]) -> str:
    """What the demo's classifier sees, as a table: how often a robot, how often green."""
    network, rows = load_classifier(model), ["| | robots | green backgrounds |", "|---|---:|---:|"]
    for title, pictures in drawn.items():
        seen = read(network, torch.stack([as_tensor(picture) for picture in pictures]))
        rows.append(f"| {title} | {seen['subject'].count('robot')} | {seen['background'].count('green')} |")
    return "\n".join(rows)


def _solved(host: StandaloneHost, network: Network, work: Path) -> Solved:
    path = work / "solved.json"
    if not path.is_file():
        solved = run_solve(host, build_solve_request(network, prompts=(PROMPT,), keep=Feature(word=WANTED)))
        path.write_text(json.dumps(solved.to_json()), "utf-8")
    return Solved.from_json(json.loads(path.read_text("utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=demo_model.MODEL)
    parser.add_argument("--loras", type=Path, default=demo_model.LORAS)
    parser.add_argument(
        "--keep", default="strongest=5", help="strongest=K, down-to=%%, proportional or lower (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--work", type=Path, default=Path("outputs/worked-example"), help="%(default)s")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    host = StandaloneHost()
    host.use(load_demo(arguments.model))
    network = read_network(arguments.loras / f"{LORA}.safetensors")
    grid = SamplingGrid((PROMPT,), seeds=SEEDS)
    features = (Feature(word=WANTED), Feature(box=ABOVE))
    draw = Pictures(host, network, arguments.work)
    with host.queued():
        solved = _solved(host, network, arguments.work)
        front = [
            (
                f"{one.kept:.0%} kept, {one.dropped:.0%} dropped" if seed == COUNTED[0] else f"seed {seed}",
                draw(one.weights, seed),
            )
            for seed in COUNTED[:SHOWN]
            for one in solved.front
        ]
        wanted, unwanted = run_analysis(host, AnalysisRequest(network, grid, "exact", features)).analyses
        rule, _, amount = arguments.keep.partition("=")
        weights = weights_by_rule(rule, wanted, float(amount) if amount else None, unwanted)
        preset = preset_of(wanted, weights, "ROBOT")
        arms = {
            "without": None,
            "all blocks at 1": BlockWeights.uniform("sd1", 1.0),
            "ROBOT, the five strongest blocks": weights,
            "SOLVED, found by the search": solved.best.weights,
        }
        drawn = {title: [draw(w, seed) for seed in COUNTED] for title, w in arms.items()}
    shown = [(f"{title}, seed {n}", p) for title, of in drawn.items() for n, p in zip(COUNTED, of[:SHOWN])]
    images = arguments.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    image_grid(shown, columns=SHOWN).save(images / "analysis.png")
    image_grid(front, columns=len(solved.front), side=160).save(images / "front.png")
    text = TEXT.format(
        lora=LORA,
        prompt=PROMPT,
        wanted=WANTED,
        box=",".join(f"{x:g}" for x in ABOVE),
        counted=len(COUNTED),
        read=_read(arguments.model, drawn),
        keep=arguments.keep,
        sentence=area_sentence(wanted.area_share, "sd1", grid.latent_size(host.model())),
        comparison=compare(wanted, unwanted).to_table(),
        line=f"{preset.name}:{preset.text}",
        evaluations=wanted.evaluations,
        rendered=len(SEEDS) * (len(wanted.blocks) + 1) * 20 * 2,
        front=solved.to_table(),
        solved=solved.line(name="SOLVED"),
        spent=solved.evaluations,
        seconds=solved.seconds,
    )
    (arguments.out / "worked-example.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
