"""Forges that hold their models by `ldm_patched` (reForge, Forge Classic): what is told to who asks for the model."""

from __future__ import annotations

from typing import NoReturn

from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.webui.host import WebUIHost


class OlderForgeHost(WebUIHost):
    """The protocol `Host`, without a model: presets and network files can be used."""

    name = "Forge (ldm_patched)"

    def model(self) -> NoReturn:
        raise NoModel(
            "this WebUI holds its models by ldm_patched, as reForge and Forge Classic do, and block weights do not"
            " reach them there: expected AUTOMATIC1111's WebUI 1.10 or Forge 2"
        )
