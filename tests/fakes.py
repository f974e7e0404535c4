"""A host without a model: each picture is one colour, a hash of all that a picture depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from markupsafe import Markup
from PIL import Image
from safetensors.torch import save_file

from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.ui.values import Properties
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS, LoraSelection

SD1_LAYERS = {
    "IN04": "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
    "OUT03": "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
    "BASE": "lora_te_text_model_encoder_layers_0_mlp_fc1",
}
SDXL_LAYERS = {"OUT01": "lora_unet_output_blocks_1_1_transformer_blocks_9_attn1_to_q"}


def write_lora(path: Path, layers: dict[str, str] = SD1_LAYERS, **metadata: str) -> Path:
    """A LoRA of rank 2 with one module a block; the down factors tell one file from another."""
    tensors = {}
    for layer in layers.values():
        tensors[f"{layer}.lora_down.weight"] = torch.full((2, 8), float(len(path.stem)))
        tensors[f"{layer}.lora_up.weight"] = torch.ones(8, 2)
        tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
    return path


@dataclass
class FakeModel:
    architecture: str = "sd1"
    name: str = "fake"
    prediction: str = "epsilon"
    native_size: int = 128
    in_channels: int = 4
    unet: object = field(default_factory=object)
    text_encoders: dict = field(default_factory=dict)


class FakeHost:
    """The protocol Host; ``fails`` is raised by the next picture, ``gate`` is waited for at every step.

    ``says`` is told of every picture with a LoRA; ``draft`` is shown at every step.
    """

    name = "fake"
    samplers = ("DDIM", "Euler")
    reads_prompt_syntax = False
    no_training = ""

    def __init__(self, folder: Path, model: object | None = None):
        self.lora_dirs = (folder / "loras",)
        self.output_dir = folder / "out"
        self.presets_path = folder / "presets.txt"
        self.loaded = model or FakeModel()
        self.interrupted = False
        self.refreshed = 0
        self.state: tuple[object, ...] = ()
        self.cards: list[Path] = []
        self.requests: list = []
        self.fails: Exception | None = None
        self.says: str | None = None
        self.draft: Image.Image | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()

    def model(self) -> FakeModel:
        if self.loaded is None:
            raise NoModel("no checkpoint is loaded")
        return self.loaded

    @contextlib.contextmanager
    def queued(self) -> Iterator[None]:
        with self.lock:
            yield
            self.interrupted = False

    def progress(self, what: str, done: int, of: int) -> None:
        self.shown = (what, done, of)

    def refresh_loras(self) -> None:
        self.refreshed += 1

    def drawing_state(self) -> tuple[object, ...]:
        return self.state

    def card_changed(self, network_file: Path) -> None:
        self.cards.append(network_file)

    def sample(self, request, progress=None) -> Image.Image:
        assert self.lock.locked(), "a picture outside the queue"
        self.requests.append(request)
        if self.says is not None and request.placements:
            request.say(self.says)
        for step in range(request.steps):
            assert self.gate.wait(20)
            progress(step + 1, request.steps)
            if self.draft is not None and request.live is not None:
                request.live(self.draft)
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        acting = [(p.network.name, p.weights, p.multiplier) for p in request.placements if not p.weights.off]
        digest = hashlib.sha256(repr((request.prompt, request.seed, acting)).encode()).digest()
        return Image.new("RGB", (request.width, request.height), tuple(digest[:3]))


class Page:
    """What a browser holds: the widgets' values, changed by what events answer."""

    def __init__(self):
        self.values = {"weights": dict.fromkeys(WEIGHT_IDS, 1.0), "train_form": {}}
        self.values |= {
            "selection": LoraSelection(),
            "loras": "",
            "lora_ask": "",
            "job": "",
            "drawing": "",
            "bake_job": "",
            "restored": False,
            "shown_side": 0,
        }
        self.values |= {"preset": None, "preset_name": "", "preset_replace": False, "paste": ""}
        self.values |= {"grid_over": "presets", "grid_presets": [], "grid_block": "OUT03", "grid_values": "0, 1"}
        self.values |= {"bake_name": "", "bake_replace": False, "status": "", "pictures": "", "grid_pictures": ""}
        self.values |= {"prompt": "a fox", "negative": "", "sampler": "DDIM", "steps": 3, "cfg": 6.0}
        self.values |= {"width": 64, "height": 64, "seed": 7}
        self.properties: dict[str, dict] = {}

    def take(self, changes) -> dict:
        """Change what an event's answer says; return the answer."""
        self._take(changes, self.values, self.properties)
        return dict(changes)

    def _take(self, changes, values: dict, properties: dict) -> None:
        for name, change in changes.items():
            if name in ("weights", "train_form"):  # groups of widgets
                values[name] = dict(values[name])
                self._take(change, values[name], properties.setdefault(name, {}))
                continue
            if isinstance(change, Properties):
                properties.setdefault(name, {}).update(change)
                change = change.get("value", values.get(name))
            if isinstance(change, str) and re.match(r"<\w+ (class|data)", change):
                assert isinstance(change, Markup), f"{name}: {change[:80]}"
            values[name] = change

    @property
    def keys(self) -> list[str]:
        """The LoRAs in the page's list."""
        return [row["key"] for row in json.loads(self.values["loras"] or '{"loras": []}')["loras"]]

    def use(self, *keys: str, active: str | None = None, **strengths: float) -> None:
        """What the page's script writes into its box when these LoRAs are in the list."""
        before = json.loads(self.values["loras"] or '{"loras": [], "active": null}')
        rows = {row["key"]: row for row in before["loras"]}
        listed = [{"key": key, "strength": 1.0, "muted": False, **rows.get(key, {})} for key in keys]
        for row in listed:
            row["strength"] = strengths.get(row["key"], row["strength"])
        new = [key for key in keys if key not in rows]
        self.values["loras"] = json.dumps({"loras": listed, "active": active or (new[-1] if new else before["active"])})

    def run(self, generator) -> list[dict]:
        """Take all that a generator yields."""
        return [self.take(changes) for changes in generator]

    @property
    def form(self) -> dict[str, object]:
        return self.values["train_form"]

    def weights(self) -> dict[str, float]:
        return dict(self.values["weights"])
