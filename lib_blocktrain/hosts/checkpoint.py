"""Architecture and prediction type of a checkpoint file, from its header alone: no tensor is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lib_blocktrain.model.protocol import Prediction
from lib_blocktrain.networks.header import read_header

_UNET = "model.diffusion_model."
_CONTEXT = _UNET + "{}.transformer_blocks.0.attn2.to_k.weight"
_ARCHITECTURES = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_DISTILLED = re.compile(r"turbo|lightning|\blcm\b|hyper-?sd|_lcm", re.IGNORECASE)


class UnsupportedCheckpoint(ValueError):
    """The file is not a usable SD1, SD2 or SDXL checkpoint; the message says why."""


@dataclass(frozen=True)
class CheckpointInfo:
    """The kind of a checkpoint; ``prediction`` is None if the file does not say (SD2 has both, with the same keys).

    ``clip_skip`` is the layer of SD1's text encoder, from the end, that it was trained with.
    """

    architecture: str
    prediction: Prediction | None
    inpainting: bool
    notices: tuple[str, ...]
    zero_terminal_snr: bool = False
    clip_skip: int = 1


def read_checkpoint_info(path: Path) -> CheckpointInfo:
    """Return the kind of a checkpoint in the original (LDM) layout; raise UnsupportedCheckpoint or OSError."""
    header = read_header(path)
    shapes = header.shapes
    width = _context_width(shapes)
    if width is None:
        raise UnsupportedCheckpoint(
            f"{path}: no Stable Diffusion checkpoint in the original layout (a U-Net below {_UNET!r} was expected;"
            f" it has {len(shapes)} tensors, the first is {next(iter(shapes), None)!r})"
        )
    if width == 1280:
        raise UnsupportedCheckpoint(f"{path} is the SDXL refiner; its U-Net has other blocks. Use the base model.")
    if width not in _ARCHITECTURES:
        raise UnsupportedCheckpoint(
            f"{path}: its text context is {width} wide; expected 768 (SD1), 1024 (SD2) or 2048 (SDXL)"
        )
    channels = _in_features(shapes.get(_UNET + "input_blocks.0.0.weight"))
    if channels not in (4, 9):
        raise UnsupportedCheckpoint(
            f"{path}: its U-Net takes {channels} channels; 4 (text to image) or 9 (inpainting) were expected"
        )
    architecture = _ARCHITECTURES[width]
    prediction = _prediction(path, architecture, shapes, header.metadata)
    notices = []
    if channels == 9:
        notices.append("inpainting checkpoint: pictures are drawn with everything masked")
    if prediction == "v":
        notices.append("v-prediction checkpoint")
    zero_terminal_snr = "ztsnr" in shapes  # Forge's marker
    if zero_terminal_snr:
        notices.append("zero terminal SNR")
    clip_skip = _clip_skip(header.metadata) if architecture == "sd1" else 1
    if clip_skip > 1:
        notices.append(f"clip skip {clip_skip}")
    title = f"{path.stem} {header.metadata.get('modelspec.title', '')}"
    if word := _DISTILLED.search(title):
        notices.append(
            f"the name says {word.group().strip('_')!r}: a distilled checkpoint needs few steps and a CFG of 1 to 2"
        )
    return CheckpointInfo(architecture, prediction, channels == 9, tuple(notices), zero_terminal_snr, clip_skip)


def _clip_skip(metadata: Mapping[str, str]) -> int:
    """Return what `modelspec.encoder_layer` says (SAI's model metadata standard), 1 if it says nothing."""
    layer = metadata.get("modelspec.encoder_layer", "")
    return int(layer) if layer.isdecimal() and 1 <= int(layer) <= 12 else 1


def _context_width(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    for block in ("input_blocks.1.1", "input_blocks.4.1"):
        width = _in_features(shapes.get(_CONTEXT.format(block)))
        if width is not None:
            return width
    return None


def _in_features(shape: tuple[int, ...] | None) -> int | None:
    """Return the second size of a weight ``(out, in, ...)``, None if there is no such weight."""
    return shape[1] if shape is not None and len(shape) > 1 else None


def _prediction(
    path: Path, architecture: str, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]
) -> Prediction | None:
    """Look for, in this order: the marker tensor, metadata, the ``.yaml`` beside the file.

    In the latter A1111 and Forge read ``parameterization``, and for SDXL the class of the scaling.
    """
    if "v_pred" in shapes or metadata.get("modelspec.prediction_type", "").startswith("v"):
        return "v"
    yaml = path.with_suffix(".yaml")
    if yaml.exists():
        text = yaml.read_text("utf-8", "replace")
        return "v" if re.search(r"parameterization:\s*[\"']?v|target:\s*\S*\.VScaling", text) else "epsilon"
    return None if architecture == "sd2" else "epsilon"
