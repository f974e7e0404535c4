"""Frozen weights of a U-Net that take less of a device's memory: as fp8, or on the CPU but for the moment of their use.

A layer's weight is there, in its own dtype, while the layer runs; between two calls a tensor of its shape without
memory stands in its place. For the backward pass it is made once more. sd-scripts (`fp8_base`) keeps weights as fp8,
too, but their copies in the dtype of the computation stay for the backward pass, unless gradients are checkpointed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lib_blocktrain import blocks
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.model.set_aside import put_back
from lib_blocktrain.model.unet_forward import is_diffusers

FP8 = torch.float8_e4m3fn  # as sd-scripts


class _Weight:
    """The weight of a layer: `own`, as it was found, and what is kept of it for the steps."""

    def __init__(self, layer: nn.Module):
        parameter = layer._parameters["weight"]
        assert parameter is not None  # `_layers` gives those that have one
        self.layer, self.parameter = layer, parameter
        self.device, self.dtype = self.parameter.device, self.parameter.dtype
        self.own = self.parameter.detach().cpu()  # beside what is kept the device has no room for it
        if self.device.type != "cpu":
            self.parameter.data = self.own
        self.kept, self.on_host = self.own, False

    def keep(self, fp8: bool, on_host: bool) -> None:
        """Keep it as fp8, where that can hold it, or in its own dtype, on its device or on the CPU."""
        self.on_host = on_host
        self.kept = self.own.to(FP8) if fp8 and _fits_fp8(self.own) else self.own
        if not on_host:
            self.kept = self.kept.to(self.device)
        elif self.device.type == "cuda":
            self.kept = self.kept.pin_memory()
        self.release()

    def loaded(self) -> Tensor:
        """Return the weight on its device, in its own dtype."""
        return self.kept.to(self.device, non_blocking=True).to(self.dtype)

    def load(self) -> Tensor:
        """Give the layer its weight, and return it."""
        loaded = self.loaded()
        self._put(loaded)
        return loaded

    def release(self) -> None:
        """Leave a tensor without memory in the weight's place."""
        self._put(torch.empty((), dtype=self.dtype, device=self.device).expand(self.own.shape))

    def restore(self) -> None:
        """Put the weight back as it was found."""
        if self.device.type != "cpu":
            self.parameter.data = self.own.to(self.device)
        self.layer._parameters["weight"] = self.parameter

    def _put(self, tensor: Tensor) -> None:
        # A new parameter each time: autograd refers to that of a frozen weight, and would see its data changed.
        self.layer._parameters["weight"] = nn.Parameter(tensor, requires_grad=False)


class WeightStorage(AbstractContextManager["WeightStorage"]):
    """Stores the weights of a frozen U-Net's blocks inside the context; without `fp8` and `offload` it does nothing.

    `offload`: what is in front of the first block that gradients reach waits on the CPU. Layers whose change of the
    output takes the layer's own weight, as DoRA's, must not be trained meanwhile.
    """

    def __init__(self, model: Model, fp8: bool, offload: bool):
        self._model, self._fp8, self._offload = model, fp8, offload
        self._weights: dict[nn.Module, _Weight] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._loaded: dict[int, _Weight] = {}  # by the storage of the weight of a layer that runs now
        self._on_host: frozenset[str] | None = None  # blocks

    def begin(self, first_block: str | None) -> None:
        """Store the weights for steps whose gradients reach this block, None: all blocks."""
        if not (self._fp8 or self._offload):
            return
        if not self._model.movable:
            raise ValueError(
                "fp8 or offload = true: this WebUI decides itself how its weights are stored, and has settings for it:"
                " expected false, or a model opened standalone"
            )
        known = blocks.architecture(self._model.architecture).block_ids
        front = () if first_block is None or not self._offload else known[: known.index(first_block)]
        if self._on_host == frozenset(front):
            return
        self._on_host = frozenset(front)
        for block, layer in _layers(self._model):
            if not (self._fp8 or block in front or layer in self._weights):
                continue
            weight = self._weights.get(layer)
            if weight is None:
                weight = self._weights[layer] = _Weight(layer)
                self._handles.append(layer.register_forward_pre_hook(self._load))
                # A checkpoint that is computed again ends in its last layer, by an exception.
                self._handles.append(layer.register_forward_hook(self._free, always_call=True))
            weight.keep(self._fp8, block in front)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The layers whose weights are stored."""
        return tuple(self._weights)

    def device_bytes(self, layer: nn.Module) -> int:
        """Return what a layer's weight takes on the device between two calls."""
        weight = self._weights[layer]
        return 0 if weight.on_host else weight.kept.nbytes

    def saving(self) -> AbstractContextManager[object]:
        """Keep no stored weight for the backward pass of what is computed in the context."""
        return saved_tensors_hooks(self._pack, _unpack) if self._weights else nullcontext()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        put_back(self._restore, error)
        self._weights.clear()
        self._handles.clear()
        self._on_host = None

    def _restore(self) -> None:
        for weight in self._weights.values():
            weight.kept = weight.own
        for weight in self._weights.values():
            weight.restore()

    def _load(self, layer: nn.Module, _: object) -> None:
        weight = self._weights[layer]
        self._loaded[weight.load().untyped_storage()._cdata] = weight

    def _free(self, layer: nn.Module, _inputs: object, _output: object) -> None:
        weight = self._weights[layer]
        for storage in [storage for storage, loaded in self._loaded.items() if loaded is weight]:
            del self._loaded[storage]
        weight.release()

    def _pack(self, tensor: Tensor) -> object:
        weight = self._loaded.get(tensor.untyped_storage()._cdata)
        return tensor if weight is None else (weight, tensor.size(), tensor.stride(), tensor.storage_offset())


def _fits_fp8(weight: Tensor) -> bool:
    return bool(weight.abs().max() <= torch.finfo(FP8).max)


def _unpack(packed: object) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    assert isinstance(packed, tuple)
    weight, size, stride, offset = packed
    return weight.loaded().as_strided(size, stride, offset)


def _layers(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of each block that have a weight of two dimensions or more."""
    unet = model.unet
    for block in blocks.architecture(model.architecture).blocks:
        for part in block.parts:
            for layer in unet.get_submodule(part.diffusers if is_diffusers(unet) else part.ldm).modules():
                weight = vars(layer).get("_parameters", {}).get("weight")
                if isinstance(weight, Tensor) and weight.ndim > 1 and weight.is_floating_point():
                    yield block.id, layer
