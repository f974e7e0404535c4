"""What a changed slider costs, and what a step costs under it: hooks, merged weights, and the file read again.

    python benchmarks/preview.py             an SD1-sized U-Net, random weights, 64x64 latents, batch 1 (8 GB)
    python benchmarks/preview.py --narrow    the same blocks, a fifth as wide, 32x32 latents

Three ways to have new block weights: *hooks*, as this package previews: at the second step under the same weights
they fold their deltas into weights of their own, where that pays; *merged*, the deltas taken out of the weights and
put in again under the new ones; *file*, as LoRA Block Weight makes the WebUI do it: the network is read from its file
again, and merged. The first step after the change counts with it; then the second, and a step more; a picture of 20
steps is the first, the second, and 18 times the last. All take turns, in another order every round, and ratios are
medians over the rounds, with their quartiles; on a CPU also of the processor's time.
Two U-Nets with the same weights: one is merged into, the other has hooks.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.setting import CLOCKS, NARROW, inputs_of, load, machine, now, ratios, since, table, unet_of
from lib_blocktrain.networks.adapters import LoRA
from lib_blocktrain.networks.files import Network, read_network, write_network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.networks.layers import weight_shape
from lib_blocktrain.networks.merge import merged
from lib_blocktrain.networks.placement import layers_by_key
from lib_blocktrain.weights.block_weights import BlockWeights

ATTENTION = ("attn1_to", "attn2_to", "ff_net", "proj_in", "proj_out")
NETWORKS = {"LoRA": ATTENTION, "LoCon": (*ATTENTION, "conv1", "conv2", "conv_shortcut", "time_emb_proj", "sampler")}
WEIGHTS = [BlockWeights.uniform("sd1", value) for value in (0.3, 0.7, 1.0)]

# By arm, round by round: the seconds, by clock, of the change and the first step, of the second, and of a step more.
Seconds = dict[str, list[tuple[tuple[float, ...], ...]]]
PARTS = ("slider to first step", "second step", "further step")
STEPS = 20  # of a picture


def make_network(unet: nn.Module, layers: tuple[str, ...], rank: int) -> Network:
    modules = {}
    for key, layer in layers_by_key(unet, "sd1").items():
        if not any(name in key for name in layers):
            continue
        out, *inner = weight_shape(layer)
        ones = [1] * (len(inner) - 1)
        modules[key] = LoRA(key, torch.randn(rank, *inner) * 0.01, torch.randn(out, rank, *ones) * 0.01)
    return Network("benchmark", "sd1", modules)


class Merged:
    """A network in the weights of a U-Net, which new block weights put in anew."""

    def __init__(self, unet: nn.Module, read: Callable[[], Network], stack: ExitStack):
        self._unet, self._read, self._stack = unet, read, stack

    def change(self, weights: BlockWeights) -> None:
        self._stack.close()
        self._stack.enter_context(merged(self._unet, self._read(), weights))


@contextmanager
def arms_of(unet: nn.Module, other: nn.Module, path: Path) -> Iterator[dict[str, tuple[Callable, nn.Module]]]:
    """Yield by name how weights are changed, and the U-Net that is then called; two arms merge into the same one."""
    network = read_network(path)
    with applied(unet, network, fold=True) as handle, ExitStack() as stack:
        yield {
            "hooks": (handle.set_weights, unet),
            "merged": (Merged(other, lambda: network, stack).change, other),
            "file": (Merged(other, lambda: read_network(path), stack).change, other),
        }


@torch.no_grad()
def measure(unet: nn.Module, path: Path, side: int, rounds: int, stop: Callable[[], bool] = lambda: False) -> Seconds:
    """Return the seconds of every arm, after a round that does not count; `stop` may end it between two rounds."""
    latents, conditioning = inputs_of(unet, "sd1", side)
    weight = next(unet.parameters())
    inputs = latents.to(weight), torch.tensor([500], device=weight.device), conditioning["context"]
    found: Seconds = {"hooks": [], "merged": [], "file": []}
    with arms_of(unet, copy.deepcopy(unet), path) as arms:
        for number in range(rounds + 1):
            if number > 1 and stop():
                break
            for name in random.Random(number).sample(list(arms), len(arms)):
                change, model = arms[name]
                change(WEIGHTS[0])
                parts, began = [], now()
                change(WEIGHTS[1 + number % 2])
                for _ in PARTS:
                    model(*inputs)
                    parts.append(since(began))
                    began = now()
                if number:
                    found[name].append(tuple(parts))
    return found


def change_time(unet: nn.Module, network: Network, repeats: int = 200) -> float:
    """Return the median seconds of a change of block weights alone, under hooks."""
    seconds = []
    with applied(unet, network) as handle:
        for number in range(repeats):
            began = time.perf_counter()
            handle.set_weights(WEIGHTS[number % 2])
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def report(found: Seconds) -> str:
    """Return a row for each part of a picture and arm."""
    rows = []
    for number, part in enumerate((*PARTS, f"picture of {STEPS} steps")):
        seconds = {name: list(zip(*(_part(times, number) for times in arm))) for name, arm in found.items()}
        for name, own in seconds.items():
            row = [part, name, f"{statistics.median(own[0]):.3f}"]
            rows.append([*row, *(ratios(*pair) for pair in zip(own, seconds["merged"]))])
    return table(["", "", "s", *(f"/ merged{clock}" for clock in CLOCKS)], rows)


def _part(times: tuple[tuple[float, ...], ...], number: int) -> tuple[float, ...]:
    """Return the seconds of one part, by clock, or those of a whole picture."""
    if number < len(PARTS):
        return times[number]
    first, second, further = times
    return tuple(a + b + (STEPS - 2) * c for a, b, c in zip(first, second, further))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--narrow", action="store_true")
    parser.add_argument("--side", type=int, help="of the latents")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's threads; 1 on a machine that is busy otherwise")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    side = arguments.side or (32 if arguments.narrow else 64)
    unet = unet_of("sd1", torch.float32, **(NARROW["sd1"] if arguments.narrow else {}))
    print(f"{machine('diffusers')}; {load()}")
    print(f"sd1{' narrow' if arguments.narrow else ''}, {side}x{side} latents, rank {arguments.rank}, fp32")
    with tempfile.TemporaryDirectory() as folder:
        for name, layers in NETWORKS.items():
            network = make_network(unet, layers, arguments.rank)
            path = Path(folder) / f"{name}.safetensors"
            write_network(path, network, dtype=torch.float16)
            found = measure(unet, path, side, arguments.rounds)
            size = f"{len(network.modules)} modules, {path.stat().st_size / 2**20:.0f} MiB"
            print(f"\n{name}: {size}, medians of {arguments.rounds} rounds\n\n{report(found)}\n")
            print(f"A change of block weights alone, under hooks: {1000 * change_time(unet, network):.3f} ms")


if __name__ == "__main__":
    main()
