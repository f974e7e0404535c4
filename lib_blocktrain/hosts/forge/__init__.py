"""Forge 2: its host, the loaded checkpoint (`model`), and block weights on its LoRAs (`lora`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lib_blocktrain.hosts.webui.integration import Integration

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import TagContext


class Forge(Integration):
    """Forge 2, and forks that keep its `lora_patches`."""

    package = __name__

    def make_host(self) -> Host:
        from lib_blocktrain.hosts.forge.host import ForgeHost

        return ForgeHost()

    def tag_context(self) -> TagContext:
        from lib_blocktrain.hosts.forge.host import load

        return self._context(load)

    def drawing_context(self) -> TagContext:
        from lib_blocktrain.hosts.forge.host import drawing

        return self._context(drawing)

    def _context(self, checkpoint: Callable[[], Any]) -> TagContext:
        from lib_blocktrain.hosts.host import NoModel
        from lib_blocktrain.hosts.webui.prompt import TagContext

        reads_lbw = not self.has_block_weight_script()
        try:
            return TagContext(self._architecture(checkpoint()), self.presets, reads_lbw, recommended=self.recommended)
        except NoModel as error:
            return TagContext(None, self.presets, reads_lbw, str(error), recommended=self.recommended)

    def host_features(self) -> dict[str, bool]:
        return {"Forge's backend": True, "LoRAs merged by key": self.lora.extension() is not None}

    def _architecture(self, sd_model: Any) -> str:
        from lib_blocktrain.hosts.forge.model import hookable_model

        return hookable_model(sd_model).architecture


INTEGRATION = Forge()
