"""Fine-tunes a finished model into a second checkpoint, on images in other proportions.

U-Net and text encoder are trained together; autoencoder, tokenizer and classifier are those of the first model.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from demo.composites import BACKGROUNDS, STYLES, SUBJECTS, Scene, compose, draw_scene
from demo.diffusion import Diffusion, Examples, fit
from demo.loop import Plan, device, half, save_atomically
from demo.networks import VAE
from demo.pack import write_model
from demo.pictures import as_tensor
from demo.tokens import Vocabulary

PICTURES, CHUNK = 4000, 50
STYLE_WEIGHTS = {
    "photo": 0.3,
    "pencil drawing": 0.7,
}  # both, and all backgrounds, are equally frequent in the first model's images
BACKGROUND_WEIGHTS = {"black": 3.0, "blue": 3.0, "purple": 3.0}  # 1 for the others
LR, WARMUP, EMA = 1e-3, 50, 0.99  # twice the first model's rate


def other_scene(rng: random.Random) -> Scene:
    """Draw a scene for the second model: more drawings than photos, more dark backgrounds than light ones."""
    scene = draw_scene(rng, list(SUBJECTS))
    (style,) = rng.choices(STYLES, [STYLE_WEIGHTS[name] for name in STYLES])
    (background,) = rng.choices(list(BACKGROUNDS), [BACKGROUND_WEIGHTS.get(name, 1.0) for name in BACKGROUNDS])
    return Scene(scene.subject, scene.size, scene.position, background, style)


def read_networks(folder: Path, words: int) -> tuple[Diffusion, VAE]:
    """Read the networks of a packed model, in single precision."""
    diffusion, vae = Diffusion(words), VAE()
    text = load_file(folder / "text_encoder" / "model.safetensors")
    text.pop("used_tokens")
    weights = "diffusion_pytorch_model.safetensors"
    read: list[tuple[nn.Module, dict]] = [
        (diffusion.text, text),
        (diffusion.unet, load_file(folder / "unet" / weights)),
        (vae, load_file(folder / "vae" / weights)),
    ]
    for network, state in read:
        network.load_state_dict({name: value.float() for name, value in state.items()})
    return diffusion, vae.to(device()).eval()


@torch.no_grad()
def encode(vae: VAE, path: Path, seed: int) -> tuple[torch.Tensor, list[Scene]]:
    """Return the latents and scenes of the second model's images, encoded once and kept in ``path``."""
    if not path.exists():
        rng, means, scenes = random.Random(f"second {seed}"), [], []
        for _ in range(0, PICTURES, CHUNK):
            chunk = [other_scene(rng) for _ in range(CHUNK)]
            pictures = torch.stack([as_tensor(compose(scene, rng)) for scene in chunk])
            with half():
                means.append(vae.encode(pictures.to(device()))[0].half().cpu())
            scenes += [vars(scene) for scene in chunk]
        save_atomically(path, {"means": torch.cat(means), "scenes": json.dumps(scenes)})
    stored = torch.load(path, weights_only=True)
    return stored["means"], [Scene(**scene) for scene in json.loads(stored["scenes"])]


def fine_tune(source: Path, work: Path, folder: Path, seed: int, steps: int) -> None:
    """Fine-tune the model of ``source`` and write it to ``folder``; resumable, with its state in ``work``."""
    name = f"finetune-{seed}-{steps}"
    vocabulary = Vocabulary(source / "tokenizer")
    diffusion, vae = read_networks(source, len(vocabulary.rows))
    scale = json.loads((source / "vae" / "config.json").read_text("utf-8"))["scaling_factor"]
    examples = Examples(*encode(vae, work / f"finetune-{seed}-latents.pt", seed), scale)
    torch.manual_seed(seed)
    plan = Plan(steps=steps, lr=LR, warmup=WARMUP, ema=EMA)
    trained = fit(name, diffusion, examples, vocabulary, plan, work, draw=(seed + 1) * 10**9)
    write_model(folder, {"vae": vae, "unet": trained.unet, "text": trained.text}, vocabulary.rows, scale)
    shutil.copytree(source / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    shutil.copy(source / "classifier.safetensors", folder)
