"""AUTOMATIC1111's WebUI: what `scripts/blocktrain.py` asks of a host, each imported when it is first needed.

``model``, ``text``: the loaded checkpoint; ``webui``: the host; ``lora``: the WebUI's own networks under block weights.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import Reading
    from lib_blocktrain.presets import Preset


@functools.cache
def host() -> Host:
    """The host, one for the life of the process: a run that goes on outlives "Reload UI"."""
    from lib_blocktrain.hosts.a1111.webui import A1111Host

    return A1111Host()


def presets() -> dict[str, Preset]:
    """The presets by name, the user's own among them."""
    from lib_blocktrain.hosts.webui import folders

    return folders.presets()


def checkpoints() -> list[str]:
    """The network files that runs have saved on the way, by name, in the order of their steps."""
    from lib_blocktrain.hosts.webui import folders

    return folders.checkpoints()


def reading() -> Reading:
    """How prompt tags are to be read just now."""
    from modules import shared

    from lib_blocktrain.hosts.a1111.model import architecture_of
    from lib_blocktrain.hosts.webui.prompt import Reading

    return Reading(architecture_of(shared.sd_model), presets, reads_lbw=not has_block_weight_script())


def has_block_weight_script() -> bool:
    """Whether LoRA Block Weight is there and reads its own tags."""
    from modules import scripts

    return any(data.path.endswith("lora_block_weight.py") for data in scripts.scripts_data)


def patch() -> None:
    """Let the WebUI's own Lora networks obey block weights."""
    from lib_blocktrain.hosts.a1111 import lora
    from lib_blocktrain.hosts.webui import folders, runs

    lora.patch(reading, lambda names: runs.offer(names, folders.output_dir() / "runs"))


def unpatch() -> None:
    """Undo ``patch``."""
    from lib_blocktrain.hosts.a1111 import lora

    lora.unpatch()


def entered(params: Any) -> None:
    """The U-Net is about to be evaluated for a step."""
    from lib_blocktrain.hosts.a1111 import lora
    from lib_blocktrain.hosts.webui import steps

    lora.enter_step(steps.step_of(params.denoiser))
    steps.entered(params)


def xyz_grid() -> ModuleType | None:
    """The WebUI's own X/Y/Z plot script, None if it is not there."""
    from modules import scripts

    names = ("xyz_grid.py", "scripts.xyz_grid")
    return next((data.module for data in scripts.scripts_data if data.script_class.__module__ in names), None)


def features() -> list[str]:
    """What was found of this WebUI, for people to read."""
    from lib_blocktrain.hosts.a1111 import lora

    found = {
        "Lora networks": lora.extension() is not None,
        "X/Y/Z plot": xyz_grid() is not None,
        "LoRA Block Weight (reads lbw= itself)": has_block_weight_script(),
    }
    return [name if there else f"no {name}" for name, there in found.items() if there or "Block Weight" not in name]
