"""What a run asks of its host: samples drawn with the host's own sampler, and a place for its result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from lib_blocktrain.hosts.host import Cancelled, Host, OutOfMemory, SampleRequest
from lib_blocktrain.training.config import SampleConfig
from lib_blocktrain.training.result import publish
from lib_blocktrain.training.trainer import Draw, Trainer

log = logging.getLogger(__name__)


def sampler(host: Host, wanted: SampleConfig, stopping: Callable[[], bool]) -> Draw:
    """Return what draws a run's samples with the host's own sampler; the network is on the model already.

    A picture that is not drawn to its end, or for which memory is not enough, is None, and ends no run.
    """

    def progress(done: int, of: int) -> None:
        if stopping():
            raise Cancelled("the run is told to stop")

    def draw(prompt: str, seed: int):
        known = wanted.sampler if wanted.sampler in host.samplers else host.samplers[0]
        request = SampleRequest(prompt=prompt, seed=seed, steps=wanted.steps, cfg=wanted.cfg, sampler=known)
        try:
            return host.sample(request, progress)
        except (OutOfMemory, Cancelled) as error:
            log.warning("no sample: %s", error)
            return None

    return draw


def publish_result(trainer: Trainer, host: Host) -> Path:
    """Put a run's result where the host finds LoRAs, with its last sample as its picture; return the copy's path.

    A copy that this run put there before is replaced; a file of someone else stays, and the copy has a number.
    """
    run, folder = trainer.run, host.lora_dirs[0]
    pictures = sorted((run.folder / "samples").glob("*.png"))
    tags = trainer.data.dataset.common_tags(run.config.dataset.separator)
    before = run.latest("published")
    return publish(
        run.result,
        folder,
        text=", ".join(tags),
        picture=pictures[-1] if pictures else None,
        replaces=before if isinstance(before, str) and Path(before).name == before else None,
    )
