"""Forge: what `scripts/blocktrain.py` asks of a host, each imported when it is first needed.

``loan``: the weights as autograd needs them; ``model``, ``text``: the loaded checkpoint; ``webui``: the host; ``lora``:
the LoRAs that Forge merges, under block weights; ``older``: what is said in Forges that hold models in another way.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING, Any

from lib_blocktrain.hosts.a1111 import checkpoints, has_block_weight_script, presets, xyz_grid

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import Reading
    from lib_blocktrain.model import Model

__all__ = [
    "checkpoints", "entered", "features", "has_block_weight_script", "host", "patch", "presets", "reading", "unpatch",
    "xyz_grid",
]  # fmt: skip


@functools.cache
def host() -> Host:
    """The host, one for the life of the process: a run that goes on outlives "Reload UI"."""
    if not _has_backend():
        from lib_blocktrain.hosts.forge.older import OlderForgeHost

        return OlderForgeHost()
    from lib_blocktrain.hosts.forge.webui import ForgeHost

    return ForgeHost()


def _has_backend() -> bool:
    """Whether models are held by Forge's own backend; its forks reForge and Forge Classic have `ldm_patched`."""
    return importlib.util.find_spec("backend") is not None


def reading() -> Reading:
    """How prompt tags are to be read just now; Forge's queue must be held."""
    from lib_blocktrain.hosts.host import NoModel
    from lib_blocktrain.hosts.webui.prompt import Reading

    reads_lbw = not has_block_weight_script()
    try:
        return Reading(_model_of_picture().architecture, presets, reads_lbw)
    except NoModel as error:
        return Reading(None, presets, reads_lbw, str(error))


def _model_of_picture() -> Model:
    if not _has_backend():
        return host().model()
    from lib_blocktrain.hosts.forge.model import checked
    from lib_blocktrain.hosts.forge.webui import load

    return checked(load())


def patch() -> None:
    """Let the LoRAs that Forge merges obey block weights."""
    from lib_blocktrain.hosts.forge import lora
    from lib_blocktrain.hosts.webui import folders, runs

    lora.patch(reading, lambda names: runs.offer(names, folders.output_dir() / "runs"))


def unpatch() -> None:
    """Undo ``patch``."""
    from lib_blocktrain.hosts.forge import lora

    lora.unpatch()


def entered(params: Any) -> None:
    """The U-Net is about to be evaluated for a step."""
    from lib_blocktrain.hosts.forge import lora
    from lib_blocktrain.hosts.webui import steps

    lora.enter_step(steps.step_of(params.denoiser))
    steps.entered(params)


def features() -> list[str]:
    """What was found of Forge, for people to read."""
    from lib_blocktrain.hosts.forge import lora

    found = {
        "Forge's backend": _has_backend(),
        "LoRAs merged by key": _has_backend() and lora.extension() is not None,
        "X/Y/Z plot": xyz_grid() is not None,
        "LoRA Block Weight (reads lbw= itself)": has_block_weight_script(),
    }
    return [name if there else f"no {name}" for name, there in found.items() if there or "Block Weight" not in name]
