"""Which WebUI this process is, told by what it has, never by a version.

What `detect` returns is a `hosts.webui.kind.Kind`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib_blocktrain.hosts.webui.kind import Kind

# Module of the host, and what only such a WebUI has. Forks have what AUTOMATIC1111's has, and more: they come first.
_KINDS = (
    ("lib_blocktrain.hosts.forge", "modules_forge"),
    ("lib_blocktrain.hosts.a1111", "modules.sd_hijack"),
)


class UnknownWebUI(RuntimeError):
    """This process is no WebUI that is known; the message says what was looked for."""


def detect() -> Kind:
    """Return what kind of WebUI this process is; raise UnknownWebUI where it is none."""
    for name, marker in _KINDS:
        if _is_there(marker):
            return importlib.import_module(name).KIND
    raise UnknownWebUI(f"no WebUI that is known: looked for {', '.join(marker for _, marker in _KINDS)}")


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # nor the package that it would be in
        return False
