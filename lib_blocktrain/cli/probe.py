"""The commands `probe` (of a dataset), `similar` (LoRAs) and `compare` (two analyses)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lib_blocktrain.cli.commands import ProgressBar, open_host
from lib_blocktrain.cli.parsers import Answer, Commands, add_checkpoint


def add_commands(commands: Commands) -> None:
    compare = commands.add("compare", compare_command, "two analyses side by side, from their JSON files")
    compare.add_argument("first", type=Path, metavar="A.json", help="an analysis.json of analyse or probe")
    compare.add_argument("second", type=Path, metavar="B.json")
    probe = commands.add("probe", probe_command, "which blocks training on a dataset would change")
    probe.add_argument("--data", type=Path, required=True, metavar="DIR", help="pictures, as for training")
    other = probe.add_mutually_exclusive_group()
    other.add_argument("--reference", type=Path, metavar="DIR", help="regularisation pictures to compare with")
    other.add_argument(
        "--class-prompt", metavar="T", help='compare with the model\'s own pictures of "a photo of a dog"'
    )
    probe.add_argument("--pictures", type=int, default=16, help="maximum number of pictures to use (%(default)s)")
    probe.add_argument("--convolutions", action="store_true", help="include convolutions, as a LoCon does")
    add_checkpoint(probe)
    probe.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the figures")

    similar = commands.add("similar", similar_command, "rank LoRAs by similarity to a dataset or to another LoRA")
    target = similar.add_mutually_exclusive_group(required=True)
    target.add_argument("--lora", type=Path, metavar="FILE", help="the LoRA to compare with")
    target.add_argument("--data", type=Path, metavar="DIR", help="the dataset to compare with")
    similar.add_argument("--folder", type=Path, action="append", metavar="DIR", help="may be repeated")
    similar.add_argument(
        "--architecture", choices=("sd1", "sd2", "sdxl"), default="sd1", help="for --data (%(default)s)"
    )
    similar.add_argument("--most", type=int, default=20, help="how many to show (%(default)s)")


def compare_command(arguments: argparse.Namespace) -> Answer:
    """Show which blocks matter more in the first of two analyses, and which in the second."""
    from lib_blocktrain.analysis.results import compare, read_analysis

    found = compare(read_analysis(arguments.first), read_analysis(arguments.second))
    return found.to_json(), found.to_table()


def probe_command(arguments: argparse.Namespace) -> Answer:
    """Measure which blocks training would change, and suggest block weights for it."""
    from lib_blocktrain.analysis.probe import build_probe_request, probe_dataset
    from lib_blocktrain.analysis.results import write_analysis

    request = build_probe_request(
        [arguments.data],
        references=[] if arguments.reference is None else [arguments.reference],
        class_prompt=arguments.class_prompt or "",
        images=arguments.pictures,
        convolutions=arguments.convolutions,
    )
    host = open_host(arguments.checkpoint)
    with host.queued():
        found = probe_dataset(host.model(), request, ProgressBar("probing"))
    files = write_analysis(found.moves, arguments.out, "moves")
    text = [f"where a training on {arguments.data} would move:", found.moves.to_table()]
    data: dict[str, Any] = {"moves": found.moves.to_json()}
    if found.differs is not None:
        files += write_analysis(found.differs, arguments.out, "differs")
        data["differs"] = found.differs.to_json()
        text += ["", f"{found.differs.name}:", found.differs.to_table()]
    line = found.weights.to_line(with_architecture=True, area_share=found.moves.area_share)
    data |= {"weights": line, "files": [str(path) for path in files]}
    return data, "\n".join([*text, "", f"weights for the training: {line}", *data["files"]])


def similar_command(arguments: argparse.Namespace) -> Answer:
    """Rank LoRAs by similarity to a LoRA or a dataset."""
    from lib_blocktrain.analysis.similar import of_dataset, of_file
    from lib_blocktrain.workspace.analyses import rank_similar

    host = open_host(arguments.checkpoint)
    target = of_file(arguments.lora) if arguments.lora is not None else of_dataset(*_dataset(arguments))
    found = rank_similar(host, target, arguments.folder or (), ProgressBar("reading"))
    shown = found.matches[: max(0, arguments.most)]
    data = {
        "matches": [match.to_json() for match in shown],
        "unreadable": [{"path": profile.path, "problem": profile.problem} for profile in found.unreadable],
    }
    width = max((len(match.profile.name) for match in shown), default=0)
    rows = [f"{match.likeness:>5.0%}  {match.profile.name:<{width}}  {'; '.join(match.reasons)}" for match in shown]
    rows += [f"cannot be read: {profile.problem}" for profile in found.unreadable]
    return data, "\n".join(rows or [f"no other network file in {', '.join(map(str, found.folders))}"])


def _dataset(arguments: argparse.Namespace) -> tuple[Any, str]:
    from lib_blocktrain.blocks import ARCHITECTURES
    from lib_blocktrain.training.dataset import find
    from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig

    config = DatasetConfig(folders=(FolderConfig(str(arguments.data)),))
    found = find(config, ARCHITECTURES[arguments.architecture].native_size)
    return found, arguments.architecture
