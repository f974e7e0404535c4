"""Commands with `--url`: the same output and exit status, from a WebUI or a server that runs already.

Names of LoRAs and runs are the server's, paths in a RUN.json too: usually it is this very machine.
"""

from __future__ import annotations

import argparse
import base64
import sys
import time
from pathlib import Path
from typing import Any

from lib_blocktrain.cli.remote import PASSWORD_VARIABLE, Remote, RemoteError, named
from lib_blocktrain.training.status import GOING_ON

Answer = tuple[object, str]

EVERY = 1.0  # seconds between two looks at what goes on
PRESET_FIELDS = ("name", "architectures", "grade", "purpose", "text")


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add `--url` and `--auth` to a command."""
    group = parser.add_argument_group("on a running WebUI or server, instead of loading a model")
    group.add_argument("--url", metavar="URL", help="such as http://127.0.0.1:7860; files and names are the server's")
    group.add_argument("--auth", metavar="USER:PASSWORD", help=f"of its --api-auth (or in {PASSWORD_VARIABLE})")


def remote_or(local: Any, remote: Any) -> Any:
    """Return the command that runs `remote` where `--url` is given, and `local` elsewhere."""

    def run(arguments: argparse.Namespace) -> Answer | int:
        if getattr(arguments, "url", None) is None:
            return local(arguments)
        return remote(arguments, Remote(arguments.url, arguments.auth))

    return run


def is_light(arguments: argparse.Namespace) -> bool:
    """Whether a command with `--url` needs none of the packages that it would need here (figures need numpy)."""
    return getattr(arguments, "url", None) is not None and not hasattr(arguments, "against_word")


def presets_list(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """List the server's presets."""
    from lib_blocktrain.cli.commands import presets_text

    listed = remote.get("/presets", architecture=arguments.architecture)["presets"]
    data = [{name: preset[name] for name in PRESET_FIELDS} for preset in listed]
    return data, presets_text(data)


