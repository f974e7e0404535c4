"""Modules of every algorithm for any layer, with random tensors: the table that the tests run through."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lib_blocktrain.networks.layers import weight_shape

RANK, ALPHA = 4, 3.0

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(16, 32),
    "conv 1x1": lambda: nn.Conv2d(16, 32, 1),
    "conv 3x3": lambda: nn.Conv2d(16, 32, 3, padding=1),
    "conv 3x3 stride 2": lambda: nn.Conv2d(16, 32, 3, stride=2, padding=1),
}


def filled(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.3


def lora(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {"lora_down.weight": filled(RANK, inp, *kernel), "lora_up.weight": filled(out, RANK, *(1 for _ in kernel))}


def lora_cp(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {
        "lora_down.weight": filled(RANK, inp, 1, 1),
        "lora_up.weight": filled(out, RANK, 1, 1),
        "lora_mid.weight": filled(RANK, RANK, *kernel),
    }


def loha(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    columns = inp * torch.Size(kernel).numel()
    sides = {"a": (out, RANK), "b": (RANK, columns)}
    return {f"hada_w{i}_{side}": filled(*shape) for i in (1, 2) for side, shape in sides.items()}


def loha_tucker(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    sides = {"a": (RANK, out), "b": (RANK, inp)}
    tensors = {f"hada_w{i}_{side}": filled(*shape) for i in (1, 2) for side, shape in sides.items()}
    return {**tensors, "hada_t1": filled(RANK, RANK, *kernel), "hada_t2": filled(RANK, RANK, *kernel)}


def lokr_whole(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {"lokr_w1": filled(4, 4), "lokr_w2": filled(out // 4, inp // 4, *kernel)}


def lokr_second_decomposed(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    columns = inp // 4 * torch.Size(kernel).numel()
    return {"lokr_w1": filled(4, 4), "lokr_w2_a": filled(out // 4, 1), "lokr_w2_b": filled(1, columns)}


def lokr_both_decomposed(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    second = lokr_second_decomposed(out, inp, *kernel)
    return {"lokr_w1_a": filled(4, 1), "lokr_w1_b": filled(1, 4), **{k: v for k, v in second.items() if k != "lokr_w1"}}


def lokr_tucker(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {
        "lokr_w1": filled(4, 4),
        "lokr_w2_a": filled(1, out // 4),
        "lokr_w2_b": filled(1, inp // 4),
        "lokr_t2": filled(1, 1, *kernel),
    }


def glora(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    ones = [1 for _ in kernel]
    return {
        "a1.weight": filled(inp, RANK, *ones),
        "a2.weight": filled(RANK, inp, *ones),
        "b1.weight": filled(out, RANK, *ones),
        "b2.weight": filled(RANK, inp, *kernel),
    }


def glora_first_layout(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    today = glora(out, inp, *kernel)
    return {f"{a}{new}.weight": today[f"{a}{old}.weight"] for a in "ab" for old, new in ((1, 2), (2, 1))}


def tlora(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    ones = [1 for _ in kernel]
    return {
        "q_layer.weight": filled(RANK, inp, *ones),
        "p_layer.weight": filled(out, RANK, *ones),
        "lambda_layer": 1 + filled(1, RANK),
    }


def oft(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {"oft_blocks": filled(8, out // 8, out // 8)}


def oft_rescaled(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {**oft(out, inp, *kernel), "rescale": 1 + filled(out, 1, *(1 for _ in kernel))}


def boft(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {"oft_blocks": filled(4, out // 4, 4, 4)}


def full(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {"diff": filled(out, inp, *kernel), "diff_b": filled(out)}


def ia3_on_input(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {"weight": filled(1, inp, 1, 1) if kernel else filled(inp), "on_input": torch.tensor(1)}


def ia3_on_output(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
    return {"weight": filled(1, out, 1, 1) if kernel else filled(out), "on_input": torch.tensor(0)}


def dora(maker: Callable[..., dict[str, Tensor]], on_output: bool) -> Callable[..., dict[str, Tensor]]:
    def make(out: int, inp: int, *kernel: int) -> dict[str, Tensor]:
        shape = (out, 1) if on_output else (1, inp)
        return {**maker(out, inp, *kernel), "dora_scale": 1 + filled(*shape, *(1 for _ in kernel)).abs()}

    return make


SCALED = {  # those that alpha / rank scales
    "lora": lora,
    "lora cp": lora_cp,
    "loha": loha,
    "loha tucker": loha_tucker,
    "lokr whole": lokr_whole,
    "lokr w2": lokr_second_decomposed,
    "lokr w1 w2": lokr_both_decomposed,
    "lokr tucker": lokr_tucker,
    "glora": glora,
    "glora first layout": glora_first_layout,
    "tlora": tlora,
    "dora on output": dora(lora, on_output=True),
    "dora on input": dora(lora, on_output=False),
    "loha dora": dora(loha, on_output=True),
    "lokr dora": dora(lokr_second_decomposed, on_output=True),
}
UNSCALED = {
    "oft": oft,
    "oft rescaled": oft_rescaled,
    "boft": boft,
    "full": full,
    "ia3 on input": ia3_on_input,
    "ia3 on output": ia3_on_output,
}
CONVOLUTION_ONLY = {"lora cp", "loha tucker", "lokr tucker"}
POINTWISE_ONLY = {"tlora"}
CASES = [
    (algorithm, layer)
    for algorithm in (*SCALED, *UNSCALED)
    for layer in LAYERS
    if not (algorithm in CONVOLUTION_ONLY and "3x3" not in layer)
    and not (algorithm in POINTWISE_ONLY and "3x3" in layer)
]


def make_tensors(algorithm: str, layer: nn.Module) -> dict[str, Tensor]:
    """Return a module's tensors by their names in a file."""
    shape = weight_shape(layer)
    if algorithm in SCALED:
        return {**SCALED[algorithm](*shape), "alpha": torch.tensor(ALPHA)}
    return UNSCALED[algorithm](*shape)


def make_input(layer: nn.Module) -> Tensor:
    return torch.randn(2, 5, 16) if isinstance(layer, nn.Linear) else torch.randn(2, 16, 6, 6)
