"""All commands except those that train or analyse.

Modules that need torch are imported inside the commands, so that the other commands start quickly.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_blocktrain.cli import terminal
from lib_blocktrain.cli.parsers import Answer

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.networks.files import Network
    from lib_blocktrain.networks.hooks import Placement
    from lib_blocktrain.networks.reduce import Reduction

TOUR_LORA = "robot-on-green"
TOUR_PROMPT = "a photo of a large robot in the center"
TOUR_WEIGHTS = "OUT06-OUT11=1"
TOUR_SEED = 0
NAMED_KEYS = 4  # of those in a network file that nobody reads
MAX_TEST_WORKERS = 4  # each needs up to 3 GB


def presets_list(arguments: argparse.Namespace) -> Answer:
    """List the presets, the user's own first, optionally of one architecture only."""
    from lib_blocktrain.cli.own_presets import own_presets

    each = [preset for named in own_presets().all().values() for preset in named.each]
    presets = [p for p in each if arguments.architecture in (None, *p.architectures)]
    data = [
        {"name": p.name, "architectures": list(p.architectures), "grade": p.grade, "purpose": p.purpose, "text": p.text}
        for p in presets
    ]
    return data, presets_text(data)


def presets_text(presets: Sequence[Mapping[str, Any]]) -> str:
    """The presets as plain text, one per line."""
    width = max(len(preset["name"]) for preset in presets)
    row = "{name:<{width}}  {fits:<12}  {grade}  {purpose}"
    return "\n".join(row.format(width=width, fits="/".join(p["architectures"]), **p).rstrip() for p in presets)


def presets_parse(arguments: argparse.Namespace) -> Answer:
    """Print how a preset string is understood."""
    from lib_blocktrain.cli.own_presets import own_presets
    from lib_blocktrain.weights.preset_strings import weights_in_errors

    with weights_in_errors(arguments.string):
        parsed = own_presets().parse(arguments.string, arguments.architecture, arguments.seed, arguments.x, layers=True)
    weights = parsed.weights
    data = {
        "architecture": weights.architecture,
        "name": parsed.name,
        "form": parsed.form,
        "weights": {"BASE": weights.base, **weights.values, "REST": weights.rest},
        "changes": parsed.layers.changes,
        "notices": list(parsed.notices),
        "line": parsed.layers.to_line(parsed.name or "PRESET"),
    }
    return data, parsed_text(data)


def parsed_text(data: Mapping[str, Any]) -> str:
    """How a preset string was understood, as plain text."""
    rows = [f"understood as {data['form']} for {data['architecture']}", *(f"note: {n}" for n in data["notices"])]
    rows += [f"  {block:<5} {value:g}" for block, value in data["weights"].items()]
    rows += [f"  then  {data['changes']}"] if data["changes"] else []
    return "\n".join([*rows, data["line"]])


def inspect(arguments: argparse.Namespace) -> Answer:
    """Print the contents of a network file."""
    from lib_blocktrain.networks.contents import inspect as contents

    data = contents(arguments.file)
    return data, inspected_text(arguments.file.name, data)


def inspected_text(name: str, data: Mapping[str, Any]) -> str:
    """The contents of a network file, as plain text."""
    rank = "" if data["rank"] is None else f", rank {data['rank']}"
    unread = data["unread"]
    named = ", ".join([*map(repr, unread[:NAMED_KEYS]), *["..."] * (len(unread) > NAMED_KEYS)])
    rows = [
        f"{terminal.one_line(name)}: {', '.join(data['algorithms'])} for {data['architecture']}{rank}",
        *(f"  {block:<5} {count:>4} modules" for block, count in data["blocks"].items() if count),
        *(f"  note: {terminal.one_line(notice)}" for notice in data.get("notices", ())),  # a server may be older
        *([f"  {len(unread)} keys that nobody reads: {named}"] if unread else []),
        *(
            f"  {terminal.one_line(key)}: {terminal.one_line(str(value)[:100])}"
            for key, value in sorted(data["metadata"].items())
        ),
    ]
    return "\n".join(rows)


