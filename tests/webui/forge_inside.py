"""What runs inside the process of Forge and its forks in place of the functions of `inside.py` of the same names."""

from __future__ import annotations

import hashlib
import inspect
import sys
from pathlib import Path

SIDE = 64  # pixels; the U-Net halves its latents three times


def fingerprint() -> dict[str, str | dict[str, str]]:
    """Return a digest of each part of the loaded model's state that must not change, of the tensors by name.

    Their values count, not their dtypes: with its first prompt Forge turns the text encoder's embeddings to fp32.
    """
    from modules import shared

    # no checkpoint of SD1 has this layer: it holds whatever was in the memory when the model was loaded
    unset = "transformer.text_projection." if shared.sd_model.is_sd1 else None
    objects = shared.sd_model.forge_objects_original
    parts = {"unet": objects.unet.model, "clip": objects.clip.cond_stage_model, "vae": objects.vae.first_stage_model}
    kinds = ("requires_grad", "inference", "training", "hooks", "forward")
    digests, tensors = {name: hashlib.sha256() for name in kinds}, {}
    for part, model in parts.items():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if unset is None or unset not in name:
                exact = tensor.detach().float() if tensor.is_floating_point() else tensor
                tensors[f"{part} {name}"] = hashlib.sha256(exact.cpu().numpy().tobytes()).hexdigest()[:16]
            digests["requires_grad"].update(f"{part}{name}{tensor.requires_grad}".encode())
            digests["inference"].update(f"{part}{name}{tensor.is_inference()}".encode())
        for name, module in model.named_modules():
            digests["training"].update(f"{part}{name}{module.training}".encode())
            hooks = [len(getattr(module, f"_{kind}_hooks")) for kind in ("forward", "forward_pre", "backward")]
            digests["hooks"].update(f"{part}{name}{hooks}".encode())
            digests["forward"].update(f"{part}{name}{type(module).__qualname__}{'forward' in vars(module)}".encode())
    return {"tensors": tensors, **{name: digest.hexdigest() for name, digest in digests.items()}}


def features() -> dict:
    """Return the features that the extension found."""
    kind = _kind()
    model = kind.host().model()
    host = kind.host()
    return {
        "features": kind.features(),
        "host": host.name,
        "architecture": model.architecture,
        "no_training": host.no_training,
    }


def forward_by_blocks() -> dict:
    """Compare the U-Net's output, run block by block from each block on, with its own forward pass."""
    import torch

    host = _kind().host()
    model = host.model()
    given = _inputs(model.architecture)
    with host.queued(), torch.no_grad():
        states = {}
        whole = model.run_blocks("IN00", model.enter_blocks(*given), keep=states)
        with torch.inference_mode():
            own = model.unet(given[0], given[1].float(), transformer_options={}, **given[2])
        equal = [torch.equal(model.run_blocks(block, state), own) for block, state in states.items()]
    return {"whole": torch.equal(whole, own), "blocks": len(states), "equal": sum(equal)}


def gradients(file: str) -> dict:
    """Return the number of gradients of a LoRA on every attention layer, and their error by finite differences."""

    from lib_blocktrain.networks.files import read_network
    from lib_blocktrain.networks.hooks import applied

    host = _kind().host()
    network, given = read_network(Path(file)), _inputs()
    modules = {key: module for key, module in network.modules.items() if key.startswith("lora_unet")}
    tensors = {key: (module.down.requires_grad_(), module.up.requires_grad_()) for key, module in modules.items()}
    with host.queued():
        model = host.model()
        with model.trainable(), applied(model.unet, network):

            def loss():
                return model.predict(*given).double().square().sum()

            value = loss()
            value.backward()
            flat = [tensor for pair in tensors.values() for tensor in pair]
            found = sum(bool(tensor.grad is not None and tensor.grad.abs().max() > 0) for tensor in flat)
            errors = {}
            for part in ("lora_unet", "down_blocks_0_attentions_0", "mid_block", "up_blocks_3_attentions_2"):
                chosen = [tensor for key, pair in tensors.items() if part in key for tensor in pair]
                errors[part] = _against_differences(loss, chosen, float(value))
    return {"tensors": len(flat), "found": found, "errors": errors}


def _against_differences(loss, tensors, value: float) -> float:
    """Return the relative error of the derivative along the gradient, by steps that exceed rounding errors."""
    import torch

    norm = torch.stack([tensor.grad.square().sum() for tensor in tensors]).sum().sqrt()
    step, values = min(0.03, 0.01 * value / float(norm)), []
    with torch.no_grad():
        for sign in (1, -1, 0):
            for tensor in tensors:
                tensor.add_(tensor.grad, alpha=float({1: step, -1: -2 * step, 0: step}[sign] / norm))
            values.append(loss())
    return float(((values[0] - values[1]) / (2 * step) - norm).abs() / norm)


