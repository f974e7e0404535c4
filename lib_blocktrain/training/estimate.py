"""What a run will cost, time and memory, by the sizes of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from lib_blocktrain import blocks
from lib_blocktrain.blocks import BASE
from lib_blocktrain.model.memory import MIB, free_memory
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.networks.layers import is_convolution, is_linear
from lib_blocktrain.training.augmentation import pictures_vary
from lib_blocktrain.training.canvases import canvases, on_canvas, with_batch
from lib_blocktrain.training.captions import captions_vary
from lib_blocktrain.training.checkpointing import is_split
from lib_blocktrain.training.config import NetworkConfig, PoolConfig, RunConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.optimizers import learning_rate_notices
from lib_blocktrain.training.plan import element_weight, read_weights, settings_of
from lib_blocktrain.training.sizes import TOKENS, Layer, PartSize, block_sizes
from lib_blocktrain.weights.block_weights import BlockWeights

# Parameters of the U-Net, the text encoders and the autoencoder.
PARAMETERS = {
    "sd1": (859_520_964, 123_060_480, 83_653_863),
    "sd2": (865_910_724, 340_387_840, 83_653_863),
    "sdxl": (2_567_463_684, 817_719_552, 83_653_863),
}
TEXT_ENCODERS = {"sd1": ((12, 768),), "sd2": ((23, 1024),), "sdxl": ((12, 768), (32, 1280))}  # layers, width
_ENCODED = 643  # numbers a pixel that the autoencoder holds at most, counted as in `benchmarks/memory.py`
_ENCODER_MACS = 2_064_320  # multiplications a pixel of its convolutions; its attention has 512 channels
_TEXT_KEPT = 34  # numbers a token, layer and width that a text encoder's backward pass keeps
_OVERHEAD = {"cuda": 600.0, "cpu": 250.0}  # MiB: the accelerator's context and kernels, the interpreter
# Numbers that an optimizer keeps for each of the network's, by its name; others are taken as Adam's two.
_OPTIMIZER_STATE = {
    "sgd": 0.0,
    "adafactor": 0.1,
    "lion": 1.0,
    "lion8bit": 0.25,
    "adamw8bit": 0.5,
    "pagedadamw8bit": 0.5,
    "prodigy": 4.0,
}
_Changes = Mapping[str, Any]  # of a RunConfig's fields
_ALTERNATIVES: tuple[tuple[str, _Changes, str | None], ...] = (  # title, changes, other block weights
    ("checkpointing", {"checkpointing": True}, None),
    ("OUT only", {}, "OUT=1"),
    ("OUT only and checkpointing", {"checkpointing": True}, "OUT=1"),
    ("batch 1", {"batch": 1}, None),
    ("batch 1 and checkpointing", {"batch": 1, "checkpointing": True}, None),
    ("batch 1, OUT only and checkpointing", {"batch": 1, "checkpointing": True}, "OUT=1"),
    ("fp8 and checkpointing", {"fp8": True, "checkpointing": True}, None),
    ("fp8, batch 1 and checkpointing", {"fp8": True, "batch": 1, "checkpointing": True}, None),
    (
        "fp8, batch 1, OUT only, offload and checkpointing",
        {"fp8": True, "batch": 1, "checkpointing": True, "offload": True},
        "OUT=1",
    ),
)


@dataclass(frozen=True)
class UNetSize:
    """The U-Net's architecture, and its sizes where they are not the architecture's own."""

    architecture: str
    native_size: int
    channels: tuple[int, ...] | None = None
    context: int | None = None
    parameters: tuple[int, int, int] | None = None  # of the U-Net, the text encoders and the autoencoder
    itemsize: int = 2  # bytes of a number of the weights and activations
    fused: bool = True  # whether attention is computed without its matrices
    movable: bool = True  # whether what the steps do not need is moved off a GPU, as by the standalone host

    @classmethod
    def real(cls, architecture: str, itemsize: int = 2) -> UNetSize:
        return cls(architecture, blocks.architecture(architecture).native_size, itemsize=itemsize)

    @property
    def loaded_mib(self) -> float:
        """The weights of all models of the checkpoint, in MiB."""
        return sum(self.parameters or PARAMETERS[self.architecture]) * self.itemsize / MIB


@dataclass(frozen=True)
class Estimate:
    """The cost of a run; `relative_time` is that of a step against one that trains all blocks in the same way."""

    relative_time: float
    gflop: float
    parameters: int
    mib: dict[str, float]
    first_block: str | None
    free_mib: float | None = None
    fits: tuple[str, ...] = ()  # alternatives that would fit where this does not
    title: str = ""
    notices: tuple[str, ...] = ()

    @property
    def total_mib(self) -> float:
        return sum(self.mib.values())

    @property
    def steps_mib(self) -> float:
        """What the steps need, without what the pictures' encoding needs beside that."""
        return self.total_mib - self.mib.get("encoding", 0.0)

    @property
    def enough(self) -> bool | None:
        return None if self.free_mib is None else self.total_mib <= self.free_mib

    @property
    def text(self) -> str:
        """The estimate as a sentence or two."""
        parts = ", ".join(f"{name} {mib:.0f}" for name, mib in self.mib.items())
        lines = [
            f"{self.title}: a step takes {self.relative_time:.2f} of one that trains all blocks, and about"
            f" {self.total_mib:.0f} MiB ({parts}); {self.parameters:,} trained parameters"
        ]
        if self.enough is False:
            choice = f"choose {', or '.join(self.fits)}" if self.fits else "no choice of blocks or batch fits"
            lines.append(f"you have {self.free_mib:.0f} MiB: {choice}")
        elif self.free_mib is not None:
            lines.append(f"you have {self.free_mib:.0f} MiB: enough")
        return "\n".join([*lines, *self.notices])

    def to_json(self) -> dict[str, Any]:
        return {
            "relative_time": round(self.relative_time, 4),
            "gflop": round(self.gflop, 1),
            "parameters": self.parameters,
            "mib": {name: round(mib, 1) for name, mib in self.mib.items()},
            "total_mib": round(self.total_mib, 1),
            "free_mib": self.free_mib,
            "enough": self.enough,
            "fits": list(self.fits),
            "first_block": self.first_block,
            "notices": list(self.notices),
        }


