"""The command `collide`: two LoRAs, block by block."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_blocktrain.cli.commands import ProgressBar, open_host
from lib_blocktrain.cli.parsers import Answer, Commands, add_checkpoint

COLLIDE_HELP = """Without --prompt the answer follows from the files alone. With one, both LoRAs' effects are measured
on the model: use a prompt that asks for what both do. The weights leave a block to the LoRA that needs it more."""


def add_commands(commands: Commands) -> None:
    collide = commands.add("collide", collide_command, "which blocks two LoRAs both want, and weights that divide them")
    collide.epilog = COLLIDE_HELP
    collide.add_argument("first", type=Path, metavar="A", help="a .safetensors network file")
    collide.add_argument("second", type=Path, metavar="B")
    collide.add_argument("--prompt", action="append", metavar="T", help="measure the effects; may be repeated")
    collide.add_argument("--negative", default="", help="negative prompt")
    collide.add_argument("--seeds", default="0,1,2", help="(%(default)s)")
    add_checkpoint(collide)


def collide_command(arguments: argparse.Namespace) -> Answer:
    """Compare two LoRAs, with a prompt on the model too."""
    from lib_blocktrain.analysis.collision import collide
    from lib_blocktrain.analysis.request import read_seeds
    from lib_blocktrain.analysis.sampling_grid import SamplingGrid
    from lib_blocktrain.networks.files import read_network
    from lib_blocktrain.workspace.analyses import run_collide

    first, second = read_network(arguments.first), read_network(arguments.second)
    if not arguments.prompt:
        found = collide(first, second)
    else:
        seeds = read_seeds(arguments.seeds)
        grid = SamplingGrid(tuple(arguments.prompt), negative=arguments.negative, seeds=seeds)
        host = open_host(arguments.checkpoint)
        with host.queued():
            found = run_collide(host, first, second, grid, ProgressBar("measuring"))
    return found.to_json(), found.to_table()
