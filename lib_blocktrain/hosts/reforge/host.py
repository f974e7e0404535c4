"""reForge as the protocol `Host`, whose previews are drawn by prompt tags."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modules import shared

from lib_blocktrain.hosts.host import NoModel, SampleRequest
from lib_blocktrain.hosts.reforge.model import drawable_model
from lib_blocktrain.hosts.webui.host import WebUIHost
from lib_blocktrain.hosts.webui.model import WebUIModel
from lib_blocktrain.networks.placement import Placement


class ReForgeHost(WebUIHost):
    """The protocol `Host` in a running reForge or Forge Classic."""

    def __init__(self, name: str) -> None:
        self.no_training = (
            f"{name} cannot train here, nor analyse by noise: this extension does not run its U-Net by itself. What"
            " works is drawing, bw= in prompts, and the analysis methods norms and, unless it is for a word, rendered."
            " For the rest use AUTOMATIC1111's WebUI, Forge 2, Forge Neo, or the standalone page"
        )
        super().__init__(name, lambda: drawable_model(shared.sd_model, self.no_training))

    @contextmanager
    def _applied(self, model: WebUIModel, request: SampleRequest, prompt: str) -> Iterator[tuple[str, None]]:
        """Yield the prompt with a tag for each LoRA, under names that the WebUI knows only inside."""
        networks = sys.modules.get("networks")
        if networks is None and request.placements:
            raise NoModel("the WebUI's Lora extension is disabled, by which previews are drawn: enable it")
        tags = [f"<lora:{_name(n)}:{p.multiplier}:bw={p.weights.to_line()}>" for n, p in enumerate(request.placements)]
        entries = {_name(number): _entry(networks, p) for number, p in enumerate(request.placements)}
        try:
            if entries:
                networks.available_network_aliases.update(entries)  # type: ignore[union-attr]
            yield (" ".join([prompt, *tags]) if tags else prompt), None
        finally:
            for name in entries:
                networks.available_network_aliases.pop(name, None)  # type: ignore[union-attr]


def _name(number: int) -> str:
    return f"blocktrain-preview-{number}"


def _entry(networks: Any, placement: Placement) -> Any:
    """Return the WebUI's own entry of a network file, or make one for a file that it has not listed."""
    path = placement.network.path
    if path is None or not path.is_file():
        raise ValueError(f"{placement.network.name} is in no file: expected one that the WebUI can read")
    for entry in networks.available_networks.values():
        if os.path.realpath(entry.filename) == os.path.realpath(path):
            return entry
    return sys.modules["network"].NetworkOnDisk(path.stem, str(path))
