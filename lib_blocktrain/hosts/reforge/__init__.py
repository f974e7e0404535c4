"""reForge: models in `ldm_patched`, whose ModelPatcher keeps the patches of LoRAs by parameter, as Forge Neo's does.

Block weights act on the LoRAs of prompts. Preview, analysis and training are refused: they need a `Model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from lib_blocktrain.hosts.webui.integration import Integration

if TYPE_CHECKING:
    from types import ModuleType

    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import TagContext
    from lib_blocktrain.weights.prompt_tags import SamplingStep


class ReForge(Integration):
    """reForge, and other forks with `ldm_patched`: Forge Classic's older patcher is refused."""

    package = __name__

    def make_host(self) -> Host:
        from lib_blocktrain.hosts.webui.host import WebUIHost

        return WebUIHost("reForge", _no_model)

    def tag_context(self) -> TagContext:
        from modules import shared

        from lib_blocktrain.hosts.webui.model import architecture_of
        from lib_blocktrain.hosts.webui.prompt import TagContext

        reads_lbw = not self.has_block_weight_script()
        objects = getattr(shared.sd_model, "forge_objects_original", None)
        if objects is not None and not hasattr(objects.unet, "patches_uuid"):
            return TagContext(None, self.presets, reads_lbw, _OLDER_PATCHER, recommended=self.recommended)
        return TagContext(architecture_of(shared.sd_model), self.presets, reads_lbw, recommended=self.recommended)

    def host_features(self) -> dict[str, bool]:
        return {"LoRAs merged by parameter": self.lora.extension() is not None}

    @property
    def lora(self) -> ModuleType:
        from lib_blocktrain.hosts.neo import lora

        return lora

    def enter_step(self, step: SamplingStep, latents: tuple[int, ...]) -> None:
        self.lora.enter_step(step, latents)


_OLDER_PATCHER = (
    "this WebUI holds its models by an older ldm_patched, as Forge Classic does, which block weights do not reach:"
    " expected AUTOMATIC1111's WebUI, Forge 2, Forge Neo or reForge"
)


def _no_model() -> NoReturn:
    from lib_blocktrain.hosts.host import NoModel

    raise NoModel(
        "this WebUI is reForge, or another with ldm_patched: block weights act in its prompts (bw=), its accordion and"
        " its X/Y/Z plot, but previews, analyses and training in this tab need AUTOMATIC1111's WebUI, Forge 2 or Forge"
        " Neo"
    )


INTEGRATION = ReForge()
