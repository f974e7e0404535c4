"""The card of a trained network file: what the WebUI shows of it, and what was trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_blocktrain import __version__
from lib_blocktrain.networks.cards import RECORD, CardError, card_path, change_card, read_card
from lib_blocktrain.networks.header import NetworkFileError, json_object, read_header
from lib_blocktrain.training.metadata import trained_blocks
from lib_blocktrain.weights.block_weights import BlockWeights

log = logging.getLogger(__name__)

NOTES_BEGIN = "Trained with blocktrain"  # notes that begin so are replaced by a later training, others are a user's own


def write_card(target: Path, result: Path, *, text: str, weight: float) -> None:
    """Write the card of the network file `target`, a copy of `result`; what a user has written into it stays.

    `text` is the WebUI's "activation text", `weight` its "preferred weight". A card that cannot be read stays as it is.
    """
    path = card_path(target)
    try:
        before = read_card(path) if path.exists() else {}
        kept = {key for key, value in before.items() if value and not str(value).startswith(NOTES_BEGIN)}
        ours = {"description": "", **_trained(result), "activation text": text, "preferred weight": weight}
        change_card(path, {key: value for key, value in ours.items() if key not in kept})
    except CardError as error:
        log.warning("the card stays as it is: %s", error)


def _trained(result: Path) -> dict[str, str]:
    """Return what the metadata of a network file say of its training, by the keys of a card."""
    try:
        metadata = read_header(result).metadata
        weights = BlockWeights.from_json(json_object(metadata.get(RECORD, ""))["trained"]["weights"])
    except (NetworkFileError, KeyError, TypeError, ValueError) as error:
        log.warning("%s: its card does not say what was trained: %s", result, error)
        return {"sd version": "Unknown", "negative text": "", "notes": ""}
    version = weights.architecture.upper()
    return {"sd version": version, "negative text": "", "notes": _notes(metadata, weights)}


def _notes(metadata: Mapping[str, str], weights: BlockWeights) -> str:
    record: dict[str, Any] = json_object(metadata.get(RECORD, ""))
    mode, share = record["trained"].get("meaning"), record.get("canvas")
    said = [
        f"{NOTES_BEGIN} {__version__} on {metadata.get('ss_sd_model_name')}: {metadata.get('ss_steps')} steps of batch"
        f" {metadata.get('ss_total_batch_size')}, {metadata.get('ss_num_train_images')} pictures with repeats",
        f"blocks: {trained_blocks(weights)} (weights as {mode}; they are inside the file, use it at 1)",
        f"rank {metadata.get('ss_network_dim')}, alpha {metadata.get('ss_network_alpha')},"
        f" {metadata.get('ss_network_module')}, {metadata.get('ss_optimizer')} at {metadata.get('ss_learning_rate')}",
    ]
    noise = record["run"]["network"].get("noise_scaling")
    said += ["less of it acted at high noise, of its scale: bw=card follows that"] if noise == "scale" else []
    said += ["less of it acted at high noise, of its rank: a file cannot say that"] if noise == "rank" else []
    said += [f"the feature fills {share:.0%} of the canvas"] if isinstance(share, float) else []
    return "\n".join(said)
