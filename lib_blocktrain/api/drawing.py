"""One picture with the host's own sampler, of what was sent."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace

from PIL import Image

from lib_blocktrain.api.jobs import Report
from lib_blocktrain.api.schemas import PreviewBody, WeighedLora, plain
from lib_blocktrain.api.service import Service
from lib_blocktrain.hosts.host import SampleRequest
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.workspace.drawing import SIDE_STEP, Settings, with_seed
from lib_blocktrain.workspace.images import infotext, to_png
from lib_blocktrain.workspace.lora_index import LoraFile
from lib_blocktrain.workspace.lora_selection import fits


@dataclass(frozen=True)
class Drawn:
    """A picture, what it was made of, and what is to be said about it."""

    picture: Image.Image
    request: SampleRequest
    model: str
    notices: list[str]

    def to_json(self) -> dict:
        return {
            "image": base64.b64encode(self.to_png()).decode("ascii"),
            "parameters": infotext(self.request, self.picture, self.model),
            "seed": self.request.seed,
            "size": list(self.picture.size),
            "model": self.model,
            "notices": self.notices,
        }

    def to_png(self) -> bytes:
        return to_png(self.picture, self.request, self.model)


def draw(service: Service, body: PreviewBody) -> Drawn:
    """Wait for the model and draw; raise Refused (busy) after the time that was given, ValueError for what is wrong."""
    settings = _settings(body, service)
    files = [(service.lora(lora.name), lora) for lora in body.loras]
    turn = service.turns.begin("preview", lambda report: _drawn(service, body, settings, files, report), body.wait)
    return turn.future.result()


def _settings(body: PreviewBody, service: Service) -> Settings:
    """What was sent, checked as the tab checks it; a side that was not given is looked up in the model later."""
    sides = {"width": body.width or SIDE_STEP * 64, "height": body.height or SIDE_STEP * 64}
    values = {**plain(body), **sides, "sampler": body.sampler or service.host.samplers[0]}
    return with_seed(Settings.from_values(values, service.host.samplers))


def _drawn(
    service: Service, body: PreviewBody, settings: Settings, files: list[tuple[LoraFile, WeighedLora]], report: Report
) -> Drawn:
    model = service.host.model()
    side = model.native_size
    placed = [_placed(service, model.architecture, file, lora, settings.seed) for file, lora in files]
    notices = [notice for _, said in placed for notice in said]
    sized = replace(settings, width=body.width or side, height=body.height or side)
    request = sized.request([placement for placement, _ in placed], notices.append)
    picture = service.host.sample(request, report)
    return Drawn(picture, request, model.name, notices)


def _placed(
    service: Service, architecture: str, file: LoraFile, lora: WeighedLora, seed: int
) -> tuple[Placement, tuple[str, ...]]:
    if not fits(file.architecture, architecture):
        raise ValueError(f"{file.key} is for {file.architecture}, and the loaded model is {architecture}")
    found = service.parse(lora.weights, architecture, seed, lora.x)
    return Placement(service.library.network(file.key), found.weights, lora.multiplier), found.notices
