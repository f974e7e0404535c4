"""Forge: its host, the loaded checkpoint (`model`), and block weights on its LoRAs (`lora`)."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, NoReturn

from lib_blocktrain.hosts.webui.integration import Integration

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import TagContext
    from lib_blocktrain.model.protocol import Model


class Forge(Integration):
    """Forge 2. In its forks with `ldm_patched` in place of `backend`, only presets and network files can be used."""

    package = __name__

    def make_host(self) -> Host:
        from lib_blocktrain.hosts.webui.host import WebUIHost

        if not _has_backend():
            return WebUIHost("Forge (ldm_patched)", _unsupported_model)
        from lib_blocktrain.hosts.forge.host import ForgeHost

        return ForgeHost()

    def tag_context(self) -> TagContext:
        from lib_blocktrain.hosts.host import NoModel
        from lib_blocktrain.hosts.webui.prompt import TagContext

        reads_lbw = not self.has_block_weight_script()
        try:
            return TagContext(self._chosen_model().architecture, self.presets, reads_lbw)
        except NoModel as error:
            return TagContext(None, self.presets, reads_lbw, str(error))

    def host_features(self) -> dict[str, bool]:
        there = _has_backend()
        return {"Forge's backend": there, "LoRAs merged by key": there and self.lora.extension() is not None}

    def _chosen_model(self) -> Model:
        """Return the checkpoint chosen in the page, since the prompt's tags are read before Forge loads it."""
        if not _has_backend():
            return self.host().model()
        from lib_blocktrain.hosts.forge.host import load
        from lib_blocktrain.hosts.forge.model import hookable_model

        return hookable_model(load())


def _has_backend() -> bool:
    return importlib.util.find_spec("backend") is not None


def _unsupported_model() -> NoReturn:
    from lib_blocktrain.hosts.host import NoModel

    raise NoModel(
        "this WebUI holds its models by ldm_patched, as reForge and Forge Classic do, and block weights do not"
        " reach them there: expected AUTOMATIC1111's WebUI 1.10 or Forge 2"
    )


INTEGRATION = Forge()
