"""What a network file contains, by its header alone: whose it is, its modules, and what nobody reads in it.

Standard library only. Whatever opens a network file begins here, so that a list, `inspect`, `similar` and the reader
itself say the same of it.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from lib_blocktrain import blocks
from lib_blocktrain.blocks import ARCHITECTURES, block_of
from lib_blocktrain.networks.header import Header, NetworkFileError, parse_header, read_header, read_header_text
from lib_blocktrain.networks.keys import Algorithm, algorithm_of, modules_in, unet_layer, unwrapped
from lib_blocktrain.networks.peft_config import alphas_of, configuration_text

_HASH = "sshs_model_hash"
_BLOCK = 2**20  # bytes read at once
MAX_KNOWN = 1000  # of the descriptions that are kept; each is a few kB
REFUSED = "not a network for SD1, SD2 or SDXL"

# How the keys of other models begin, after the prefixes of trainers, with underscores; the most specific first. Their
# text encoders may be CLIP, whose keys are those of ours, so that one such key decides.
_OTHER_MODELS = tuple(
    (title, re.compile(rf"(?:transformer_)?(?:{pattern})"))
    for title, pattern in (
        ("Flux or a model built like it", r"(?:double|single|single_transformer)_blocks_\d"),
        ("SD3", r"joint_blocks_\d"),
        ("a diffusion transformer, such as SD3, Flux or PixArt", r"transformer_blocks_\d"),
        ("Anima or a model built like Cosmos", r"blocks_\d+_(?:self|cross)_attn_(?:[qkv]|output)_proj|llm_adapter_"),
        ("Wan or a model built like it", r"blocks_\d+_(?:self|cross)_attn_"),
        ("Lumina, Z-Image or a model built like them", r"layers_\d+_(?:attention|feed_forward)_|noise_refiner_\d"),
        ("SD3 or Flux: it has a T5 text encoder", r"(?:te3|text_encoder_3|(?:text_encoders_)?t5(?:xxl)?)_"),
    )
)
_ANY_OTHER = re.compile("|".join(pattern.pattern for _, pattern in _OTHER_MODELS))


@dataclass(frozen=True)
class Contents:
    """The modules that an algorithm recognises, {key: {tensor name: key in the file}}, and their algorithms by key.

    `alphas` are those that PEFT keeps outside the tensors, by key; `unread` are the file's keys that belong to no
    module; `notices` say what else a user should know.
    """

    architecture: str
    modules: Mapping[str, Mapping[str, str]]
    algorithms: Mapping[str, Algorithm]
    alphas: Mapping[str, float]
    unread: tuple[str, ...]
    notices: tuple[str, ...]


def contents_of(path: Path, header: Header) -> Contents:
    """Return what a network file with this header contains, or raise NetworkFileError."""
    shapes = header.shapes
    _refuse_other_models(path, shapes)
    try:
        architecture = blocks.detect_architecture(shapes, shapes)
    except ValueError as error:
        raise NetworkFileError(f"{path}: {REFUSED}: {error}") from error
    try:
        sources, unread = modules_in(shapes, architecture)
    except ValueError as error:
        raise NetworkFileError(f"{path}: {error}") from error
    _refuse_other_unets(path, architecture, sources, unread)
    algorithms: dict[str, Algorithm] = {}
    for key, tensors in sources.items():
        algorithm = algorithm_of({tensor: shapes[source] for tensor, source in tensors.items()})
        known = algorithm.tensor_names if algorithm else frozenset()
        unread += [source for tensor, source in tensors.items() if tensor not in known]
        if algorithm:
            algorithms[key] = algorithm
    if not algorithms:
        example = f", e.g. {unread[0]!r}" if unread else ""
        raise NetworkFileError(f"{path}: no network modules among its {len(shapes)} keys{example}")
    modules = {key: sources[key] for key in algorithms}
    alphas, notices = alphas_of(path, header, modules)
    return Contents(architecture, modules, algorithms, alphas, tuple(unread), notices)


class Description(TypedDict):
    """What a network file contains, as `inspect --json` prints it."""

    architecture: str
    algorithms: list[str]
    """With "dora" where some modules are."""
    rank: int | list[int] | None
    """A list if there are several, None without any."""
    blocks: dict[str, int]
    """Number of modules by block id, BASE and REST included."""
    metadata: dict[str, str]
    unread: list[str]
    """Keys of no known module."""
    notices: list[str]
    """What else a user should know."""


def inspect(path: str | Path) -> Description:
    """Return the contents of a network file, after reading all of it for its hash; raise NetworkFileError."""
    found = describe(path)
    found["notices"] += hash_notices(Path(path), read_header(path))
    return found


def hash_notices(path: Path, header: Header) -> list[str]:
    """Return what to say of a file whose bytes after the header do not have the hash that its metadata names.

    sd-scripts' `sshs_model_hash` is the SHA-256 of all that follows the header.
    """
    written = header.metadata.get(_HASH)
    if written is None:
        return []
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(header.start)
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() == written.strip().lower():
        return []
    return [
        f"its tensors do not match its {_HASH}: expected {written[:12]}, found {digest.hexdigest()[:12]}: the file is"
        " damaged, or was changed by a program that kept the old hash"
    ]


def describe(path: str | Path) -> Description:
    """Return the contents of a network file by its header alone; raise NetworkFileError."""
    path = Path(path)
    return _description(path, read_header(path))


class Descriptions:
    """Describes many files, as `describe` does; of files that differ in nothing but their metadata the first alone.

    Trainers write the same names, shapes and places of tensors again and again. For one thread at a time.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}

    def describe(self, path: Path) -> Description:
        """Return the contents of a network file by its header alone; raise NetworkFileError."""
        text = read_header_text(path)
        parts = text.split()
        if parts is None:
            return _description(path, parse_header(path, text))
        metadata, tensors = parts
        digest = hashlib.blake2b(tensors.encode("utf-8", "surrogatepass"), digest_size=16)
        digest.update(configuration_text(path, metadata))
        known = self._known.get(digest.digest())
        if known is not None and known.length <= text.available:
            return known.description(path, metadata)
        header = parse_header(path, text)
        try:
            found = _description(path, header)
        except NetworkFileError as error:
            if str(error).startswith(f"{path}: "):
                self._remember(digest.digest(), _Known(header.length, refusal=str(error).removeprefix(f"{path}: ")))
            raise
        kept: Description = {**found, "metadata": {}}
        self._remember(digest.digest(), _Known(header.length, copy.deepcopy(kept)))
        return found

    def _remember(self, digest: bytes, known: _Known) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[digest] = known