def train_until(folder: str, ending: str, weights: str = "BASE=1,OUT10-OUT11=1", steps: int = 20) -> dict:
    """Train on two pictures; `ending` is "finished", "stopped" or "failed"."""
    from lib_blocktrain.hosts.host import SampleRequest
    from lib_blocktrain.training.control import TrainerControl
    from lib_blocktrain.training.runs import create
    from lib_blocktrain.training.trainer import Trainer

    host, control, losses, gradients, drawn = _kind().host(), TrainerControl(), [], [], []

    def report(row):
        if row.get("gradients"):
            gradients.append(row["gradients"])
        if "loss" in row:
            losses.append(row["loss"])
            if ending == "stopped":
                control.stop()
            if ending == "failed":
                raise RuntimeError("made to fail")

    def draw(asked):
        request = SampleRequest(asked.prompt, seed=asked.seed, steps=1, cfg=5, sampler="Euler", width=SIDE, height=SIDE)
        drawn.append(host.sample(request))
        return drawn[-1]

    run = create(_config(Path(folder), weights, steps), Path(folder) / ending)
    with host.queued():
        trainer = Trainer(host.model(), run, control=control, draw=draw, report=report)
        try:
            ended = trainer.run_loop().ended
        except RuntimeError as error:
            ended = str(error)
    files = sorted(str(path) for path in run.folder.glob("*.safetensors"))
    return {"ended": ended, "losses": losses, "gradients": gradients, "files": files, "samples": len(drawn)}


def _config(folder: Path, weights: str, steps: int):
    import numpy as np
    from PIL import Image

    from lib_blocktrain.training.config import (
        DatasetConfig,
        FolderConfig,
        NetworkConfig,
        OptimizerConfig,
        RunConfig,
        SampleConfig,
    )

    pictures = folder / "pictures" / "2_cat"
    pictures.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text("a (cat:1.2), BREAK", "utf-8")
    return RunConfig(
        name="forge",
        dataset=DatasetConfig(folders=(FolderConfig(str(pictures.parent)),), size=SIDE),
        network=NetworkConfig(rank=2, weights=weights, text_encoder="BASE" in weights),
        optimizer=OptimizerConfig(lr=1e-2),
        samples=SampleConfig(prompts=("a cat",), every=12),
        steps=steps,
        batch=2,
    )


def signatures() -> dict[str, list[str]]:
    """Return the parameters of the functions of Forge that the extension calls."""
    from backend import attention, memory_management
    from backend.patcher import lora
    from backend.patcher.base import ModelPatcher
    from backend.text_processing.classic_engine import ClassicTextProcessingEngine
    from modules import patches, sd_models

    called = {
        "load_models_gpu": memory_management.load_models_gpu,
        "attention": attention.attention_pytorch,
        "load_lora": sys.modules["networks"].load_lora_for_models,
        "clone": ModelPatcher.clone,
        "encode": ClassicTextProcessingEngine.encode_with_transformers,
        "tokenize": ClassicTextProcessingEngine.tokenize,
        "reload": sd_models.forge_model_reload,
        "patch": patches.patch,
        "undo": patches.undo,
        "activate": sys.modules["extra_networks_lora"].ExtraNetworkLora.activate,
    }
    if hasattr(lora, "LoraLoader"):
        called["refresh"] = lora.LoraLoader.refresh
    return {name: list(inspect.signature(function).parameters) for name, function in called.items()}


def low_bits(choice: str) -> None:
    """Choose how the U-Net's weights are stored, as 'Diffusion in Low Bits' at the top of the page does."""
    from modules import shared
    from modules_forge import main_entry

    assert choice in main_entry.forge_unet_storage_dtype_options, list(main_entry.forge_unet_storage_dtype_options)
    shared.opts.set("forge_unet_storage_dtype", choice)
    main_entry.refresh_model_loading_parameters()


def loads(name: str = "") -> int:
    """Return how many network files the WebUI has read since the first call."""
    networks = sys.modules["networks"]
    if not hasattr(networks, "blocktrain_probe_count"):
        networks.blocktrain_probe_count = 0
        load = networks.load_lora_state_dict

        def counting(*arguments):
            networks.blocktrain_probe_count += 1
            return load(*arguments)

        networks.load_lora_state_dict = counting
    return networks.blocktrain_probe_count


def _inputs(architecture: str = "sd1"):
    import torch

    generator = torch.Generator().manual_seed(1)
    shapes = {"sd1": {"context": (1, 77, 768)}, "sdxl": {"context": (1, 77, 2048), "y": (1, 2816)}}[architecture]
    latents = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=generator)
    conditioning = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return latents, torch.tensor([500]), conditioning


def _kind():
    from lib_blocktrain.hosts.webui.integration import detect

    return detect()
