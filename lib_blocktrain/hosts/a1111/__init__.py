"""AUTOMATIC1111's WebUI.

``model``: the loaded checkpoint; ``webui``: the host; ``lora``: the WebUI's own networks under block weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib_blocktrain.hosts.webui.kind import Kind

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import Reading


class A1111(Kind):
    """AUTOMATIC1111's WebUI, as `scripts/blocktrain.py` asks for it."""

    package = __name__

    def make_host(self) -> Host:
        from lib_blocktrain.hosts.a1111.webui import A1111Host

        return A1111Host()

    def reading(self) -> Reading:
        from modules import shared

        from lib_blocktrain.hosts.webui.model import architecture_of
        from lib_blocktrain.hosts.webui.prompt import Reading

        return Reading(architecture_of(shared.sd_model), self.presets, reads_lbw=not self.has_block_weight_script())

    def found(self) -> dict[str, bool]:
        return {"Lora networks": self.lora.extension() is not None}


KIND = A1111()
