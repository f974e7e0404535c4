"""Network files: read in every common spelling, written in kohya's, which every program reads."""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lib_blocktrain.blocks import block_of
from lib_blocktrain.files import atomic_write
from lib_blocktrain.networks.adapters import NetworkModule, NetworkModuleError, module_from_tensors
from lib_blocktrain.networks.contents import Contents, contents_of
from lib_blocktrain.networks.header import Header, NetworkFileError, read_header
from lib_blocktrain.networks.overflow import alpha_of, check_number, check_tensor
from lib_blocktrain.networks.peft_config import METADATA as PEFT_METADATA

log = logging.getLogger(__name__)

# The metadata by which the WebUI and others recognise an architecture.
_ARCHITECTURE_METADATA = {
    "sd1": {"ss_base_model_version": "sd_v1", "ss_v2": "False", "modelspec.architecture": "stable-diffusion-v1/lora"},
    "sd2": {
        "ss_base_model_version": "sd_v2",
        "ss_v2": "True",
        "modelspec.architecture": "stable-diffusion-v2-512/lora",
    },
    "sdxl": {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    },
}
_WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_NUMBER_DTYPES = (*_WEIGHT_DTYPES, "BOOL", "U8", "I8", "I16", "I32", "I64")  # allowed for single numbers, such as alpha


@dataclass(frozen=True)
class Network:
    """A network in memory: its modules by key, and the file's metadata.

    `unread` are the keys in the file that belong to no known module; their tensors have no effect. `notices` say what
    else a user should know of the file.
    """

    name: str
    architecture: str
    modules: Mapping[str, NetworkModule]
    metadata: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    path: Path | None = None
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "modules", MappingProxyType(dict(self.modules)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def block_of(self, key: str) -> str:
        """Return the block that a module acts in."""
        return block_of(key, self.architecture)

    @property
    def blocks(self) -> dict[str, int]:
        """Number of modules by block, for the blocks that have any."""
        return dict(Counter(map(self.block_of, self.modules)))


def read_network(path: str | Path) -> Network:
    """Read a network file; raises NetworkFileError, or NetworkModuleError for tensors that do not form a module."""
    path = Path(path)
    header = read_header(path)
    contents = contents_of(path, header)
    _check_dtypes(path, header, contents.modules)
    try:
        # Not memory-mapped: when another program truncates a mapped file, the process is killed (SIGBUS).
        tensors = safetensors.torch.load(path.read_bytes())
        modules = dict(_modules(tensors, contents))
    except NetworkModuleError as error:
        raise NetworkModuleError(f"{path}: {error}") from error
    except KeyError as error:
        raise NetworkFileError(f"{path}: {error}: an unknown dtype, or replaced while it was read") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise NetworkFileError(f"{path}: {error}") from error
    unread = contents.unread
    for notice in contents.notices:
        log.warning("%s: %s", path, notice)
    if unread:
        log.warning("%s: %d keys belong to no known module and are left out, e.g. %s", path, len(unread), unread[0])
    return Network(path.stem, contents.architecture, modules, header.metadata, unread, path, contents.notices)


def write_network(
    path: str | Path, network: Network, *, dtype: torch.dtype | None = None, overwrite: bool = False
) -> Path:
    """Write a network under kohya's keys, in `dtype` (None: each tensor in its own), and return the path.

    The architecture's metadata is added where it is missing, and both hashes are computed. The file appears whole or
    not at all. Raises NetworkModuleError for numbers that are not finite or too large for the dtype, FileExistsError
    unless `overwrite`, NetworkFileError for another suffix than .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise NetworkFileError(f"{path}: a network file ends in .safetensors, not in {path.suffix!r}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: choose another name, or ask for overwriting")
    tensors = dict(_named_tensors(network, dtype))
    metadata = {key: value for key, value in network.metadata.items() if key != PEFT_METADATA}
    metadata = {**_ARCHITECTURE_METADATA[network.architecture], **metadata}
    metadata["sshs_model_hash"], metadata["sshs_legacy_hash"] = network_hashes(tensors, metadata)
    content = safetensors.torch.save(tensors, metadata)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def network_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """Return `sshs_model_hash` and `sshs_legacy_hash` of a network file with these contents.

    The first covers everything after the header. The second covers the 64 KiB at offset 1 MiB of the file as it would
    be with only its `ss_` metadata. (sd-scripts, `train_util.precalculate_safetensors_hashes`.)
    """
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    content = memoryview(safetensors.torch.save(dict(tensors), training))
    start = 8 + int.from_bytes(content[:8], "little")
    legacy = hashlib.sha256(content[0x100000 : 0x100000 + 0x10000])
    return hashlib.sha256(content[start:]).hexdigest(), legacy.hexdigest()[:8]


def _named_tensors(network: Network, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    for key, module in network.modules.items():
        if (alpha := alpha_of(module)) is not None:
            check_number(f"{key}.alpha", alpha, torch.float32)
        for name, tensor in module.to_tensors().items():
            tensor = tensor.detach().cpu()
            is_number = tensor.ndim == 0  # alpha and the like stay exact
            target = tensor.dtype if dtype is None or is_number else dtype
            check_tensor(f"{key}.{name}: its number", tensor, target)
            tensor = tensor.to(target).contiguous()
            if not _is_finite(tensor):
                raise NetworkModuleError(f"{key}.{name} has numbers that are not finite: it is not written")
            yield f"{key}.{name}", tensor


def _modules(file: Mapping[str, Tensor], contents: Contents) -> Iterator[tuple[str, NetworkModule]]:
    """Yield the modules of a file by key."""
    for key, names in contents.modules.items():
        tensors = {tensor: file[source] for tensor, source in names.items()}
        for tensor, source in names.items():
            _check_finite(source, tensors[tensor])
        if key in contents.alphas:
            tensors["alpha"] = torch.tensor(contents.alphas[key])
        if "lora_up.weight" in tensors and "lora_magnitude_vector" in names.get("dora_scale", ""):
            # PEFT's magnitudes are of the output channels, but in shape (out,) or (1, out, 1, 1).
            magnitude = tensors["dora_scale"]
            tensors["dora_scale"] = magnitude.reshape(magnitude.numel(), *[1] * (tensors["lora_up.weight"].ndim - 1))
        module = module_from_tensors(key, tensors)
        if module is not None:
            yield key, module


def _check_dtypes(path: Path, header: Header, sources: Mapping[str, Mapping[str, str]]) -> None:
    """Raise NetworkFileError for weights that are not of a floating-point dtype which torch knows."""
    for source in (source for names in sources.values() for source in names.values()):
        allowed = _NUMBER_DTYPES if math.prod(header.shapes[source]) == 1 else _WEIGHT_DTYPES
        if header.dtypes[source] not in allowed:
            raise NetworkFileError(
                f"{path}: {source!r} is of dtype {header.dtypes[source]}: expected one of {', '.join(allowed)}"
            )


def _check_finite(source: str, tensor: Tensor) -> None:
    """Raise NetworkModuleError for weights with NaN or infinity."""
    if not _is_finite(tensor):
        raise NetworkModuleError(f"{source!r} has numbers that are not finite (NaN or infinity): the file is damaged")


def _is_finite(tensor: Tensor) -> bool:
    return math.isfinite((tensor if tensor.element_size() > 1 else tensor.float()).sum(dtype=torch.float64))