def estimate(config: RunConfig, unet: UNetSize, free_mib: float | None = None, device: str = "cuda") -> Estimate:
    """Return what this run costs on this U-Net; with the free memory, also what would fit instead."""
    weights, notices = read_weights(config.network, unet.architecture)
    notices += learning_rate_notices(config.optimizer, config.schedule)
    found = _estimate(config, unet, weights, device)
    everything = BlockWeights.uniform(unet.architecture, 1.0)
    plain = replace(
        config,
        network=replace(config.network, text_encoder=False, elements={}),
        loss=replace(config.loss, preservation=0.0),
        pool=PoolConfig(),
    )
    whole = _estimate(plain, unet, everything, device)
    each = canvases(config, unet.native_size)
    batches, sides = (_span(numbers) for numbers in ([c.batch for c in each], [c.width for c in each]))
    title = f"{blocks.architecture(unet.architecture).title}, batch {batches}, {sides}"
    if config.network.text_encoder and weights.base:
        notices += (f"{BASE} is trained: its gradient goes through all blocks with attention to the text",)
    notices = (*notices, *found.notices, *config.dataset.notices)
    found = replace(found, relative_time=found.gflop / whole.gflop, title=title, notices=notices, free_mib=free_mib)
    if free_mib is None or found.total_mib <= free_mib:
        return found
    return replace(found, fits=_what_fits(config, unet, free_mib, device))