def open_host(checkpoint: Path | None, lora_dirs: Sequence[Path] = ()) -> Host:
    """The standalone host for a checkpoint, by default the demo model."""
    from lib_blocktrain.hosts.standalone import StandaloneHost

    return StandaloneHost(checkpoint, lora_dirs=tuple(lora_dirs))


def open_tab(arguments: argparse.Namespace) -> int:
    """Serve the tab until Ctrl+C."""
    from lib_blocktrain.hosts.demo_model import DEMO, check_present
    from lib_blocktrain.server.app import languages, serve
    from lib_blocktrain.ui.lora_controls import InitialState

    if arguments.language not in (None, *languages()):
        raise ValueError(f"--language {arguments.language}: expected one of {', '.join(languages())}")
    checkpoint: Path | None = arguments.checkpoint
    if checkpoint is None:
        check_present()
    for path in (*([checkpoint] if checkpoint else []), *(arguments.lora_dir or ())):
        path.stat()  # report a mistyped path now, not after the page has opened
    host = open_host(checkpoint, arguments.lora_dir or ())
    tour = InitialState(TOUR_PROMPT, lora=TOUR_LORA, weights=TOUR_WEIGHTS, seed=TOUR_SEED, runs=DEMO / "runs")

    def opened(address: str) -> None:
        sys.stdout.write(f"The tab is at {address} (press Ctrl+C to stop)\n")
        sys.stdout.flush()
        if not arguments.no_browser:
            webbrowser.open(address)

    serve(host, arguments.port, tour if checkpoint is None else InitialState(), opened, arguments.language)
    return 0


def _placements(host: Host, lora: Path | None, weights: str, multiplier: float) -> tuple[list[Placement], list[str]]:
    from lib_blocktrain.cli.own_presets import weights_for
    from lib_blocktrain.networks.files import read_network
    from lib_blocktrain.networks.hooks import Placement

    if lora is None:
        return [], []
    parsed = weights_for(weights, host.model().architecture, lora, layers=True)
    return [Placement(read_network(lora), parsed.acting, multiplier)], list(parsed.notices)


def preview(arguments: argparse.Namespace) -> Answer:
    """Draw one picture, with a LoRA under block weights or without one."""
    from lib_blocktrain.hosts.host import SampleRequest
    from lib_blocktrain.workspace.images import save_png

    host = open_host(arguments.checkpoint)
    placements, notices = _placements(host, arguments.lora, arguments.weights, arguments.multiplier)
    request = SampleRequest(
        prompt=arguments.prompt,
        negative=arguments.negative,
        seed=arguments.seed,
        steps=arguments.steps,
        cfg=arguments.cfg,
        sampler=arguments.sampler,
        width=arguments.width,
        height=arguments.height,
        placements=placements,
    )
    picture = host.sample(request, ProgressBar("drawing"))
    save_png(picture, arguments.out, request, host.model().name)
    for notice in notices:
        terminal.say(f"note: {notice}")
    data = {"out": str(arguments.out), "size": list(picture.size), "seed": arguments.seed, "notices": notices}
    return data, f"{arguments.out} ({picture.width}x{picture.height}, seed {arguments.seed})"


def tour(arguments: argparse.Namespace) -> Answer:
    """Three pictures of the demo model: without the demo LoRA, with it, and under block weights."""
    from dataclasses import replace

    from lib_blocktrain.files import atomic_write
    from lib_blocktrain.hosts.host import SampleRequest
    from lib_blocktrain.workspace.images import image_grid, save_png

    host = open_host(arguments.checkpoint)
    lora = host.lora_dirs[-1] / f"{TOUR_LORA}.safetensors"
    base = SampleRequest(prompt=TOUR_PROMPT, seed=TOUR_SEED)
    variants = {
        "1-without": ("without the LoRA", []),
        "2-with": (f"{TOUR_LORA} at 1", _placements(host, lora, "ALL", 1.0)[0]),
        "3-weights": (f"{TOUR_LORA} under {TOUR_WEIGHTS}", _placements(host, lora, TOUR_WEIGHTS, 1.0)[0]),
    }
    pictures = []
    for name, (title, placements) in variants.items():
        request = replace(base, placements=placements)
        picture = host.sample(request, ProgressBar(title))
        save_png(picture, arguments.out / f"{name}.png", request, host.model().name)
        pictures.append((title, picture))
    sheet = arguments.out / "tour.png"
    with atomic_write(sheet) as temporary:
        image_grid(pictures).save(temporary, format="PNG")
    files = [str(arguments.out / f"{name}.png") for name in variants]
    text = "\n".join([f'"{TOUR_PROMPT}", seed {TOUR_SEED}:', *files, f"side by side: {sheet}"])
    return {"prompt": TOUR_PROMPT, "pictures": files, "sheet": str(sheet)}, text


