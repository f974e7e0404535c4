"""The alphas that PEFT keeps outside the tensors. Standard library only.

PEFT writes a folder for each model, `adapter_model.safetensors` beside `adapter_config.json`; diffusers writes the same
configuration into the file's metadata, each name behind that of the model. delta W = alpha / rank * B @ A, with
`use_rslora` alpha / sqrt(rank); `alpha_pattern` and `rank_pattern` are by layer.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_blocktrain.networks.header import Header, NetworkFileError
from lib_blocktrain.networks.keys import TE, TE2, UNET, component_and_path, split_key
from lib_blocktrain.networks.peft_patterns import LayerPatterns

METADATA = "lora_adapter_metadata"
CONFIG = "adapter_config.json"
MAX_CONFIG = 1_000_000  # bytes
MAX_ALPHA = 1e9
_MODELS = {UNET: "unet", TE: "text_encoder", TE2: "text_encoder_2"}  # as diffusers names them
# PEFT's types that are read: the tensors that may have rank rows.
_RANK_OF = {"LORA": ("lora_down.weight",), "LOHA": ("hada_w1_b",), "LOKR": ("lokr_w2_b", "lokr_w1_b")}
_WHOLE_LOKR = {"lokr_w1", "lokr_w2"}  # without a rank
_ALPHA_NAME = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
_KEEPS_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")  # values of init_lora_weights

Modules = Mapping[str, Mapping[str, str]]


class _NotItsOwn(ValueError):
    """The configuration does not tell the alpha of this file."""


@dataclass(frozen=True)
class _Layer:
    """A module without an alpha of its own; `path` is the layer's name in its model."""

    model: str
    path: str
    type: str
    rank: int | None
    """None in a LoKr of two whole factors, whose alpha readers ignore."""


def alphas_of(path: Path, header: Header, modules: Modules) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return alpha by key for the modules whose alpha is in PEFT's configuration, and what is to be said of it.

    The configuration beside the file is that of files with PEFT's keys only. One that is of another rank or type is not
    used, and that is said. Raises NetworkFileError for one that is damaged or cannot be honoured.
    """
    layers = {key: found for key, tensors in modules.items() if (found := _layer(tensors, header))}
    where, config, reason = f"its metadata {METADATA}", None, f"{CONFIG} is not beside the file"
    if METADATA in header.metadata:
        config = _parsed(path, where, header.metadata[METADATA])
    else:
        layers = {key: layer for key, layer in layers.items() if _is_pefts(modules[key])}
        where = CONFIG
        if layers:
            config = _beside(path)
    if not layers:
        return {}, ()
    if config is not None:
        try:
            patterns = LayerPatterns()
            return {key: alpha for key, layer in layers.items() if (alpha := _alpha(config, layer, patterns))}, ()
        except _NotItsOwn as error:
            reason = f"{where} {error}"
        except ValueError as error:
            raise NetworkFileError(f"{path}: {where}: {error}") from error
    if config is not None and where != CONFIG:
        return {}, ()  # diffusers leaves out what is as usual
    return {}, (f"alpha is not known, since PEFT does not write it into the file and {reason}: taken as the rank",)


def _layer(tensors: Mapping[str, str], header: Header) -> _Layer | None:
    if "alpha" in tensors:
        return None

    def layer(kind: str, tensor: str, rank: int | None) -> _Layer:
        module, _ = split_key(tensors[tensor]) or ("", "")
        component, path = component_and_path(module)
        return _Layer(_MODELS[component], path, kind, rank)

    for kind, names in _RANK_OF.items():
        for tensor in names:
            if tensor in tensors and len(header.shapes[tensors[tensor]]) > 1:
                return layer(kind, tensor, header.shapes[tensors[tensor]][0])
    return layer("LOKR", "lokr_w1", None) if tensors.keys() >= _WHOLE_LOKR else None


def _is_pefts(tensors: Mapping[str, str]) -> bool:
    return any(".lora_A" in source or source.startswith("base_model.") for source in tensors.values())


def configuration_text(path: Path, metadata: Mapping[str, str]) -> bytes:
    """Return what `alphas_of` may read of a file but for its tensors: the configuration, b"" without one."""
    if METADATA in metadata:
        return b"\0" + metadata[METADATA].encode("utf-8", "surrogatepass")
    return _content_beside(path) or b""


def _beside(path: Path) -> dict[str, Any] | None:
    """Return the configuration in the file's folder, None if there is none."""
    content = _content_beside(path)
    if content is None:
        return None
    if len(content) > MAX_CONFIG:
        config = path.with_name(CONFIG)
        raise NetworkFileError(f"{config}: more than {MAX_CONFIG} bytes: expected a PEFT configuration")
    return _parsed(path, CONFIG, content.decode("utf-8", "replace"))


def _content_beside(path: Path) -> bytes | None:
    """Return the first `MAX_CONFIG` + 1 bytes of the configuration in the file's folder, None if there is none."""
    try:
        with open(path.with_name(CONFIG), "rb") as file:
            return file.read(MAX_CONFIG + 1)
    except FileNotFoundError:
        return None


def _parsed(path: Path, where: str, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NetworkFileError(f"{path}: {where} is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise NetworkFileError(f"{path}: {where} is not a JSON object: {str(config)[:80]}")
    return config


def _alpha(config: Mapping[str, Any], layer: _Layer, patterns: LayerPatterns) -> float | None:
    """Return the alpha of a layer such that alpha / rank is PEFT's scale; None where the metadata has none."""

    def setting(name: str, default: Any = None) -> Any:
        return config.get(f"{layer.model}.{name}", config.get(name, default))

    kind = setting("peft_type", layer.type)
    if kind != layer.type:
        raise _NotItsOwn(f"is for {kind!r}, and the file has a {layer.type}")
    initial = setting("init_lora_weights")
    if initial not in _KEEPS_THE_BASE:
        raise ValueError(f"init_lora_weights = {initial!r} changes the base model's weights: not supported")

    def by_layer(name: str, default: Any) -> Any:
        return _by_layer(name, setting(name), layer.path, default, patterns)

    rank = by_layer("rank_pattern", setting("r"))
    if layer.rank is not None and rank not in (None, layer.rank):
        raise _NotItsOwn(f"says r = {rank!r}, and {layer.path} has {layer.rank}")
    name = _ALPHA_NAME[layer.type]
    alpha = by_layer("alpha_pattern", setting(name, _NONE))
    if alpha is _NONE:
        raise _NotItsOwn(f"has no {name}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < MAX_ALPHA:
        raise ValueError(f"{name} = {alpha!r} for {layer.path}: expected a number above 0")
    if layer.rank is None:
        if alpha != rank:
            raise ValueError(f"r = {rank!r} and alpha = {alpha!r} of two whole factors in {layer.path}: not supported")
        return None
    return alpha * math.sqrt(layer.rank) if setting("use_rslora") else float(alpha)


_NONE = object()


def _by_layer(name: str, table: Any, path: str, default: Any, patterns: LayerPatterns) -> Any:
    """Return the value of the first pattern that PEFT finds in the layer's name, else the default."""
    if not isinstance(table or {}, dict):
        raise ValueError(f"{name} = {str(table)[:80]}: expected a table of layers")
    for pattern, value in (table or {}).items():
        try:
            found = patterns.match(pattern, path)
        except ValueError as error:
            raise ValueError(f"{name} {pattern[:80]!r}: {error}") from error
        if found:
            return value
    return default
