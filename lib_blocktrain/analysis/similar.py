"""Rank LoRAs by similarity to a dataset or to another LoRA, to find one to analyse before training.

Every network file gets a profile, from its header and the sizes of a few of its modules. Profiles are kept in one
file, so that a folder of hundreds is ranked without opening them again.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from lib_blocktrain import blocks
from lib_blocktrain.analysis.attribution import OF_THE_WEIGHT, squared_delta
from lib_blocktrain.blocks import ARCHITECTURES, block_of
from lib_blocktrain.files import atomic_write, files_below
from lib_blocktrain.model.protocol import Progress
from lib_blocktrain.networks.adapters import DoRA, module_from_tensors
from lib_blocktrain.networks.cards import RECORD
from lib_blocktrain.networks.contents import Contents, contents_of
from lib_blocktrain.networks.header import NetworkFileError, json_object, read_header, tag_counts
from lib_blocktrain.training.dataset import Dataset

log = logging.getLogger(__name__)

FORMAT = "blocktrain-profiles-3"
SAMPLED = 4  # modules of each block that are read: the others are taken to be like them
# How much each kind of likeness counts; one that is not known counts as half.
IMPORTANCE = {"tags": 0.4, "blocks": 0.4, "canvas": 0.2}


@dataclass(frozen=True)
class Profile:
    """What is compared of a network file or a dataset. `problem` says why a file cannot be read.

    `tags` are counted in the captions, `norms` are each block's share of the squared delta weights, 0 to 1,
    `area_share` is the subject's share of the image.
    """

    name: str
    path: str = ""
    architecture: str = ""
    tags: Mapping[str, float] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
    area_share: float | None = None
    problem: str = ""
    stamp: tuple[int, int] = (0, 0)  # mtime in ns, size: the same stamp, the same file


@dataclass(frozen=True)
class Match:
    """A file with its likeness, 0 to 1, and the reasons."""

    profile: Profile
    likeness: float
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain values for `json.dumps`."""
        found = self.profile
        return {
            "name": found.name,
            "path": found.path,
            "architecture": found.architecture,
            "likeness": round(self.likeness, 4),
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True)
class Ranking:
    """The matches, the most similar first, and the files that could not be read, with the reason."""

    matches: tuple[Match, ...]
    unreadable: tuple[Profile, ...]
    folders: tuple[Path, ...] = ()


def of_dataset(dataset: Dataset, architecture: str) -> Profile:
    """Return the profile of a dataset."""
    tags: dict[str, float] = {}
    for counts in dataset.tag_frequency().values():
        for tag, count in counts.items():
            tags[tag] = tags.get(tag, 0.0) + count
    return Profile("the dataset", architecture=architecture, tags=tags, area_share=dataset.area_share)


def of_file(path: Path) -> Profile:
    """Return the profile of a network file; one that cannot be read has a `problem`."""
    try:
        status = path.stat()
        stamp = status.st_mtime_ns, status.st_size
    except OSError as error:
        return Profile(path.stem, str(path), problem=error.strerror or str(error))
    try:
        header = read_header(path)
        contents = contents_of(path, header)
        norms = _norms(path, contents)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        log.info("%s: %s", path, error)
        return Profile(path.stem, str(path), problem=str(error), stamp=stamp)
    record = json_object(header.metadata.get(RECORD, ""))
    share = record.get("canvas")
    share = float(share) if isinstance(share, (int, float)) and 0 < share <= 1 else None
    tags = tag_counts(header.metadata.get("ss_tag_frequency", ""))
    return Profile(path.stem, str(path), contents.architecture, tags, norms, share, stamp=stamp)


class Profiles:
    """Profiles of network files, cached in a file."""

    def __init__(self, cache: Path):
        self.cache = cache

    def of(self, folders: Sequence[Path], progress: Progress | None = None) -> list[Profile]:
        """Return a profile of every network file in the folders and below; only new or changed ones are read."""
        known = self._read()
        found, fresh = {}, False
        paths = sorted({path for folder in folders for path in network_files(folder)})
        try:
            for number, path in enumerate(paths, start=1):
                kept = known.get(str(path))
                if kept is None or kept.stamp != _stamp(path):
                    kept, fresh = of_file(path), True
                found[str(path)] = kept
                if progress is not None:
                    progress(number, len(paths))
        finally:
            if fresh:  # also what was read before `progress` raised
                self._write({**known, **found})
        return list(found.values())

    def _read(self) -> dict[str, Profile]:
        try:
            data = json.loads(self.cache.read_text("utf-8"))
            rows = data["profiles"] if data["format"] == FORMAT else []
            return {row["path"]: Profile(**{**row, "stamp": tuple(row["stamp"])}) for row in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s cannot be read (%s): all LoRA files are read again", self.cache, error)
            return {}

    def _write(self, profiles: Mapping[str, Profile]) -> None:
        rows = [asdict(profile) for path, profile in profiles.items() if os.path.exists(path)]
        with atomic_write(self.cache) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, "profiles": rows}), "utf-8")


