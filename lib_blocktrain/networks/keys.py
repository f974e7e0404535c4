"""The keys of network files: their algorithm, layer and tensor name. Standard library only.

Every trainer spells a layer differently. Here each becomes one *key*, the one that kohya's sd-scripts writes and the
WebUI reads: `lora_unet_` and the layer's path with underscores (diffusers' path for SD1 and SD2, LDM's for SDXL),
`lora_te_` (SDXL `lora_te1_`, `lora_te2_`) and CLIP's path as in transformers. The *tensor name* follows it:
"lora_down.weight", "alpha".
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from lib_blocktrain.blocks import KEPT_NAMES, UnknownLayerError, block_of, diffusers_to_ldm, ldm_to_diffusers

Shapes = Mapping[str, Sequence[int]]

UNET, TE, TE1, TE2 = "unet", "te", "te1", "te2"  # the components of a model; SDXL has te1 and te2, the others te


@dataclass(frozen=True)
class Algorithm:
    """How to recognise an algorithm by a module's tensor names and, for OFT and BOFT, their number of dimensions."""

    id: str
    needs: tuple[frozenset[str], ...]  # any one of these sets
    may: frozenset[str] = frozenset()
    rank: Callable[[Shapes], int | None] = lambda shapes: None
    dimensions: Mapping[str, int] = field(default_factory=dict)

    @property
    def tensor_names(self) -> frozenset[str]:
        """All tensor names that a module of this algorithm can have."""
        return self.may.union(*self.needs)

    def matches(self, shapes: Shapes) -> bool:
        """Whether tensors of these names and shapes are a module of this algorithm."""
        named = any(names <= shapes.keys() for names in self.needs)
        return named and all(len(shapes[name]) == count for name, count in self.dimensions.items() if name in shapes)


def _first_size(*names: str) -> Callable[[Shapes], int | None]:
    return lambda shapes: next((shapes[name][0] for name in names if shapes.get(name)), None)


