"""The layers of a U-Net by their sizes alone, and what each costs: from the block table, without any model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lib_blocktrain.blocks import Architecture, Block, Part

TOKENS = 77


class Text(NamedTuple):
    """The size of a caption's conditioning."""

    width: int
    tokens: int


@dataclass(frozen=True)
class Layer:
    """A layer with a weight `(outputs, inputs * kernel)`, applied at `positions` places; `element` as in NetworkConfig.

    `from_context`: its input is the text's conditioning, which needs no gradient unless the text encoder is trained.
    """

    element: str
    inputs: int
    outputs: int
    kernel: int
    positions: int
    from_context: bool = False

    @property
    def macs(self) -> int:
        """Multiplications of a forward pass, or of the gradient of the input."""
        return self.inputs * self.outputs * self.kernel * self.positions

    def lora_macs(self, rank: int) -> int:
        """Multiplications of a LoRA's forward pass here."""
        return rank * (self.inputs * self.kernel + self.outputs) * self.positions

    def lora_parameters(self, rank: int) -> int:
        return rank * (self.inputs * self.kernel + self.outputs)


@dataclass(frozen=True)
class PartSize:
    """A part of a block: its layers, the products inside attention, and what a backward pass through it keeps.

    `attention`: multiplications of softmax(q k) v; `scores`: numbers in its matrices, per head; `kept`: numbers saved,
    and `kept_trained` more of them where the layers have modules, which need their inputs.
    """

    kind: str
    layers: tuple[Layer, ...]
    attention: int = 0
    scores: int = 0
    kept: int = 0
    kept_trained: int = 0

    def repeated(self, trained: bool) -> tuple[Layer, ...]:
        """The layers that run again where this part is a checkpoint, or its transformer blocks are.

        Torch does not repeat what comes after the last thing that is kept: the last layer, unless a transformer's has
        a module.
        """
        if self.kind != "attn":
            return self.layers[:-1]
        last = self.layers[-1]
        return tuple(layer for layer in self.layers if layer.element != "proj" and (trained or layer != last))


def block_sizes(
    architecture: Architecture,
    latent: tuple[int, int],
    channels: Sequence[int] | None = None,
    context: int | None = None,
    tokens: int = TOKENS,
) -> dict[str, tuple[PartSize, ...]]:
    """Return the parts of each block for latents of this (height, width).

    `channels` of each resolution, for a U-Net of another width than the architecture's own; `tokens` of a caption.
    """
    own = {block.resolution_in: block.channels for block in architecture.blocks}
    widths = dict(zip(sorted(own), channels or [own[divisor] for divisor in sorted(own)]))
    text = Text(context or architecture.context_width, tokens)
    sizes = {}
    previous = 4
    for block in architecture.blocks:
        width = widths[block.resolution_in]
        inputs = previous
        if block.skip is not None and block.id.startswith("OUT"):
            inputs += widths[architecture.block(block.skip).resolution_in]
        area = math.prod(math.ceil(side / block.resolution_in) for side in latent)
        sizes[block.id] = tuple(_parts(block, area, inputs, width, text))
        previous = width
    return sizes


def _parts(block: Block, area: int, inputs: int, width: int, text: Text) -> Iterator[PartSize]:
    for part in block.parts:
        yield _MAKERS[part.kind](part, area, inputs, width, text)
        inputs = width


def _conv(part: Part, area: int, inputs: int, width: int, text: Text) -> PartSize:
    return PartSize("conv", (Layer("conv", inputs, width, 9, area),))


def _residual(part: Part, area: int, inputs: int, width: int, text: Text) -> PartSize:
    layers = [Layer("conv", inputs, width, 9, area), Layer("conv", width, width, 9, area)]
    if inputs != width:
        layers.append(Layer("conv", inputs, width, 1, area))
    # Inputs of both norms, both SiLUs and both convolutions.
    return PartSize("res", tuple(layers), kept=area * 3 * (inputs + width))


def _transformer(part: Part, area: int, inputs: int, width: int, text: Text) -> PartSize:
    layers = [Layer("proj", width, width, 1, area)] * 2
    for _ in range(part.depth):
        layers += [Layer("attn1", width, width, 1, area)] * 4
        layers += [Layer("attn2", width, width, 1, area)] * 2
        layers += [Layer("attn2", text.width, width, 1, text.tokens, from_context=True)] * 2
        layers += [Layer("ff", width, 8 * width, 1, area), Layer("ff", 4 * width, width, 1, area)]
    scores = part.depth * area * (area + text.tokens)
    # A depth: inputs of three norms, q, k, v and outputs of attention, 12 widths of the gated feed-forward.
    kept, trained = area * width * (3 + 20.3 * part.depth), area * width * 9 * part.depth
    return PartSize("attn", tuple(layers), 2 * scores * width, scores, round(kept), trained)


def _down(part: Part, area: int, inputs: int, width: int, text: Text) -> PartSize:
    return PartSize("down", (Layer("conv", width, width, 9, area // 4),), kept=area * width)


def _up(part: Part, area: int, inputs: int, width: int, text: Text) -> PartSize:
    return PartSize("up", (Layer("conv", width, width, 9, area * 4),), kept=area * 4 * width)


_MAKERS = {"conv": _conv, "res": _residual, "attn": _transformer, "down": _down, "up": _up}
