"""Progress, live pictures and Cancel of an image that the WebUI is sampling.

The WebUI swallows what its CFG denoiser callback raises. To end an image from there, the callback asks for the WebUI's
own Interrupt, and the error is raised again where the image was requested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modules import shared
from PIL import Image

from lib_blocktrain.hosts.live_picture import LivePictures
from lib_blocktrain.model.protocol import Progress
from lib_blocktrain.networks.hooks import Applied

_LISTENER = "blocktrain_listener"  # on the WebUI's processing object


@dataclass
class StepListener:
    """Reports an image's steps to `progress` and to the networks on the model; keeps an error, which ends the image."""

    progress: Progress | None
    live: LivePictures
    networks: Applied | None = None
    error: Exception | None = None

    def report(self, done: int, total: int) -> None:
        """Report `done` steps, before the next one."""
        if self.error is not None:
            return
        try:
            if self.networks is not None:
                self.networks.enter_step(min(done + 1, total), total)
            if self.progress is not None:
                self.progress(min(done, total), total)
        except Exception as error:  # noqa: BLE001 - the WebUI would swallow it here
            self.error = error
            shared.state.interrupt()
            return
        if 0 < done < total and self.live.due and _live_previews():
            self.live.offer(_current_picture)


def _live_previews() -> bool:
    """Whether live previews are on in the WebUI's settings."""
    opts = shared.opts
    return bool(getattr(opts, "live_previews_enable", False)) and getattr(opts, "show_progress_every_n_steps", -1) > 0


def _current_picture() -> Image.Image | None:
    """The WebUI's own live preview, made with the method of its settings; None if that failed."""
    before = shared.state.id_live_preview
    shared.state.do_set_current_image()
    return shared.state.current_image if shared.state.id_live_preview != before else None


def listen(
    p: Any,
    progress: Progress | None,
    live: Callable[[Image.Image], None] | None = None,
    networks: Applied | None = None,
) -> StepListener:
    """Report the steps of the processing object `p` to `progress` and to networks with weights over the steps.

    `live` is called with pictures of them.
    """
    listener = StepListener(progress, LivePictures(live), networks)
    setattr(p, _LISTENER, listener)
    return listener


def report_step(denoiser: Any) -> None:
    """Report the steps done to the image's listener, if it has one, before the next evaluation of the U-Net."""
    listener: StepListener | None = getattr(denoiser.p, _LISTENER, None)
    if listener is not None:
        listener.report(current_step(denoiser) - 1, denoiser.p.steps)


def current_step(denoiser: Any) -> int:
    """Return the sampling step, counted from 1. Some samplers evaluate the U-Net twice per step."""
    steps = denoiser.steps or 1
    return denoiser.step * steps // max(denoiser.total_steps or steps, 1) + 1
