"""Whether what the package computes is right on this GPU: hooks, gradients, the VAE, kernels of attention."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from benchmarks.gpu.parts import Clock
from benchmarks.gpu.results import Reporter
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.waits import free
from benchmarks.preview import NETWORKS, make_network
from benchmarks.setting import DTYPES, device, inputs_of, unet_of
from lib_blocktrain.networks.adapters import NetworkModule, module_from_tensors
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.networks.merge import merged
from lib_blocktrain.networks.placement import layers_by_key
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.init import init_network, trained_tensors
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.step import Denoiser
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.networks.cases import CONVOLUTION_ONLY, SCALED, UNSCALED, filled, make_tensors
from tests.training.bare import Bare

# The largest difference, relative to what the network changes: both ways round in half precision.
LIMITS = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}
SOME = ("down_blocks_0_attentions_0", "down_blocks_1_resnets_0", "mid_block_resnets_0", "up_blocks_2", "conv_norm_out")
MIXED = BlockWeights.uniform("sd1", 1.0).replace({"IN01": 0.5, "M00": -0.3, "OUT06": 0.0, "OUT08": 1.4, "REST": 0.7})
OFF = BlockWeights.uniform("sd1", 0.0)


@contextmanager
def whole_fp32() -> Iterator[None]:
    """Compute fp32 as fp32: by default cuDNN's convolutions take TF32, with 10 bits of mantissa."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before):
            backend.allow_tf32 = value


def hooks(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """Every algorithm in every dtype, on U-Nets of the real blocks: merged weights are the reference."""
    algorithms = [name for name in (*SCALED, *UNSCALED) if name not in CONVOLUTION_ONLY]
    algorithms = ["lora", "norm", *(name for name in algorithms if name != "lora")]
    with whole_fp32(), torch.no_grad():
        for dtype in DTYPES:
            free()
            unet = unet_of("sd1", DTYPES[dtype], **sizes.narrow)
            for algorithm in algorithms[: 2 if sizes.dry else None]:
                _compare(report, unet, some_network(unet, algorithm), sizes.small_side, dtype, algorithm)
                if clock.over:
                    report.note("The time was over before all algorithms had their turn.")
                    return
        del unet
        free()
        dtype = sizes.dtypes["sd1"]
        unet = unet_of("sd1", DTYPES[dtype], **sizes.unets["sd1"])
        for kind, layers in NETWORKS.items():
            network = make_network(unet, layers, sizes.rank)
            name = f"{kind} on all layers, full size"
            _compare(report, unet, network, sizes.sides["sd1"], dtype, name, multiplier=20.0)


def some_network(unet: nn.Module, algorithm: str) -> Network:
    """Return a network with a module of this algorithm on some layers of each kind, the same at every call."""
    modules: dict[str, NetworkModule] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for key, layer in layers_by_key(unet, "sd1").items():
            if not any(part in key for part in SOME):
                continue
            if algorithm == "norm" and layer.weight.ndim == 1:
                tensors = {"w_norm": filled(len(layer.weight)), "b_norm": filled(len(layer.weight))}
                modules[key] = module_from_tensors(key, tensors)
            elif algorithm != "norm" and layer.weight.ndim > 1:
                modules[key] = module_from_tensors(key, make_tensors(algorithm, layer))
    return Network("benchmark", "sd1", modules)


def _compare(
    report: Reporter, unet: nn.Module, network: Network, side: int, dtype: str, name: str, multiplier: float = 0.1
) -> None:
    """Report a network's effect by hooks and by merged weights; the multiplier makes it one that can be seen."""
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    base = predicted(unet, side)
    with applied(unet, network, MIXED, multiplier) as handle:
        hooked = predicted(unet, side)
        again = predicted(unet, side)
        handle.set_weights(OFF)
        off = torch.equal(predicted(unet, side), base)
    with merged(unet, network, MIXED, multiplier):
        expected = predicted(unet, side)
    effect = _norm(expected - base)
    error = max(_norm(hooked - expected), _norm(again - expected)) / effect if effect else float("nan")
    whole = all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())
    report.check(
        "Hooks against merged weights",
        error < LIMITS[dtype] and off and whole,
        network=name,
        dtype=dtype,
        modules=len(network.modules),
        **{"error / effect": error, "effect / output": effect / _norm(base)},
        **{"at 0 as without": off, "weights the same bits": whole},
    )


