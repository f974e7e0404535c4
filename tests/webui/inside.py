"""What runs inside the WebUI's process for the tests (see `probe/`): each function returns plain values.

In Forge and its forks those of `forge_inside.py` come first.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import io
import sys
import threading
import time
from contextlib import suppress

from lib_blocktrain.hosts.webui.integration import detect
from lib_blocktrain.server import webui

INTEGRATION = detect()


def fingerprint() -> dict[str, str | dict[str, str]]:
    """Return a digest of each part of the loaded model's state that must not change, of the tensors by name."""
    from modules import shared

    model = shared.sd_model
    kinds = ("requires_grad", "training", "hooks", "forward", "attention", "networks")
    digests, tensors = {name: hashlib.sha256() for name in kinds}, {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        tensors[name] = hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()[:16]
        digests["requires_grad"].update(f"{name}{tensor.requires_grad}".encode())
    for name, module in model.named_modules():
        digests["training"].update(f"{name}{module.training}".encode())
        hooks = [list(getattr(module, f"_{kind}_hooks").values()) for kind in ("forward", "forward_pre", "backward")]
        digests["hooks"].update(f"{name}{hooks}".encode())
        own = {key: str(vars(module)[key]) for key in ("forward", "encode", "decode") if key in vars(module)}
        digests["forward"].update(f"{name}{type(module).forward}{own}".encode())
    digests["attention"].update(str(_attention()).encode())
    networks = sys.modules["networks"].loaded_networks
    digests["networks"].update(str([(n.name, n.te_multiplier, n.unet_multiplier) for n in networks]).encode())
    return {"tensors": tensors, **{name: digest.hexdigest() for name, digest in digests.items()}}


def _attention() -> list:
    import ldm.modules.attention
    import sgm.modules.attention

    return [module.CrossAttention.forward for module in (ldm.modules.attention, sgm.modules.attention)]


def preview(prompt: str, lora: str | None = None, weights: str = "ALL", multiplier: float = 1.0, **settings) -> str:
    """Draw an image as the tab does, as a PNG in base64; `lora` is a file's name in the first folder."""
    from lib_blocktrain.hosts.host import SampleRequest

    host, heard = INTEGRATION.host(), []
    with host.queued():
        placements = _placements(lora, weights, multiplier) if lora else ()
        request = SampleRequest(prompt, placements=placements, **settings)
        picture = host.sample(request, lambda done, of: heard.append((done, of)))
    assert heard[-1] == (request.steps, request.steps), heard
    content = io.BytesIO()
    picture.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def _placements(lora: str, weights: str, multiplier: float) -> tuple:
    from lib_blocktrain.networks.files import read_network
    from lib_blocktrain.networks.placement import Placement
    from lib_blocktrain.weights.preset_strings import parse

    network = read_network(INTEGRATION.host().lora_dirs[0] / f"{lora}.safetensors")
    parsed = parse(weights, INTEGRATION.host().model().architecture, layers=True)
    return (Placement(network, parsed.acting, multiplier),)


def broken_preview(prompt: str, lora: str) -> str:
    """Return the message of a preview that is cancelled at its second step."""
    from lib_blocktrain.hosts.host import Cancelled, SampleRequest

    def progress(done: int, of: int) -> None:
        if done:
            raise Cancelled(f"at step {done} of {of}")

    host = INTEGRATION.host()
    request = SampleRequest(
        prompt, sampler=host.samplers[0], width=64, height=64, steps=4, placements=_placements(lora, "OUTD", 1.0)
    )
    try:
        with host.queued():
            host.sample(request, progress)
    except Cancelled as error:
        return str(error)
    return "drawn to its end"


def train(config: dict, stop_after: int | None = None) -> dict:
    """Train a run with the tab's runner, to its end or until a step; return its status."""
    from lib_blocktrain.training.config import RunConfig
    from lib_blocktrain.training.config_json import read

    runner = webui.runner(INTEGRATION)
    run = runner.add(read(RunConfig, config))
    while runner.current is not None or run.folder in [waiting.folder for waiting in runner.queue()]:
        if stop_after is not None and runner.status(run).step >= stop_after:
            with suppress(ValueError):  # it ended in the meantime
                runner.stop(run)
        time.sleep(0.1)
    status = runner.status(run)
    norms = [row["gradients"] for row in run.metrics() if row.get("gradients")]
    return {**status.to_json(), "gradients": norms, "folder": str(run.folder), "checkpoints": len(run.checkpoints())}


def broken_training() -> str:
    """Return the message of an error raised inside `trainable()`."""
    model = INTEGRATION.host().model()
    with INTEGRATION.host().queued():
        try:
            with model.trainable():
                assert not any(parameter.requires_grad for parameter in model.unet.parameters())
                raise RuntimeError("broken on purpose")
        except RuntimeError as error:
            return str(error)


def same_as_webui(prompt: str) -> dict[str, float]:
    """Return the relative distances of our conditioning and prediction from the WebUI's own."""
    import torch
    from modules import devices, prompt_parser, shared

    model, generator = INTEGRATION.host().model(), torch.Generator().manual_seed(0)
    with torch.no_grad(), devices.autocast(), INTEGRATION.host().queued():
        ours = model.encode_prompt(prompt)
        size = 1024 if model.architecture == "sdxl" else 64
        texts = prompt_parser.SdConditioning([prompt], width=size, height=size)
        theirs = shared.sd_model.get_learned_conditioning(texts)
        latents, timesteps = torch.randn((1, 4, 8, 8), generator=generator), torch.tensor([500])
        context = theirs["crossattn"] if isinstance(theirs, dict) else theirs
        cond = {"c_crossattn": [theirs]}
        if isinstance(theirs, dict):
            cond = {key: theirs[key] for key in ("crossattn", "vector")}
        expected = shared.sd_model.apply_model(latents, timesteps, cond)
        predicted = model.predict(latents, timesteps, ours)
        picture = _picture()
        encoded = model.encode_image(picture)
        whole = model.decode(encoded)[0].size
    return {
        "context": _distance(ours["context"], context),
        "prediction": _distance(predicted, expected),
        "spread": float(expected.std()),
        "picture": float(whole == picture.size and tuple(encoded.shape) == (1, 4, 8, 8)),
    }


def _distance(ours, theirs) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _picture():
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def pasted_by_callbacks(text: str) -> str:
    """Return the prompt that "send to" makes from generation parameters, extensions included."""
    from modules import infotext_utils, script_callbacks

    parameters = infotext_utils.parse_generation_parameters(text)
    script_callbacks.infotext_pasted_callback(text, parameters)
    return parameters["Prompt"]


def loads(name: str) -> int:
    """Return how many network files the WebUI has read since the first call."""
    networks = sys.modules["networks"]
    if not hasattr(networks, "blocktrain_probe_count"):
        networks.blocktrain_probe_count = 0
        load = networks.load_network

        def counting(*arguments):
            networks.blocktrain_probe_count += 1
            return load(*arguments)

        networks.load_network = counting
    return networks.blocktrain_probe_count


def clock() -> float:
    """Return the processor's seconds of the WebUI's process so far."""
    return time.process_time()


def axes() -> list[str]:
    """Return the labels of the X/Y/Z plot's axes for txt2img, in the order of its menus."""
    options = INTEGRATION.xyz_grid().axis_options
    return [option.label for option in options if not getattr(option, "is_img2img", False)]


def plot(**given) -> dict:
    """Return what the API needs to draw an X/Y/Z plot with these arguments of its script, the others switched off."""
    parameters = list(inspect.signature(INTEGRATION.xyz_grid().Script.run).parameters)[2:]
    empty = {name: [] if "dropdown" in name else "" if "values" in name else 0 for name in parameters}
    values = {**empty, "draw_legend": True, "include_lone_images": True, "csv_mode": True, **given}
    return {"script_name": "x/y/z plot", "script_args": [values[name] for name in parameters]}


def registered() -> dict[str, int]:
    """Return how often this extension is registered in each of the WebUI's lists."""
    from modules import patches, script_callbacks, scripts

    callbacks = [c for kind in script_callbacks.callback_map.values() for c in kind if "blocktrain.py" in c.script]
    labels = axes()
    return {
        "callbacks": len(callbacks),
        "scripts": sum(data.path.endswith("scripts/blocktrain.py") for data in scripts.scripts_data),
        "patches": sum(len(owned) for key, owned in patches.originals.items() if "blocktrain" in key),
        "axes": sum("blocktrain" in label for label in labels),
        "axes twice": len(labels) - len(set(labels)),
    }


def write_random(configuration: str, path: str) -> None:
    """Write a checkpoint of random weights, none of them 0, which the WebUI's code builds from a yaml file."""
    import torch
    from ldm.util import instantiate_from_config
    from modules import sd_disable_initialization
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    with sd_disable_initialization.DisableInitialization(disable_clip=True):
        model = instantiate_from_config(OmegaConf.load(configuration).model)
    generator, state = torch.Generator().manual_seed(0), model.state_dict()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            values = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
        elif parameter.ndim == 1:
            values = torch.randn(parameter.shape, generator=generator) * 0.1 + (1 if name.endswith("weight") else 0.1)
        else:
            continue
        state[name] = values
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def replace_unet(label: str | None) -> None:
    """Replace the U-Net as TensorRT does, through the WebUI's SD Unet option; None restores it."""
    from modules import sd_unet, shared

    class Option(sd_unet.SdUnetOption):
        def __init__(self):
            self.label = self.model_name = label

        def create_unet(self):
            return Engine()

    class Engine(sd_unet.SdUnet):
        def forward(self, x, timesteps, context, *args, **kwargs):
            return x * 0.5

    sd_unet.unet_options[:] = [] if label is None else [Option()]
    shared.opts.sd_unet = label or "Automatic"
    sd_unet.apply_unet()


def replaced_functions() -> list[str]:
    """Return the functions of the WebUI's Lora extension that are patched at present."""
    network, networks, activation = (sys.modules[name] for name in ("network", "networks", "extra_networks_lora"))
    places = (
        (getattr(network, "NetworkModule", None), "multiplier"),  # AUTOMATIC1111's
        (networks, "load_lora_for_models"),  # of Forge and its forks
        (activation.ExtraNetworkLora, "activate"),
    )
    functions = [getattr(owner, name) for owner, name in places if hasattr(owner, name)]
    return [function.__qualname__ for function in functions if "blocktrain" in function.__module__]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def restart() -> None:
    """Do what the button "Reload UI" does."""
    from modules import shared

    shared.state.request_restart()


def checkpoint() -> str:
    """Return the WebUI's name of the loaded checkpoint."""
    from modules import shared

    return shared.sd_model.sd_checkpoint_info.name_for_extra


def block_states(lora: str) -> dict[str, int]:
    """Return how many modules of a LoRA match a layer of the loaded model, by block; `lora` is a file's name."""
    from collections import Counter

    from lib_blocktrain.blocks import block_of
    from lib_blocktrain.networks.placement import layers_by_key

    model, (placement,) = INTEGRATION.host().model(), _placements(lora, "ALL", 1.0)
    known = layers_by_key(model.unet, model.architecture)
    return dict(Counter(block_of(key, model.architecture) for key in placement.network.modules if key in known))


def script_order() -> list[str]:
    """Return the scripts of extensions in the order in which the WebUI loads them."""
    from modules import scripts

    return [f"{file.basedir}/{file.filename}" for file in scripts.list_scripts("scripts", ".py")]
