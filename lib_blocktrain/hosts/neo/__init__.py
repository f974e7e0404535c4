"""Forge Neo: Forge 2's backend with ComfyUI's ModelPatcher, which keeps the patches of LoRAs by parameter (`lora`).

Everything else is Forge's: its host, and the loaded checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib_blocktrain.hosts.forge import Forge

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.weights.tag_steps import SamplingStep


class Neo(Forge):
    """Forge Neo as a host."""

    package = __name__

    def make_host(self) -> Host:
        from lib_blocktrain.hosts.forge.host import ForgeHost

        return ForgeHost("Forge Neo")

    def host_features(self) -> dict[str, bool]:
        return {"Forge Neo's backend": True, "LoRAs merged by parameter": self.lora.extension() is not None}

    def enter_step(self, step: SamplingStep, latents: tuple[int, ...]) -> None:
        self.lora.enter_step(step, latents)

    def _architecture(self, sd_model: Any) -> str:
        """Return the architecture of the checkpoint; weights that cannot be hooked can be merged all the same."""
        from lib_blocktrain.hosts.forge.model import architecture_by_blocks
        from lib_blocktrain.hosts.host import NoModel

        known = architecture_by_blocks(sd_model)
        if hasattr(sd_model.forge_objects_original.unet.model.diffusion_model, "loras"):
            raise NoModel(
                "this checkpoint is quantised for Nunchaku, which applies LoRAs as a whole: block weights need another"
                " checkpoint"
            )
        return known.id


INTEGRATION = Neo()
