"""The algorithms of network files, one file each: what they add to a layer's weight, as functions of tensors.

Each is a small frozen class that recognises its own tensors. To add one, add it to `ADAPTERS` and to `keys.ALGORITHMS`,
which tells algorithms apart without torch.
"""

from collections.abc import Mapping

from torch import Tensor

from lib_blocktrain.networks.adapters.base import Adapter, CannotScaleError, NetworkModule, NetworkModuleError
from lib_blocktrain.networks.adapters.dora import DoRA
from lib_blocktrain.networks.adapters.full import Full
from lib_blocktrain.networks.adapters.glora import GLoRA
from lib_blocktrain.networks.adapters.ia3 import IA3
from lib_blocktrain.networks.adapters.loha import LoHa
from lib_blocktrain.networks.adapters.lokr import LoKr
from lib_blocktrain.networks.adapters.lora import LoRA
from lib_blocktrain.networks.adapters.norm import Norm
from lib_blocktrain.networks.adapters.oft import BOFT, OFT
from lib_blocktrain.networks.adapters.tlora import TLoRA

__all__ = [
    "ADAPTERS",
    "BOFT",
    "IA3",
    "OFT",
    "CannotScaleError",
    "DoRA",
    "Full",
    "GLoRA",
    "LoHa",
    "LoKr",
    "LoRA",
    "NetworkModule",
    "NetworkModuleError",
    "Norm",
    "TLoRA",
    "module_from_tensors",
]

ADAPTERS: tuple[type[Adapter], ...] = (LoRA, LoHa, LoKr, GLoRA, OFT, BOFT, Full, Norm, IA3, TLoRA)


def module_from_tensors(key: str, tensors: Mapping[str, Tensor]) -> NetworkModule | None:
    """Return the module of these tensors of one layer, None if no algorithm recognises them."""
    adapter = next((adapter for adapter in ADAPTERS if adapter.matches(tensors)), None)
    if adapter is None:
        return None
    module = adapter.from_tensors(key, tensors)
    if "dora_scale" in tensors and "dora_scale" in adapter.algorithm.tensor_names:
        return DoRA(key, module, tensors["dora_scale"])
    return module