def rank(target: Profile, profiles: Iterable[Profile]) -> Ranking:
    """Rank files by their likeness to a LoRA or dataset; those of another architecture come last, with the reason."""
    itself = os.path.abspath(target.path) if target.path else None
    profiles = [profile for profile in profiles if os.path.abspath(profile.path) != itself]
    readable = [profile for profile in profiles if not profile.problem]
    rarity = _rarity([*readable, target])
    matches = [_match(target, profile, rarity) for profile in readable]
    matches.sort(key=lambda match: (-match.likeness, match.profile.name))
    return Ranking(tuple(matches), tuple(profile for profile in profiles if profile.problem))


def network_files(folder: Path) -> list[Path]:
    """Return the files in a folder and below; raises ValueError for what is no folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of network files")
    return files_below(folder, ".safetensors")


def _match(target: Profile, profile: Profile, rarity: Mapping[str, float]) -> Match:
    if _blocks(profile) != _blocks(target):
        theirs, ours = (ARCHITECTURES[p.architecture].title for p in (profile, target))
        return Match(profile, 0.0, (f"for {theirs}, not {ours}: other blocks",))
    likenesses, reasons = {}, [f"for {ARCHITECTURES[profile.architecture].title}"]
    if target.tags and profile.tags:
        likenesses["tags"] = _cosine(_weighed(target.tags, rarity), _weighed(profile.tags, rarity))
        shared = sorted(set(target.tags) & set(profile.tags), key=lambda tag: (-rarity[tag], tag))[:3]
        reasons.append(f"tags alike {likenesses['tags']:.0%}" + (f" ({', '.join(shared)})" if shared else ""))
    if target.norms and profile.norms:
        likenesses["blocks"] = _profile_likeness(target.norms, profile.norms)
        top = sorted(profile.norms, key=lambda block: -profile.norms[block])[:3]
        reasons.append(f"blocks alike {likenesses['blocks']:.0%} (strongest {', '.join(top)})")
    if target.area_share and profile.area_share:
        shares = target.area_share, profile.area_share
        likenesses["canvas"] = min(shares) / max(shares)
        reasons.append(f"fills {profile.area_share:.0%} of the picture, here {target.area_share:.0%}")
    lacking = [name for name in IMPORTANCE if name not in likenesses]
    if lacking:
        reasons.append(f"not known: {', '.join(lacking)}")
    importance = sum(IMPORTANCE[name] for name in likenesses)
    # what is not known counts as half, so that a file without any metadata does not come first
    known = sum(IMPORTANCE[name] * value for name, value in likenesses.items())
    likeness = known + 0.5 * (1 - importance)
    return Match(profile, likeness, tuple(reasons))


def _blocks(profile: Profile) -> tuple[str, ...]:
    return ARCHITECTURES[profile.architecture].block_ids


def _norms(path: Path, contents: Contents) -> dict[str, float]:
    """Return each block's share of the squared norm, from a few modules of each."""
    sources = contents.modules
    by_block: dict[str, list[str]] = {}
    for key in sorted(sources):
        by_block.setdefault(block_of(key, contents.architecture), []).append(key)
    squares = {}
    with safetensors.safe_open(path, framework="pt") as file:
        for block, keys in by_block.items():
            if block == blocks.BASE:
                continue
            chosen = keys[:: max(1, len(keys) // SAMPLED)]
            found = [_square(key, _tensors(file, contents, key)) for key in chosen]
            known = [square for square in found if square is not None]
            if not all(map(math.isfinite, known)):
                raise NetworkFileError(f"{path}: numbers in {block} are not finite, or too large: it cannot be used")
            if known:
                squares[block] = sum(known) / len(known) * len(keys)
    total = sum(squares.values())
    return {block: square / total for block, square in squares.items()} if total else {}


def _tensors(file: safetensors.safe_open, contents: Contents, key: str) -> dict[str, Tensor]:
    tensors = {name: file.get_tensor(source) for name, source in contents.modules[key].items()}
    return tensors | ({"alpha": torch.tensor(contents.alphas[key])} if key in contents.alphas else {})


def _square(key: str, tensors: Mapping[str, Tensor]) -> float | None:
    """Return |delta W|^2, None where it does not follow from the file alone."""
    module = module_from_tensors(key, tensors)
    if isinstance(module, DoRA):
        module = module.direction
    return None if module is None or isinstance(module, OF_THE_WEIGHT) else squared_delta(module)


def _profile_likeness(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Return 1 less half the sum of the absolute differences of two sets of shares."""
    return 1 - sum(abs(a.get(block, 0.0) - b.get(block, 0.0)) for block in {*a, *b}) / 2


def _rarity(profiles: Sequence[Profile]) -> dict[str, float]:
    """Return log(1 + files / files with the tag): a tag that all have says little (Spärck Jones 1972)."""
    having: dict[str, int] = {}
    for profile in profiles:
        for tag in profile.tags:
            having[tag] = having.get(tag, 0) + 1
    return {tag: math.log(1 + len(profiles) / count) for tag, count in having.items()}


def _weighed(tags: Mapping[str, float], rarity: Mapping[str, float]) -> dict[str, float]:
    most = max(tags.values())
    return {tag: count / most * rarity[tag] for tag, count in tags.items()}


def _cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    sizes = [math.sqrt(sum(value**2 for value in side.values())) for side in (a, b)]
    return sum(value * b[tag] for tag, value in a.items() if tag in b) / (math.prod(sizes) or 1.0)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
