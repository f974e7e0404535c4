"""The blocks of Stable Diffusion's U-Net, as data, and the block of any layer name or LoRA key.

A block is one entry of the original model's `input_blocks`, `middle_block` and `output_blocks`. Three spellings of
the same layer are in use: LDM's (`input_blocks.4.1`), diffusers' (`down_blocks.1.attentions.0`), and the keys of
network files, which are either of them with underscores and a prefix.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

KEPT_NAMES = 1 << 14  # answers about names that are kept: a large network file has three thousand, and they repeat
BASE, REST = "BASE", "REST"  # text encoders; U-Net layers outside the blocks
BLOCK_IDS = (*(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))

# One row per block, in the order of the forward pass: id, parts, depth of its transformer, output channels, share of
# one U-Net call in %. The shares are of FLOP (torch.utils.flop_counter, batch 1, 77 tokens) at the native size;
# tests/test_blocks.py counts them. Everything else follows from these rows.
_SD1_ROWS = (
    ("IN00", "conv", 0, 320, 0.01),
    ("IN01", "res attn", 1, 320, 6.70),
    ("IN02", "res attn", 1, 320, 6.70),
    ("IN03", "down", 0, 320, 0.23),
    ("IN04", "res attn", 1, 640, 3.93),
    ("IN05", "res attn", 1, 640, 4.35),
    ("IN06", "down", 0, 640, 0.23),
    ("IN07", "res attn", 1, 1280, 3.64),
    ("IN08", "res attn", 1, 1280, 4.06),
    ("IN09", "down", 0, 1280, 0.23),
    ("IN10", "res", 0, 1280, 0.47),
    ("IN11", "res", 0, 1280, 0.47),
    ("M00", "res attn res", 1, 1280, 1.51),
    ("OUT00", "res", 0, 1280, 0.76),
    ("OUT01", "res", 0, 1280, 0.76),
    ("OUT02", "res up", 0, 1280, 1.70),
    ("OUT03", "res attn", 1, 1280, 5.21),
    ("OUT04", "res attn", 1, 1280, 5.21),
    ("OUT05", "res attn up", 1, 1280, 8.45),
    ("OUT06", "res attn", 1, 640, 6.54),
    ("OUT07", "res attn", 1, 640, 5.50),
    ("OUT08", "res attn up", 1, 640, 8.73),
    ("OUT09", "res attn", 1, 320, 8.89),
    ("OUT10", "res attn", 1, 320, 7.85),
    ("OUT11", "res attn", 1, 320, 7.85),
)
# SD2 has SD1's blocks; at 768 px its attention is a larger share.
_SD2_SHARES = (
    0.01, 8.44, 8.44, 0.20, 3.65, 4.00, 0.20, 3.09, 3.45, 0.20, 0.40, 0.40, 1.26,
    0.64, 0.64, 1.43, 4.41, 4.41, 7.13, 5.84, 4.97, 7.69, 10.29, 9.41, 9.41,
)  # fmt: skip
_SD2_ROWS = tuple((*row[:4], share) for row, share in zip(_SD1_ROWS, _SD2_SHARES, strict=True))
_SDXL_ROWS = (
    ("IN00", "conv", 0, 320, 0.01),
    ("IN01", "res", 0, 320, 0.89),
    ("IN02", "res", 0, 320, 0.89),
    ("IN03", "down", 0, 320, 0.11),
    ("IN04", "res attn", 2, 640, 3.89),
    ("IN05", "res attn", 2, 640, 4.09),
    ("IN06", "down", 0, 640, 0.11),
    ("IN07", "res attn", 10, 1280, 10.70),
    ("IN08", "res attn", 10, 1280, 10.90),
    ("M00", "res attn res", 10, 1280, 11.79),
    ("OUT00", "res attn", 10, 1280, 11.44),
    ("OUT01", "res attn", 10, 1280, 11.44),
    ("OUT02", "res attn up", 10, 1280, 12.98),
    ("OUT03", "res attn", 2, 640, 5.13),
    ("OUT04", "res attn", 2, 640, 4.63),
    ("OUT05", "res attn up", 2, 640, 6.17),
    ("OUT06", "res", 0, 320, 1.94),
    ("OUT07", "res", 0, 320, 1.44),
    ("OUT08", "res", 0, 320, 1.44),
)

# The layers with parameters of each kind of part: LDM's name to diffusers'.
_INNER_NAMES = {
    "conv": {},
    "res": {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    },
    "attn": {"norm": "norm", "proj_in": "proj_in", "proj_out": "proj_out"},  # and transformer_blocks.0, 1, ...
    "down": {"op": "conv"},
    "up": {"conv": "conv"},
}
_REST_LAYERS = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
)
_SDXL_REST_LAYERS = (
    *_REST_LAYERS,
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
)
_REST_WITHOUT_PARAMETERS = ("time_proj", "add_time_proj", "out.1", "conv_act")

# The prefixes of a U-Net layer's name in checkpoints, network files and A1111's `network_layer_name`, in any sequence:
# "unet.base_model.model." and "model.diffusion_model." both occur.
_WRAPPERS = re.compile(r"(?:(?:base_model|model|diffusion_model|unet|lora|oft|lycoris|[01])_)+")
_TEXT_ENCODER = re.compile(
    r"(?:te\d?|text_encoders?|text_model|cond_stage_model|conditioner|clip_[lgh]|transformer_(?:text_model|resblocks))"
    r"(?:_|$)"
)

# Keys that narrow the architecture down more than their block does.
_TELLING_KEYS = (
    (re.compile(r"(?:^|_)te[12]_|text_encoder_2_|conditioner_embedders_|clip_g_"), {"sdxl"}),
    (re.compile(r"transformer_blocks_[1-9]"), {"sdxl"}),  # SD1's and SD2's transformers are one deep
    (re.compile(r"clip_h_"), {"sd2"}),
    (re.compile(r"^lora_te_|cond_stage_model_"), {"sd1", "sd2"}),
)
_KOHYA_UNET = re.compile(r"lora_unet_(?:(?P<ldm>(?:input|middle|output)_block)|(?:down|mid|up)_block)")
_LONG_TEXT_ENCODER = re.compile(r"layers[._](?:1[2-9]|2\d)[._]|resblocks[._]\d")  # SD2's OpenCLIP; SD1's CLIP has 12
_CONTEXT_INPUT = re.compile(
    r"attn2_(?:processor_)?to_[kv]_(?:weight|diff|lora_down_weight|lora_A_|hada_w[12]_b|(?P<lokr>lokr_w2(?:_b)?))"
)


class UnknownLayerError(ValueError):
    """A name that is no layer of this architecture."""


@dataclass(frozen=True)
class Part:
    """A part of a block: "conv", "res" (residual block), "attn" (transformer), "down" or "up", and its names."""

    kind: str
    ldm: str
    diffusers: str
    depth: int = 0  # transformer blocks in an "attn"
    widens: bool = False  # a "res" with a skip convolution, since its input and output differ in channels

    @property
    def lora_modules(self) -> int:
        """Number of modules of a plain LoRA: 2 projections, and 8 attention and 2 feed-forward layers per depth."""
        return 2 + 10 * self.depth if self.kind == "attn" else 0

    @property
    def locon_modules(self) -> int:
        """Number of modules of a LoCon, which has the convolutions too; kohya's leaves `conv_in` (IN00) out."""
        return {"conv": 0, "res": 3 + self.widens, "attn": self.lora_modules, "down": 1, "up": 1}[self.kind]


