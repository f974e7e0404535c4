"""Forge's weights, borrowed: without the LoRAs that it merged, on their device, and fit for autograd.

Forge loads models under `torch.inference_mode`, moves them between devices as it likes, merges LoRAs by putting new
parameters in the place of old ones, and adds to residuals in place. A loan makes that good for as long as it is held.
Whenever Forge itself is to work - to encode a picture, to draw a sample - it is given back first.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from backend import attention, memory_management
from torch import Tensor, nn

from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.webui.model import FP8

log = logging.getLogger(__name__)


class BorrowedWeights:
    """The U-Net and the text encoders of one `sd_model`; `take` and `give_back` may be called in any order."""

    def __init__(self, sd_model: Any):
        self.sd_model = sd_model
        self._held: ExitStack | None = None

    def take(self) -> None:
        """Borrow the weights; raise NoModel where they cannot be trained on."""
        if self._held is not None:
            return
        unet = self.sd_model.forge_objects_original.unet.model.diffusion_model
        encoders = self.sd_model.forge_objects_original.clip.cond_stage_model
        load_plain(self.sd_model)
        _check_trainable(self.sd_model.forge_objects_original.unet.model)
        with ExitStack() as stack:
            for part in (unet, encoders):
                stack.enter_context(_normal_parameters(part))
            stack.enter_context(_residuals_apart(unet))
            stack.enter_context(_differentiable_attention(unet))
            self._held = stack.pop_all()

    def give_back(self) -> None:
        """Put Forge's own parameters back."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Let Forge have its weights for a while; a loan that was held is held again afterwards."""
        held = self._held is not None
        self.give_back()
        yield
        if held:
            self.take()


def patchers(forge_objects: Any) -> tuple[Any, Any]:
    """Return what Forge manages the U-Net's and the text encoders' memory and LoRAs by."""
    return forge_objects.unet, forge_objects.clip.patcher


@torch.inference_mode()
def load_plain(sd_model: Any) -> None:
    """Have the U-Net and the text encoders on their device, without any LoRA of the WebUI's in their weights."""
    memory_management.load_models_gpu(list(patchers(sd_model.forge_objects_original)))


@contextmanager
def kept(sd_model: Any) -> Iterator[None]:
    """Leave what Forge has merged into the weights, and what it believes that it has, as they were."""
    names = ("forge_objects", "forge_objects_after_applying_lora", "current_lora_hash")
    believed = {name: getattr(sd_model, name) for name in names}
    merged = [_merged(sd_model, number) for number in range(2)]
    try:
        yield
    finally:
        for name, value in believed.items():
            setattr(sd_model, name, value)
        with torch.inference_mode():
            for patcher, loaded in merged:
                if loaded:
                    memory_management.load_models_gpu([patcher])
                elif patcher is not None:
                    patcher.refresh_loras()


def _merged(sd_model: Any, number: int) -> tuple[Any, bool]:
    """Return the patcher whose LoRAs are in the weights now, and whether Forge counts it as loaded."""
    plain = patchers(sd_model.forge_objects_original)[number]
    for loaded in memory_management.current_loaded_models:
        if loaded.model.model is plain.model:
            return loaded.model, True
    known = [sd_model.forge_objects, sd_model.forge_objects_after_applying_lora, sd_model.forge_objects_original]
    for objects in known:
        patcher = patchers(objects)[number]
        if str(list(patcher.lora_patches.keys())) == patcher.lora_loader.loaded_hash:
            return patcher, False
    return None, False


def _check_trainable(model: nn.Module) -> None:
    if model.storage_dtype in FP8:
        raise NoModel(
            f"the U-Net's weights are {model.storage_dtype}: set 'Diffusion in Low Bits' at the top of the page to"
            " Automatic to train on them"
        )
    if any(hasattr(module, "prev_parameters_manual_cast") for module in model.modules()):
        raise NoModel(
            "the GPU has room for a part of the U-Net only, and training needs it whole: give Forge more with"
            " 'GPU Weights' at the top of the page, or train on a smaller checkpoint"
        )


@contextmanager
def _normal_parameters(part: nn.Module) -> Iterator[None]:
    """Put frozen normal tensors over the same memory in the place of inference tensors, which autograd refuses."""
    before = [
        (module._parameters, name, parameter)
        for module in part.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]
    try:
        with torch.inference_mode(False):
            for parameters, name, parameter in before:
                parameters[name] = nn.Parameter(_over_same_memory(parameter), requires_grad=False)
        yield
    finally:
        for parameters, name, parameter in before:
            parameters[name] = parameter


def _over_same_memory(parameter: Tensor) -> Tensor:
    empty = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    return empty.set_(parameter.untyped_storage(), parameter.storage_offset(), parameter.size(), parameter.stride())


@contextmanager
def _residuals_apart(unet: nn.Module) -> Iterator[None]:
    """Give a transformer's norms copies: what they keep for the backward pass is added to in place afterwards."""
    norms = [
        module.get_submodule(name)
        for module in unet.modules()
        for name in ("norm1", "norm2")
        if hasattr(module, "attn1") and hasattr(module, name)
    ]
    with ExitStack() as hooks:
        for norm in norms:
            hooks.callback(norm.register_forward_pre_hook(_copied).remove)
        yield


def _copied(_norm: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    return (inputs[0].clone(), *inputs[1:]) if inputs[0].requires_grad else None


@contextmanager
def _differentiable_attention(unet: nn.Module) -> Iterator[None]:
    """Compute attention by torch's own kernel, which every device can differentiate."""
    module = sys.modules[type(unet).__module__]
    before, own = getattr(module, "attention_function", None), getattr(attention, "attention_pytorch", None)
    if before is None or own is None:
        yield
        return
    module.attention_function = own
    try:
        yield
    finally:
        module.attention_function = before