@torch.no_grad()
def predicted(unet: nn.Module, side: int) -> Tensor:
    latents, conditioning = inputs_of(unet, "sd1", side)
    weight = next(unet.parameters())
    timesteps = torch.tensor([500], device=weight.device)
    return unet(latents.to(weight), timesteps, conditioning["context"], return_dict=False)[0]


def _norm(tensor: Tensor) -> float:
    return tensor.double().norm().item()


CASES = (  # weights of the model, dtype that is computed in, loss scale, checkpointing, limit of the relative error
    ("fp32", "fp32", 1.0, False, 1e-3),
    ("fp16", "fp16", 2.0**14, False, 0.02),
    ("bf16", "bf16", 1.0, False, 0.05),
    ("fp32", "fp32", 1.0, True, 1e-3),
    ("fp32", "bf16", 1.0, False, 0.05),
    ("fp32", "fp16", 2.0**14, False, 0.02),
    ("fp16", "fp16", 2.0**14, True, 0.02),
)


def gradients(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """A LoRA's gradients on the GPU; the same model's on the CPU in fp32, with the same bits, are the reference."""
    with whole_fp32():
        original = unet_of("sd1", torch.float32, **sizes.narrow).cpu()
        expected: dict[str, dict[str, Tensor]] = {}
        for weights, compute, scale, checkpointing, limit in CASES[: 4 if sizes.dry else None]:
            if clock.over:
                report.note("The time was over before all cases had their turn.")
                return
            model = copy.deepcopy(original).to(DTYPES[weights])
            if weights not in expected:
                expected[weights] = gradients_of(copy.deepcopy(model).float(), torch.float32, sizes.small_side)
            model = model.to(device())
            found = gradients_of(model, DTYPES[compute], sizes.small_side, scale, checkpointing)
            error, zeros = compared(found, expected[weights])
            report.check(
                "Gradients of a LoRA on all blocks, against fp32 on the CPU",
                error < limit,
                weights=weights,
                computed=compute,
                **{"loss scale": scale, "checkpointing": "on" if checkpointing else "off", "relative error": error},
                **{"share that became 0": zeros},
            )


def gradients_of(
    unet: nn.Module, dtype: torch.dtype, side: int, scale: float = 1.0, checkpointing: bool = False
) -> dict[str, Tensor]:
    """Return the gradients by tensor, on the CPU and divided by the loss scale."""
    model, config = Bare(unet, "sd1"), NetworkConfig(rank=4)
    latents, conditioning = inputs_of(unet, "sd1", side)
    with model.trainable():
        plan = plan_of(unet, "sd1", config)
        network = init_network(plan, config, "benchmark", seed=0)
        tensors = {
            f"{key}.{name}": tensor
            for key, module in network.modules.items()
            for name, tensor in trained_tensors(module).items()
        }
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, tensor in tensors.items():
                if "lora_up" in name:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
        with applied(unet, network, BlockWeights.uniform("sd1", 1.0)):
            denoiser = Denoiser(model, dtype, plan.first_block, checkpointing)
            output = denoiser.predict(latents, torch.tensor([500]), conditioning).float()
            (output.square().mean() * scale).backward()
    return {name: (tensor.grad / scale).cpu() for name, tensor in tensors.items() if tensor.grad is not None}


def compared(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, float]:
    """Return the relative error of all gradients together, and the share of numbers that are 0 unlike the expected."""
    if found.keys() != expected.keys():
        return float("inf"), 0.0
    difference = sum(_norm(found[name] - value) ** 2 for name, value in expected.items()) ** 0.5
    whole = sum(_norm(value) ** 2 for value in expected.values()) ** 0.5
    lost = sum(int(((found[name] == 0) & (value != 0)).sum()) for name, value in expected.items())
    return difference / whole, lost / sum(value.numel() for value in expected.values())


def vae(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """A VAE of SDXL's configuration in fp16: what it encodes, and that an overflow is encoded in fp32 instead."""
    import numpy as np
    from PIL import Image

    from lib_blocktrain.hosts.standalone import StandaloneModel

    numbers = np.random.default_rng(0).integers(0, 256, (sizes.pixels, sizes.pixels, 3), dtype=np.uint8)
    picture = Image.fromarray(numbers)
    for overflowing in (False, True):
        vae = vae_of(sizes).half().to(device())
        if overflowing:
            with torch.no_grad():
                vae.encoder.conv_in.weight.mul_(1e5).clamp_(-6e4, 6e4)
        model = StandaloneModel(SimpleNamespace(vae=vae), "sdxl", "benchmark")
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        latents = model.encode_image(picture)
        expected = StandaloneModel(SimpleNamespace(vae=copy.deepcopy(vae).float()), "sdxl", "").encode_image(picture)
        same = all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
        error = _norm(latents - expected) / _norm(expected)
        report.check(
            "Latents of an fp16 VAE, random weights",
            error < 0.05 and same and vae.dtype == torch.float16,
            VAE="overflows in fp16" if overflowing else "holds in fp16",
            pixels=sizes.pixels,
            **{"error against fp32": error, "computed in": str(latents.dtype), "weights the same bits": same},
        )
        del vae, model, before
        free()
        if clock.over:
            return


def vae_of(sizes: Sizes) -> nn.Module:
    import json

    from diffusers import AutoencoderKL

    from tests.training.bare import CONFIGS

    config = json.loads((CONFIGS / "sdxl" / "vae" / "config.json").read_text("utf-8"))
    changes = dict(sizes.vae)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKL.from_config({**config, **changes}).eval().requires_grad_(False)


def attention(report: Reporter, sizes: Sizes, clock: Clock) -> None:
    """Prediction under hooks and gradients with each kernel that torch has, and with xformers where it is installed."""
    dtype = sizes.dtypes["sd1"]
    unet = unet_of("sd1", DTYPES[dtype], **sizes.narrow)
    network = make_network(unet, NETWORKS["LoRA"], sizes.rank)

    def measured() -> tuple[Tensor, dict[str, Tensor]]:
        with applied(unet, network, MIXED):
            output = predicted(unet, sizes.small_side)
        return output, gradients_of(unet, DTYPES[dtype], sizes.small_side, scale=2.0**14 if dtype == "fp16" else 1.0)

    output, grads = measured()
    for name, kernel in _kernels(unet):
        try:
            with kernel:
                other, theirs = measured()
        except (RuntimeError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            report.row("Kernels of attention, against torch's choice", kernel=name, works=reason[0][:100])
            continue
        error, wrong = _norm(other - output) / _norm(output), compared(theirs, grads)[0]
        report.check(
            "Kernels of attention, against torch's choice",
            error < LIMITS[dtype] and wrong < LIMITS[dtype],
            kernel=name,
            works="yes",
            dtype=dtype,
            **{"error of the output": error, "error of the gradients": wrong},
        )
        if clock.over:
            return
    if importlib.util.find_spec("xformers") is None:
        report.note("xformers is not installed.")


def _kernels(unet: nn.Module) -> Sequence[tuple[str, AbstractContextManager[object]]]:
    found: list[tuple[str, AbstractContextManager[object]]] = []
    if importlib.util.find_spec("torch.nn.attention") is not None:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        names = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
        found += [(f"SDPA {n}", sdpa_kernel([getattr(SDPBackend, n)])) for n in names if hasattr(SDPBackend, n)]
    found.append(("diffusers' attention in slices", _processor(unet, "set_attention_slice", "auto")))
    if importlib.util.find_spec("xformers") is not None:
        found.append(("xformers", _processor(unet, "enable_xformers_memory_efficient_attention")))
    return found or [("torch's choice", nullcontext())]


@contextmanager
def _processor(unet: nn.Module, method: str, *arguments: object) -> Iterator[None]:
    """Let diffusers compute attention in another way for a while."""
    before = dict(unet.attn_processors)
    try:
        getattr(unet, method)(*arguments)
        yield
    finally:
        unet.set_attn_processor(before)
