"""The stand-ins of `tests/hosts/fake_webui.py` have the signatures in the real WebUI's source, which is not run."""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path

import pytest

from tests.hosts import fake_webui

LORA = "extensions-builtin/Lora"
NETWORKS = fake_webui.Networks([])
PAIRS = [  # file in the WebUI, function in it, our stand-in
    ("modules/patches.py", "patch", fake_webui.Patches().patch),
    ("modules/patches.py", "undo", fake_webui.Patches().undo),
    ("modules/extra_networks.py", "ExtraNetworkParams.__init__", fake_webui.ExtraNetworkParams.__init__),
    ("modules/processing.py", "StableDiffusionProcessing.comment", fake_webui.Processing.comment),
    (f"{LORA}/extra_networks_lora.py", "ExtraNetworkLora.activate", None),
    (f"{LORA}/network.py", "Network.__init__", fake_webui.Network.__init__),
    (f"{LORA}/network.py", "NetworkModule.multiplier", fake_webui.NetworkModule.multiplier),
    (f"{LORA}/networks.py", "load_networks", NETWORKS.load_networks),
    (f"{LORA}/networks.py", "network_apply_weights", NETWORKS.network_apply_weights),
    (f"{LORA}/networks.py", "list_available_networks", NETWORKS.list_available_networks),
]


def real_parameters(file: str, function: str) -> list[str]:
    body: list = ast.parse((Path(os.environ["WEBUI_DIR"]) / file).read_text("utf-8")).body
    for name in function.split("."):
        found = next(node for node in body if getattr(node, "name", None) == name)
        body = found.body
    return [argument.arg for argument in (*found.args.args, *found.args.kwonlyargs)]


@pytest.mark.parametrize(("file", "function", "ours"), PAIRS, ids=[function for _, function, _ in PAIRS])
def test_signature(file, function, ours):
    if ours is None:
        ours = fake_webui.extra_networks_lora(NETWORKS).ExtraNetworkLora.activate
    made = list(inspect.signature(ours).parameters)
    assert real_parameters(file, function) == ["self" if name == "layer" else name for name in made]
