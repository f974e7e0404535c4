"""`analyse --solve`: search for block weights, and write the front; torch and the rest are imported when it runs."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_blocktrain.cli import terminal
from lib_blocktrain.cli.commands import ProgressBar, open_host
from lib_blocktrain.cli.parsers import Answer
from lib_blocktrain.cli.signals import handled

if TYPE_CHECKING:
    from lib_blocktrain.analysis.regions import Feature
    from lib_blocktrain.analysis.solve_result import Solved

NOT_TOGETHER = {
    "method": "exact",
    "keep": None,
    "value": 0.0,
    "pairs": False,
}  # options of other methods, and what they are unless given


def solve_command(arguments: argparse.Namespace, feature: Feature, against: Feature) -> Answer:
    """Search for weights; the first Ctrl+C ends the search with the best until then."""
    from lib_blocktrain.analysis.solve_result import build_solve_request
    from lib_blocktrain.cli.own_presets import weights_for
    from lib_blocktrain.networks.files import read_network
    from lib_blocktrain.workspace.analyses import run_solve
    from lib_blocktrain.workspace.images import png_of

    check_options(arguments)
    network = read_network(arguments.lora)
    seeds = {} if arguments.seeds is None else {"seeds": arguments.seeds}
    request = build_solve_request(
        network,
        prompts=arguments.prompt or (),
        keep=feature,
        drop=against if against.given else None,
        negative=arguments.negative,
        guidance=arguments.cfg,
        width=arguments.width,
        height=arguments.height,
        kind=arguments.kind,
        budget=arguments.budget,
        weights=weights_for(arguments.weights, network.architecture, arguments.lora),
        multiplier=arguments.multiplier,
        **seeds,
    )
    host = open_host(arguments.checkpoint)
    ended = False

    def end(_number: int, _frame: object) -> None:
        nonlocal ended
        if ended:
            raise KeyboardInterrupt
        ended = True
        terminal.say("ending with the best weights until now")

    with host.queued(), handled((signal.SIGINT,), end):
        solved = run_solve(host, request, ProgressBar("solving"), lambda: ended)
    pictures = [b"" if one.picture is None else png_of(one.picture) for one in solved.front]
    return write_solved(arguments, solved, pictures)


def check_options(arguments: argparse.Namespace) -> None:
    """Raise ValueError for options that say nothing to `--solve`."""
    for name, unless in NOT_TOGETHER.items():
        if getattr(arguments, name) != unless:
            raise ValueError(f"--{name} with --solve: expected only one of them")


def write_solved(arguments: argparse.Namespace, solved: Solved, pictures: Sequence[bytes]) -> Answer:
    """Write solved.json, preset.txt and the front's pictures, PNGs in its order; "" for one that was not drawn."""
    data: dict[str, Any] = {"solved": solved.to_json()}
    preset = solved.preset(arguments.preset or "FOUND")
    line = data["preset"] = f"{preset.name}:{preset.text}  # {preset.purpose}"
    contents = {
        "solved.json": json.dumps(solved.to_json(), indent=1, ensure_ascii=False) + "\n",
        "preset.txt": line + "\n",
    }
    files = [_write(arguments.out / name, text.encode("utf-8")) for name, text in contents.items()]
    files += [
        _write(arguments.out / f"front-{place}.png", picture)
        for place, picture in enumerate(pictures, start=1)
        if picture
    ]
    data["files"] = [str(path) for path in files]
    text = [solved.to_table(), "", line, *(f"note: {notice}" for notice in solved.notices), *data["files"]]
    return data, "\n".join(text)


def _write(path: Path, content: bytes) -> Path:
    from lib_blocktrain.files import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path
