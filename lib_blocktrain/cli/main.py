"""The command line: ``python -m lib_blocktrain``. Standard library only until the environment is ready."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from lib_blocktrain import __version__
from lib_blocktrain.cli import analyse, commands, page, probe, remote_commands, train
from lib_blocktrain.cli.environment import EnvironmentFailure, ensure
from lib_blocktrain.files import error_text

REMOTE = {  # what a command does with --url
    commands.presets_list: remote_commands.presets_list,
    commands.presets_parse: remote_commands.presets_parse,
    commands.inspect: remote_commands.inspect,
    commands.preview: remote_commands.preview,
    analyse.analyse_command: remote_commands.analyse,
    train.train_command: remote_commands.train,
}
ARCHITECTURES = ("sd1", "sd2", "sdxl")
WEIGHTS_HELP = """a preset's name, or block weights as people share them:
  25 values (IN00..IN11, M00, OUT00..OUT11) or 26 (the text encoder, BASE, first)
  17 (SD1) or 12, 20 (SDXL) values: LoRA Block Weight's short forms, BASE first
  ranges: IN04-OUT02=0.5 or OUT=1,BASE=1
  kohya's network_args, or JSON"""
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
    """Return the parser of all commands; the tab is the one without a name."""
    parser = argparse.ArgumentParser(
        prog="python -m lib_blocktrain",
        description="Preview, weigh and share LoRAs by the 25 blocks of Stable Diffusion's U-Net.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    _common(parser)
    page.add_options(parser)
    parser.set_defaults(run=page.open_tab, needs="tab", json=False)
    sub = parser.add_subparsers(title="commands", metavar="COMMAND")

    tour = _command(sub, "tour", commands.tour, "run", "draw the demo LoRA without, with it, and under block weights")
    tour.add_argument("--out", type=Path, default=Path("outputs/tour"), help="folder for the pictures (%(default)s)")

    _presets(sub)
    inspect = _command(sub, "inspect", commands.inspect, None, "what a network file (LoRA and others) contains")
    inspect.add_argument("file", type=Path, metavar="FILE", help="a .safetensors network file")

    preview = _command(sub, "preview", commands.preview, "run", "draw one picture, with or without a LoRA")
    preview.add_argument("--prompt", required=True)
    preview.add_argument("--negative", default="", help="what should not be in the picture")
    preview.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    preview.add_argument("--steps", type=int, default=20, help="(%(default)s)")
    preview.add_argument("--cfg", type=float, default=5.0, help="classifier-free guidance (%(default)s)")
    preview.add_argument("--sampler", default="DDIM", help="DDIM, Euler, Euler a, DPM++ 2M, DPM++ 2M Karras")
    preview.add_argument("--width", type=int, help="pixels (the model's own)")
    preview.add_argument("--height", type=int, help="pixels (the model's own)")
    preview.add_argument("--lora", type=Path, metavar="FILE")
    preview.add_argument("--weights", default="ALL", metavar="W", help="block weights or a preset's name (%(default)s)")
    preview.add_argument("--multiplier", type=float, default=1.0, help="strength of the whole LoRA (%(default)s)")
    preview.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,  # else it would undo one that stands before the command
        help="a SD1, SD2 or SDXL .safetensors file",
    )
    preview.add_argument("--out", type=Path, required=True, metavar="PNG")

    bake = _command(sub, "bake", commands.bake, "run", "write a network file with the block weights inside")
    bake.add_argument("--lora", type=Path, required=True, metavar="FILE")
    bake.add_argument("--weights", required=True, metavar="W")
    bake.add_argument("--out", type=Path, required=True, metavar="FILE")
    bake.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")

    train.add_commands(lambda name, run, text: _command(sub, name, run, "run", text))
    analyse.add_commands(lambda name, run, text: _command(sub, name, run, "run", text))
    probe.add_commands(lambda name, run, text: _command(sub, name, run, "run", text))

    demo = sub.add_parser("demo", help="the embedded demo model").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    export = _command(demo, "export", commands.demo_export, "run", "write it as a checkpoint for AUTOMATIC1111")
    export.add_argument("folder", type=Path, metavar="DIR", help="for a WebUI: its models/Stable-diffusion")

    test = _command(sub, "test", commands.test, "test", "run the project's tests (the rest goes to pytest)")
    test.add_argument("pytest", nargs="*", metavar="...", help="arguments for pytest; our own stand before test")
    return parser


def _presets(sub: argparse._SubParsersAction) -> None:
    presets = sub.add_parser("presets", help="named block weights").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    listing = _command(presets, "list", commands.presets_list, None, "the presets that come with the extension")
    listing.add_argument("--architecture", choices=ARCHITECTURES, help="only those that fit")
    parse = _command(presets, "parse", commands.presets_parse, None, "what a string is understood as")
    parse.formatter_class = argparse.RawDescriptionHelpFormatter
    parse.epilog = "STRING is " + WEIGHTS_HELP
    parse.add_argument("string", metavar="STRING")
    parse.add_argument("--architecture", choices=ARCHITECTURES, default="sd1", help="(%(default)s)")
    parse.add_argument("--seed", type=int, help="from which R and U are drawn")
    parse.add_argument("--x", type=float, help="what X stands for")


def _command(sub, name: str, run, needs: str | None, text: str) -> argparse.ArgumentParser:
    parser = sub.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    _common(parser)
    if run in REMOTE:
        remote_commands.add_url(parser)
        run = remote_commands.remote_or(run, REMOTE[run])
    parser.set_defaults(run=run, needs=needs)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    """Options of every command; SUPPRESS, so that a subcommand's default does not undo what stood before it."""
    hidden = argparse.SUPPRESS
    parser.add_argument("--json", action="store_true", default=hidden, help="answer with JSON on stdout")
    parser.add_argument("--debug", action="store_true", default=hidden, help="show tracebacks and more messages")
    parser.add_argument("--torch", choices=("auto", "cpu", "cuda"), default=hidden, help="which PyTorch to install")
    parser.add_argument("--torch-index", metavar="URL", default=hidden, help="package index to take PyTorch from")


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
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        if arguments.needs and not remote_commands.is_light(arguments):
            ensure(arguments.needs, argv, getattr(arguments, "torch", "auto"), getattr(arguments, "torch_index", None))
        answer = arguments.run(arguments)
    except EnvironmentFailure as error:
        return _fail(error, 1, debug)
    except (ValueError, OSError) as error:
        return _fail(error, 2, debug)
    except KeyboardInterrupt:
        return _fail(KeyboardInterrupt("stopped"), 130, debug=False)
    if isinstance(answer, int):
        return answer
    data, text = answer
    sys.stdout.write((json.dumps(data, indent=2, ensure_ascii=False) if arguments.json else text).rstrip() + "\n")
    return 0


def _fail(error: BaseException, status: int, debug: bool) -> int:
    if debug:
        logging.getLogger(__name__).exception("failed")
    sys.stderr.write(f"blocktrain: {' '.join(error_text(error).split())}\n")
    return status
