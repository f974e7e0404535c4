"""Small stand-ins for the WebUI's modules, as far as this extension uses them.

`tests/webui/test_signatures.py` compares their signatures with the real source.
"""

from __future__ import annotations

from collections import defaultdict
from types import ModuleType, SimpleNamespace

import torch
from torch import nn


def module(name: str, **contents) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(contents)
    return made


class Patches:
    """`modules.patches`."""

    def __init__(self):
        self.originals = defaultdict(dict)

    def patch(self, key, obj, field, replacement):
        if (obj, field) in self.originals[key]:
            raise RuntimeError(f"patch for {field} is already applied")
        self.originals[key][(obj, field)] = getattr(obj, field)
        setattr(obj, field, replacement)

    def undo(self, key, obj, field):
        setattr(obj, field, self.originals[key].pop((obj, field)))


class Network:
    def __init__(self, name, network_on_disk):
        self.name = self.mentioned_name = name
        self.network_on_disk = network_on_disk
        self.te_multiplier = self.unet_multiplier = 1.0
        self.dyn_dim = None
        self.modules = {}


class NetworkModule:
    def __init__(self, net, sd_key, delta):
        self.network, self.sd_key, self.delta = net, sd_key, delta

    def multiplier(self):
        if "transformer" in self.sd_key[:20]:
            return self.network.te_multiplier
        return self.network.unet_multiplier


class ExtraNetworkParams:
    def __init__(self, items=None):
        self.items = items or []
        pairs = [item.split("=", 2) for item in self.items]
        self.named = dict(pair for pair in pairs if len(pair) == 2)
        self.positional = [item for item, pair in zip(self.items, pairs) if len(pair) != 2]


class Networks(ModuleType):
    """The Lora extension: networks in memory, merged into layers."""

    def __init__(self, names):
        super().__init__("networks")
        self.networks_in_memory = {name: Network(name, None) for name in names}
        self.available_networks = dict.fromkeys(names)
        self.available_network_aliases = dict.fromkeys(names)
        self.loaded_networks = []
        self.merged = 0

    def load_networks(self, names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
        self.loaded_networks.clear()
        for name, te, unet in zip(names, te_multipliers, unet_multipliers):
            net = self.networks_in_memory[name]
            net.te_multiplier, net.unet_multiplier = te, unet
            self.loaded_networks.append(net)

    def network_apply_weights(self, layer):
        wanted = tuple((n.name, n.te_multiplier, n.unet_multiplier, n.dyn_dim) for n in self.loaded_networks)
        current = getattr(layer, "network_current_names", ())
        if current == wanted:
            return
        if not hasattr(layer, "backup"):
            layer.backup = layer.weight.detach().clone()
        layer.weight.copy_(layer.backup)
        for net in self.loaded_networks:
            found = net.modules.get(layer.network_layer_name)
            if found is not None:
                layer.weight.copy_(layer.weight + found.delta * found.multiplier())
        layer.network_current_names = wanted
        self.merged += 1

    def list_available_networks(self):
        pass


def extra_networks_lora(networks: Networks) -> ModuleType:
    class ExtraNetworkLora:
        def activate(self, p, params_list):
            numbers = [params.positional[1:] for params in params_list]
            te = [float(params.named.get("te", (*n, 1.0)[0])) for params, n in zip(params_list, numbers)]
            unet = [float(p.named.get("unet", n[1] if len(n) > 1 else t)) for p, n, t in zip(params_list, numbers, te)]
            networks.load_networks([params.positional[0] for params in params_list], te, unet, None)

    return module("extra_networks_lora", ExtraNetworkLora=ExtraNetworkLora)


class Processing(SimpleNamespace):
    """`StableDiffusionProcessing`: a request, and the generation parameters of its image."""

    def __init__(self, **fields):
        super().__init__(**{"extra_generation_params": {}, "seeds": [1], "comments": {}, **fields})

    def comment(self, text):
        self.comments[text] = 1


def layer(name: str) -> nn.Linear:
    made = nn.Linear(2, 2, bias=False).requires_grad_(False)
    torch.nn.init.ones_(made.weight)
    made.network_layer_name = name
    return made
