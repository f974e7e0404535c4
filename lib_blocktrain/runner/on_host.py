"""Draws a run's samples by the host's sampler, and copies its result into the host's LoRA folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lib_blocktrain.files import error_text
from lib_blocktrain.hosts.host import Cancelled, Host, OutOfMemory, SampleRequest
from lib_blocktrain.training.config import SampleConfig
from lib_blocktrain.training.evaluation import Draw
from lib_blocktrain.training.records import timed
from lib_blocktrain.training.result import publish
from lib_blocktrain.training.runs import Run
from lib_blocktrain.training.sample_prompts import SamplePrompt
from lib_blocktrain.training.trainer import Trainer

log = logging.getLogger(__name__)


def sampler(
    host: Host, wanted: SampleConfig, stopping: Callable[[], bool], say: Callable[[str], None] = log.warning
) -> Draw:
    """Return the function that draws a run's samples on the host; the network is already applied to the model.

    It returns None, and the run continues, if the sample was cancelled or memory ran out. `say` is called once with
    each thing that the host says of them.
    """
    said: set[str] = set()

    def say_once(notice: str) -> None:
        if notice not in said:
            said.add(notice)
            say(notice)

    def progress(done: int, of: int) -> None:
        if stopping():
            raise Cancelled("the run is being stopped")

    def draw(asked: SamplePrompt) -> Image.Image | None:
        sampler = asked.sampler or wanted.sampler
        if sampler not in host.samplers:
            say_once(f"samples: there is no sampler {sampler!r} here: {host.samplers[0]} is taken")
            sampler = host.samplers[0]
        request = SampleRequest(
            prompt=asked.prompt,
            negative=asked.negative or "",
            seed=asked.seed or 0,
            steps=asked.steps or wanted.steps,
            cfg=wanted.cfg if asked.cfg is None else asked.cfg,
            sampler=sampler,
            width=asked.width,
            height=asked.height,
            say=lambda notice: say_once(f"samples: {notice}"),
        )
        try:
            return host.sample(request, progress)
        except (OutOfMemory, Cancelled) as error:
            say_once(f"no sample: {error}")
            return None

    return draw


def publish_result(trainer: Trainer, host: Host) -> Path:
    """Copy a run's result into the host's LoRA folder, with its last sample as preview; return the copy's path.

    An earlier copy of this run is replaced; if another file has the name, the copy gets a number. The run's metrics
    record the copy, by which `published_copy` knows it again.
    """
    run, folder = trainer.run, host.lora_dirs[0]
    samples = sorted((run.folder / "samples").glob("*.png"))
    tags = trainer.data.dataset.common_tags()
    before = published_copy(run, folder)
    copy = publish(
        run.result,
        folder,
        text=", ".join(tags),
        preview=samples[-1] if samples else None,
        replaces=before.name if before is not None else None,
    )
    record(run, {"published": copy.name, "published_sha256": _digest(copy)})
    return copy


def published_copy(run: Run, folder: Path) -> Path | None:
    """Return the copy of a run's result in a LoRA folder; None if it is gone, or another file has its name now.

    Runs of earlier versions recorded no digest: theirs is the file of the name.
    """
    name, digest = run.latest("published"), run.latest("published_sha256")
    if not isinstance(name, str) or Path(name).name != name:
        return None
    path = folder / name
    return path if path.is_file() and digest in (None, _digest(path)) else None


def record(run: Run, row: Mapping[str, Any]) -> bool:
    """Write a row into the metrics of a run that no trainer holds; return whether that was possible."""
    try:
        run.add_metrics(timed({"step": run.latest("step") or 0, **row}))
    except OSError as error:
        log.warning("%s: %s", run.metrics_path, error_text(error))
        return False
    return True


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