@dataclass(frozen=True)
class Block:
    """A block: `resolution_*` divide the latent's side (1, 2, 4, 8), `forward_share` is in % of one U-Net call.

    `channels_in` includes those of the skip connection of an OUT block; `skip` is the block at its other end.
    """

    id: str
    ldm: str
    parts: tuple[Part, ...]
    resolution_in: int
    resolution_out: int
    channels_in: int
    channels: int
    skip: str | None
    forward_share: float

    @property
    def layers(self) -> tuple[str, ...]:
        """The kinds of its parts, e.g. ("res", "attn")."""
        return tuple(part.kind for part in self.parts)

    @property
    def diffusers(self) -> tuple[str, ...]:
        """The names of its parts in diffusers' spelling."""
        return tuple(part.diffusers for part in self.parts)

    @property
    def lora_modules(self) -> int:
        return sum(part.lora_modules for part in self.parts)

    @property
    def locon_modules(self) -> int:
        return sum(part.locon_modules for part in self.parts)


@dataclass(frozen=True)
class Architecture:
    """A U-Net by its blocks, in the order of the forward pass; `native_size` is in pixels.

    `rest_layers` are the layers outside the blocks, each by its LDM and its diffusers name.
    """

    id: str
    title: str
    blocks: tuple[Block, ...]
    rest_layers: tuple[tuple[str, str], ...]
    context_width: int
    native_size: int

    @property
    def block_ids(self) -> tuple[str, ...]:
        return tuple(block.id for block in self.blocks)

    def block(self, block_id: str) -> Block:
        """Return the block of this id, or raise ValueError."""
        for block in self.blocks:
            if block.id == block_id:
                return block
        ids = self.block_ids
        raise ValueError(f"{self.title} has no block {block_id!r}: expected {ids[0]}..{ids[-1]}, M00 among them")


