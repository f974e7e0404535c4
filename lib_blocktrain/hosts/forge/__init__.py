"""Forge.

``loan``: the weights as autograd needs them; ``model``: the loaded checkpoint; ``webui``: the host; ``lora``: the LoRAs
that Forge merges, under block weights; ``older``: what is said in Forges that hold models in another way.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from lib_blocktrain.hosts.webui.kind import Kind

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import Reading
    from lib_blocktrain.model.protocol import Model


class Forge(Kind):
    """Forge, as `scripts/blocktrain.py` asks for it."""

    package = __name__

    def make_host(self) -> Host:
        if not _has_backend():
            from lib_blocktrain.hosts.forge.older import OlderForgeHost

            return OlderForgeHost()
        from lib_blocktrain.hosts.forge.webui import ForgeHost

        return ForgeHost()

    def reading(self) -> Reading:
        from lib_blocktrain.hosts.host import NoModel
        from lib_blocktrain.hosts.webui.prompt import Reading

        reads_lbw = not self.has_block_weight_script()
        try:
            return Reading(self._model_of_picture().architecture, self.presets, reads_lbw)
        except NoModel as error:
            return Reading(None, self.presets, reads_lbw, str(error))

    def found(self) -> dict[str, bool]:
        there = _has_backend()
        return {"Forge's backend": there, "LoRAs merged by key": there and self.lora.extension() is not None}

    def _model_of_picture(self) -> Model:
        if not _has_backend():
            return self.host().model()
        from lib_blocktrain.hosts.forge.model import checked
        from lib_blocktrain.hosts.forge.webui import load

        return checked(load())


def _has_backend() -> bool:
    """Whether models are held by Forge's own backend; its forks reForge and Forge Classic have `ldm_patched`."""
    return importlib.util.find_spec("backend") is not None


KIND = Forge()