def estimate_run(config: RunConfig, unet: UNetSize | None = None) -> Estimate:
    """Return what this run costs on this machine; without a U-Net's sizes, SD1's own."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = unet or UNetSize.real("sd1", 2 if device == "cuda" else 4)
    return estimate(config, unet, free_memory(), device)


def size_of_model(model: Model) -> UNetSize:
    """Return the sizes of a loaded model, from its layers."""
    unet = model.unet
    first = {"down_blocks": "down_blocks.{}.resnets.0.conv1", "input_blocks": "input_blocks.{}.0.in_layers.2"}
    divisors = {block.resolution_in for block in blocks.architecture(model.architecture).blocks}
    layout = "down_blocks" if hasattr(unet, "down_blocks") else "input_blocks"
    numbers = [level if layout == "down_blocks" else 1 + 3 * level for level in range(len(divisors))]
    layers = [unet.get_submodule(first[layout].format(number)) for number in numbers]
    channels = tuple(layer.out_channels for layer in layers if is_convolution(layer))
    context = next(m.in_features for path, m in unet.named_modules() if path.endswith("attn2.to_k") and is_linear(m))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (unet, *model.text_encoders.values(), model.vae)]
    parameters = sizes[0], sum(sizes[1:-1]), sizes[-1]
    itemsize = next(unet.parameters()).element_size()
    return UNetSize(
        model.architecture,
        model.native_size,
        channels,
        context,
        parameters,
        itemsize,
        movable=bool(model.movable),
    )


def out_of_memory(config: RunConfig, model: Model) -> str:
    """Return the message for a lack of memory: what was needed, and what would need less."""
    found = estimate(config, size_of_model(model))
    less = [
        f"{name} (about {other.steps_mib:.0f} MiB)"
        for name, other in _alternatives(config, size_of_model(model))
        if other.steps_mib < found.steps_mib
    ]
    choice = ", ".join(less) or "a lower resolution"
    return f"out of memory: this run needs about {found.steps_mib:.0f} MiB in its steps. Less: {choice}"


def _span(numbers: Sequence[int]) -> str:
    """Return a number, or the least and the largest of several."""
    return str(numbers[0]) if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"


def _estimate(config: RunConfig, unet: UNetSize, weights: BlockWeights, device: str) -> Estimate:
    """Return the cost of a run: of several sizes the memory of the largest, and the mean time."""
    each = [
        _estimate_on(on_canvas(config, canvas), unet, weights, device) for canvas in canvases(config, unet.native_size)
    ]
    most = max(each, key=lambda found: found.total_mib)
    found = replace(most, gflop=sum(found.gflop for found in each) / len(each))
    trained = config.network.text_encoder_steps
    if not (config.network.text_encoder and 0 < trained < config.steps and not config.epochs):
        return found
    network = replace(config.network, text_encoder=False, text_encoder_steps=0)
    after = _estimate(replace(config, network=network), unet, weights, device)
    share = trained / config.steps
    return replace(found, gflop=share * found.gflop + (1 - share) * after.gflop)


def _estimate_on(config: RunConfig, unet: UNetSize, weights: BlockWeights, device: str) -> Estimate:
    architecture, network = blocks.architecture(unet.architecture), config.network
    side = config.dataset.size or unet.native_size
    tokens = TOKENS if config.max_tokens is None else config.max_tokens + 2
    latent = ((config.dataset.height or side) // 8, side // 8)
    parts = [
        (block, part)
        for block, group in block_sizes(architecture, latent, unet.channels, unet.context, tokens).items()
        for part in group
    ]
    trains_text = network.text_encoder and weights.base != 0
    trained = [_is_trained(block, part, network, weights) for block, part in parts]
    first = next((i for i, flag in enumerate(trained) if flag), len(parts))
    if trains_text:
        first = min(first, next(i for i, (_, part) in enumerate(parts) if part.kind == "attn"))
    first_block = parts[first][0] if first < len(parts) else None
    split = is_split(architecture)
    macs, parameters, again = 0.0, 0, False
    front = _front(parts, first_block) if config.pool.draws else 0
    for index, (block, part) in enumerate(parts):
        forward = sum(layer.macs for layer in part.layers) + part.attention
        # A checkpoint holds a whole block, or a part from the first trained one on.
        again = again or (config.checkpointing and (index >= first if split else block == first_block))
        repeated = (part.repeated(trained[index]) if split else part.layers) if again else ()
        macs += forward * (index >= front)
        macs += sum(layer.macs for layer in repeated) + part.attention if again else 0
        if index >= first:
            backward = sum(layer.macs for layer in part.layers if trains_text or not layer.from_context)
            macs += backward + part.attention * (2.5 if unet.fused else 2.0)
        for layer in part.layers:
            rank = _rank(block, layer, network, weights)
            macs += (4 if layer in repeated else 3) * layer.lora_macs(rank)
            parameters += layer.lora_parameters(rank)
    if trains_text:
        parameters += _text_parameters(unet, network)
    kept_of = _kept_by_modules if config.checkpointing and split else partial(_kept, checkpointing=config.checkpointing)
    kept = kept_of(parts[first:], trained[first:], unet) * config.batch
    kept += _text_kept(unet) * config.batch * tokens / TOKENS if trains_text else 0
    widest = max(
        (y.outputs * y.positions for _, part in parts[first:] for y in part.layers if y.element == "ff"), default=0
    )
    mib = {"model": _resident(config, unet, trains_text, device), **_memory(config, unet, parameters, kept, device)}
    # The gradient of the largest activation; the network's come as activations go, and count where they are larger.
    gradients = widest * config.batch * unet.itemsize / MIB
    mib["gradients"] = max(gradients, parameters * 4 / MIB - mib["activations"])
    stored = _stored(config, unet, parts, first_block, device)
    mib["model"] += stored
    # Before the steps: while pictures are encoded, or the checkpoint is loaded, with its own weights.
    before = unet.loaded_mib + max(0.0, stored + _encoding(unet, latent)) + mib["overhead"]
    more = before - sum(mib.values())
    if more > 0:
        mib["encoding"] = more
    if config.loss.preservation:  # the class's prediction without the network, and with it and its gradient
        macs = 2 * macs + sum(sum(layer.macs for layer in part.layers) + part.attention for _, part in parts[front:])
    if _draws_pictures(config):
        macs += _encoder_macs(unet, latent)
    notices = (_pool_notice(config, unet, parts, first_block),) if config.pool.draws and first_block else ()
    return Estimate(0.0, 2e-9 * macs * config.batch, parameters, mib, first_block, notices=notices)


def _stored(
    config: RunConfig, unet: UNetSize, parts: Sequence[tuple[str, PartSize]], first_block: str | None, device: str
) -> float:
    """Return by how many MiB `WeightStorage` changes what the U-Net's weights take on the device."""
    if not (config.fp8 or config.offload) or not unet.movable:
        return 0.0
    embedding = 4 * (320 if unet.channels is None else unet.channels[0])  # width of the timestep's
    sizes = [
        [layer.inputs * layer.outputs * layer.kernel for layer in part.layers]
        + [part.layers[0].outputs * embedding] * (part.kind == "res")
        for _, part in parts
    ]
    if device == "cpu":  # its own weights stay beside what is kept
        return sum(map(sum, sizes)) / MIB if config.fp8 else 0.0
    each = 1 if config.fp8 else unet.itemsize
    saved = sum(map(sum, sizes)) * (unet.itemsize - each)
    saved += sum(map(sum, sizes[: _front(parts, first_block)])) * each if config.offload else 0
    return -saved / MIB