def bake(arguments: argparse.Namespace) -> Answer:
    """Write a network file with the block weights baked in."""
    from lib_blocktrain.cli.own_presets import weights_for
    from lib_blocktrain.networks.bake import bake as bake_file
    from lib_blocktrain.networks.files import read_network
    from lib_blocktrain.networks.reduce import reduced

    network, lora = read_network(arguments.lora), arguments.lora
    parsed = weights_for(arguments.weights, network.architecture, lora, layers=True)
    advised = arguments.recommend and weights_for(arguments.recommend, network.architecture, lora).weights
    reports: list[Reduction] = []

    def reduce(found: Network) -> Network:
        smaller, report = reduced(found, arguments.rank or None, arguments.keep_norm)
        reports.append(report)
        return smaller

    change, overwrite = None if arguments.rank is None else reduce, arguments.overwrite
    bake_file(network, parsed.acting, arguments.out, overwrite=overwrite, recommended=advised, change=change)
    line = parsed.layers.to_line(parsed.name or arguments.out.stem)
    data: dict[str, Any] = {"out": str(arguments.out), "weights": line, "notices": list(parsed.notices)}
    text = [*(f"note: {n}" for n in parsed.notices), f"{arguments.out}: {line}"]
    for report in reports:
        data["reduction"] = report.to_json()
        text += _reduction_text(report)
    return data, "\n".join(text)


def _reduction_text(report: Reduction) -> list[str]:
    """What a lower rank costs, block by block; errors are shares of the delta weights' norm."""
    rows = [
        f"  {block:<5} rank {found.rank_before} to {found.rank}, error {found.error:.2%}"
        for block, found in report.blocks.items()
    ]
    left = f"; {report.kept} modules of other algorithms stay as they are" if report.kept else ""
    share = report.numbers / report.numbers_before
    return [*rows, f"{share:.0%} of the numbers, error {report.error:.2%} of the norm{left}"]


def demo_export(arguments: argparse.Namespace) -> Answer:
    """Write the demo model as a checkpoint that AUTOMATIC1111 loads."""
    from lib_blocktrain.hosts.demo_model import MODEL, check_present
    from lib_blocktrain.hosts.ldm_export import export

    check_present(MODEL)
    paths = {name: str(path) for name, path in export(MODEL, arguments.folder).items()}
    return paths, "\n".join(
        [*paths.values(), "The yaml names the clip folder by its path: export again if you move it."]
    )


def test(arguments: argparse.Namespace) -> int:
    """Run pytest: all tests on up to MAX_TEST_WORKERS cores, or those asked for on one core; return its exit status."""
    from lib_blocktrain.files import ROOT

    words, environment = arguments.pytest, dict(os.environ)
    if not words:
        words = ["-n", str(min(os.cpu_count() or 1, MAX_TEST_WORKERS)), "--dist", "loadfile", "--no-loadscope-reorder"]
        environment.setdefault("OMP_NUM_THREADS", "1")  # otherwise each worker would use all cores
    return subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, env=environment, check=False).returncode


class ProgressBar:
    """A tqdm bar on stderr; silent if stderr is not a terminal or tqdm is not installed."""

    def __init__(self, what: str):
        self._what = what
        self._bar: Any = None
        self._shown = sys.stderr.isatty() and find_spec("tqdm") is not None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` are done; `note` is shown after the bar. A closed terminal ends nothing."""
        if self._shown:
            with suppress(OSError):
                self._show(done, total, note)

    def _show(self, done: int, total: int, note: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(desc=self._what, initial=done, file=sys.stderr)
        self._bar.total = total
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:  # a count that restarts gets a new bar
            self._bar.close()
            self._bar = None
