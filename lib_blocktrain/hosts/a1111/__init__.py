"""AUTOMATIC1111's WebUI: the loaded checkpoint (`model`) and block weights on its own LoRAs (`lora`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib_blocktrain.hosts.webui.integration import Integration

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import TagContext


class A1111(Integration):
    """AUTOMATIC1111's WebUI as a host."""

    package = __name__

    def make_host(self) -> Host:
        from modules import shared

        from lib_blocktrain.hosts.a1111.model import hookable_model
        from lib_blocktrain.hosts.webui.host import WebUIHost

        return WebUIHost("AUTOMATIC1111", lambda: hookable_model(shared.sd_model))

    def tag_context(self) -> TagContext:
        from modules import shared

        from lib_blocktrain.hosts.webui.model import architecture_of
        from lib_blocktrain.hosts.webui.prompt import TagContext

        reads_lbw = not self.has_block_weight_script()
        return TagContext(
            architecture_of(shared.sd_model), self.presets, reads_lbw=reads_lbw, recommended=self.recommended
        )

    def host_features(self) -> dict[str, bool]:
        return {"Lora networks": self.lora.extension() is not None}


INTEGRATION = A1111()
