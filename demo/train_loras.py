"""Train the LoRAs that come with the demo model: ``python demo/train_loras.py`` (minutes on a CPU).

Until the package has a trainer of its own: plain LoRA on the attention layers, through the package's own hooks.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib_blocktrain.adapters.lora import LoRA
from lib_blocktrain.formats import Network, write_network
from lib_blocktrain.hooks import applied
from lib_blocktrain.hosts.standalone import StandaloneModel, load_demo
from lib_blocktrain.network_keys import key_of

log = logging.getLogger("demo")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """What a LoRA is trained on and how long; ``dataset`` is a folder of ``demo/datasets``."""

    dataset: str
    steps: int = 500
    rank: int = 4
    lr: float = 2e-3
    batch: int = 8


RECIPES = {
    "robot": Recipe("robot"),
    "robot-on-green": Recipe("robot-on-green"),
    "pixel-art": Recipe("pixel-art", steps=700),
}


def fresh_network(name: str, unet: nn.Module, rank: int) -> Network:
    """Modules for every layer that a plain LoRA has: down as kaiming_uniform(sqrt 5), up as zeros (Hu et al. 2021)."""
    modules = {}
    for path, layer in unet.named_modules():
        if "attentions" not in path or not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        down = torch.empty(rank, *layer.weight.shape[1:])
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        up = torch.zeros(layer.weight.shape[0], rank, *([1] * (layer.weight.ndim - 2)))
        key = key_of(path, "sd1")
        modules[key] = LoRA(key, down.requires_grad_(), up.requires_grad_(), alpha=float(rank))
    return Network(name, "sd1", modules, {"ss_output_name": name, "ss_network_module": "networks.lora"})


def encoded(model: StandaloneModel, folder: Path) -> tuple[Tensor, Tensor]:
    """Latents and text contexts of a folder in kohya's layout."""
    pictures = sorted(folder.glob("*/*.png"))
    latents = [model.encode_image(Image.open(p)) for p in pictures]
    contexts = [model.encode_prompt(p.with_suffix(".txt").read_text("utf-8").strip())["context"] for p in pictures]
    return torch.cat(latents), torch.cat(contexts)


def train(name: str, recipe: Recipe, model: StandaloneModel) -> Network:
    torch.manual_seed(0)
    network = fresh_network(name, model.unet, recipe.rank)
    parameters = [tensor for module in network.modules.values() for tensor in (module.down, module.up)]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.0)
    latents, contexts = encoded(model, HERE / "datasets" / recipe.dataset)
    alphas = model.alphas_cumprod
    started = time.monotonic()
    with applied(model.unet, network):
        for step in range(recipe.steps):
            chosen = torch.randint(len(latents), (recipe.batch,))
            timesteps = torch.randint(1000, (recipe.batch,))
            noise = torch.randn_like(latents[chosen])
            alpha = alphas[timesteps][:, None, None, None]
            noisy = alpha.sqrt() * latents[chosen] + (1 - alpha).sqrt() * noise
            predicted = model.predict(noisy, timesteps, {"context": contexts[chosen]})
            loss = (predicted - noise).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
            optimizer.step()
            if (step + 1) % 100 == 0:
                pace = (time.monotonic() - started) / (step + 1)
                log.info("%s %d/%d loss %.4f, %.2f s a step", name, step + 1, recipe.steps, loss.item(), pace)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(RECIPES), help=", ".join(RECIPES))
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--out", type=Path, default=HERE / "loras")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    model = load_demo(arguments.model)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        network = train(name, RECIPES[name], model)
        write_network(arguments.out / f"{name}.safetensors", network, dtype=torch.float16, overwrite=True)


if __name__ == "__main__":
    main()
