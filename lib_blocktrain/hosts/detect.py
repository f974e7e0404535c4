"""Which WebUI this process is, told by what it has, never by a version.

What `detect` returns is a module, the kind of host, with these functions:

    host() -> Host              one for the life of the process
    patch(), unpatch()          let the WebUI's own LoRAs obey block weights, and undo it
    entered(params)             the U-Net is about to be evaluated; the WebUI's CFGDenoiserParams
    reading() -> Reading        how prompt tags are to be read just now (hosts.webui.prompt); may load the checkpoint
    presets() -> dict           the presets by name, the user's own among them
    checkpoints() -> list       the network files of runs, by name
    xyz_grid() -> module        the WebUI's X/Y/Z plot, or None
    features() -> list          what was found, for people to read
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

# Module of the host, and what only such a WebUI has. Forks have what AUTOMATIC1111's has, and more: they come first.
_KINDS = (
    ("lib_blocktrain.hosts.forge", "modules_forge"),
    ("lib_blocktrain.hosts.a1111", "modules.sd_hijack"),
)


class UnknownWebUI(RuntimeError):
    """This process is no WebUI that is known; the message says what was looked for."""


def detect() -> ModuleType:
    """Return the module of the host that this process is; raise UnknownWebUI where it is none."""
    for name, marker in _KINDS:
        if _is_there(marker):
            return importlib.import_module(name)
    raise UnknownWebUI(f"no WebUI that is known: looked for {', '.join(marker for _, marker in _KINDS)}")


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # nor the package that it would be in
        return False
