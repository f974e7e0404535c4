"""What the U map says about a block: facts from ``blocks``, and claims about its effect, each with its grade.

Grades are those of the presets: A is a paper with code, C is what the community reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from lib_blocktrain.blocks import ARCHITECTURES, BASE, Architecture, Block

LAYER_NAMES = MappingProxyType(
    {"conv": "convolution", "res": "res", "attn": "attention", "down": "downsampling", "up": "upsampling"}
)


@dataclass(frozen=True)
class Belief:
    """A claim about what some blocks carry. The grade is a key of ``presets.GRADES``."""

    architectures: tuple[str, ...]
    blocks: tuple[str, ...]
    carries: str
    grade: str
    source: str


_P_PLUS = "P+, arXiv 2303.09522"
_B_LORA = "B-LoRA, arXiv 2403.14572"
_INSTANT = "InstantStyle, arXiv 2404.02733"
_SAE = "a study by sparse autoencoders, arXiv 2410.22366"
_LBW = "users of LoRA Block Weight"
_USERS = "users of SDXL"
_SD = ("sd1", "sd2")
_COLOURS = ("OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11")
BELIEFS = (
    Belief(("sd1",), ("IN07", "IN08", "M00", "OUT03", "OUT04", "OUT05"), "structure and shape", "A", _P_PLUS),
    Belief(("sd1",), ("IN01", "IN02", "OUT09", "OUT10", "OUT11"), "colour and texture", "A", _P_PLUS),
    Belief(_SD, ("IN08", "M00", "OUT03", "OUT04"), "pose and composition", "C", _LBW),
    Belief(_SD, ("OUT03", "OUT04", "OUT05"), "faces; the tutorial leaves these out to keep a face", "C", _LBW),
    Belief(_SD, _COLOURS, "colours", "C", _LBW),
    Belief(("sdxl",), ("OUT00",), "content and layout", "A", _B_LORA),
    Belief(("sdxl",), ("OUT00",), "local detail; B-LoRA says content and layout", "A", _SAE),
    Belief(("sdxl",), ("OUT01",), "style and colour", "A", f"{_B_LORA}; {_INSTANT}; {_SAE}"),
    Belief(("sdxl",), ("IN08",), "layout and composition", "A", f"{_INSTANT}; {_SAE}"),
    Belief(("sdxl",), ("OUT00", "OUT01"), "a character without its style; B-LoRA has style in OUT01", "C", _USERS),
)


def beliefs(architecture_id: str, block_id: str) -> list[Belief]:
    """The claims about a block, the best grade first."""
    found = [belief for belief in BELIEFS if architecture_id in belief.architectures and block_id in belief.blocks]
    return sorted(found, key=lambda belief: belief.grade)


def level(block: Block) -> int:
    """The level of the U on which a block is drawn, as the divisor of the latent's side: that of its skip connection.

    A downsampling block is on its output's level, an upsampling one on its input's, so that partners share a level.
    """
    return block.resolution_in if block.id.startswith("OUT") else block.resolution_out


def cells(architecture: Architecture, divisor: int) -> int:
    """The side of the feature maps on a level, in cells, at the architecture's native size."""
    return architecture.native_size // 8 // divisor


def summary(architecture_id: str, block_id: str) -> str:
    """The shortest facts about a block, for the line beside the map's tools."""
    if block_id == BASE:
        return "text encoder"
    architecture = ARCHITECTURES[architecture_id]
    block = architecture.block(block_id)
    side = cells(architecture, level(block))
    return f"{side}×{side} · {block.forward_share:.1f} % of a step"


def facts(architecture_id: str, block_id: str) -> list[str]:
    """The lines of a block's tooltip, as plain text."""
    if block_id == BASE:
        return ["text encoder: what words mean to the model", "not part of the U-Net; no skip partner"]
    architecture = ARCHITECTURES[architecture_id]
    block = architecture.block(block_id)
    side = cells(architecture, level(block))
    lines = [
        f"{' + '.join(_layers(block))}, {block.channels_in} to {block.channels} channels",
        f"{side} × {side} cells at {architecture.native_size} px: a cell sees {architecture.native_size // side} px",
        f"{block.forward_share:.1f} % of a step’s arithmetic; LoRA {_modules(block.lora_modules)}, "
        f"LoCon {_modules(block.locon_modules)}",
    ]
    if block.skip:
        lines.append(f"skip partner {block.skip}")
    if not block.lora_modules and block.skip and block.locon_modules <= 1:
        lines.append(f"affects the picture mostly through {block.skip}")
    lines += [
        f"believed: {belief.carries} (grade {belief.grade}: {belief.source})"
        for belief in beliefs(architecture_id, block_id)
    ]
    return lines


def _layers(block: Block) -> list[str]:
    names = []
    for part in block.parts:
        deep = f" {part.depth} deep" if part.depth > 1 else ""
        names.append(LAYER_NAMES[part.kind] + deep)
    return names


def _modules(count: int) -> str:
    return f"{count} module{'' if count == 1 else 's'}" if count else "none"
