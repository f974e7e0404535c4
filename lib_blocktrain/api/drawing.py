"""A preview: one image by the host's own sampler, as a request describes it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from lib_blocktrain.api.schemas import PreviewBody, WeighedLora, values_of
from lib_blocktrain.api.service import Service
from lib_blocktrain.hosts.host import SampleRequest
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.workspace.drawing import SIDE_STEP, Settings, with_seed
from lib_blocktrain.workspace.images import infotext, to_png
from lib_blocktrain.workspace.jobs import Job
from lib_blocktrain.workspace.lora_index import LoraFile
from lib_blocktrain.workspace.lora_selection import fits


@dataclass(frozen=True)
class DrawnImage:
    """An image, what it was made of, and what the host and the weights' reader said of it."""

    image: Image.Image
    request: SampleRequest
    model: str
    notices: list[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "image": base64.b64encode(self.to_png()).decode("ascii"),
            "parameters": infotext(self.request, self.image, self.model),
            "seed": self.request.seed,
            "size": list(self.image.size),
            "model": self.model,
            "notices": self.notices,
        }

    def to_png(self) -> bytes:
        return to_png(self.image, self.request, self.model)


def draw(service: Service, body: PreviewBody) -> DrawnImage:
    """Wait for the model and draw. Raises ApiError (busy) after ``body.wait`` seconds, ValueError for a wrong value."""
    settings = _settings(service, body)
    loras = [(service.lora(lora.name), lora) for lora in body.loras]

    def work(job: Job[DrawnImage]) -> DrawnImage:
        model = service.host.model()
        placed = [_placement(service, model.architecture, file, lora, settings.seed) for file, lora in loras]
        notices = [notice for _, about_weights in placed for notice in about_weights]
        side = model.native_size
        sized = replace(settings, width=body.width or side, height=body.height or side)
        request = sized.request([placement for placement, _ in placed], notices.append)
        image = service.host.sample(request, job.progress(job.what))
        return DrawnImage(image, request, model.name, notices)

    return service.begin(work, "preview", body.wait).result()


def _settings(service: Service, body: PreviewBody) -> Settings:
    """The request's settings, checked as the page checks its own; a missing side is the model's, known later."""
    sides = {"width": body.width or SIDE_STEP * 64, "height": body.height or SIDE_STEP * 64}
    values = {**values_of(body), **sides, "sampler": body.sampler or service.host.samplers[0]}
    return with_seed(Settings.from_values(values, service.host.samplers))


def _placement(
    service: Service, architecture: str, file: LoraFile, lora: WeighedLora, seed: int
) -> tuple[Placement, tuple[str, ...]]:
    if not fits(file.architecture, architecture):
        raise ValueError(f"{file.key} is for {file.architecture}, and the loaded model is {architecture}")
    parsed = service.parse(lora.weights, architecture, seed, lora.x)
    return Placement(service.lora_index.network(file.key), parsed.weights, lora.multiplier), parsed.notices