def _diffusers_name(block_id: str, kind: str, position: int) -> str:
    """Return diffusers' name of the part at this position of a block; a stage of diffusers is three LDM blocks."""
    if kind == "conv":
        return "conv_in"
    if block_id == "M00":
        return f"mid_block.resnets.{position // 2}" if kind == "res" else "mid_block.attentions.0"
    if block_id.startswith("IN"):
        side, (stage, index) = "down", divmod(int(block_id[2:]) - 1, 3)
    else:
        side, (stage, index) = "up", divmod(int(block_id[3:]), 3)
    if kind in ("down", "up"):
        return f"{side}_blocks.{stage}.{kind}samplers.0"
    return f"{side}_blocks.{stage}.{'resnets' if kind == 'res' else 'attentions'}.{index}"


def _ldm_name(block_id: str) -> str:
    if block_id == "M00":
        return "middle_block"
    return f"input_blocks.{int(block_id[2:])}" if block_id.startswith("IN") else f"output_blocks.{int(block_id[3:])}"


def _blocks(rows: Sequence[tuple[str, str, int, int, float]]) -> tuple[Block, ...]:
    """Return the blocks of these rows; channels, resolutions and skip connections follow from the forward pass."""
    blocks: list[Block] = []
    channels_of = {row[0]: row[3] for row in rows}
    channels, divisor = 4, 1  # of the latent
    for (block_id, kinds, depth, channels_out, share), (mirrored, *_) in zip(rows, reversed(rows), strict=True):
        skip = None if block_id == "M00" else mirrored
        channels_in = channels + channels_of[mirrored] if block_id.startswith("OUT") else channels
        ldm = _ldm_name(block_id)
        parts = tuple(
            Part(
                kind,
                f"{ldm}.{position}",
                _diffusers_name(block_id, kind, position),
                depth=depth if kind == "attn" else 0,
                widens=kind == "res" and channels_in != channels_out,
            )
            for position, kind in enumerate(kinds.split())
        )
        divisor_out = divisor * 2 if "down" in kinds else divisor // (2 if "up" in kinds else 1)
        blocks.append(Block(block_id, ldm, parts, divisor, divisor_out, channels_in, channels_out, skip, share))
        channels, divisor = channels_out, divisor_out
    return tuple(blocks)


ARCHITECTURES = {
    architecture.id: architecture
    for architecture in (
        Architecture("sd1", "SD1", _blocks(_SD1_ROWS), _REST_LAYERS, context_width=768, native_size=512),
        Architecture("sd2", "SD2", _blocks(_SD2_ROWS), _REST_LAYERS, context_width=1024, native_size=768),
        Architecture("sdxl", "SDXL", _blocks(_SDXL_ROWS), _SDXL_REST_LAYERS, context_width=2048, native_size=1024),
    )
}


def architecture(architecture_id: str) -> Architecture:
    """Return the architecture of this id ("sd1", "sd2", "sdxl"), or raise ValueError."""
    if architecture_id not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture_id!r}: expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture_id]


