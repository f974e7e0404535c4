"""One training step as three programs make it: this package, PEFT on diffusers, and a loop with sd-scripts' habit.

All train the same layers of U-Nets that share their weights, with the same rank, batch, dtype, attention, optimizer and
clipping; each `step()` ends with changed weights and the loss as a number.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.setting import shared
from lib_blocktrain.model.diffusion import add_noise, scaled_linear_alphas_cumprod
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.networks.layers import is_convolution, weight_shape
from lib_blocktrain.training import runs
from lib_blocktrain.training.batches import Batch
from lib_blocktrain.training.compiled import CompiledUNet
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, NetworkConfig, OptimizerConfig, RunConfig
from lib_blocktrain.training.length import Epochs
from lib_blocktrain.training.plan import Plan, plan_of
from lib_blocktrain.training.step import Denoiser, Objective
from lib_blocktrain.training.step_losses import StepLosses
from lib_blocktrain.training.train_state import TrainState
from lib_blocktrain.training.trainer import Trainer
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.training.bare import Bare

RATE, CLIP = 1e-4, 1.0


@dataclass(frozen=True)
class Work:
    """What is trained, and on what."""

    unet: nn.Module
    architecture: str
    weights: str
    rank: int
    latents: Tensor
    conditioning: dict[str, Tensor]
    folder: Path

    def config(self) -> RunConfig:
        return RunConfig(
            name="benchmark",
            dataset=DatasetConfig(folders=(FolderConfig(path="none"),)),
            network=NetworkConfig(rank=self.rank, weights=self.weights),
            optimizer=OptimizerConfig(lr=RATE, clip=CLIP),
            batch=len(self.latents),
            steps=10**6,
        )

    def plan(self) -> Plan:
        return plan_of(self.unet, self.architecture, self.config().network)

    def layers(self) -> list[str]:
        """Return the paths of the layers that are trained."""
        wanted = {id(module.layer) for module in self.plan().modules}
        return [path for path, layer in self.unet.named_modules() if id(layer) in wanted]


@dataclass
class BenchmarkModel(Bare):
    """A U-Net alone, for the trainer."""

    prediction: str = "epsilon"
    name: str = "benchmark"

    @property
    def alphas_cumprod(self) -> Tensor:
        return scaled_linear_alphas_cumprod()


class OneBatch:
    """A dataset that has been encoded, of one batch."""

    epochs = Epochs(1)

    def __init__(self, work: Work):
        count, side = len(work.latents), 8.0 * work.latents.shape[-1]
        size = torch.tensor([[side, side, 0.0, 0.0, side, side]] * count)
        ones, places = torch.ones(count), tuple(range(count))
        self._batch = Batch(work.latents, work.conditioning, ("",) * count, size, None, ones, places, count)

    def batch(self, _number: int, _processes: object) -> Batch:
        return self._batch


class Stepping(Trainer):
    """A trainer whose steps are called from outside: it saves nothing for a run that would go on."""

    def save_state(self) -> None:
        """Leave it: a slow machine would save every other step, by the clock."""


class Ours:
    """The package's own trainer, with all that it does in a step: noise by sample, loss, monitor, norms, metrics."""

    name = "ours"

    def __init__(self, work: Work):
        run = runs.create(work.config(), work.folder)
        model = BenchmarkModel(work.unet, work.architecture)
        self.trainer = trainer = Stepping(model, run)
        dtype = next(work.unet.parameters()).dtype
        plan = work.plan()
        trainer.data, trainer.device = OneBatch(work), next(work.unet.parameters()).device
        trainer.objective = Objective(run.config.loss, model.alphas_cumprod, "epsilon")
        trainer.train_state = TrainState(plan, run.config, dtype)
        trainer.denoiser = Denoiser(model, dtype, plan.first_block, checkpointing=False)
        trainer.step_losses = StepLosses(model, run.config, trainer.objective, trainer.denoiser)
        self._network = trainer.train_state.training_network
        self._on = BlockWeights.uniform(work.architecture, 1.0)

    def ready(self) -> AbstractContextManager:
        """Put the LoRA on: once a run in truth, but here the arms share the U-Net."""
        return applied(self.trainer.model.unet, self._network, self._on)

    def step(self) -> float:
        self.trainer.run_step()
        self.trainer.after_step()
        return self.trainer.monitor.loss


