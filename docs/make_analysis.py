"""Write docs/analysis.md with its pictures: `python docs/make_analysis.py` (minutes on a CPU).

The worked example: a LoRA that has learnt its background along with its subject. Two words of the prompt are analysed,
and block weights made of the difference keep the one and drop the other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib_blocktrain import demo_model  # noqa: E402
from lib_blocktrain.analysis.canvas import sentence  # noqa: E402
from lib_blocktrain.analysis.choice import chosen, preset_of  # noqa: E402
from lib_blocktrain.analysis.regions import Feature  # noqa: E402
from lib_blocktrain.analysis.results import compare  # noqa: E402
from lib_blocktrain.analysis.setting import Setting  # noqa: E402
from lib_blocktrain.block_weights import BlockWeights  # noqa: E402
from lib_blocktrain.formats import read_network  # noqa: E402
from lib_blocktrain.hosts.host import SampleRequest  # noqa: E402
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo  # noqa: E402
from lib_blocktrain.inquiry import Inquiry, answer  # noqa: E402
from lib_blocktrain.pictures import contact_sheet  # noqa: E402
from lib_blocktrain.placement import Placement  # noqa: E402

LORA = "robot-on-green"
PROMPT = "a photo of a large robot in the center, red background"
WANTED, UNWANTED = "robot", "red"
SEEDS = (0, 1, 2)
TEXT = """\
# Which blocks carry it?

Written by `python docs/make_analysis.py`: every figure and picture here is what it found.

`{lora}` was trained on pictures that all have the same green background, and no caption says so: it has learnt robots,
and green with them. Asked for “{prompt}” it draws the second row of pictures instead of a red background.

    python -m lib_blocktrain analyse --lora demo/loras/{lora}.safetensors \\
        --prompt "{prompt}" \\
        --word {wanted} --against-word {unwanted} --keep {keep} --preset ROBOT --out found

{sentence}

The blocks that carry “{wanted}”, and what they do where “{unwanted}” should be:

```
{comparison}
```

The weights made of it, with the architecture and the share of the picture that they were found for:

    {line}

![Without the LoRA, with it, and under these weights, for three seeds](analysis.png)

Cost: {evaluations:.0f} U-Net evaluations for both words together; the rendered way, one picture a block at 20 steps,
takes {rendered:.0f}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=demo_model.MODEL)
    parser.add_argument("--loras", type=Path, default=demo_model.LORAS)
    parser.add_argument("--keep", default="lower", help="lower, proportional, down-to=%% or strongest=K (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of the pictures (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    host = StandaloneHost()
    host.use(load_demo(arguments.model))
    network = read_network(arguments.loras / f"{LORA}.safetensors")
    setting = Setting((PROMPT,), seeds=SEEDS)
    features = (Feature(word=WANTED), Feature(word=UNWANTED))
    with host.queued():
        wanted, unwanted = answer(host, Inquiry(network, setting, "exact", features)).analyses
        rule, _, amount = arguments.keep.partition("=")
        weights = chosen(rule, wanted, float(amount) if amount else None, unwanted)
        preset = preset_of(wanted, weights, "ROBOT")
        arms = {"without": None, "all blocks at 1": BlockWeights.uniform("sd1", 1.0), "ROBOT": weights}
        pictures = []
        for title, of_arm in arms.items():
            placements = () if of_arm is None else (Placement(network, of_arm),)
            for seed in SEEDS:
                request = SampleRequest(PROMPT, seed=seed, steps=arguments.steps, cfg=5.0, placements=placements)
                pictures.append((f"{title}, seed {seed}", host.sample(request)))
    arguments.out.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, columns=len(SEEDS)).save(arguments.out / "analysis.png")
    text = TEXT.format(
        lora=LORA,
        prompt=PROMPT,
        wanted=WANTED,
        unwanted=UNWANTED,
        keep=arguments.keep,
        sentence=sentence(wanted.canvas, "sd1", setting.latent_size(host.model())),
        comparison=compare(wanted, unwanted).to_table(),
        line=f"{preset.name}:{preset.text}",
        evaluations=wanted.evaluations,
        rendered=len(SEEDS) * (len(wanted.blocks) + 1) * 20 * 2,
    )
    (arguments.out / "analysis.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
