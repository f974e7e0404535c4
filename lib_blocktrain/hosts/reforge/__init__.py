"""reForge and Forge Classic: models in `ldm_patched`, whose ModelPatcher keeps the patches of LoRAs by parameter.

Block weights act on the LoRAs of prompts, and previews are drawn by the same tags, also those of an analysis by whole
pictures. Training, and what needs predicted noise or attention, is refused: it needs the U-Net as a `Model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib_blocktrain.hosts.webui.integration import Integration

if TYPE_CHECKING:
    from types import ModuleType

    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import TagContext
    from lib_blocktrain.weights.tag_steps import SamplingStep


class ReForge(Integration):
    """reForge, or Forge Classic, whose patcher is older."""

    package = __name__

    def make_host(self) -> Host:
        from lib_blocktrain.hosts.reforge.host import ReForgeHost

        return ReForgeHost(self.title())

    def title(self) -> str:
        """Return the WebUI's name, by its patcher."""
        from ldm_patched.modules.model_patcher import ModelPatcher

        return "reForge" if hasattr(ModelPatcher, "partially_load") else "Forge Classic"

    def tag_context(self) -> TagContext:
        from modules import shared

        from lib_blocktrain.hosts.host import NoModel
        from lib_blocktrain.hosts.reforge.model import drawable_model
        from lib_blocktrain.hosts.webui.prompt import TagContext

        reads_lbw = not self.has_block_weight_script()
        try:
            architecture = drawable_model(shared.sd_model, "").architecture
        except NoModel as error:
            return TagContext(None, self.presets, reads_lbw, str(error), recommended=self.recommended)
        return TagContext(architecture, self.presets, reads_lbw, recommended=self.recommended)

    def host_features(self) -> dict[str, bool]:
        return {"LoRAs merged by parameter": self.lora.extension() is not None, "training": False}

    @property
    def lora(self) -> ModuleType:
        from lib_blocktrain.hosts.neo import lora

        return lora

    def enter_step(self, step: SamplingStep, latents: tuple[int, ...]) -> None:
        self.lora.enter_step(step, latents)


INTEGRATION = ReForge()
