"""Counts the memory of a training step without a GPU, and compares the estimate with it.

    python benchmarks/memory.py
    python benchmarks/memory.py --fits      by the estimate, what fits in cards of 6 to 24 GB

The full-size models stand on torch's meta device, whose tensors have sizes but no data. The step is the project's own:
two steps, forward, backward and optimizer, with the fused attention that GPUs have. Every storage is counted from the
operation that makes it to its last reference; the peak of the second step is what is printed. What is not counted: an
operation's own workspace, fragmentation of torch's cache, the accelerator's context.
"""

from __future__ import annotations

import argparse
import json
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_blocktrain import blocks
from lib_blocktrain.model import unet_forward, weight_storage
from lib_blocktrain.model.freezing import frozen
from lib_blocktrain.model.weight_storage import WeightStorage
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, NetworkConfig, OptimizerConfig, RunConfig
from lib_blocktrain.training.estimate import UNetSize, estimate
from lib_blocktrain.training.init import init_network, trained_tensors
from lib_blocktrain.training.optimizers import make_optimizer, parameter_groups, parameters_of
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.step import Denoiser
from lib_blocktrain.weights.block_weights import BlockWeights

CONFIGS = Path(unet_forward.__file__).parent.parent / "hosts" / "configs"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A training step to count; `side` in pixels."""

    architecture: str
    side: int
    batch: int = 1
    weights: str = "ALL"
    checkpointing: bool = False
    dtype: str = "fp16"
    text_encoder: bool = False
    rank: int = 16
    conv_rank: int = 0
    fp8: bool = False
    offload: bool = False

    @property
    def title(self) -> str:
        extra = [f"conv rank {self.conv_rank}"] * bool(self.conv_rank) + ["text encoder"] * self.text_encoder
        extra += [name for name in ("checkpointing", "fp8", "offload") if getattr(self, name)]
        return ", ".join([f"{self.architecture} {self.side}", f"batch {self.batch}", self.weights, self.dtype, *extra])

    @property
    def config(self) -> RunConfig:
        weights = self.weights if not self.text_encoder else "BASE=1,IN=1,M00=1,OUT=1"
        network = NetworkConfig(
            rank=self.rank, weights=weights, text_encoder=self.text_encoder, conv_rank=self.conv_rank
        )
        dataset = DatasetConfig(folders=(FolderConfig("pictures"),), size=self.side)
        stored = {"checkpointing": self.checkpointing, "fp8": self.fp8, "offload": self.offload}
        return RunConfig("test", dataset, network, OptimizerConfig(), batch=self.batch, **stored)


CASES = (
    Case("sd1", 512),
    Case("sd1", 512, batch=4),
    Case("sd1", 512, batch=4, checkpointing=True),
    Case("sd1", 512, dtype="fp32"),
    Case("sd1", 512, weights="OUT=1"),
    Case("sd1", 512, weights="OUT09-OUT11=1", batch=4, dtype="bf16"),
    Case("sd1", 512, text_encoder=True),
    Case("sd1", 512, conv_rank=8),
    Case("sd1", 768, batch=4),
    Case("sd1", 768, checkpointing=True, dtype="bf16"),
    Case("sdxl", 1024),
    Case("sdxl", 1024, dtype="fp32"),
    Case("sdxl", 1024, batch=4, dtype="bf16"),
    Case("sdxl", 1024, checkpointing=True),
    Case("sdxl", 1024, batch=4, checkpointing=True, dtype="bf16"),
    Case("sdxl", 1024, weights="OUT=1"),
    Case("sdxl", 1024, weights="OUT=1", batch=4, checkpointing=True),
    Case("sdxl", 1024, text_encoder=True),
    Case("sdxl", 1024, text_encoder=True, checkpointing=True),
    Case("sd1", 512, weights="OUT=1", fp8=True, offload=True),
    Case("sdxl", 1024, fp8=True),
    Case("sdxl", 1024, checkpointing=True, fp8=True),
    Case("sdxl", 1024, weights="OUT=1", checkpointing=True, fp8=True, offload=True),
)


class LiveBytes(TorchDispatchMode):
    """The bytes of all storages that operations make inside, but for those of `others`, while anything refers to them.

    Of `others` there are views, such as transposed weights.
    """

    def __init__(self, others: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in others}

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count these tensors' storages as well."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                self._known.add(key)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.hold(leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        return made


@dataclass(frozen=True)
class Counted:
    """MiB: of the frozen weights on the device, and of all else at the peak."""

    weights: float
    rest: float

    @property
    def total(self) -> float:
        return self.weights + self.rest


@dataclass
class FullSize:
    """The protocol `Model`, as far as a step asks for it, on the meta device."""

    architecture: str
    unet: nn.Module
    text_encoders: Mapping[str, nn.Module]

    @property
    def movable(self) -> tuple[nn.Module, ...]:
        return (self.unet,)

    @property
    def native_size(self) -> int:
        return blocks.architecture(self.architecture).native_size

    def encode_prompt(self, text: str) -> dict[str, Tensor]:
        ids = torch.zeros(1, 77, dtype=torch.long, device=self.unet.device)
        encoded = [encoder(ids, output_hidden_states=True) for encoder in self.text_encoders.values()]
        if self.architecture != "sdxl":
            return {"context": encoded[0][0]}
        context = torch.cat([states.hidden_states[-2] for states in encoded], dim=-1)
        size = torch.zeros(1, 6, device=self.unet.device)
        return {"context": context, "pooled": encoded[-1].text_embeds, "size": size}

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        added = {"text_embeds": conditioning.get("pooled"), "time_ids": conditioning.get("size")}
        return self.unet(latents, timesteps, conditioning["context"], added_cond_kwargs=added, return_dict=False)[0]

    def enter_blocks(self, latents, timesteps, conditioning):
        return unet_forward.enter_blocks(self.unet, latents, timesteps, conditioning)

    def run_blocks(self, start, saved, *, keep=None, call=None):
        return unet_forward.run_blocks(self.unet, self.architecture, start, saved, keep=keep, call=call)


def full_size(architecture: str, dtype: torch.dtype, device: str = "meta", **changes: object) -> FullSize:
    """Return the models of an architecture's own sizes, or of others by the U-Net's configuration."""
    folder = CONFIGS / architecture
    with torch.device(device):
        unet = diffusers.UNet2DConditionModel.from_config({**_config(folder / "unet"), **changes})
        encoders = {}
        for name in ("text_encoder", "text_encoder_2"):
            if (folder / name).is_dir():
                config = transformers.CLIPTextConfig(**_config(folder / name))
                with_projection = architecture == "sdxl" and name == "text_encoder_2"
                cls = transformers.CLIPTextModelWithProjection if with_projection else transformers.CLIPTextModel
                encoders[name] = cls(config)
    names = ("te1", "te2") if architecture == "sdxl" else ("te",)
    parts = [part.to(dtype).eval().requires_grad_(False) for part in (unet, *encoders.values())]
    return FullSize(architecture, parts[0], dict(zip(names, parts[1:])))


def _config(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text("utf-8"))


def count(case: Case, model: FullSize) -> Counted:
    """Return what a training step of this case needs on this model."""
    config, unet = case.config, model.unet
    targets = {"unet": unet, **model.text_encoders}
    device, dtype = unet.device, unet.dtype
    models = (unet, *model.text_encoders.values())
    counter = LiveBytes(tensor for part in models for tensor in (*part.parameters(), *part.buffers()))
    storage = WeightStorage(model, config.fp8, config.offload)
    with frozen(*models), _fused_attention(), _no_host(), storage:
        plan = plan_of(targets, case.architecture, config.network)
        network = init_network(plan, config.network, "test", seed=0)
        # The meta device has no fused Adam; the form for single tensors needs hardly more memory than it.
        own = replace(config.optimizer, arguments={"fused": False, "foreach": False})
        optimizer = make_optimizer(own, parameter_groups(network, plan, config.optimizer))
        parameters = parameters_of(optimizer)
        first = None if plan.trains_text else plan.first_block
        denoiser = Denoiser(model, dtype, first, case.checkpointing, storage=storage)
        storage.begin(first)
        latents = torch.zeros(case.batch, 4, case.side // 8, case.side // 8, device=device, dtype=dtype)
        timesteps = torch.zeros(case.batch, dtype=torch.long, device=device)
        with torch.no_grad():
            cached = _conditioning(model, case.batch)
        kept = parameters
        counter.hold(kept)
        with applied(targets, network, BlockWeights.uniform(case.architecture, 1.0)), counter:
            for _ in range(2):
                counter.peak = counter.live
                optimizer.zero_grad(set_to_none=True)
                conditioning = _conditioning(model, case.batch) if plan.trains_text else cached
                denoiser.predict(latents, timesteps, conditioning).float().square().mean().backward()
                del conditioning
                optimizer.step()
        frozen_bytes = sum(storage.device_bytes(layer) for layer in storage.layers)
        stored = {id(layer.weight) for layer in storage.layers}
        resident = [unet, *(model.text_encoders.values() if plan.trains_text else ())]
        others = [p for part in resident for p in part.parameters() if id(p) not in stored]
        frozen_bytes += sum(p.numel() * p.element_size() for p in others)
    assert sum(t.numel() for m in network.modules.values() for t in trained_tensors(m).values()) == sum(
        p.numel() for p in parameters
    )
    return Counted(frozen_bytes / MIB, counter.peak / MIB)


def _conditioning(model: FullSize, batch: int) -> dict[str, Tensor]:
    rows = [model.encode_prompt("") for _ in range(batch)]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


@contextmanager
def _no_host() -> Iterator[None]:
    """From the meta device nothing can be copied to the CPU, nor is there a number to look at: leave that out."""
    with mock.patch.object(Tensor, "cpu", lambda tensor: tensor), mock.patch.object(weight_storage, "_fits_fp8"):
        yield


@contextmanager
def _fused_attention() -> Iterator[None]:
    """The meta device would compute attention with its matrices, and a GPU does not."""

    def fused(query, key, value, *_args, **_kwargs):
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", fused):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=("sd1", "sdxl"))
    parser.add_argument("--fits", action="store_true", help="what the estimate says of cards of 6 to 24 GB instead")
    parser.add_argument("--out", type=Path, help="write what is counted as JSON, too")
    arguments = parser.parse_args()
    if arguments.fits:
        fits()
        return
    rows: list[dict[str, object]] = []
    models: dict[tuple[str, str], FullSize] = {}
    print("| run | beside the weights, MiB | estimated | all of it, MiB | estimated | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for case in CASES:
        if arguments.architecture not in (None, case.architecture):
            continue
        key = case.architecture, case.dtype
        if key not in models:
            models[key] = full_size(case.architecture, DTYPES[case.dtype])
        counted = count(case, models[key])
        print(line(case, counted), flush=True)
        rows.append({**asdict(case), "mib": round(counted.rest, 1), "frozen_mib": round(counted.weights, 1)})
        if arguments.out is not None:
            arguments.out.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", "utf-8")


CARDS = (6, 8, 12, 24)  # GB
SETTINGS: tuple[Mapping[str, Any], ...] = (
    {},
    {"batch": 4, "checkpointing": True},
    {"weights": "OUT=1"},
    {"checkpointing": True},
    {"fp8": True},
    {"fp8": True, "checkpointing": True},
    {"weights": "OUT=1", "checkpointing": True},
    {"weights": "OUT=1", "fp8": True, "offload": True, "checkpointing": True},
)


def fits() -> None:
    """Print what settings need on a GPU: in the steps, and at most, with what comes before them: loading, encoding."""
    print("| | steps, MiB | at most, MiB | fits in |")
    print("|---|---:|---:|---|")
    for architecture, side in (("sd1", 512), ("sdxl", 1024)):
        for changes in SETTINGS:
            case = Case(architecture, side, **changes)
            mib = estimate(case.config, UNetSize.real(architecture)).mib
            most = sum(mib.values())
            steps = most - mib.get("encoding", 0.0)
            fitting = [f"{card} GB" for card in CARDS if most <= 1024 * card]
            shown = case.title.replace(", fp16", "")
            print(f"| {shown} | {steps:.0f} | {most:.0f} | {', '.join(fitting) or 'none of them'} |")


def line(case: Case, counted: Counted) -> str:
    """Return a row of the table."""
    found = estimated(case)
    ratio = found.total / counted.total
    rest, total = f"{counted.rest:.0f} | {found.rest:.0f}", f"{counted.total:.0f} | {found.total:.0f}"
    return f"| {case.title} | {rest} | {total} | {ratio:.2f} |"


def estimated(case: Case) -> Counted:
    """Return the estimate of what a step needs."""
    mib = estimate(case.config, UNetSize.real(case.architecture, DTYPES[case.dtype].itemsize)).mib
    return Counted(mib["model"], sum(mib[name] for name in ("network", "optimizer", "activations", "gradients")))


if __name__ == "__main__":
    main()
