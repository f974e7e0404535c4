"""What each method of analysis costs, and how well it agrees with rendering: ``python benchmarks/analysis.py``.

The demo model with its three LoRAs of different kinds; ``--model`` and ``--lora NAME=PROMPT`` take others. Each method
is held against the rendered sheet of the LoRA's own blocks: U-Net evaluations (guidance is two, a backward pass is
two, a pass that begins at a later block is its share of the multiplications) and wall time, both as ratios; Spearman's
rank correlation of the blocks' figures with the sheet's perceived difference; and what the attributions add up to.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_blocktrain.analysis.request import IMAGE_STEPS, AnalysisRequest
from lib_blocktrain.analysis.results import Analysis, write_analysis
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.statistics import spearman
from lib_blocktrain.hosts import demo_model
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.workspace.analyses import run_analysis

LORAS = {
    "robot": "a photo of a large robot in the center, blue background",
    "robot-on-green": "a photo of a medium robot on the left",
    "pixel-art": "a pixel art of a large fox in the center, white background",
}
KINDS = {"robot": "subject", "robot-on-green": "background", "pixel-art": "style"}
METHODS = ("exact", "one-only", "fast", "norms")
AIMS = {"exact": "1/7", "fast": "1/10"}


def figures(analysis: Analysis) -> list[float]:
    """The figures of the LoRA's own blocks, by which two methods are compared; attributions by their size."""
    return [abs(mean) for mean in analysis.means().values()]


def measured(host: StandaloneHost, lora: Path, prompt: str, seeds: tuple[int, ...], out: Path) -> None:
    """Print one LoRA's table."""
    network = read_network(lora)
    found: dict[str, Analysis] = {}
    seconds: dict[str, float] = {}
    for method in ("rendered", *METHODS):
        request = AnalysisRequest(network, SamplingGrid((prompt,), seeds=seeds), method)
        began = time.perf_counter()
        result = run_analysis(host, request)
        seconds[method] = time.perf_counter() - began
        found[method] = result.analyses[0]
        write_analysis(found[method], out, f"{lora.stem}-{method}")
        for name, image in result.sheets.items():
            image.save(out / f"{lora.stem}-{name}.png")
    rendered = found["rendered"]
    print(
        f"\n{lora.stem} ({KINDS.get(lora.stem, 'LoRA')}): {prompt!r}, {len(seeds)} seeds, {len(rendered.blocks)} blocks"
    )
    head = ("evaluations", "of rendered", "seconds", "of rendered", "Spearman")
    print(f"{'method':<10}" + "".join(f"{name:>13}" for name in head) + "  aim")
    for method, analysis in found.items():
        cost, wall = (
            analysis.evaluations / rendered.evaluations,
            seconds[method] / seconds["rendered"],
        )
        sizes = {block: abs(mean) for block, mean in analysis.means().items()}
        agreement = spearman([sizes.get(block, 0.0) for block in rendered.blocks], figures(rendered))
        print(
            f"{method:<10}{analysis.evaluations:>13.0f}{_part(cost):>13}{seconds[method]:>13.1f}{_part(wall):>13}"
            f"{agreement:>13.3f}  {AIMS.get(method, '')}"
        )
    fast = found["fast"]
    whole = sum(at.whole for at in fast.observations) / len(fast.observations)
    print(f"attributions add up to {fast.completeness:.2%} of the whole effect (|e| = {whole:.3g} on average)")
    stable = {method: analysis.stability for method, analysis in found.items() if analysis.stability is not None}
    print("agreement of the seeds: " + ", ".join(f"{method} {value:.3f}" for method, value in stable.items()))


def _part(ratio: float) -> str:
    return "1" if ratio == 1 else "0" if not ratio else f"1/{1 / ratio:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=demo_model.MODEL)
    parser.add_argument("--loras", type=Path, default=demo_model.LORAS, help="folder (%(default)s)")
    parser.add_argument("--lora", action="append", metavar="NAME=PROMPT", help="instead of the demo's three")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's threads; 1 on a machine that is busy otherwise")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/analysis"), help="for figures and sheets (%(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    host = StandaloneHost()
    host.use(load_demo(arguments.model))
    arguments.out.mkdir(parents=True, exist_ok=True)
    loras = dict(entry.split("=", 1) for entry in arguments.lora) if arguments.lora else LORAS
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; rendered pictures of {IMAGE_STEPS} steps")
    with host.queued():
        for name, prompt in loras.items():
            seeds = tuple(range(arguments.seeds))
            measured(host, arguments.loras / f"{name}.safetensors", prompt, seeds, arguments.out)


if __name__ == "__main__":
    main()