@lru_cache(maxsize=KEPT_NAMES)
def block_of(name: str, architecture: str) -> str:
    """Return the block of a layer or key: one of the architecture's block ids, BASE or REST.

    Reads LDM and diffusers names, dotted or with underscores, with the prefixes of checkpoints, kohya, LyCORIS and
    PEFT, and with any suffix (".lora_down.weight"). Raises UnknownLayerError for everything else.
    """
    block_id = _find_block(name, architecture)
    if block_id is None:
        raise _unknown(name, architecture, [other for other in ARCHITECTURES if _find_block(name, other)])
    return block_id


def ldm_to_diffusers(name: str, architecture: str) -> str:
    """Translate the dotted name of a U-Net layer or parameter, e.g. "input_blocks.0.0.weight" -> "conv_in.weight".

    Raises UnknownLayerError, also for a whole block: diffusers has no name for one.
    """
    return _translate(name, architecture, to_diffusers=True)


def diffusers_to_ldm(name: str, architecture: str) -> str:
    """Translate the dotted name of a U-Net layer or parameter, e.g. "conv_in.weight" -> "input_blocks.0.0.weight".

    Raises UnknownLayerError.
    """
    return _translate(name, architecture, to_diffusers=False)


def spans(block_ids: Iterable[str], order: Sequence[str] = BLOCK_IDS) -> str:
    """Return a short list of blocks, such as "IN00, IN03, IN09-OUT02": three or more in a row become a range.

    Blocks that are not in the order (BASE, REST) are in no range.
    """
    index_of = {block_id: index for index, block_id in enumerate(order)}
    runs: list[list[str]] = []
    for block_id in block_ids:
        if runs and block_id in index_of and index_of.get(runs[-1][-1], -2) + 1 == index_of[block_id]:
            runs[-1].append(block_id)
        else:
            runs.append([block_id])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def detect_architecture(keys: Iterable[str], shapes: Mapping[str, Sequence[int]] | None = None) -> str:
    """Return the architecture of a network file or checkpoint by its keys and, where given, their tensors' shapes.

    The layers that the keys name decide between SDXL and the others. Where all of these exist in both, the width of the
    text context decides (768, 1024, 2048), then the spelling: kohya writes LDM names for SDXL only. SD1 and SD2 have
    the same layers; the context's width or the length of the text encoder tells them apart. Where neither does (no
    shapes, or an unknown width, as in a test model), the answer is "sd1". Raises ValueError, with a key, when the keys
    do not decide.
    """
    keys = list(keys)
    fitting, witness = set(ARCHITECTURES), None  # the key that narrowed the choice
    for key in keys:
        homes = _homes(key)
        if homes and not fitting & homes:
            raise ValueError(f"keys of several architectures: {witness!r} is of {_titles(fitting)}, {key!r} is not")
        if homes and fitting - homes:
            fitting, witness = fitting & homes, key

    width = _context_width(shapes or {})
    for known in ARCHITECTURES.values():
        if known.context_width == width and known.id in fitting:
            return known.id
    if len(fitting) == len(ARCHITECTURES):
        custom = next((found for key in keys if (found := _KOHYA_UNET.match(key))), None)
        if custom is None:
            example = f", e.g. {keys[0]!r}" if keys else ""
            raise ValueError(f"cannot tell {_titles(ARCHITECTURES)} apart by {len(keys)} keys{example}")
        fitting = {"sdxl"} if custom["ldm"] else {"sd1", "sd2"}
    if "sdxl" in fitting:
        return "sdxl"
    if len(fitting) == 1:
        return fitting.pop()
    return "sd2" if any(_LONG_TEXT_ENCODER.search(key) for key in keys) else "sd1"


def _bare(name: str) -> str:
    """Return the name with underscores and without the prefixes of a U-Net or text encoder."""
    flat = name.replace(".", "_")
    wrapped = _WRAPPERS.match(flat)
    return flat[wrapped.end() :] if wrapped else flat


def _find_block(name: str, architecture_id: str) -> str | None:
    prefixes, containers = _block_names(architecture_id)
    bare = _bare(name)
    if _TEXT_ENCODER.match(bare):
        return BASE
    if bare in containers:
        return containers[bare]
    tokens = bare.split("_")
    heads = ("_".join(tokens[:count]) for count in range(2, 6))  # from "conv_in" to "down_blocks_1_attentions_0"
    return next((prefixes[head] for head in heads if head in prefixes), None)