def _front(parts: Sequence[tuple[str, PartSize]], first_block: str | None) -> int:
    """Return how many parts are in front of a block."""
    return next((index for index, (block, _) in enumerate(parts) if block == first_block), len(parts))


def _pool_notice(config: RunConfig, unet: UNetSize, parts: Sequence[tuple[str, PartSize]], first_block: str) -> str:
    """Say what a pool keeps: the hidden state in front of the first trained block, and the open skip connections."""
    known, front = blocks.architecture(unet.architecture), _front(parts, first_block)
    outputs = {block: part.layers[0].outputs * part.layers[0].positions for block, part in parts[:front]}
    later = {known.block(b).skip for b in known.block_ids[known.block_ids.index(first_block) :] if b.startswith("OUT")}
    numbers = sum([size for block, size in outputs.items() if block in later] + [*outputs.values()][-1:])
    mib = numbers * (2 if config.pool.dtype == "bf16" else unet.itemsize) / MIB
    where = "on disk" if config.pool.keep == "disk" else "in this machine's memory"
    return (
        f"the pool keeps {where} {mib:.1f} MiB for each of the {config.pool.draws} draws of a picture; a step is"
        f" counted without what is in front of {first_block}, which each draw needs once"
    )


def _is_trained(block: str, part: PartSize, network: NetworkConfig, weights: BlockWeights) -> bool:
    return any(_rank(block, layer, network, weights) for layer in part.layers)


def _rank(block: str, layer: Layer, network: NetworkConfig, weights: BlockWeights) -> int:
    """Return the rank of this layer's module, 0 without one, as `plan_of` makes them."""
    if block == "IN00" or (layer.element == "conv" and not network.conv_rank):
        return 0
    weight = element_weight(weights, network, block, layer.element)
    settings = settings_of(weight, network, block, is_kernel=layer.kernel > 1)
    return 0 if settings is None else settings.rank


def _kept(parts: Sequence[tuple[str, PartSize]], trained: Sequence[bool], unet: UNetSize, checkpointing: bool) -> float:
    """Return how many numbers the backward pass through these parts keeps; with checkpointing one block's at a time."""
    by_block: dict[str, float] = {}
    outputs = 0
    for (block, part), has_modules in zip(parts, trained):
        kept = part.kept + has_modules * part.kept_trained + (0 if unet.fused else 3 * 8 * part.scores)
        by_block[block] = by_block.get(block, 0) + kept
        outputs += max((layer.outputs * layer.positions for layer in part.layers if layer.element == "conv"), default=0)
    return outputs + max(by_block.values(), default=0) if checkpointing else sum(by_block.values())


