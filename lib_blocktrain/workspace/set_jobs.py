"""What needs the model for a set of pictures: a mask from a word, and which blocks training on the set would change.

The caller runs these in the queue of jobs; nothing is written by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib_blocktrain.analysis.probe import ProbeRequest, probe_dataset
from lib_blocktrain.analysis.regions import area_warning
from lib_blocktrain.analysis.results import Analysis
from lib_blocktrain.analysis.word_mask import word_mask
from lib_blocktrain.hosts.host import Host, check_noise
from lib_blocktrain.model.protocol import Progress
from lib_blocktrain.training.picture_files import eight_bits, rgb, upright
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace import set_masks
from lib_blocktrain.workspace.picture_sets import PictureSets

PROBED = 16  # pictures of a set


@dataclass(frozen=True)
class FoundMask:
    """A mask that is proposed: a PNG of at most 1024 pixels, and its share of the picture."""

    png: bytes
    share: float


def find_mask(
    host: Host, sets: PictureSets, key: str, picture: str, word: str, progress: Progress | None = None
) -> FoundMask:
    """Return where a word is in a picture of a set; raises as `analysis.word_mask` does, and DatasetError."""
    check_noise(host, "a word cannot be looked for in a picture: paint the mask instead")
    listed = sets.listed(key, picture)
    image = rgb(eight_bits(upright(listed.entry.path)))
    found = word_mask(host.model(), image, word, progress)
    scale = min(1.0, set_masks.SHOWN_SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    mask = found.image.resize(size).point(lambda grey: 255 if grey > 127 else 0)
    return FoundMask(set_masks.png(mask), found.share)


@dataclass(frozen=True)
class SetProbe:
    """Which blocks training on a set would change; `weights` are in proportion, None if all are within the noise."""

    moves: Analysis
    weights: BlockWeights | None
    pictures: int

    def to_json(self) -> dict[str, Any]:
        """Figures by block in the order of the forward pass, the weights as a preset string ("" for none)."""
        line = ""
        if self.weights is not None:
            line = self.weights.to_line("PROBE", with_architecture=True, area_share=self.moves.area_share)
        return {
            "blocks": [
                {"block": one.block, "mean": one.mean, "noise": one.noise, "within_noise": one.within_noise}
                for one in self.moves.figures
            ],
            "weights": line,
            "pictures": self.pictures,
            "notices": list(self.moves.notices),
            "seconds": self.moves.seconds,
        }


def probe_set(
    host: Host, sets: PictureSets, key: str, pictures: int = PROBED, progress: Progress | None = None
) -> SetProbe:
    """Probe the first pictures of a set, at most so many; raises DatasetError, a ValueError, where that cannot be."""
    config = sets.get(key).check()
    result = probe_dataset(host.model(), ProbeRequest(config, images=pictures), progress)
    try:
        weights = result.weights
    except ValueError:  # no block is above the noise; the figures are still shown
        weights = None
    return SetProbe(result.moves, weights, len(result.moves.observations))


def retest(weights_share: float | None, set_share: float | None) -> str:
    """A sentence if weights were found for a subject of another size than the set's masks show, else ""."""
    warning = area_warning(weights_share, set_share)
    return f"Train's weights were {warning}" if warning else ""