@cache
def _block_names(architecture_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return flat name -> block: of layers and parts, matched as prefixes, and of containers, matched whole."""
    found = architecture(architecture_id)
    prefixes = {name: block.id for block in found.blocks for part in block.parts for name in (part.ldm, part.diffusers)}
    containers = {block.ldm: block.id for block in found.blocks} | {"mid_block": "M00"}
    for name in (*(name for names in found.rest_layers for name in names), *_REST_WITHOUT_PARAMETERS):
        top = name.split(".")[0]
        containers[top] = REST
        prefixes[name if top == "out" else top] = REST  # "out" alone begins too many other names
    return _flat(prefixes), _flat(containers)


def _flat(table: Mapping[str, str]) -> dict[str, str]:
    return {name.replace(".", "_"): block_id for name, block_id in table.items()}


@cache
def _layer_names(architecture_id: str, to_diffusers: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Return name -> name in the other spelling: of layers, matched as prefixes, and of parts, matched whole."""
    found = architecture(architecture_id)
    layers = dict(found.rest_layers)
    parts: dict[str, str] = {}
    for part in (part for block in found.blocks for part in block.parts):
        parts[part.ldm] = part.diffusers
        if part.kind == "conv":
            layers[part.ldm] = part.diffusers
        for ldm, diffusers in _INNER_NAMES[part.kind].items():
            # The skip convolution is in every "res": models of other widths have it where SD's do not.
            layers[f"{part.ldm}.{ldm}"] = f"{part.diffusers}.{diffusers}"
        for index in range(part.depth):
            name = f"transformer_blocks.{index}"
            layers[f"{part.ldm}.{name}"] = f"{part.diffusers}.{name}"
    if to_diffusers:
        return layers, parts
    return {diffusers: ldm for ldm, diffusers in layers.items()}, {diffusers: ldm for ldm, diffusers in parts.items()}


def _translate(name: str, architecture_id: str, to_diffusers: bool) -> str:
    translated = _find_translation(name, architecture_id, to_diffusers)
    if translated is None:
        raise _unknown(name, architecture_id, [i for i in ARCHITECTURES if _find_translation(name, i, to_diffusers)])
    return translated


def _find_translation(name: str, architecture_id: str, to_diffusers: bool) -> str | None:
    layers, parts = _layer_names(architecture_id, to_diffusers)
    if name in parts:
        return parts[name]
    tokens = name.split(".")
    for count in range(len(tokens), 0, -1):
        head = layers.get(".".join(tokens[:count]))
        if head:
            return ".".join([head, *tokens[count:]])
    return None


def _unknown(name: str, architecture_id: str, homes: Iterable[str]) -> UnknownLayerError:
    elsewhere = f" (it is one of {_titles(homes)})" if homes else ""
    return UnknownLayerError(f"{name!r} is no layer of {_titles([architecture_id])}{elsewhere}")


def _titles(architecture_ids: Iterable[str]) -> str:
    return " or ".join(known.title for known in ARCHITECTURES.values() if known.id in architecture_ids)


@lru_cache(maxsize=KEPT_NAMES)
def _homes(key: str) -> frozenset[str]:
    """Return the architectures that have the layer of this key."""
    flat = key.replace(".", "_")
    having = frozenset(known for known in ARCHITECTURES if _find_block(key, known))
    told = next((homes for pattern, homes in _TELLING_KEYS if pattern.search(flat)), having)
    return having & told


def _context_width(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Return the width of the text context, the input width of a cross attention's keys and values; None if unknown."""
    for key, shape in shapes.items():
        found = _CONTEXT_INPUT.search(key.replace(".", "_"))
        if not found or len(shape) < 2:
            continue
        if not found["lokr"]:
            return shape[1]
        stem = key[: key.rindex("lokr_w2")]  # the input width of a Kronecker product is the product of its factors'
        other = shapes.get(f"{stem}lokr_w1") or shapes.get(f"{stem}lokr_w1_b") or ()
        if len(other) >= 2:
            return shape[1] * other[1]
    return None
