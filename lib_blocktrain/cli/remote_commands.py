"""Commands with `--url`: the same output and exit status, from a running WebUI or server.

Names of LoRAs and runs, and the paths in a RUN.json, are the server's; usually it runs on this machine.
"""

from __future__ import annotations

import argparse
import base64
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_blocktrain.cli import terminal
from lib_blocktrain.cli.commands import ProgressBar, inspected_text, parsed_text, presets_text
from lib_blocktrain.cli.parsers import Answer
from lib_blocktrain.cli.remote import Remote, RemoteError, path_part
from lib_blocktrain.cli.runs import runs_text
from lib_blocktrain.cli.train import asked_config, check_file_or_resume
from lib_blocktrain.training.status import ACTIVE_STATES

POLL_SECONDS = 1.0
PRESET_FIELDS = ("name", "architectures", "grade", "purpose", "text")


def presets_list(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """List the server's presets."""
    listed = remote.get("/presets", architecture=arguments.architecture)["presets"]
    data = [{name: preset[name] for name in PRESET_FIELDS} for preset in listed]
    return data, presets_text(data)


def presets_parse(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """Print how the server understands a preset string."""
    body = {"text": arguments.string, "architecture": arguments.architecture}
    data = remote.post("/presets/parse", {**body, "seed": arguments.seed, "x": arguments.x})
    return data, parsed_text(data)


def inspect(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """Print the contents of a network file of the server."""
    data = remote.get("/loras/inspect", name=_server_name(arguments.file))
    return data, inspected_text(arguments.file.name, data)


def preview(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """Have the server draw a picture, and save it here."""
    from lib_blocktrain.files import atomic_write

    _refuse_options(arguments, "checkpoint")
    if arguments.out.suffix.lower() != ".png":
        raise ValueError(f"{arguments.out}: a name that ends in .png was expected")
    lora = {"weights": arguments.weights, "multiplier": arguments.multiplier}
    names = ("prompt", "negative", "seed", "steps", "cfg", "sampler", "width", "height")
    body: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    body["loras"] = [] if arguments.lora is None else [{"name": _server_name(arguments.lora), **lora}]
    drawn = remote.post("/preview", body)
    with atomic_write(arguments.out) as temporary:
        temporary.write_bytes(base64.b64decode(drawn["image"]))
    for notice in drawn["notices"]:
        terminal.say(f"note: {notice}")
    width, height = drawn["size"]
    data = {"out": str(arguments.out), "size": drawn["size"], "seed": drawn["seed"], "notices": drawn["notices"]}
    return data, f"{arguments.out} ({width}x{height}, seed {drawn['seed']})"


def analyse(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """Have the server analyse a LoRA, and save the figures here."""
    from lib_blocktrain.analysis.request import read_seeds
    from lib_blocktrain.analysis.results import Analysis
    from lib_blocktrain.cli.analyse import SEEDS, kept_rule, write_found

    _refuse_options(arguments, "checkpoint")
    if arguments.solve:
        return _solve(arguments, remote)
    rule = kept_rule(arguments)
    features = [_feature(arguments, ""), _feature(arguments, "against_")]
    body = {
        "lora": _server_name(arguments.lora),
        "prompts": arguments.prompt or [],
        "seeds": list(read_seeds(arguments.seeds or SEEDS)),
        "features": [feature for n, feature in enumerate(features) if feature or (n == 0 and features[1])],
    }
    for name in ("method", "negative", "cfg", "width", "height", "weights", "multiplier", "value", "pairs"):
        body[name] = getattr(arguments, name)
    found = _awaited(remote, "/analyse", body, "analysing")
    sheets = {name: base64.b64decode(picture) for name, picture in found["sheets"].items()}
    return write_found(arguments, [Analysis.from_json(one) for one in found["analyses"]], found["canvas"], sheets, rule)


def _solve(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """Have the server search for weights, and save the front here."""
    from lib_blocktrain.analysis.request import read_seeds
    from lib_blocktrain.analysis.solve_result import Solved
    from lib_blocktrain.cli.solve import check_options, write_solved

    check_options(arguments)
    drop = _feature(arguments, "against_")
    body = {
        "lora": _server_name(arguments.lora),
        "prompts": arguments.prompt or [],
        "keep": _feature(arguments, ""),
        **({"drop": drop} if drop else {}),
        **({} if arguments.seeds is None else {"seeds": list(read_seeds(arguments.seeds))}),
    }
    for name in ("negative", "cfg", "width", "height", "weights", "multiplier", "kind", "budget"):
        body[name] = getattr(arguments, name)
    found = _awaited(remote, "/solve", body, "solving")
    return write_solved(arguments, Solved.from_json(found["solved"]), [base64.b64decode(p) for p in found["pictures"]])


def _awaited(remote: Remote, route: str, body: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Start a job on the server and wait for what it finds; raises RemoteError where it failed."""
    job = remote.post(route, body)["job"]
    found, progress = remote.get(f"{route}/{job}"), ProgressBar(what)
    while found["state"] == "running":
        if found["share"] is not None:
            progress(round(found["share"] * 100), 100)
        time.sleep(POLL_SECONDS)
        found = remote.get(f"{route}/{job}")
    if found["state"] == "failed":
        raise RemoteError(found["detail"], found["error"])
    return found


def train(arguments: argparse.Namespace, remote: Remote) -> Answer | int:
    """Start or resume a run and follow it; Ctrl-C saves and stops it."""
    from lib_blocktrain.training.config_json import write

    _refuse_options(arguments, "out")
    if arguments.dry_run:
        raise ValueError("--dry-run together with --url: the model is the server's: expected one of them")
    check_file_or_resume(arguments)
    if arguments.resume is not None:
        _refuse_options(arguments, "steps", "epochs", "save_every")
        name = arguments.resume.resolve().name
        remote.post(f"/runs/{path_part(name)}/resume", {"earlier_state": True} if arguments.earlier_state else {})
    else:
        config = write(asked_config(arguments))  # with absolute paths
        name = remote.post("/runs", {"config": config})["name"]
    status = _follow(remote, name)
    if status["state"] in ("failed", "diverged"):
        terminal.say(f"blocktrain: {status['reason']}")
        return 1
    files = [file["name"] for file in remote.get(f"/runs/{path_part(name)}/files")]
    result = next((file for file in files if "/" not in file and file.endswith(".safetensors")), None)
    data = {"ended": status["state"], "step": status["step"], "run": name, "result": result, "loss": status["smoothed"]}
    if status["published"]:
        data["published"] = status["published"]
    loss = "" if status["smoothed"] is None else f", loss {status['smoothed']:.4f}"
    again = "" if status["state"] == "finished" else f"\ngo on: python -m lib_blocktrain train --resume {name}"
    again += f" --url {remote.url}" if again else ""
    return data, f"{status['state']} at step {status['step']}{loss}: {status['published'] or result or name}{again}"


def runs(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """List the runs of a server."""
    _refuse_options(arguments, "folder")
    listed = remote.get("/runs")
    for name, why in listed["damaged"].items():
        terminal.say(f"note: {name}: {why}")
    return listed["runs"], runs_text(listed["runs"])


def _follow(remote: Remote, name: str) -> dict[str, Any]:
    """Follow the run until it has ended or is paused, and return its status. The first Ctrl-C stops the run.

    The second Ctrl-C ends this command only.
    """
    stopping, progress = False, ProgressBar("training")
    while True:
        try:
            status = remote.get(f"/runs/{path_part(name)}", most=1)["run"]
            if status["state"] not in ("waiting", *ACTIVE_STATES):
                return status
            _show_run(progress, status)
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if stopping:
                raise
            stopping = True
            sys.stderr.write("\nstopping after this step\n")
            remote.post(f"/runs/{path_part(name)}/stop", {})


def _feature(arguments: argparse.Namespace, prefix: str) -> dict[str, object]:
    word, path, box = (getattr(arguments, prefix + name) for name in ("word", "mask", "box"))
    feature: dict[str, object] = {} if word is None else {"word": word}
    if path is not None:
        feature["mask"] = base64.b64encode(path.read_bytes()).decode("ascii")
    if box is not None:
        from lib_blocktrain.analysis.regions import read_box

        feature["box"] = list(read_box(box))
    return feature


def _server_name(path: Path) -> str:
    """The name of a LoRA on the server: the file's, without its extension; `folder/name` for one in a subfolder.

    A path to a file on this machine gives that file's name; anything else is used as the server's name.
    """
    name = path.name if path.is_file() or path.is_absolute() else path.as_posix()
    return name.removesuffix(".safetensors")  # what else follows a dot is a part of the name


def _refuse_options(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(arguments, name, None) is not None:
            raise ValueError(f"--{name.replace('_', '-')} together with --url: the server has its own")


def _show_run(progress: ProgressBar, status: dict[str, Any]) -> None:
    note = [status["state"]]
    if status["smoothed"] is not None:
        note.append(f"loss {status['smoothed']:.4f}")
    if status["seconds_left"] is not None:
        note.append(f"{status['seconds_left'] / 60:.1f} min left")
    progress(status["step"], status["steps"], ", ".join(note))
