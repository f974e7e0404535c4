"""The command `analyse`; torch and the rest are imported when it runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_blocktrain.cli.commands import ProgressBar, open_host
from lib_blocktrain.cli.parsers import Answer, Commands, add_checkpoint, add_sampling
from lib_blocktrain.cli.solve import solve_command

if TYPE_CHECKING:
    from lib_blocktrain.analysis.regions import Feature
    from lib_blocktrain.analysis.request import AnalysisRequest
    from lib_blocktrain.analysis.results import Analysis

SEEDS = "0,1,2"
ANALYSE_HELP = """methods:
  exact      the change of the predicted noise without each block (the reference)
  fast       each block's signed part of the LoRA's effect, by integrated gradients
  one-only   the effect of each block alone
  norms      the size of each block's weights, from the file alone: no prompt, no model
  rendered   a picture for each block, drawn with that block lowered, and a contact sheet (slow)

to compare the blocks that draw the robot with those that draw the background:
  python -m lib_blocktrain analyse --lora robot.safetensors \\
      --prompt "a photo of a large robot, blue background" --word robot --against-word background --out found

to search for the weights that keep the robot and drop the rest, on the pictures that they draw themselves:
  ... --word robot --solve --preset ROBOT   OUT receives solved.json, preset.txt and a picture of each solution found

to compute block weights as well, as a preset that records how much of the picture the feature fills:
  ... --keep down-to=80 --preset ROBOT      the fewest blocks that have 80 % of the effect
  ... --keep strongest=6 | proportional | lower   (lower: the blocks that carry the --against feature)