def _kept_by_modules(parts: Sequence[tuple[str, PartSize]], trained: Sequence[bool], unet: UNetSize) -> float:
    """Return how many numbers are kept where each transformer block and each other part is a checkpoint.

    The inputs of all so far, three maps around each row of transformer blocks, and what one checkpoint keeps.
    """
    inputs = largest = 0.0
    for (_, part), has_modules in zip(parts, trained):
        first, kept = part.layers[0], float(part.kept + has_modules * part.kept_trained)
        kept += 0 if unet.fused else 3 * 8 * part.scores
        if part.kind == "attn":
            depth, size = len(part.layers) // 10, first.outputs * first.positions
            inputs += size * (3 + depth)
            kept = (kept - 3 * size) / depth
        else:
            inputs += first.inputs * first.positions if part.kind == "res" else part.kept
        largest = max(largest, inputs + kept)  # what comes later is freed by then
    return largest


def _text_parameters(unet: UNetSize, network: NetworkConfig) -> int:
    return sum(layers * network.rank * (4 * 2 + 2 * 5) * width for layers, width in TEXT_ENCODERS[unet.architecture])


def _text_kept(unet: UNetSize) -> float:
    return sum(layers * width * 77 * _TEXT_KEPT for layers, width in TEXT_ENCODERS[unet.architecture])


def _resident(config: RunConfig, unet: UNetSize, trains_text: bool, device: str) -> float:
    """Return the MiB of the models that are on the device in the steps, as `TrainingData.idle` leaves them there."""
    if device == "cpu" or not unet.movable:
        return unet.loaded_mib
    own, encoders, vae = unet.parameters or PARAMETERS[unet.architecture]
    dataset = config.dataset
    encodes = trains_text or any(captions_vary(dataset.options_of(folder)) for folder in dataset.folders)
    return (own + (encoders if encodes else 0) + (vae if _draws_pictures(config) else 0)) * unet.itemsize / MIB


def _draws_pictures(config: RunConfig) -> bool:
    """Whether pictures are changed at random, so that the autoencoder encodes them in every step."""
    return any(pictures_vary(config.dataset.options_of(folder)) for folder in config.dataset.folders)


def _encoder_macs(unet: UNetSize, latent: tuple[int, int]) -> float:
    """Return the multiplications of the autoencoder for a picture; a narrow one's are left out."""
    if unet.channels is not None and unet.channels[0] < 320:
        return 0.0
    area = latent[0] * latent[1]
    return area * (64 * _ENCODER_MACS + 2 * 512 * area)


def _encoding(unet: UNetSize, latent: tuple[int, int]) -> float:
    """Return the MiB that the autoencoder takes for a picture beside its weights; a narrow one's are left out."""
    if unet.channels is not None and unet.channels[0] < 320:
        return 0.0
    return _ENCODED * 64 * latent[0] * latent[1] * unet.itemsize / MIB


def _memory(config: RunConfig, unet: UNetSize, parameters: int, kept: float, device: str) -> dict[str, float]:
    state = _OPTIMIZER_STATE.get(config.optimizer.name.lower(), 2.0)
    copies = 1 + (config.optimizer.ema > 0)  # the network and its average
    return {
        "network": parameters * 4 * copies / MIB,
        "optimizer": parameters * 4 * state / MIB,
        "activations": kept * unet.itemsize / MIB,
        "overhead": _OVERHEAD[device],
    }


def _alternatives(config: RunConfig, unet: UNetSize, device: str = "cuda") -> Iterator[tuple[str, Estimate]]:
    """Yield what could be chosen instead, and its estimate, but for what this run or this host cannot do."""
    for name, changes, weights in _ALTERNATIVES:
        if "fp8" in changes and not unet.movable:
            continue
        try:
            other = replace(config, **changes)
            other = with_batch(other, other.batch) if "batch" in changes else other
            if weights is not None:
                other = replace(other, network=replace(other.network, weights=weights, text_encoder=False))
        except ConfigError:  # with compile, or another algorithm
            continue
        yield name, _estimate(other, unet, read_weights(other.network, unet.architecture)[0], device)


def _what_fits(config: RunConfig, unet: UNetSize, free: float, device: str) -> tuple[str, ...]:
    fitting = [name for name, other in _alternatives(config, unet, device) if other.total_mib <= free]
    return tuple(fitting[:2])
