"""Forge's weights for training: without the LoRAs that it merged, on their device, and fit for autograd.

Forge loads models under `torch.inference_mode`, moves them between devices, merges LoRAs by replacing parameters, and
adds to residuals in place. `BorrowedWeights` works around all four while its context is open. Before Forge itself uses
a model, to encode an image or to draw a sample, the weights are returned to it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from backend import attention, memory_management
from torch import Tensor, nn

from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.webui.model import FP8


class BorrowedWeights:
    """The U-Net and the text encoders of one `sd_model`."""

    def __init__(self, sd_model: Any):
        self.sd_model = sd_model
        self._held: ExitStack | None = None

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Borrow the weights while the context is open; raise NoModel if they cannot be trained on."""
        self.ensure_borrowed()
        try:
            yield
        finally:
            self._give_back()

    @contextmanager
    def returned(self) -> Iterator[None]:
        """Return the weights to Forge while the context is open, and borrow them again if they were borrowed."""
        held = self._held is not None
        self._give_back()
        try:
            yield
        finally:
            if held:
                self.ensure_borrowed()

    def ensure_borrowed(self) -> None:
        """Borrow the weights unless they are borrowed; `returned` fails to do so when memory runs out."""
        if self._held is not None:
            return
        unet = self.sd_model.forge_objects_original.unet.model.diffusion_model
        encoders = self.sd_model.forge_objects_original.clip.cond_stage_model
        load_plain(self.sd_model)
        _check_trainable(self.sd_model.forge_objects_original.unet.model)
        with ExitStack() as stack:
            for part in (unet, encoders):
                stack.enter_context(_normal_parameters(part))
            stack.enter_context(_residuals_copied(unet))
            stack.enter_context(_differentiable_attention(unet))
            self._held = stack.pop_all()

    def _give_back(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()


def patchers(forge_objects: Any) -> tuple[Any, Any]:
    """Return Forge's ModelPatchers of the U-Net and of the text encoders, which manage memory and LoRAs."""
    return forge_objects.unet, forge_objects.clip.patcher


@torch.inference_mode()
def load_plain(sd_model: Any) -> None:
    """Load the U-Net and the text encoders onto their device, without any LoRA of Forge's merged into them."""
    memory_management.load_models_gpu(list(patchers(sd_model.forge_objects_original)))


@contextmanager
def preserve_loras(sd_model: Any) -> Iterator[None]:
    """Restore at the end the LoRAs that Forge has merged into the weights, and its own record of them."""
    names = ("forge_objects", "forge_objects_after_applying_lora", "current_lora_hash")
    recorded = {name: getattr(sd_model, name) for name in names}
    merged = [_merged(sd_model, number) for number in range(2)]
    try:
        yield
    finally:
        for name, value in recorded.items():
            setattr(sd_model, name, value)
        with torch.inference_mode():
            for patcher, loaded in merged:
                if loaded:
                    memory_management.load_models_gpu([patcher])
                elif patcher is not None:
                    patcher.refresh_loras()


def _merged(sd_model: Any, number: int) -> tuple[Any, bool]:
    """Return the patcher whose LoRAs are merged at present, and whether Forge counts it as loaded."""
    plain = patchers(sd_model.forge_objects_original)[number]
    for loaded in memory_management.current_loaded_models:
        if loaded.model is not None and loaded.model.model is plain.model:  # in Neo a reference that may be gone
            return loaded.model, True
    if not hasattr(plain, "lora_patches"):
        return None, False  # Neo removes its LoRAs when it unloads a model
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
    quantised = _quantised(model)
    if quantised is not None:
        raise NoModel(
            f"the U-Net's weights are quantised ({quantised}), and gradients need them in fp32, fp16 or bf16: choose a"
            " checkpoint that is not quantised to train on it"
        )
    if any(hasattr(module, "prev_parameters_manual_cast") for module in model.modules()):
        raise NoModel(
            "the GPU has room for only part of the U-Net, and training needs all of it: give Forge more with"
            " 'GPU Weights' at the top of the page, or train on a smaller checkpoint"
        )


def _quantised(model: nn.Module) -> str | None:
    """Return how a layer of the model is quantised, by Neo's name or its type; None for one that is not."""
    for layer in model.modules():
        kind, weight = getattr(layer, "quant_format", None), layer._parameters.get("weight")
        if kind is None and weight is not None and not weight.is_floating_point():
            kind = weight.dtype
        if kind is not None:
            return str(kind)
    return None


@contextmanager
def _normal_parameters(part: nn.Module) -> Iterator[None]:
    """Replace inference tensors, which autograd refuses, by frozen parameters that share their memory."""
    before = [
        (module._parameters, name, parameter)
        for module in part.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]
    try:
        with torch.inference_mode(False):
            for parameters, name, parameter in before:
                parameters[name] = nn.Parameter(_sharing_memory(parameter), requires_grad=False)
        yield
    finally:
        for parameters, name, parameter in before:
            parameters[name] = parameter


def _sharing_memory(parameter: Tensor) -> Tensor:
    empty = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    return empty.set_(parameter.untyped_storage(), parameter.storage_offset(), parameter.size(), parameter.stride())


@contextmanager
def _residuals_copied(unet: nn.Module) -> Iterator[None]:
    """Make transformers' norms save copies of their input, since Forge adds to it in place before the backward pass."""
    norms = [
        module.get_submodule(name)
        for module in unet.modules()
        for name in ("norm1", "norm2")
        if hasattr(module, "attn1") and hasattr(module, name)
    ]
    with ExitStack() as hooks:
        for norm in norms:
            hooks.callback(norm.register_forward_pre_hook(_copy_input).remove)
        yield


def _copy_input(_norm: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    return (inputs[0].clone(), *inputs[1:]) if inputs[0].requires_grad else None


@contextmanager
def _differentiable_attention(unet: nn.Module) -> Iterator[None]:
    """Compute attention by torch's own kernel, which is differentiable on every device."""
    module: Any = sys.modules[type(unet).__module__]
    before, own = getattr(module, "attention_function", None), getattr(attention, "attention_pytorch", None)
    if before is None or own is None:
        yield
        return
    module.attention_function = own
    try:
        yield
    finally:
        module.attention_function = before