class OursCompiled(Ours):
    """The same with `compile = true`; its U-Net is its own, for the graph holds only while the same hooks stay on."""

    name = "ours, compiled"

    def __init__(self, work: Work):
        super().__init__(replace(work, unet=shared(work.unet)))
        self.trainer.denoiser.compiled = CompiledUNet(self.trainer.model.unet)
        self._hooks = ExitStack()
        self._hooks.enter_context(super().ready())

    def ready(self) -> AbstractContextManager:
        return nullcontext()


class Loop:
    """What the peers' loops have in common."""

    habit = False  # whether the gradient of the input is asked for

    def __init__(self, work: Work):
        self.work = work
        self.unet = shared(work.unet)
        self.parameters = self.add_lora()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, fused=work.unet.device.type == "cuda" or None)
        self.alphas = scaled_linear_alphas_cumprod()

    def add_lora(self) -> list[nn.Parameter]:
        raise NotImplementedError

    def ready(self) -> AbstractContextManager:
        return nullcontext()

    def step(self) -> float:
        weight = next(self.work.unet.parameters())
        latents = self.work.latents.to(weight.device)
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),))
        noised = add_noise(latents, noise, self.alphas, timesteps).to(weight.dtype)
        context = self.work.conditioning["context"]
        if self.habit:
            noised, context = noised.requires_grad_(), context.detach().requires_grad_()
        with self.autocast(weight):
            predicted = self.predict(noised, timesteps.to(weight.device), context)
        loss = (predicted.float() - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def autocast(self, weight: Tensor) -> AbstractContextManager:
        """As both peers: LoRA in fp32, computed with in the model's dtype."""
        half = weight.dtype != torch.float32
        return torch.autocast(weight.device.type, weight.dtype) if half else nullcontext()

    def predict(self, latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        conditioning = self.work.conditioning
        added = {"text_embeds": conditioning.get("pooled"), "time_ids": conditioning.get("size")}
        return self.unet(latents, timesteps, context, added_cond_kwargs=added, return_dict=False)[0]


class Peft(Loop):
    """PEFT's LoRA as diffusers' own training scripts put it on: `unet.add_adapter`, fp32 adapters, frozen rest."""

    name = "PEFT"

    def add_lora(self) -> list[nn.Parameter]:
        from peft import LoraConfig

        rank = self.work.rank
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=self.work.layers()))
        parameters = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        for parameter in parameters:
            parameter.data = parameter.data.float()
        return parameters


class SdScripts(Loop):
    """sd-scripts' way: `forward` of each layer replaced, and the gradient of latents and context asked for."""

    name = "sd-scripts' habit"
    habit = True

    def add_lora(self) -> list[nn.Parameter]:
        modules = []
        for path in self.work.layers():
            layer = self.unet.get_submodule(path)
            module = Wrapped(layer, self.work.rank).to(layer.weight.device)
            layer.forward = module.forward
            modules.append(module)
        return [parameter for module in modules for parameter in module.trained()]


class Wrapped(nn.Module):
    """One layer with its LoRA: y = W x + up(down(x)) * multiplier * scale."""

    def __init__(self, layer: nn.Module, rank: int):
        super().__init__()
        out, inner, *_ = weight_shape(layer)
        if is_convolution(layer):
            shape = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding, "bias": False}
            self.down, self.up = nn.Conv2d(inner, rank, **shape), nn.Conv2d(rank, out, 1, bias=False)
        else:
            self.down, self.up = nn.Linear(inner, rank, bias=False), nn.Linear(rank, out, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.up.weight)
        self.original, self.multiplier, self.scale = layer.forward, 1.0, 1.0

    def trained(self) -> list[nn.Parameter]:
        return [self.down.weight, self.up.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.original(x) + self.up(self.down(x)) * self.multiplier * self.scale


LOOPS = {loop.name: loop for loop in (Ours, Peft, SdScripts, OursCompiled)}
USUAL = ("ours", "PEFT", "sd-scripts' habit")


def loop_of(name: str, work: Work, number: int) -> Ours | Loop:
    """Return a program's loop, in a folder of its own."""
    return LOOPS[name](replace(work, folder=work.folder / f"{number}"))
