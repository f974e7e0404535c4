"""The command `runs`: a table of the runs of a folder, or of a server."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_blocktrain.cli import terminal
from lib_blocktrain.cli.parsers import ARCHITECTURES, Answer, Commands

if TYPE_CHECKING:
    from lib_blocktrain.training.config import NetworkConfig

_COLUMNS = ("run", "state", "step", "loss", "validation", "trained")


def add_commands(commands: Commands) -> None:
    runs = commands.add("runs", runs_command, "the runs, the newest first")
    runs.add_argument(
        "--folder", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="the folder of the runs (outputs/runs)"
    )


def runs_command(arguments: argparse.Namespace) -> Answer:
    """List the runs of a folder, newest first."""
    from lib_blocktrain.hosts.standalone import StandaloneHost
    from lib_blocktrain.runner.status import LatestMetrics, status_of
    from lib_blocktrain.training.runs import open_run

    root = getattr(arguments, "folder", None) or StandaloneHost().output_dir / "runs"
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder: there are no runs yet, or expected --folder DIR")
    data = []
    for path in sorted(root.glob("*/run.json"), key=lambda found: found.stat().st_mtime_ns, reverse=True):
        try:
            run = open_run(path.parent)
            status = status_of(run, LatestMetrics(run).values(), run.status).to_json()
        except (OSError, ValueError) as error:
            terminal.say(f"note: {path.parent.name}: {error}")
            continue
        data.append({**status, "validation": run.latest("validation"), "trained": _trained(run.config.network)})
    return data, runs_text(data)


def _trained(network: NetworkConfig) -> str:
    """The blocks with a weight, by the first architecture that the weights fit."""
    from lib_blocktrain.blocks import BASE
    from lib_blocktrain.training.metadata import trained_blocks
    from lib_blocktrain.training.plan import read_weights

    for architecture in ARCHITECTURES:
        with suppress(ValueError):
            weights = read_weights(network, architecture)[0]
            return trained_blocks(weights if network.text_encoder else weights.replace({BASE: 0.0}))
    return ""


def runs_text(data: Sequence[Mapping[str, Any]]) -> str:
    """The runs as a table."""
    if not data:
        return "no runs"
    rows = [_COLUMNS, *(_row(status) for status in data)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _row(status: Mapping[str, Any]) -> tuple[str, ...]:
    steps = f"{status['step']}/{status['steps']}" if status["steps"] else str(status["step"])
    return (
        terminal.one_line(status["name"]),
        status["state"],
        steps,
        _number(status.get("smoothed")),
        _number(status.get("validation")),
        str(status.get("trained") or ""),
    )


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""
