"""Make the demo model from scratch: ``python demo/build.py --work DIR`` (resumable; hours on a CPU, minutes on a GPU).

Stages: ``vae``, ``latents``, ``unet``, ``decoder``, ``classifier``, ``pack``. Each keeps its state in DIR and resumes
from it. Needs torch, numpy, pillow, safetensors, the font Noto Color Emoji (Debian: fonts-noto-color-emoji), and
open_clip_torch (installed with --no-deps) for CLIP's vocabulary.

``--from MODEL`` instead fine-tunes a finished model into a second one: its U-Net and text encoder are trained for
``--steps`` more, on images in other proportions (``finetune.py``), drawn from ``--seed``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from demo.autoencoder import build_decoder, build_latents, build_vae
from demo.classifier import build_classifier
from demo.diffusion import build_unet
from demo.finetune import fine_tune
from demo.pack import pack

STAGES = {
    "vae": build_vae,
    "latents": build_latents,
    "unet": build_unet,
    "decoder": build_decoder,
    "classifier": build_classifier,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", default=[*STAGES, "pack"], help=", ".join([*STAGES, "pack"]))
    parser.add_argument("--work", type=Path, required=True, help="folder for states and caches")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model", help="where pack writes the model")
    parser.add_argument("--from", dest="source", type=Path, help="a finished model to fine-tune into a second one")
    parser.add_argument("--seed", type=int, default=1, help="of the second model (%(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="of the second model (%(default)s)")
    arguments = parser.parse_args()
    if arguments.source and arguments.source.resolve() == arguments.out.resolve():
        parser.error("--from: expected another --out, or the first model would be overwritten")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.source:
        fine_tune(arguments.source, arguments.work, arguments.out, arguments.seed, arguments.steps)
        return
    for stage in arguments.stages:
        torch.manual_seed(0)
        if stage == "pack":
            pack(arguments.work, arguments.out)
        else:
            STAGES[stage](arguments.work)


if __name__ == "__main__":
    main()
