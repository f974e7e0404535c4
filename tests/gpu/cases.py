"""What is run on the pretended GPU: `python -m tests.gpu.cases GROUP` prints a line of JSON for each case.

A line has `case`, `error` (None, or what was raised), `skipped`, and `waits` and `copies` by source line: of a training
those of a step after the first, of a preview those that a further step costs, else those of all.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

WEIGHTS = ("fp16", "bf16", "fp32")
PRECISIONS = ("auto", "bf16", "fp16")
# Unless BLOCKTRAIN_GPU=all is set: each dtype of weights with one precision, fewer variants and options of the hosts,
# and previews and analyses of SD1 alone.
EVERYTHING = os.environ.get("BLOCKTRAIN_GPU") == "all"
SAMPLERS = ("DDIM", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M Karras")
ARCHITECTURES = ("sd1", "sdxl")
STEPS = 1  # measured steps of a training
SOME = "IN01=1,M00=1,OUT05=1"
PROMPT = "a photo of a robot"

Run = Callable[["Rig"], None]


@dataclass
class Rig:
    """A case's tools: the pretended GPU, a folder, and what it found."""

    gpu: Any
    folder: Path
    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)

    def found(self, share: float = 1.0) -> None:
        """Take what the GPU has recorded since its reset, times `share`, as the case's."""
        for own, seen in ((self.waits, self.gpu.waits), (self.copies, self.gpu.copies)):
            own.update({site: count * share for site, count in seen.items()})


# Models.


def standalone(rig: Rig, architecture: str, dtype: str) -> Any:
    """Return the standalone host's model on the GPU: the real topologies, a few channels wide, SDXL less deep."""
    from lib_blocktrain.hosts.standalone import StandaloneModel
    from lib_blocktrain.training.precision import DTYPES

    pipeline = _pipeline(architecture)
    for part in pipeline.components.values():
        if hasattr(part, "parameters"):
            rig.gpu.move(part, DTYPES[dtype])
    return StandaloneModel(pipeline, architecture, f"{architecture} in {dtype}")


