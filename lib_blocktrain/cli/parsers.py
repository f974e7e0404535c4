"""Builds the parsers of all commands, and the options that several of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from lib_blocktrain.cli.remote import PASSWORD_VARIABLE, Remote

Answer = tuple[object, str]  # the data for --json, and plain text
Command = Callable[[argparse.Namespace], Answer | int]  # an int is the exit status

ARCHITECTURES = ("sd1", "sd2", "sdxl")


class RemoteCommand(NamedTuple):
    """The version of a command for `--url`, and the packages that it needs (a key of `environment.NEEDED`)."""

    run: Callable[[argparse.Namespace, Remote], Answer | int]
    needs: str | None = None


class Commands:
    """The commands of a parser, or of a group of them such as `presets`.

    `remote` holds those that support `--url`. The namespace of a parsed command has `run`, a `Command`, and `needs`
    and `needs_with_url`, the packages that it needs.
    """

    def __init__(
        self, parser: argparse.ArgumentParser, remote: Mapping[Command, RemoteCommand], *, required: bool = False
    ):
        self._subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=required)
        self._remote = remote

    def add(self, name: str, run: Command, text: str, *, needs: str | None = "run") -> argparse.ArgumentParser:
        """Add a command; `text` is its help, without a capital or a full stop."""
        parser = self._subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add_common(parser)
        parser.set_defaults(run=run, needs=needs)
        if run in self._remote:
            _add_url(parser, run, self._remote[run])
        return parser

    def group(self, name: str, text: str) -> Commands:
        """Add a command with subcommands, one of which must be given."""
        return Commands(self._subparsers.add_parser(name, help=text), self._remote, required=True)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command, with SUPPRESS: a default would override an option given before the command."""
    hidden = argparse.SUPPRESS
    parser.add_argument("--json", action="store_true", default=hidden, help="print JSON to stdout")
    parser.add_argument("--debug", action="store_true", default=hidden, help="show tracebacks and more messages")
    parser.add_argument("--torch", choices=("auto", "cpu", "cuda"), default=hidden, help="which PyTorch to install")
    parser.add_argument("--torch-index", metavar="URL", default=hidden, help="package index to take PyTorch from")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the option of every command that loads a model; SUPPRESS as in `add_common`."""
    text = "a SD1, SD2 or SDXL .safetensors file (the demo model)"
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", default=argparse.SUPPRESS, help=text)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options common to `preview` and `analyse`: sampling, and a LoRA's weights."""
    parser.add_argument("--negative", default="", help="negative prompt")
    parser.add_argument("--cfg", type=float, default=5.0, help="classifier-free guidance (%(default)s)")
    parser.add_argument("--width", type=int, help="pixels (the model's own)")
    parser.add_argument("--height", type=int, help="pixels (the model's own)")
    parser.add_argument("--weights", default="ALL", metavar="W", help="block weights or a preset's name (%(default)s)")
    parser.add_argument("--multiplier", type=float, default=1.0, help="strength of the whole LoRA (%(default)s)")


def _add_url(parser: argparse.ArgumentParser, local: Command, remote: RemoteCommand) -> None:
    """Add `--url`, which makes a command use a server instead of loading a model."""
    group = parser.add_argument_group("on a running WebUI or server, instead of loading a model")
    group.add_argument("--url", metavar="URL", help="such as http://127.0.0.1:7860; files and names are the server's")
    group.add_argument("--auth", metavar="USER:PASSWORD", help=f"of its --api-auth (or in {PASSWORD_VARIABLE})")

    def run(arguments: argparse.Namespace) -> Answer | int:
        if arguments.url is None:
            return local(arguments)
        return remote.run(arguments, Remote(arguments.url, arguments.auth))

    parser.set_defaults(run=run, needs_with_url=remote.needs)
