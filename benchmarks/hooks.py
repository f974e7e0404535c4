"""What hooks cost against merged weights, and what a change of block weights costs.

    python benchmarks/hooks.py            SD1-sized U-Nets, random weights, 64x64 latents, batch 1 (8 GB)
    python benchmarks/hooks.py --small    the same topology, a fifth as wide, 32x32 latents

Two U-Nets with the same weights: one has the network merged, the other has hooks. They take turns, and the ratios are
of the same round, so that a busy machine slows both sides.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_blocktrain.adapters import LoRA
from lib_blocktrain.block_weights import BlockWeights
from lib_blocktrain.formats import Network
from lib_blocktrain.hooks import applied
from lib_blocktrain.leaf_layers import weight_shape
from lib_blocktrain.merge import merged
from lib_blocktrain.placement import layers_by_key

ATTENTION = ("attn1_to", "attn2_to", "ff_net", "proj_in", "proj_out")
NETWORKS = {"LoRA": ATTENTION, "LoCon": (*ATTENTION, "conv1", "conv2", "conv_shortcut", "time_emb_proj", "sampler")}


def make_unet(small: bool) -> nn.Module:
    widths, context, heads = ((64, 128, 256, 256), 128, 4) if small else ((320, 640, 1280, 1280), 768, 8)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=widths, cross_attention_dim=context, attention_head_dim=heads
    )
    return unet.eval().requires_grad_(False)


def make_network(unet: nn.Module, layers: tuple[str, ...], rank: int) -> Network:
    modules = {}
    for key, layer in layers_by_key(unet, "sd1").items():
        if not any(name in key for name in layers):
            continue
        out, *inner = weight_shape(layer)
        ones = [1] * (len(inner) - 1)
        modules[key] = LoRA(key, torch.randn(rank, *inner) * 0.01, torch.randn(out, rank, *ones) * 0.01)
    return Network("benchmark", "sd1", modules)


def measure(call: Callable[[], object]) -> tuple[float, float]:
    """Return wall time and processor time of a call, in seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def forward_times(unet: nn.Module, network: Network, size: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the times of one forward pass by arm, round by round, after a round that does not count."""
    inputs = torch.randn(1, 4, size, size), torch.tensor([500]), torch.randn(1, 77, unet.config.cross_attention_dim)
    on, off = (BlockWeights.uniform("sd1", value) for value in (1.0, 0.0))
    other = copy.deepcopy(unet)
    with applied(unet, network) as handle, merged(other, network):
        arms = {
            "merged": lambda: other(*inputs),
            "hooks": lambda: handle.set_weights(on) or unet(*inputs),
            "hooks, all weights 0": lambda: handle.set_weights(off) or unet(*inputs),
        }
        measured = [{arm: measure(call) for arm, call in arms.items()} for _ in range(rounds + 1)]
    return {arm: [one[arm] for one in measured[1:]] for arm in arms}


def change_time(unet: nn.Module, network: Network, repeats: int = 200) -> float:
    """Return the median time of a change of block weights, in seconds."""
    weights = [BlockWeights.uniform("sd1", value) for value in (0.3, 0.7)]
    with applied(unet, network) as handle:
        times = [measure(lambda i=i: handle.set_weights(weights[i % 2]))[0] for i in range(repeats)]
    return statistics.median(times)


def print_table(name: str, network: Network, times: dict[str, list[tuple[float, float]]]) -> None:
    print(f"\n{name}: {len(network.modules)} modules, medians of {len(times['merged'])} rounds")
    print(f"{'':22}{'s a pass':>10}{'CPU s':>8}{'/ merged':>10}{'CPU / merged':>14}")
    for arm, measured in times.items():
        pairs = list(zip(measured, times["merged"], strict=True))
        ratios = [statistics.median(one[i] / other[i] for one, other in pairs) for i in (0, 1)]
        wall, processor = (statistics.median(one[i] for one in measured) for i in (0, 1))
        print(f"{arm:22}{wall:10.2f}{processor:8.2f}{ratios[0]:10.3f}{ratios[1]:14.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's threads; 1 on a machine that is busy otherwise")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    unet = make_unet(arguments.small)
    size = 32 if arguments.small else 64
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {size}x{size} latents, rank {arguments.rank}")
    with torch.no_grad():
        for name, layers in NETWORKS.items():
            network = make_network(unet, layers, arguments.rank)
            print_table(name, network, forward_times(unet, network, size, arguments.rounds))
            print(f"a change of block weights: {1000 * change_time(unet, network):.3f} ms")


if __name__ == "__main__":
    main()