@lru_cache
def _pipeline(architecture: str) -> Any:
    import diffusers
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from lib_blocktrain.hosts.standalone import _tokenizer

    text = CLIPTextConfig(
        hidden_size=24,
        intermediate_size=48,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=49408,
        projection_dim=24,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
    )
    tokenizer, schedule = _tokenizer(), {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = diffusers.DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    with torch.device("meta"):
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=1,
            latent_channels=4,
            force_upcast=architecture == "sdxl",
        )
        encoder = CLIPTextModel(text)
        if architecture == "sdxl":
            unet = diffusers.UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(32, 64, 64),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 1, 2),
                cross_attention_dim=48,
                attention_head_dim=(2, 4, 4),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=8 * 6 + 24,
            )
            encoder_2 = CLIPTextModelWithProjection(text)
        else:
            unet = diffusers.UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(32, 64, 64, 64),
                cross_attention_dim=24,
                attention_head_dim=4,
            )
    common: dict[str, Any] = {
        "vae": vae,
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": scheduler,
    }
    if architecture == "sdxl":
        pipeline: Any = diffusers.StableDiffusionXLPipeline(
            **common,
            text_encoder_2=encoder_2,
            tokenizer_2=_tokenizer("!"),
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
    else:
        pipeline = diffusers.StableDiffusionPipeline(
            **common, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def hosted(rig: Rig, layout: str, architecture: str, dtype: str, autocast: bool = False) -> Any:
    """Return a model with a U-Net in a WebUI's layout, "ldm" or "forge"; `autocast`: computed in the WebUI's."""
    import torch

    from lib_blocktrain.training.precision import DTYPES
    from tests.model.forge_unet import forge_unet
    from tests.tiny_models import CONTEXT, ldm_sdxl_unet, ldm_unet
    from tests.training.test_layouts import Encoding

    weights = DTYPES[dtype]

    class Hosted(Encoding):
        name = f"{layout} {architecture} in {dtype}"

        def encode_image(self, image):
            return super().encode_image(image).to("cuda")

        def decode(self, latents):
            raise AssertionError("no VAE")

        def encode_prompt(self, text):
            made = {"context": torch.zeros(1, 77, CONTEXT, dtype=weights, device="cuda")}
            if architecture == "sdxl":
                made["pooled"] = torch.zeros(1, 16, dtype=weights, device="cuda")
                made["size"] = torch.tensor([[64.0, 64, 0, 0, 64, 64]], device="cuda")
            return made

        def predict(self, latents, timesteps, conditioning):
            return self.run_blocks("IN00", self.enter_blocks(latents, timesteps, conditioning))

        def enter_blocks(self, latents, timesteps, conditioning):
            with self.autocast():
                return super().enter_blocks(latents, timesteps, conditioning)

        def run_blocks(self, start, saved, **options):
            with self.autocast():
                return super().run_blocks(start, saved, **options)

        @contextmanager
        def trainable(self):
            with ExitStack() as stack:
                for part in self.unet.modules() if layout == "forge" else ():
                    if hasattr(part, "attn1"):  # adds to its input in place: see forge.borrowed_weights
                        for norm in (part.norm1, part.norm2):
                            stack.callback(norm.register_forward_pre_hook(lambda _, x: (x[0].clone(),)).remove)
                stack.enter_context(super().trainable())
                yield

        def autocast(self):
            return torch.autocast("cuda") if autocast else nullcontext()

    unet = ldm_sdxl_unet() if architecture == "sdxl" else ldm_unet()
    if architecture == "sdxl":  # as wide as the class vector is: pooled text and 256 sinusoids of each of six sizes
        unet.label_emb[0][0] = torch.nn.Linear(16 + 6 * 256, 128)
    unet.dtype = weights
    if layout == "forge":
        for module in forge_unet(unet).modules():
            if type(module).__name__ == "GroupNorm32":  # which computes in fp32, and so wants autocast
                module.__class__ = torch.nn.GroupNorm
    rig.gpu.move(unet, weights)
    return Hosted(unet, architecture)


# Trainings.


def dataset(folder: Path) -> Path:
    """Make four pictures of 64 pixels with captions, one of them half transparent, and return their folder."""
    import numpy as np
    from PIL import Image

    pictures = folder / "1_thing"
    if not pictures.exists():
        pictures.mkdir()
        rng = np.random.default_rng(0)
        for number in range(4):
            image = Image.fromarray(rng.integers(0, 256, (64, 64, 4), dtype=np.uint8))
            (image if number % 2 else image.convert("RGB")).save(pictures / f"{number}.png")
            (pictures / f"{number}.txt").write_text(f"{PROMPT}, number {number}", "utf-8")
    return folder


def configuration(rig: Rig, **changes: Any) -> Any:
    """Return a run of a few steps, with parts of its configuration replaced."""
    from lib_blocktrain.training import config as c

    parts: dict[str, Any] = {
        "dataset": {"size": 64, "cache": str(rig.folder / "cache")},
        "network": {"rank": 2, "weights": "ALL"},
        "optimizer": {"lr": 1e-3},
        "loss": {},
        "samples": {},
    }
    classes = {
        "dataset": c.DatasetConfig,
        "network": c.NetworkConfig,
        "optimizer": c.OptimizerConfig,
        "loss": c.LossConfig,
        "samples": c.SampleConfig,
    }
    for name in parts:
        parts[name].update(changes.pop(name, {}))
    parts["dataset"].setdefault("folders", (c.FolderConfig(str(dataset(rig.folder))),))
    made = {name: classes[name](**values) for name, values in parts.items()}
    return c.RunConfig(**{"name": "run", "steps": 1000, "batch": 2, "save_dtype": "fp32", **made, **changes})


def trainer_of(model: Any, config: Any, folder: Path, **options: Any) -> Any:
    from lib_blocktrain.training import runs
    from lib_blocktrain.training.trainer import Trainer

    made = runs.open_run(folder) if folder.exists() else runs.create(config, folder)
    return Trainer(model, replace(made, config=config), **options)


def train(rig: Rig, model: Any, **changes: Any) -> None:
    """Train a step, which sets things up and writes rows by block, then measure the next ones."""
    trainer = trainer_of(model, configuration(rig, **changes), rig.folder / "run")
    with model.trainable(), trainer.hooks:
        trainer.prepare()
        for number in range(1 + STEPS):
            if number == 1:
                rig.gpu.reset()
            trainer.change_weights()
            trainer.run_step()
            trainer.after_step()
        rig.found(1 / STEPS)
        assert {parameter.device.type for parameter in trainer.train_state.parameters} == {"cuda"}
        trainer.save_state()
        trainer.save(trainer.run.result)


def train_standalone(rig: Rig, architecture: str, dtype: str, **changes: Any) -> None:
    train(rig, standalone(rig, architecture, dtype), **changes)


def train_hosted(rig: Rig, layout: str, architecture: str, dtype: str, autocast: bool, **changes: Any) -> None:
    train(rig, hosted(rig, layout, architecture, dtype, autocast), **changes)


def whole_run(rig: Rig, architecture: str, dtype: str) -> None:
    """Train with validation, samples and saved files, stop, and resume to the end."""
    model = standalone(rig, architecture, dtype)
    from lib_blocktrain.hosts.host import SampleRequest
    from lib_blocktrain.hosts.standalone import _draw
    from lib_blocktrain.networks.hooks import applied
    from lib_blocktrain.training.config import FolderConfig
    from lib_blocktrain.training.control import TrainerControl

    folders = (FolderConfig(str(dataset(rig.folder)), alpha_mask=True, flip=True, shuffle_tags=True),)
    config = configuration(
        rig,
        dataset={"folders": folders, "validation_share": 0.25},
        samples={"prompts": (PROMPT,), "every": 2, "first": True, "steps": 2},
        optimizer={"ema": 0.9, "accumulate": 2},
        steps=4,
        batch=1,
        validate_every=2,
        save_every=2,
    )

    def draw(asked: Any) -> Any:
        with applied({"unet": model.unet, **model.text_encoders}, ()) as networks:
            return _draw(
                model, SampleRequest(asked.prompt, seed=asked.seed, steps=2, width=64, height=64), None, networks
            )

    control = TrainerControl()

    def stop(row: Any) -> None:
        if row.get("step") == 2 and "loss" in row:
            control.stop(save=True)

    first = trainer_of(model, config, rig.folder / "run", draw=draw, control=control, report=stop)
    outcome = first.run_loop()
    assert (outcome.ended, first.step) == ("stopped", 2), outcome
    resumed = trainer_of(model, config, rig.folder / "run", draw=draw)
    outcome = resumed.run_loop()
    assert (outcome.ended, resumed.step) == ("finished", 4), outcome
    assert list((rig.folder / "run").rglob("*.png")), "a sample was drawn"


# Analyses, the probe, previews, and changes of files and weights.


def network_of(rig: Rig, model: Any, text: bool = True) -> Any:
    """Return a network from a file, on the CPU, with a module on each linear layer of U-Net and text encoders."""
    import torch

    from lib_blocktrain.networks.adapters import LoRA
    from lib_blocktrain.networks.files import Network
    from lib_blocktrain.networks.layers import weight_shape
    from lib_blocktrain.networks.placement import layers_by_key

    targets = {"unet": model.unet, **(model.text_encoders if text else {})}
    modules = {}
    for key, layer in layers_by_key(targets, model.architecture).items():
        shape = weight_shape(layer)
        if len(shape) == 2:
            modules[key] = LoRA(key, torch.zeros(2, shape[1]), torch.zeros(shape[0], 2), alpha=1.0)
    return Network("tiny", model.architecture, modules)


def analyse(rig: Rig, model: Any, method: str, text: bool = True) -> None:
    from lib_blocktrain.analysis import run, trajectory
    from lib_blocktrain.analysis.attention import Tokens, _first_difference
    from lib_blocktrain.analysis.regions import WHOLE_IMAGE, Feature
    from lib_blocktrain.analysis.request import Options
    from lib_blocktrain.analysis.sampling_grid import SamplingGrid
    from lib_blocktrain.weights.block_weights import BlockWeights

    def found(model: Any, prompt: str, word: str) -> Tokens:
        _first_difference(model, prompt, f"{prompt} a")  # whose values are made up here
        return Tokens((2,), (1, 2, 3))

    network = network_of(rig, model, text)
    grid = SamplingGrid((PROMPT,), seeds=(0, 1), steps=6, width=64, height=64)
    acting = {"M00": 1.0, "OUT05": 0.5, **({"BASE": 1.0} if text else {})}
    options = Options(weights=BlockWeights.uniform(model.architecture, 0.0).replace(acting))
    with patch.object(trajectory, "tokens_of", found):
        rig.gpu.reset()
        found_by = run.analyse(model, network, grid, method, (WHOLE_IMAGE, Feature(word="robot")), options=options)
        rig.found()
    assert [analysis.method for analysis in found_by] == [method, method]


def rendered(rig: Rig, architecture: str, dtype: str) -> None:
    from lib_blocktrain.analysis.rendered import analysis_of, render
    from lib_blocktrain.networks.placement import Placement
    from lib_blocktrain.weights.block_weights import BlockWeights

    model = standalone(rig, architecture, dtype)
    host, network = host_of(model), network_of(rig, model)
    weights = BlockWeights.uniform(architecture, 0.0).replace({"M00": 1.0, "OUT05": 0.5})

    def draw(prompt: str, seed: int, at: BlockWeights) -> Any:
        return host.sample(request_of("Euler", 2, seed=seed, placements=(Placement(network, at),)))

    rig.gpu.reset()
    analysis_of(render(draw, network, weights, [(PROMPT, 0)]), network, model.name)
    rig.found()


def probe(rig: Rig, model: Any) -> None:
    from lib_blocktrain.analysis import probe as probing
    from lib_blocktrain.training.config import FolderConfig
    from lib_blocktrain.training.dataset_config import DatasetConfig

    folders = (FolderConfig(str(dataset(rig.folder)), alpha_mask=True),)
    config = DatasetConfig(folders=folders, size=64)
    request = probing.ProbeRequest(config, "a robot", images=2, convolutions=True)
    rig.gpu.reset()
    with patch.object(probing, "TIMESTEPS", (400,)), patch.object(probing.own_images, "__defaults__", (2, None)):
        probing.probe_dataset(model, request)
    rig.found()


def host_of(model: Any) -> Any:
    from lib_blocktrain.hosts.standalone import StandaloneHost

    host = StandaloneHost()
    host.use(model)
    return host


def request_of(sampler: str, steps: int, **options: Any) -> Any:
    from lib_blocktrain.hosts.host import SampleRequest

    return SampleRequest(PROMPT, sampler=sampler, steps=steps, width=64, height=64, **options)


def preview(rig: Rig, architecture: str, dtype: str, sampler: str) -> None:
    """Draw a picture of 3 steps and one of 4, and take the difference: what a step costs."""
    from lib_blocktrain.networks.placement import Placement
    from lib_blocktrain.weights.block_weights import BlockWeights

    model = standalone(rig, architecture, dtype)
    placement = Placement(network_of(rig, model), BlockWeights.uniform(architecture, 0.5))
    host, seen = host_of(model), []
    for steps in (3, 4):
        rig.gpu.reset()
        host.sample(request_of(sampler, steps, placements=(placement,)))
        seen.append((Counter(rig.gpu.waits), Counter(rig.gpu.copies)))
    for own, few, many in zip((rig.waits, rig.copies), *seen):
        own.update(many - few)
    folded = [site for counted in seen[0] for site in counted if "folding.py" in site]
    assert not folded, f"the deltas are folded without a wait: {folded}"


def merge(rig: Rig, architecture: str, dtype: str) -> None:
    import torch

    from lib_blocktrain.networks.merge import merged
    from lib_blocktrain.weights.block_weights import BlockWeights

    model = standalone(rig, architecture, dtype)
    targets, given = {"unet": model.unet, **model.text_encoders}, inputs(model)
    rig.gpu.reset()
    with torch.no_grad(), merged(targets, network_of(rig, model), BlockWeights.uniform(architecture, 0.5)):
        model.predict(*given)
    rig.found()


def inputs(model: Any) -> tuple[Any, ...]:
    import torch

    dtype = next(model.unet.parameters()).dtype
    latents = torch.zeros(1, 4, 8, 8, dtype=dtype, device="cuda")
    return latents, torch.zeros(1, dtype=torch.long, device="cuda"), model.encode_prompt(PROMPT)


def bake(rig: Rig, architecture: str, dtype: str) -> None:
    """Bake LoRA, and DoRA, which needs the model on the GPU."""
    import torch

    from lib_blocktrain.networks.adapters import DoRA
    from lib_blocktrain.networks.bake import bake as bake_file
    from lib_blocktrain.networks.files import read_network
    from lib_blocktrain.networks.layers import weight_shape
    from lib_blocktrain.networks.placement import layers_by_key
    from lib_blocktrain.weights.block_weights import BlockWeights

    model = standalone(rig, architecture, dtype)
    targets = {"unet": model.unet, **model.text_encoders}
    layers = layers_by_key(targets, architecture)
    network = network_of(rig, model)
    weights = BlockWeights.uniform(architecture, 0.5)
    dora = {
        key: DoRA(key, module, torch.ones(1, weight_shape(layers[key])[1])) for key, module in network.modules.items()
    }
    for number, modules in enumerate((network.modules, dora)):
        path = rig.folder / f"{number}.safetensors"
        bake_file(replace(network, modules=modules), weights, path, base=targets)
        assert read_network(path).modules.keys() == network.modules.keys()


# Controls: what must be seen.


def noise_on_the_cpu(rig: Rig) -> None:
    from lib_blocktrain.training.step import Objective

    with patch.object(Objective, "noised", lambda self, latents, noise: latents.to("cuda") + noise.added.to("cpu")):
        train_standalone(rig, "sd1", "fp16")


def half_times_float(rig: Rig) -> None:
    import torch

    half = torch.zeros(2, 2, dtype=torch.float16, device="cuda")
    half @ torch.zeros(2, 2, device="cuda")


def half_convolution_of_float(rig: Rig) -> None:
    import torch

    model = standalone(rig, "sd1", "fp16")
    latents, timesteps, conditioning = inputs(model)
    model.unet.conv_in = rig.gpu.move(model.unet.conv_in, torch.float32)
    model.predict(latents, timesteps, conditioning)


def waits_and_copies(rig: Rig) -> None:
    """Wait six times, and copy to the GPU four times, one of them without a wait."""
    import torch

    rig.gpu.reset()
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    float(there[0]), bool(there[0]), there[0].item(), there.tolist(), there.cpu(), there[there > 0]
    here.to("cuda"), there.copy_(here), there[torch.zeros(2, dtype=torch.long)]
    here.pin_memory().to("cuda", non_blocking=True)
    rig.found()


def generator_of_the_cpu(rig: Rig) -> None:
    import torch

    torch.randn(2, generator=torch.Generator("cpu"), device="cuda")


# All cases, by group: each group is a process.


def cases(group: str) -> Iterator[tuple[str, Run]]:
    """Yield the name and the function of each case of a group."""
    yield from GROUPS[group]()


def _trainings(architecture: str) -> Iterator[tuple[str, Run]]:
    for row, dtype in enumerate(WEIGHTS):
        for column, precision in enumerate(PRECISIONS):
            if row != column and not EVERYTHING:
                continue
            whole = dtype == "fp16" and precision != "fp16"  # these two with all blocks, the others with some
            network = {"weights": "ALL" if whole else SOME}
            changes = {"precision": precision, "network": network}
            run = partial(train_standalone, architecture=architecture, dtype=dtype, **changes)
            yield f"train {architecture} {dtype} {precision}", run


def _variants() -> Iterator[tuple[str, Run]]:
    everything = {
        "checkpointing": True,
        "network": {"weights": SOME, "conv_rank": 2, "rank_dropout": 0.1, "module_dropout": 0.1, "neuron_dropout": 0.1},
        "optimizer": {"ema": 0.9, "accumulate": 2},
    }
    losses = {
        "kind": "huber",
        "min_snr_gamma": 5.0,
        "noise_offset": 0.1,
        "multires_iterations": 4,
        "input_perturbation": 0.1,
        "prediction": "v",
        "zero_terminal_snr": True,
    }
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "everything sd1": ("sd1", everything),
        "everything sdxl": ("sdxl", everything),
        "text encoder sd1": ("sd1", {"network": {"text_encoder": True}}),
        "text encoder sdxl": ("sdxl", {"network": {"text_encoder": True}, "precision": "bf16"}),
        "losses": ("sd1", {"loss": losses, "network": {"weights": SOME}}),
        "max_norm": ("sd1", {"network": {"weight_mode": "max_norm", "weights": SOME}}),
        "rank": ("sd1", {"network": {"weight_mode": "rank", "weights": SOME}}),
        "loha": ("sd1", {"network": {"algorithm": "loha", "conv_rank": 2, "weights": SOME}}),
        "lokr": ("sd1", {"network": {"algorithm": "lokr", "conv_rank": 2, "weights": SOME}}),
        "dora": ("sd1", {"network": {"algorithm": "dora", "weight_mode": "lr", "weights": SOME}}),
        "SGD": ("sd1", {"optimizer": {"name": "SGD", "lr": 1.0}, "network": {"weights": SOME}}),
        "Adafactor": ("sd1", {"optimizer": {"name": "Adafactor"}, "network": {"weights": "OUT09=1"}}),
    }
    for name, (architecture, of_run) in changes.items():
        if not EVERYTHING and name in ("everything sd1", "text encoder sd1", "rank", "max_norm", "loha", "lokr", "SGD"):
            continue
        yield f"train {name}", partial(train_standalone, architecture=architecture, dtype="fp16", **of_run)
    for architecture in ARCHITECTURES:
        yield f"run {architecture}", partial(whole_run, architecture=architecture, dtype="fp16")


def _uses(architecture: str) -> Iterator[tuple[str, Run]]:
    for sampler in SAMPLERS if EVERYTHING else SAMPLERS[::2]:
        dtype = WEIGHTS[SAMPLERS.index(sampler) % len(WEIGHTS)]
        run = partial(preview, architecture=architecture, dtype=dtype, sampler=sampler)
        yield f"preview {architecture} {sampler}", run
    for method in ("exact", "fast", "one-only"):
        yield f"analysis {architecture} {method}", partial(_analyse_standalone, architecture, method)
    yield f"analysis {architecture} rendered", partial(rendered, architecture=architecture, dtype="fp16")
    for dtype in WEIGHTS if EVERYTHING else WEIGHTS[:1]:
        yield f"probe {architecture} {dtype}", partial(_probe_standalone, architecture, dtype)
        yield f"merge {architecture} {dtype}", partial(merge, architecture=architecture, dtype=dtype)
    yield f"bake {architecture}", partial(bake, architecture=architecture, dtype="fp16")


def _analyse_standalone(architecture: str, method: str, rig: Rig) -> None:
    analyse(rig, standalone(rig, architecture, "fp16"), method)


def _probe_standalone(architecture: str, dtype: str, rig: Rig) -> None:
    probe(rig, standalone(rig, architecture, dtype))


def _hosts() -> Iterator[tuple[str, Run]]:
    for layout in ("ldm", "forge"):
        for architecture in ARCHITECTURES:
            # A1111 computes in autocast, in which its norms need fp32; Forge computes in the latents' dtype.
            for dtype, autocast in (("fp16", True), ("fp32", False)) if layout == "ldm" else (("fp16", False),):
                name = f"{layout} {architecture} {dtype}{' autocast' if autocast else ''}"
                made = (layout, architecture, dtype, autocast)
                yield f"train {name}", partial(_train_hosted, made)
                if dtype == "fp16" and (EVERYTHING or architecture == "sd1"):
                    if EVERYTHING or layout == "forge":  # which computes in the latents' dtype: autocast hides less
                        yield f"train {name} checkpointing", partial(_train_hosted, made, checkpointing=True)
                    for method in ("exact", "fast"):
                        if EVERYTHING or (method == "fast") == (layout == "ldm"):
                            yield f"analysis {name} {method}", partial(_analyse_hosted, made, method)
                    yield f"probe {name}", partial(_probe_hosted, made)


def _train_hosted(made: tuple[str, str, str, bool], rig: Rig, **changes: Any) -> None:
    train(rig, hosted(rig, *made), **changes)


def _analyse_hosted(made: tuple[str, str, str, bool], method: str, rig: Rig) -> None:
    analyse(rig, hosted(rig, *made), method, text=False)


def _probe_hosted(made: tuple[str, str, str, bool], rig: Rig) -> None:
    probe(rig, hosted(rig, *made))


def _controls() -> Iterator[tuple[str, Run]]:
    for function in (
        noise_on_the_cpu,
        half_times_float,
        half_convolution_of_float,
        waits_and_copies,
        generator_of_the_cpu,
    ):
        yield function.__name__.replace("_", " "), function


GROUPS: dict[str, Callable[[], Iterator[tuple[str, Run]]]] = {
    "controls": _controls,
    "sd1": lambda: _trainings("sd1"),
    "sdxl": lambda: _trainings("sdxl"),
    "variants": _variants,
    "uses of sd1": lambda: _uses("sd1"),
    **({"uses of sdxl": lambda: _uses("sdxl")} if EVERYTHING else {}),
    "hosts": _hosts,
}


@contextmanager
def _rig(gpu: Any) -> Iterator[Rig]:
    from lib_blocktrain.training import preparation

    with ExitStack() as stack:
        stack.enter_context(patch.object(preparation, "VALIDATION_TIMESTEPS", (500,)))  # one is as good as five
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(gpu)
        yield Rig(gpu, folder)


def run_case(gpu: Any, run: Run) -> dict[str, Any]:
    """Run one case and return what it found."""
    import _pytest.outcomes

    result: dict[str, Any] = {"error": None, "skipped": None}
    try:
        with _rig(gpu) as rig:
            run(rig)
            result.update(waits=dict(rig.waits), copies=dict(rig.copies))
    except _pytest.outcomes.Skipped as skipped:
        result["skipped"] = str(skipped)
    except Exception as error:  # noqa: BLE001 - the case's result
        lines = [
            f"{f.filename.split('site-packages/')[-1]}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
        ]
        result["error"] = f"{type(error).__name__}: {str(error)[:500]} [{' '.join(lines[-10:])}]"
    return result


def main(group: str, only: str = "") -> None:
    """Run the cases of a group whose names contain `only`."""
    from tests.gpu.pretended import install

    gpu = install()
    for name, run in cases(group):
        if only in name:
            print(json.dumps({"case": name, **run_case(gpu, run)}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
