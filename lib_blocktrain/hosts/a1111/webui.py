"""AUTOMATIC1111's WebUI as the protocol ``Host``."""

from __future__ import annotations

from contextlib import AbstractContextManager

from modules import shared

from lib_blocktrain.hosts.a1111 import lora
from lib_blocktrain.hosts.a1111.model import A1111Model, checked
from lib_blocktrain.hosts.webui.host import WebUIHost


class A1111Host(WebUIHost):
    """The protocol ``Host`` in a running WebUI."""

    name = "AUTOMATIC1111"

    def model(self) -> A1111Model:
        return checked(shared.sd_model)

    def _kept(self, model: A1111Model) -> AbstractContextManager[None]:
        return lora.kept(model.sd_model)
