"""The steps of a picture that is being sampled, for progress and Cancel.

The WebUI calls `entered` before each evaluation of the U-Net, and swallows what it raises: to end a picture is to ask
for the WebUI's own Interrupt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modules import shared

from lib_blocktrain.hosts.host import Progress

_LISTENER = "blocktrain_listener"  # on the WebUI's processing object


@dataclass
class Listener:
    """Who hears of the steps of a picture, and what it raised."""

    progress: Progress | None
    raised: Exception | None = None

    def hear(self, done: int, of: int) -> None:
        """Pass on that this many steps are done; what is raised interrupts the picture, and is kept."""
        if self.progress is None or self.raised is not None:
            return
        try:
            self.progress(min(done, of), of)
        except Exception as error:  # noqa: BLE001 - raised where the picture was asked for: here it would be swallowed
            self.raised = error
            shared.state.interrupt()


def listen(p: Any, progress: Progress | None) -> Listener:
    """Let `progress` hear of the steps of `p`."""
    listener = Listener(progress)
    setattr(p, _LISTENER, listener)
    return listener


def entered(params: Any) -> None:
    """Hear that the U-Net is about to be evaluated; `params` are the WebUI's CFGDenoiserParams."""
    denoiser = params.denoiser
    listener = getattr(denoiser.p, _LISTENER, None)
    if listener is not None:
        listener.hear(step_of(denoiser) - 1, denoiser.p.steps)


def step_of(denoiser: Any) -> int:
    """Return the step, counted from 1: some samplers evaluate the U-Net twice for one."""
    steps = denoiser.steps or 1
    return denoiser.step * steps // max(denoiser.total_steps or steps, 1) + 1