@dataclass(frozen=True)
class _Known:
    """The description of a file whose data are this long, or why it was refused."""

    length: int
    found: Description | None = None
    refusal: str = ""

    def description(self, path: Path, metadata: Mapping[str, str]) -> Description:
        """Return it for another file with the same tensors; raise NetworkFileError where it was refused."""
        if self.found is None:
            raise NetworkFileError(f"{path}: {self.refusal}")
        return {**copy.deepcopy(self.found), "metadata": dict(metadata)}


def _description(path: Path, header: Header) -> Description:
    found = contents_of(path, header)
    counts = dict.fromkeys((blocks.BASE, *ARCHITECTURES[found.architecture].block_ids, blocks.REST), 0)
    algorithms: Counter[str] = Counter()
    ranks: set[int] = set()
    for key, sources in found.modules.items():
        counts[block_of(key, found.architecture)] += 1
        algorithms[found.algorithms[key].id] += 1
        algorithms["dora"] += "dora_scale" in sources
        rank = found.algorithms[key].rank({tensor: header.shapes[source] for tensor, source in sources.items()})
        ranks |= set() if rank is None else {rank}
    return {
        "architecture": found.architecture,
        "algorithms": sorted(+algorithms),
        "rank": sorted(ranks) if len(ranks) > 1 else next(iter(ranks), None),
        "blocks": counts,
        "metadata": dict(header.metadata),
        "unread": list(found.unread),
        "notices": list(found.notices),
    }


def _refuse_other_models(path: Path, sources: Iterable[str]) -> None:
    """Raise NetworkFileError, with its name, for a network of another model."""
    names = {source: unwrapped(source).replace(".", "_") for source in sources}
    names = {source: name for source, name in names.items() if _ANY_OTHER.match(name)}
    for title, pattern in _OTHER_MODELS:
        for source, name in names.items():
            if pattern.match(name):
                raise NetworkFileError(f"{path}: {REFUSED}: it is for {title} (its key {source!r})")


def _refuse_other_unets(path: Path, architecture: str, modules: Iterable[str], unread: Iterable[str]) -> None:
    """Raise NetworkFileError for a file whose U-Net layers are none of ours, whatever its text encoders are.

    Layers outside the blocks do not count: other models have a `time_embedding` too.
    """
    other = [source for source in unread if unet_layer(source)]
    if other and all(block_of(key, architecture) in (blocks.BASE, blocks.REST) for key in modules):
        raise NetworkFileError(
            f"{path}: {REFUSED}: it is for a U-Net that is none of these ({len(other)} keys, e.g. {other[0]!r})"
        )
