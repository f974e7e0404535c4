"""A running WebUI and its API."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_blocktrain.training.status import ACTIVE_STATES
from tests.webui.process import PATIENCE

LORA = "blocktrain-random-lora"
SMALL = {"width": 64, "height": 64, "steps": 4, "cfg_scale": 5, "seed": 1, "sampler_name": "Euler"}


def pixels(picture: str) -> np.ndarray:
    """Return the pixels of an image as the API sends it."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))


class WebUI:
    """A running WebUI and its API; `kind` is "a1111" or one of `process.NAMES`."""

    kind = "a1111"
    trains = True  # the tab can train on its model
    answers_within = 2 * PATIENCE  # seconds

    def __init__(self, url: str, data: Path, log: Path, auth: str | None = None):
        self.url, self.data, self.log = url, data, log
        self.loras = data / "models" / "Lora"
        self.auth = auth
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, route: str, body: dict | None = None):
        """POST a body, or GET without one; return the decoded answer."""
        return self.called_as(self.auth, route, body)

    def called_as(self, auth: str | None, route: str, body: dict | None = None):
        """Do the same with another `user:password`, or with none."""
        return self._answer(self._opener, route, body, auth)

    def logged_in(self, form: bytes, route: str, body: dict | None = None):
        """Do the same with the cookies of the page's own login."""
        cookies = urllib.request.HTTPCookieProcessor()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
        opener.open(f"{self.url}/login", form, timeout=PATIENCE).close()
        return self._answer(opener, route, body, None)

    def _answer(self, opener, route: str, body: dict | None, auth: str | None):
        headers = {"Content-Type": "application/json"}
        if auth is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
        request = urllib.request.Request(self.url + route, None if body is None else json.dumps(body).encode(), headers)
        with opener.open(request, timeout=self.answers_within) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def inside(self, function: str, **arguments):
        """Call a function of `inside.py` in the WebUI's process."""
        answer = self.call(f"/blocktrain-probe/{function}", arguments)
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def txt2img(self, prompt: str, route: str = "txt2img", **options) -> dict:
        """Return the API's answer for a small image."""
        return self.call(f"/sdapi/v1/{route}", {"prompt": prompt, **SMALL, **options})

    def pixels(self, prompt: str, **options) -> np.ndarray:
        return pixels(self.txt2img(prompt, **options)["images"][0])

    @property
    def hires(self) -> dict:
        """Options of an image that is drawn again at twice its size; Neo has no upscaler but "None", which resizes."""
        upscaler = "None" if self.kind in ("neo", "ersatz") else "Latent"
        found = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": upscaler, "denoising_strength": 0.7}
        return found if self.kind == "a1111" else {**found, "hr_additional_modules": ["Use same choices"]}

    def refusal(self, prompt: str, **options) -> str:
        """Return the API's error for an image that cannot be drawn."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.txt2img(prompt, **options)
        return refused.value.read().decode()

    def analysed(self, lora: str, **body) -> dict:
        """Run an analysis through our own routes and return its result."""
        job = self.call("/blocktrain/v1/analyse", {"lora": lora, "width": 64, "height": 64, "seeds": [0], **body})[
            "job"
        ]
        while (found := self.call(f"/blocktrain/v1/analyse/{job}"))["state"] == "running":
            time.sleep(0.2)
        return found

    def trained(self, config: dict) -> dict:
        """Train a run through our own routes and return its final status."""
        name = self.call("/blocktrain/v1/runs", {"config": config})["name"]
        return self.ended(name)

    def ended(self, name: str) -> dict:
        """Wait until a run is neither waiting nor in training, and return its status."""
        while (found := self.standing(name))["state"] in ("waiting", *ACTIVE_STATES):
            time.sleep(0.2)
        return found

    def standing(self, name: str) -> dict:
        return self.call(f"/blocktrain/v1/runs/{name}")["run"]

    def use_checkpoint(self, name: str) -> None:
        self.call("/sdapi/v1/refresh-checkpoints", {})
        self.call("/sdapi/v1/options", {"sd_model_checkpoint": name})
