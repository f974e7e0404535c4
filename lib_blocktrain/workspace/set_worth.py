"""What a set is worth to a training: its buckets, the steps of an epoch, and plain warnings.

A warning says what blocks it argues for only where a source says so, with its grade: A for a paper with code, B for
what was measured on the demo model, C for what the community reports, "-" where nothing of blocks is claimed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib_blocktrain.analysis.regions import area_sentence
from lib_blocktrain.training.batches import BatchSampler
from lib_blocktrain.training.dataset import Dataset
from lib_blocktrain.workspace.set_listing import Listed

MOST = 0.9  # of the captions, from which on a tag is in all of them, so to speak
RARE = 0.05
FEW = 8  # captions, below which shares say nothing
_BACKGROUND = re.compile(r"\b(back(ground|drop)|outdoors|indoors|scenery|sky|wall)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Warned:
    """A warning; `argues_for` says which blocks it speaks for, "" if none, `preset` is one that has them."""

    kind: str
    text: str
    argues_for: str = ""
    grade: str = "-"
    preset: str = ""


@dataclass(frozen=True)
class Worth:
    """The set's figures; `canvas_share` is the mean share of the picture that masks let through, None without any."""

    pictures: int
    with_repeats: int
    batch: int
    steps_an_epoch: int
    buckets: tuple[tuple[tuple[int, int], int, int], ...]  # size, pictures, with repeats
    masked: int
    canvas_share: float | None
    canvas: str
    warnings: tuple[Warned, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **{key: value for key, value in vars(self).items() if key not in ("buckets", "warnings")},
            "buckets": [
                {"bucket": list(size), "pictures": count, "with_repeats": repeated}
                for size, count, repeated in self.buckets
            ],
            "warnings": [vars(warning) for warning in self.warnings],
        }


def worth(listed: Sequence[Listed], batch: int, size: int, architecture: str | None) -> Worth:
    """Return what the pictures give; `size` is the training's, `architecture` the model's, None if it is not known."""
    if batch < 1:
        raise ValueError(f"batch {batch}: expected 1 or more")
    usable = [(picture, image) for picture in listed if (image := picture.image) is not None]
    images = [image for _, image in usable]
    dataset = Dataset(tuple(images))
    pictures = Counter(image.fit.bucket for image in images)
    shares = [picture.share for picture, _ in usable if picture.share is not None]
    share = sum(shares) / len(shares) if shares else None
    warned = warnings([picture for picture, image in usable if not image.regularisation], dataset, batch)
    if architecture == "sdxl":  # the presets are for SD1 and SD2
        warned = [replace(warning, preset="") for warning in warned]
    described = "" if share is None or architecture is None else area_sentence(share, architecture, (size // 8,) * 2)
    return Worth(
        len(images),
        sum(image.repeats for image in images),
        batch,
        BatchSampler(images, batch, 0).batches_per_epoch if images else 0,
        tuple((bucket, pictures[bucket], count) for bucket, count in sorted(dataset.buckets.items())),
        sum(picture.has_mask for picture, _ in usable),
        share,
        described,
        tuple(warned),
    )


def warnings(listed: Sequence[Listed], dataset: Dataset, batch: int) -> list[Warned]:
    """Return what speaks against the set as it is, the gravest first."""
    found = [*_of_captions(listed), *_of_tags(listed)]
    odd = [f"{width}x{height}" for (width, height), count in sorted(dataset.buckets.items()) if count < batch]
    if odd:
        text = f"{_some(odd)}: fewer pictures than a batch of {batch}, so that these steps see less"
        found.append(Warned("buckets", text))
    same = sum(bool(picture.same) for picture in listed)
    if same:
        text = f"{same} pictures look like another one: what they show counts that much more, as with repeats"
        found.append(Warned("duplicates", text))
    return found


def _of_captions(listed: Sequence[Listed]) -> list[Warned]:
    without = [picture for picture in listed if not picture.line]
    if not listed or not without:
        return []
    used = sorted({picture.entry.found.caption for picture in without if picture.entry.found.caption})
    word = f", but for the folder's {_some([f'“{name}”' for name in used])}" if used else ""
    if len(without) == len(listed):
        text = f"no picture has a caption{word}: all that they show is learnt as one thing, backgrounds included"
    else:
        text = f"{len(without)} of {len(listed)} pictures have no caption{word}"
    return [Warned("captions", text)]


def _of_tags(listed: Sequence[Listed]) -> list[Warned]:
    captioned = [picture.captioned.tags for picture in listed if picture.line]
    if len(captioned) < FEW:
        return []
    counts = Counter(tag for tags in captioned for tag in set(tags))
    shares = {tag: count / len(captioned) for tag, count in counts.items()}
    everywhere = [tag for tag, share in shares.items() if share >= MOST]
    found = []
    for tag in everywhere:
        if _BACKGROUND.search(tag):
            found.append(_background(tag, counts[tag], len(captioned)))
    subjects = [tag for tag in everywhere if not _BACKGROUND.search(tag)]
    rare = [tag for tag, share in shares.items() if share <= RARE and not _BACKGROUND.search(tag)]
    if subjects and rare:
        common = max(subjects, key=lambda tag: (shares[tag], tag))
        found.append(
            Warned(
                "imbalance",
                f"“{common}” is in {shares[common]:.0%} of the captions, {_some([f'“{tag}”' for tag in sorted(rare)])}"
                f" in {max(shares[tag] for tag in rare):.0%} or less: the first is long learnt when the others begin."
                " More repeats for the pictures of the rare ones even that out",
                "a face that fills 1/8 to 1/3 of the picture: the blocks but OUT03-OUT05, as the tutorial has it (users"
                " of LoRA Block Weight say the contrary). On the demo model the character was learnt as well without"
                " OUT03-OUT05; the rare accessories were learnt in neither case",
                "C",
                "FACE-NOT-OUT03-05",
            )
        )
    return found


def _background(tag: str, count: int, of: int) -> Warned:
    return Warned(
        "background",
        f"“{tag}” is in {count} of {of} captions: a LoRA of all blocks draws it where a prompt names no background",
        "the OUT blocks alone. On the demo model they showed the training background 0.28 less often (0.20 to 0.36),"
        " and a lower rank in all blocks as much less (docs/evidence.md)",
        "B",
        "OUTALL",
    )


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")