def presets_parse(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """Say what the server understands a preset string as."""
    from lib_blocktrain.cli.commands import parsed_text

    body = {"text": arguments.string, "architecture": arguments.architecture}
    data = remote.post("/presets/parse", {**body, "seed": arguments.seed, "x": arguments.x})
    return data, parsed_text(data)


def inspect(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """Say what a network file of the server contains."""
    from lib_blocktrain.cli.commands import inspected_text

    data = remote.get("/loras/inspect", name=_lora(arguments.file))
    return data, inspected_text(arguments.file.name, data)


def preview(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """Have the server draw a picture, and write it down here."""
    from lib_blocktrain.files import atomic_write

    _refuse(arguments, "checkpoint")
    if arguments.out.suffix.lower() != ".png":
        raise ValueError(f"{arguments.out}: a name that ends in .png was expected")
    lora = {"weights": arguments.weights, "multiplier": arguments.multiplier}
    names = ("prompt", "negative", "seed", "steps", "cfg", "sampler", "width", "height")
    body: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    body["loras"] = [] if arguments.lora is None else [{"name": _lora(arguments.lora), **lora}]
    drawn = remote.post("/preview", body)
    with atomic_write(arguments.out) as temporary:
        temporary.write_bytes(base64.b64decode(drawn["image"]))
    for notice in drawn["notices"]:
        sys.stderr.write(f"note: {notice}\n")
    width, height = drawn["size"]
    data = {"out": str(arguments.out), "size": drawn["size"], "seed": drawn["seed"], "notices": drawn["notices"]}
    return data, f"{arguments.out} ({width}x{height}, seed {drawn['seed']})"


def analyse(arguments: argparse.Namespace, remote: Remote) -> Answer:
    """Have the server analyse a LoRA; its figures are written down here."""
    from lib_blocktrain.analysis.results import Analysis
    from lib_blocktrain.cli.analyse import asked_seeds, kept_rule, write_found

    _refuse(arguments, "checkpoint")
    rule = kept_rule(arguments)
    features = [_feature(arguments, ""), _feature(arguments, "against_")]
    body = {
        "lora": _lora(arguments.lora),
        "prompts": arguments.prompt or [],
        "seeds": list(asked_seeds(arguments.seeds)),
        "features": [feature for n, feature in enumerate(features) if feature or (n == 0 and features[1])],
    }
    for name in ("method", "negative", "cfg", "width", "height", "weights", "multiplier", "value"):
        body[name] = getattr(arguments, name)
    job = remote.post("/analyse", body)["job"]
    found = remote.get(f"/analyse/{job}")
    while found["state"] == "running":
        _show("analysing", found["share"])
        time.sleep(EVERY)
        found = remote.get(f"/analyse/{job}")
    if found["state"] == "failed":
        raise RemoteError(found["detail"], found["error"])
    sheets = {name: base64.b64decode(picture) for name, picture in found["sheets"].items()}
    return write_found(arguments, [Analysis.from_json(one) for one in found["analyses"]], found["canvas"], sheets, rule)


def train(arguments: argparse.Namespace, remote: Remote) -> Answer | int:
    """Start or resume a run and follow it; Ctrl-C saves and stops it."""
    _refuse(arguments, "out")
    if (arguments.file is None) == (arguments.resume is None):
        what = "nothing to train" if arguments.file is None else "RUN.json and --resume together"
        raise ValueError(f"{what}: expected RUN.json or --resume DIR")
    if arguments.resume is not None:
        _refuse(arguments, "steps", "save_every")
        name = arguments.resume.resolve().name
        remote.post(f"/runs/{named(name)}/resume", {})
    else:
        name = remote.post("/runs", {"config": _config(arguments)})["name"]
    status = _followed(remote, name)
    if status["state"] in ("failed", "diverged"):
        sys.stderr.write(f"blocktrain: {status['reason']}\n")
        return 1
    files = [file["name"] for file in remote.get(f"/runs/{named(name)}/files")]
    result = next((file for file in files if "/" not in file and file.endswith(".safetensors")), None)
    data = {"ended": status["state"], "step": status["step"], "run": name, "result": result, "loss": status["smoothed"]}
    if status["published"]:
        data["published"] = status["published"]
    loss = "" if status["smoothed"] is None else f", loss {status['smoothed']:.4f}"
    again = "" if status["state"] == "finished" else f"\ngo on: python -m lib_blocktrain train --resume {name}"
    again += f" --url {remote.url}" if again else ""
    return data, f"{status['state']} at step {status['step']}{loss}: {status['published'] or result or name}{again}"


def _followed(remote: Remote, name: str) -> dict[str, Any]:
    """Show the run until it ends or rests; the first Ctrl-C stops it, the second one leaves it alone."""
    told = False
    while True:
        try:
            status = remote.get(f"/runs/{named(name)}", most=1)["run"]
            if status["state"] not in ("waiting", *GOING_ON):
                return status
            _show_run(status)
            time.sleep(EVERY)
        except KeyboardInterrupt:
            if told:
                raise
            told = True
            sys.stderr.write("\nstopping after this step\n")
            remote.post(f"/runs/{named(name)}/stop", {})


def _config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The RUN.json with what the arguments change; its paths come out absolute."""
    from dataclasses import replace

    from lib_blocktrain.training.config import load
    from lib_blocktrain.training.config_json import write

    changes = {"steps": arguments.steps, "save_every": arguments.save_every}
    config = replace(load(arguments.file), **{name: value for name, value in changes.items() if value is not None})
    return write(config)


def _feature(arguments: argparse.Namespace, prefix: str) -> dict[str, object]:
    word, path, box = (getattr(arguments, prefix + name) for name in ("word", "mask", "box"))
    feature: dict[str, object] = {} if word is None else {"word": word}
    if path is not None:
        feature["mask"] = base64.b64encode(path.read_bytes()).decode("ascii")
    if box is not None:
        from lib_blocktrain.analysis.regions import read_box

        feature["box"] = list(read_box(box))
    return feature


def _lora(path: Path) -> str:
    """The name of a LoRA on the server: its file's, without folder and ending; one in a folder there is `folder/name`.

    A path that leads to a file here is that file's; anything else is taken as the server's name.
    """
    return path.stem if path.is_file() or path.is_absolute() else path.with_suffix("").as_posix()


def _refuse(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(arguments, name, None) is not None:
            raise ValueError(f"--{name.replace('_', '-')} together with --url: the server has its own")


def _show(what: str, share: float | None) -> None:
    if sys.stderr.isatty() and share is not None:
        sys.stderr.write(f"\r{what}: {share:.0%} ")
        sys.stderr.flush()


def _show_run(status: dict[str, Any]) -> None:
    if not sys.stderr.isatty():
        return
    parts = [status["state"], f"{status['step']}/{status['steps']}"]
    if status["smoothed"] is not None:
        parts.append(f"loss {status['smoothed']:.4f}")
    if status["seconds_left"] is not None:
        parts.append(f"{status['seconds_left'] / 60:.1f} min left")
    sys.stderr.write("\r" + "  ".join(parts) + "  ")
    sys.stderr.flush()
