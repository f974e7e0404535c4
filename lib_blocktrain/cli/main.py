"""The command line: ``python -m lib_blocktrain``. Standard library only until the environment is ready."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from lib_blocktrain import __version__
from lib_blocktrain.cli import analyse, collide, commands, probe, remote_commands, runs, terminal, train
from lib_blocktrain.cli.environment import EnvironmentFailure, ensure
from lib_blocktrain.cli.parsers import (
    ARCHITECTURES,
    Command,
    Commands,
    RemoteCommand,
    add_checkpoint,
    add_common,
    add_sampling,
)
from lib_blocktrain.cli.signals import Ended, ended_by_signals
from lib_blocktrain.files import error_text
from lib_blocktrain.model.memory import lacks_memory

REMOTE: dict[Command, RemoteCommand] = {
    commands.presets_list: RemoteCommand(remote_commands.presets_list),
    commands.presets_parse: RemoteCommand(remote_commands.presets_parse),
    commands.inspect: RemoteCommand(remote_commands.inspect),
    commands.preview: RemoteCommand(remote_commands.preview),
    analyse.analyse_command: RemoteCommand(remote_commands.analyse, needs="core"),  # its figures need numpy
    train.train_command: RemoteCommand(remote_commands.train),
    runs.runs_command: RemoteCommand(remote_commands.runs),
}
WEIGHTS_HELP = """a preset's name, or block weights as people share them:
  25 values (IN00..IN11, M00, OUT00..OUT11) or 26 (the text encoder, BASE, first)
  17 (SD1) or 12, 20 (SDXL) values: LoRA Block Weight's short forms, BASE first
  ranges: IN04-OUT02=0.5 or OUT=1,BASE=1
  kohya's network_args, or JSON
  card: with a LoRA, the block weights that its NAME.json or the file itself recommends"""
EPILOG = """examples:
  python -m lib_blocktrain                                   the tab, in your browser, on the demo model
  python -m lib_blocktrain tour                              three pictures of the demo model
  python -m lib_blocktrain preview --prompt "a photo of a large robot, blue background" \\
      --lora demo/loras/robot.safetensors --weights OUTALL --out robot.png
  python -m lib_blocktrain presets parse "FACE:0,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0" --architecture sd1 --json
  python -m lib_blocktrain inspect demo/loras/robot.safetensors
  python -m lib_blocktrain preview --prompt "a robot" --lora robot --out robot.png --url http://127.0.0.1:7860
  python -m lib_blocktrain analyse --lora demo/loras/robot.safetensors --prompt "a photo of a large robot" \\
      --word robot --keep down-to=80 --preset ROBOT --out found
  python -m lib_blocktrain bake --lora robot.safetensors --weights "IN=0,OUT=1" --out robot-out.safetensors