def glora_is_todays(shapes: Shapes) -> bool:
    """Whether a GLoRA's tensors are in today's layout (see `adapters.glora`), by which of the two fits their shapes.

    Both fit where the layer has as many inputs as outputs: a rank is not larger than these. Where it equals them, the
    answer is True.
    """
    a1, a2, b1, b2 = (shapes[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    today, first = _glora_fits(a1, a2, b1, b2), _glora_fits(a2, a1, b2, b1)
    return a1[0] >= a1[1] if today == first else today


def _glora_fits(*shapes: Sequence[int]) -> bool:
    """Whether these are (in, rank), (rank, in), (out, rank), (rank, in[, k, k]), each with [, 1, 1] or without."""
    a_up, a_down, b_up, b_down = (tuple(shape) for shape in shapes)
    rank_in = a_up[1::-1]
    pointwise = {1}.issuperset((*a_up[2:], *a_down[2:], *b_up[2:]))
    return pointwise and a_down[:2] == rank_in == b_down[:2] and b_up[1] == a_up[1]


def _glora_rank(shapes: Shapes) -> int | None:
    if any(len(shapes[f"{name}.weight"]) < 2 for name in ("a1", "a2", "b1", "b2")):
        return None
    return shapes["a1.weight"][1 if glora_is_todays(shapes) else 0]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALGORITHMS = {
    algorithm.id: algorithm
    for algorithm in (
        Algorithm(
            "lora",
            needs=(_names("lora_down.weight lora_up.weight"),),
            may=_names("lora_mid.weight alpha dora_scale"),
            rank=_first_size("lora_down.weight"),
        ),
        Algorithm(
            "loha",
            needs=(_names("hada_w1_a hada_w1_b hada_w2_a hada_w2_b"),),
            may=_names("hada_t1 hada_t2 alpha dora_scale"),
            rank=_first_size("hada_w1_b"),
        ),
        Algorithm(
            "lokr",
            needs=tuple(
                _names(f"{first} {second}")
                for first in ("lokr_w1", "lokr_w1_a lokr_w1_b")
                for second in ("lokr_w2", "lokr_w2_a lokr_w2_b")
            ),
            may=_names("lokr_t2 alpha dora_scale"),
            rank=_first_size("lokr_w2_b", "lokr_w1_b"),
        ),
        Algorithm(
            "glora",
            needs=(_names("a1.weight a2.weight b1.weight b2.weight"),),
            may=_names("alpha"),
            rank=_glora_rank,
        ),
        Algorithm(
            "oft",
            needs=(_names("oft_blocks"), _names("oft_diag")),
            may=_names("rescale alpha"),
            dimensions={"oft_blocks": 3, "oft_diag": 3},
        ),
        Algorithm("boft", needs=(_names("oft_blocks"),), may=_names("rescale alpha"), dimensions={"oft_blocks": 4}),
        Algorithm("full", needs=(_names("diff"), _names("diff_b")), may=_names("alpha")),
        Algorithm("norm", needs=(_names("w_norm"), _names("b_norm")), may=_names("alpha")),
        Algorithm("ia3", needs=(_names("weight on_input"),)),
        Algorithm(
            "tlora",
            needs=(_names("q_layer.weight p_layer.weight lambda_layer"),),
            may=_names("alpha"),
            rank=_first_size("q_layer.weight"),
        ),
    )
}

# Spellings of tensor names other than kohya's. PEFT may put its adapter's name ("default") before ".weight".
_FOREIGN_TENSORS = (
    (re.compile(r"\.lora_A(\.\w+)?\.weight$"), "lora_down.weight"),
    (re.compile(r"\.lora_B(\.\w+)?\.weight$"), "lora_up.weight"),
    (re.compile(r"\.lora_magnitude_vector(\.\w+){0,2}$"), "dora_scale"),
    (re.compile(r"(\.lora|_lora|\.lora_linear_layer)\.down\.weight$"), "lora_down.weight"),
    (re.compile(r"(\.lora|_lora|\.lora_linear_layer)\.up\.weight$"), "lora_up.weight"),
)
_TENSOR_NAMES = set().union(*(algorithm.tensor_names for algorithm in ALGORITHMS.values()))
_KNOWN_TENSORS = re.compile(rf"(?P<module>.+?)\.(?P<tensor>{'|'.join(map(re.escape, sorted(_TENSOR_NAMES)))})$")

_WRAPPERS = re.compile(r"(?:(?:base_model|model|diffusion_model|unet|lora|oft|lycoris)[._])+")
_UNET_PATH = re.compile(
    r"(?:(?P<ldm>input_blocks|middle_block|output_blocks|time_embed|label_emb|out)"
    r"|down_blocks|mid_block|up_blocks|time_embedding|add_embedding|conv_in|conv_out|conv_norm_out)(?:[._]|$)"
)
# Names of text encoders: kohya's and diffusers', ComfyUI's and OneTrainer's, a checkpoint's, and the numbers by which
# A1111 tells those of SDXL apart.
_TEXT_ENCODER = re.compile(
    r"(?:(?P<second>te2|text_encoder_2|(?:text_encoders[._])?clip_g|conditioner[._]embedders[._]1|1)"
    r"|te1?|text_encoder|(?:text_encoders[._])?clip_[lh]|conditioner[._]embedders[._]0|cond_stage_model|0)[._](?P<path>.+)"
)
_CLIP_PATH = re.compile(r"(?:.*[._])?(?:text_model|resblocks)[._]")
# The names in a U-Net's paths that have an underscore of their own, after all underscores have become dots.
_WORDS = re.compile(
    r"(?:down|mid|up|input|middle|output|transformer)\.blocks?|time\.emb\.proj|time\.embed(?:ding)?|add\.embedding"
    r"|label\.emb|emb\.layers|in\.layers|out\.layers|skip\.connection|conv\.shortcut|conv\.norm\.out|conv\.(?:in|out)"
    r"|proj\.(?:in|out)|to\.(?:q|k|v|out)|linear\.[12]"
)
_OPENCLIP_NAMES = (
    ("mlp_c_fc", "mlp_fc1"),
    ("mlp_c_proj", "mlp_fc2"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn", "self_attn"),
)


def algorithm_of(shapes: Shapes) -> Algorithm | None:
    """Return the algorithm of a module by its tensors' names and shapes, None if it is unknown."""
    return next((algorithm for algorithm in ALGORITHMS.values() if algorithm.matches(shapes)), None)


@lru_cache(maxsize=KEPT_NAMES)
def split_key(source: str) -> tuple[str, str] | None:
    """Split a file's key into its module and kohya's tensor name; None if the tensor is unknown.

    "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight" -> ("unet.down_blocks.0.attentions.0.proj_in",
    "lora_down.weight")
    """
    for pattern, tensor in _FOREIGN_TENSORS:
        found = pattern.search(source)
        if found:
            return source[: found.start()], tensor
    found = _KNOWN_TENSORS.match(source)
    return (found["module"], found["tensor"]) if found else None


@lru_cache(maxsize=KEPT_NAMES)
def key_of(layer: str, architecture: str, component: str | None = None) -> str:
    """Return the key of a layer, or of a file's module, from any spelling.

    Give the `component` where the path does not tell it, as for the layers of a loaded text encoder. Raises
    UnknownLayerError for a name that is no layer of this architecture.
    """
    if component is None:
        component, layer = component_and_path(layer)
    if component == UNET:
        key = f"lora_unet_{_unet_path(layer, architecture).replace('.', '_')}"
    else:
        key = f"lora_{component_in(component, architecture)}_{_text_encoder_path(layer)}"
    block_of(key, architecture)
    return key


def component_of(key: str) -> str:
    """Return the component of a key as `key_of` makes it: "unet", "te", "te1" or "te2"."""
    return key.split("_")[1]


def component_in(component: str, architecture: str) -> str:
    """Return a component's name in this architecture: the first text encoder is "te1" in SDXL, else "te"."""
    first = TE1 if architecture == "sdxl" else TE
    return first if component in (TE, TE1) else component


def modules_in(sources: Iterable[str], architecture: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return a file's modules, {key: {tensor name: key in the file}}, and its keys that belong to no known module.

    Raises ValueError if a file has the same tensor in two spellings.
    """
    modules: dict[str, dict[str, str]] = {}
    unread = []
    for source in sources:
        module, tensor = split_key(source) or ("", "")
        try:
            key = key_of(module, architecture)
        except UnknownLayerError:
            unread.append(source)
            continue
        tensors = modules.setdefault(key, {})
        if tensor in tensors:
            raise ValueError(f"{source!r} and {tensors[tensor]!r} are the same tensor of {key}: expected one of them")
        tensors[tensor] = source
    return modules, unread


def unet_layer(source: str) -> bool:
    """Whether a file's key is a network's tensor for a layer of some U-Net, not necessarily of one of ours."""
    module, tensor = split_key(source) or ("", "weight")  # a tensor called "weight" may be anything, an embedding too
    return tensor != "weight" and component_and_path(module)[0] == UNET


def unwrapped(path: str) -> str:
    """Return the path without the prefixes of checkpoints and trainers."""
    wrapped = _WRAPPERS.match(path)
    return path[wrapped.end() :] if wrapped else path


def component_and_path(module: str) -> tuple[str, str]:
    """Return the component that a module's prefix names, and the rest of the module."""
    bare = unwrapped(module)
    found = _TEXT_ENCODER.match(bare)
    if found:
        return (TE2 if found["second"] else TE), found["path"]
    return (TE if _CLIP_PATH.match(bare) else UNET), bare


def _unet_path(path: str, architecture: str) -> str:
    """Return the dotted path of a U-Net layer in the spelling of this architecture's network files."""
    path = unwrapped(path)
    if "." not in path:
        path = _WORDS.sub(lambda word: word[0].replace(".", "_"), path.replace("_", "."))
    path = path.replace(".processor.", ".")
    if path.endswith(".to_out"):  # diffusers' old attention processors
        path += ".0"
    found = _UNET_PATH.match(path)
    if found and architecture == "sdxl" and not found["ldm"]:
        return diffusers_to_ldm(path, architecture)
    if found and architecture != "sdxl" and found["ldm"]:
        return ldm_to_diffusers(path, architecture)
    return path


def _text_encoder_path(path: str) -> str:
    """Return the flat path of a CLIP layer as transformers names it, from OpenCLIP's and old diffusers' too."""
    flat = path.replace(".", "_")
    openclip = re.search(r"resblocks_(\d+)_(.+)", flat)
    if openclip:
        number, inner = openclip.groups()
        for foreign, name in _OPENCLIP_NAMES:
            if inner.startswith(foreign):
                inner = name + inner[len(foreign) :]
                break
        return f"text_model_encoder_layers_{number}_{inner}"
    transformers = re.search(r"encoder_layers_(\d+)_(.+)", flat)
    if transformers:
        number, inner = transformers.groups()
        inner = re.sub(r"^self_attn_to_(q|k|v|out)$", r"self_attn_\1_proj", inner)
        return f"text_model_encoder_layers_{number}_{inner}"
    return flat.removeprefix("transformer_")