OUT receives analysis.json and analysis.csv; for a second feature also against.json and comparison.json; the contact
sheets of a rendered analysis; and preset.txt. Blocks "within the noise" cannot be distinguished, with so few seeds,
from blocks without effect."""


def add_commands(commands: Commands) -> None:
    analyse = commands.add("analyse", analyse_command, "which blocks of a LoRA carry a word, a region or the picture")
    analyse.formatter_class = argparse.RawDescriptionHelpFormatter
    analyse.epilog = ANALYSE_HELP
    analyse.add_argument("--lora", type=Path, required=True, metavar="FILE")
    analyse.add_argument("--prompt", action="append", metavar="T", help="may be repeated, for more reliable figures")
    for group, prefix, text in (
        ("the feature (without one: the whole picture)", "", "the feature"),
        ("a second feature, to compare with", "against-", "the other feature"),
    ):
        which = analyse.add_argument_group(group)
        which.add_argument(f"--{prefix}word", metavar="W", help=f"{text} is where this word of the prompt is")
        which.add_argument(f"--{prefix}mask", type=Path, metavar="FILE", help=f"{text} is where this picture is white")
        which.add_argument(
            f"--{prefix}box", metavar="X0,Y0,X1,Y1", help=f"{text} is in this box; 0 to 1, from top left"
        )
    analyse.add_argument("--method", choices=("exact", "fast", "one-only", "norms", "rendered"), default="exact")
    analyse.add_argument("--seeds", help="whole numbers separated by commas (0,1,2; with --solve 0 to 19)")
    add_sampling(analyse)
    analyse.add_argument("--value", type=float, default=0.0, help="what a block is lowered to (%(default)s)")
    analyse.add_argument(
        "--pairs", action="store_true", help="with exact: also which pairs of blocks replace or need each other"
    )
    analyse.add_argument(
        "--keep", metavar="RULE", help="compute block weights: strongest=K, down-to=%%, proportional, lower"
    )
    solving = analyse.add_argument_group("search for weights that keep the feature and drop the other one")
    solving.add_argument("--solve", action="store_true", help="without another feature, drop everything else")
    solving.add_argument(
        "--budget", type=int, default=2040, metavar="N", help="U-Net evaluations at most (%(default)s)"
    )
    solving.add_argument(
        "--kind", choices=("free", "sparse", "on-off"), default="free", help="of weights: -0.5 to 1.5, few, 0 or 1"
    )
    analyse.add_argument("--preset", metavar="NAME", help="the name of the preset of those weights")
    add_checkpoint(analyse)
    analyse.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the figures")


def analyse_command(arguments: argparse.Namespace) -> Answer:
    """Analyse which blocks carry a feature, and write the figures."""
    from lib_blocktrain.workspace.analyses import run_analysis
    from lib_blocktrain.workspace.images import png_of

    if arguments.solve:
        return solve_command(arguments, _feature(arguments, ""), _feature(arguments, "against_"))
    rule = kept_rule(arguments)
    request = _request(arguments)
    host = open_host(arguments.checkpoint)
    with host.queued():
        found = run_analysis(host, request, ProgressBar("analysing"))
    sheets = {name: png_of(image) for name, image in found.sheets.items()}
    return write_found(arguments, found.analyses, found.area_sentence, sheets, rule)


def write_found(
    arguments: argparse.Namespace,
    analyses: Sequence[Analysis],
    sentence: str,
    sheets: Mapping[str, bytes],
    rule: tuple[str, float | None] | None,
) -> Answer:
    """Write the figures of an analysis, which may have run on a server: `sentence` is about the area share, `sheets`
    are PNGs by name.
    """
    from lib_blocktrain.analysis.results import compare, write_analysis

    main = analyses[0]
    files = write_analysis(main, arguments.out, "analysis")
    head = "; ".join([f"{main.feature} of {main.name}, {main.method}", *main.summary()])
    text = [head, main.to_table()]
    data: dict[str, Any] = {"analysis": main.to_json()}
    if sentence:
        data["canvas_sentence"] = sentence
        text.append(sentence)
    if len(analyses) > 1:
        files += write_analysis(analyses[1], arguments.out, "against")
        comparison = compare(*analyses)
        data |= {"against": analyses[1].to_json(), "comparison": comparison.to_json()}
        files.append(_write(arguments.out / "comparison.json", json.dumps(comparison.to_json(), indent=1)))
        text += ["", comparison.to_table()]
    files += [_write(arguments.out / f"{name}.png", content) for name, content in sheets.items()]
    if rule is not None:
        line, lost = _preset(analyses, rule, arguments.preset)
        data |= {"preset": line, "broken_pairs": list(lost)}
        files.append(_write(arguments.out / "preset.txt", line + "\n"))
        text += ["", line, *(f"warning: {said}" for said in lost)]
    data["files"] = [str(path) for path in files]
    return data, "\n".join([*text, *(f"note: {n}" for n in main.notices), *data["files"]])


def _request(arguments: argparse.Namespace) -> AnalysisRequest:
    from lib_blocktrain.analysis.request import build_request
    from lib_blocktrain.cli.own_presets import weights_for
    from lib_blocktrain.networks.files import read_network

    network = read_network(arguments.lora)
    feature, against = _feature(arguments, ""), _feature(arguments, "against_")
    return build_request(
        network,
        method=arguments.method,
        prompts=arguments.prompt or (),
        negative=arguments.negative,
        seeds=arguments.seeds or SEEDS,
        guidance=arguments.cfg,
        width=arguments.width,
        height=arguments.height,
        features=(feature, against) if against.given else (feature,),
        weights=weights_for(arguments.weights, network.architecture, arguments.lora),
        multiplier=arguments.multiplier,
        value=arguments.value,
        pairs=arguments.pairs,
    )


def _feature(arguments: argparse.Namespace, prefix: str) -> Feature:
    from lib_blocktrain.analysis.regions import Feature, read_box, read_mask

    word, mask, box = (getattr(arguments, prefix + name) for name in ("word", "mask", "box"))
    return Feature(word, None if box is None else read_box(box), None if mask is None else read_mask(mask, str(mask)))


def kept_rule(arguments: argparse.Namespace) -> tuple[str, float | None] | None:
    """Return the rule of `--keep` and its number."""
    from lib_blocktrain.analysis.weight_rules import RULES

    if arguments.keep is None:
        if arguments.preset is not None:
            raise ValueError("--preset names weights that --keep makes: expected --keep, e.g. down-to=80, or --solve")
        return None
    name, _, number = arguments.keep.partition("=")
    try:
        amount = float(number) if number else None
    except ValueError:
        amount = None
    wants = name in ("strongest", "down-to")
    if name not in RULES or wants != (amount is not None) or (number and amount is None):
        raise ValueError(f"--keep {arguments.keep!r}: expected strongest=K, down-to=%, proportional or lower")
    if name == "lower" and not any(getattr(arguments, f"against_{kind}") for kind in ("word", "mask", "box")):
        raise ValueError("--keep lower: expected a second feature too (--against-word, --against-mask, --against-box)")
    return name, amount


def _preset(
    analyses: Sequence[Analysis], rule: tuple[str, float | None], name: str | None
) -> tuple[str, tuple[str, ...]]:
    """Return the preset's line, and what the pairs of blocks say against these weights."""
    from lib_blocktrain.analysis.pairs import broken
    from lib_blocktrain.analysis.weight_rules import preset_of, weights_by_rule

    name_of_rule, amount = rule
    weights = weights_by_rule(name_of_rule, analyses[0], amount, analyses[1] if len(analyses) > 1 else None)
    preset = preset_of(analyses[0], weights, name or "FOUND")
    kept = [block for block, weight in weights.values.items() if weight]
    return f"{preset.name}:{preset.text}  # {preset.purpose}", broken(analyses[0].pairs, kept)


def _write(path: Path, content: str | bytes) -> Path:
    from lib_blocktrain.files import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path