Commands that need PyTorch make an environment of their own (.venv) on first use; they say so before they do."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; without one, the tab is opened."""
    parser = argparse.ArgumentParser(
        prog="python -m lib_blocktrain",
        description="Preview, weigh and share LoRAs by the 25 blocks of Stable Diffusion's U-Net.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    add_common(parser)
    _add_tab(parser)
    every = Commands(parser, REMOTE)
    tour = every.add("tour", commands.tour, "draw the demo LoRA without, with it, and under block weights")
    tour.add_argument("--out", type=Path, default=Path("outputs/tour"), help="folder for the pictures (%(default)s)")
    _add_presets(every.group("presets", "named block weights"))
    inspect = every.add("inspect", commands.inspect, "what a network file (LoRA and others) contains", needs=None)
    inspect.add_argument("file", type=Path, metavar="FILE", help="a .safetensors network file")
    _add_preview(every)
    bake = every.add("bake", commands.bake, "write a network file with the block weights inside", needs="core")
    bake.add_argument("--lora", type=Path, required=True, metavar="FILE")
    bake.add_argument("--weights", required=True, metavar="W")
    bake.add_argument("--recommend", metavar="W", help="block weights that the new file recommends in its metadata")
    bake.add_argument("--rank", type=_rank, metavar="R|auto", help="lower the rank, to R or block by block")
    bake.add_argument("--keep-norm", type=float, default=0.99, help="for auto: share of a block's norm (%(default)s)")
    bake.add_argument("--out", type=Path, required=True, metavar="FILE")
    bake.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    for module in (train, runs, analyse, probe, collide):
        module.add_commands(every)
    demo = every.group("demo", "the embedded demo model")
    export = demo.add("export", commands.demo_export, "write it as a checkpoint for AUTOMATIC1111")
    export.add_argument("folder", type=Path, metavar="DIR", help="for a WebUI: its models/Stable-diffusion")
    test = every.add("test", commands.test, "run the project's tests (the rest goes to pytest)", needs="test")
    test.add_argument("pytest", nargs="*", metavar="...", help="arguments for pytest; our own stand before test")
    return parser


def _rank(text: str) -> int:
    """Read a rank; 0 is auto."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more, or auto")
    return int(text)


def _add_tab(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command without a name, which every command inherits."""
    parser.set_defaults(run=commands.open_tab, needs="tab", json=False, url=None)
    tab = parser.add_argument_group("the tab (no command)")
    tab.add_argument("--port", type=int, help="of 127.0.0.1 (the first free one from 7870 on)")
    tab.add_argument("--checkpoint", type=Path, metavar="FILE", help="a SD1, SD2 or SDXL .safetensors file")
    tab.add_argument(
        "--lora-dir",
        type=Path,
        action="append",
        metavar="DIR",
        help="a folder of LoRAs; may be repeated, what is baked goes to the first",
    )
    tab.add_argument("--language", metavar="NAME", help="of the page, as a file of localizations/: ja_JP")
    tab.add_argument("--no-browser", action="store_true", help="do not open a browser window")


def _add_presets(presets: Commands) -> None:
    listing = presets.add(
        "list", commands.presets_list, "your own presets, and those that come with the extension", needs=None
    )
    listing.add_argument("--architecture", choices=ARCHITECTURES, help="only those that fit")
    parse = presets.add("parse", commands.presets_parse, "what a string is understood as", needs=None)
    parse.formatter_class = argparse.RawDescriptionHelpFormatter
    parse.epilog = "STRING is " + WEIGHTS_HELP
    parse.add_argument("string", metavar="STRING")
    parse.add_argument("--architecture", choices=ARCHITECTURES, default="sd1", help="(%(default)s)")
    parse.add_argument("--seed", type=int, help="from which R and U are drawn")
    parse.add_argument("--x", type=float, help="what X stands for")


def _add_preview(every: Commands) -> None:
    preview = every.add("preview", commands.preview, "draw one picture, with or without a LoRA")
    preview.add_argument("--prompt", required=True)
    preview.add_argument("--lora", type=Path, metavar="FILE")
    add_sampling(preview)
    preview.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    preview.add_argument("--steps", type=int, default=20, help="(%(default)s)")
    preview.add_argument("--sampler", default="DDIM", help="DDIM, Euler, Euler a, DPM++ 2M, DPM++ 2M Karras")
    add_checkpoint(preview)
    preview.add_argument("--out", type=Path, required=True, metavar="PNG")


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parse, and give everything behind ``test`` to pytest as it stands: argparse would take its options for ours."""
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if arguments.run is commands.test:
        arguments.pytest = argv[argv.index("test") + 1 :]
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0, 1 for a failure on the way, or 2 and one plain sentence for bad input."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parse(argv)
    debug = getattr(arguments, "debug", False)
    terminal.log_to_stderr(logging.DEBUG if debug else logging.WARNING)
    try:
        needs = arguments.needs if arguments.url is None else arguments.needs_with_url
        with ended_by_signals():
            if needs is not None:
                ensure(needs, argv, getattr(arguments, "torch", "auto"), getattr(arguments, "torch_index", None))
            answer = arguments.run(arguments)
    except EnvironmentFailure as error:
        return _fail(error, 1, debug)
    except (ValueError, OSError) as error:
        return _fail(error, 2, debug)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        return _fail(error, 1, debug)
    except Ended as ended:
        return _fail(KeyboardInterrupt("stopped"), ended.status, debug=False)
    except KeyboardInterrupt:
        return _fail(KeyboardInterrupt("stopped"), 130, debug=False)
    if isinstance(answer, int):
        return answer
    data, text = answer
    terminal.answer(json.dumps(data, indent=2, ensure_ascii=not terminal.is_unicode()) if arguments.json else text)
    return 0


def _fail(error: BaseException, status: int, debug: bool) -> int:
    if debug:
        logging.getLogger(__name__).exception("failed")
    terminal.say(f"blocktrain: {' '.join(error_text(error).split())}")
    return status
