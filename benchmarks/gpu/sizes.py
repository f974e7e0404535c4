"""How large the parts' models are: the real sizes on a GPU, a few channels in a dry run on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.setting import NARROW


@dataclass(frozen=True)
class Sizes:
    """`unets`, `narrow`: changes of the U-Nets' configurations; `sides` of the latents; `rank` of the networks."""

    dry: bool = False
    unets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"sd1": {}, "sdxl": {}})
    narrow: Mapping[str, Any] = field(default_factory=lambda: NARROW["sd1"])
    vae: Mapping[str, Any] = field(default_factory=dict)
    sides: Mapping[str, int] = field(default_factory=lambda: {"sd1": 64, "sdxl": 128})
    small_side: int = 32  # of the checks' latents
    dtypes: Mapping[str, str] = field(default_factory=lambda: {"sd1": "fp16", "sdxl": "bf16"})
    rank: int = 16
    rounds: int = 30  # at most; the time ends them earlier
    steps: int = 12  # of the run that is killed
    pixels: int = 1024  # of the picture that the VAE encodes
    weights: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "sd1": ("ALL", "OUT06-OUT11=1", "OUT09-OUT11=1"),
            "sdxl": ("ALL", "OUT03-OUT05=1"),
        }
    )
    demo_steps: int = 500
    trajectory: int = 10  # steps of an analysis


_TINY = {"block_out_channels": [64, 64, 64, 64], "cross_attention_dim": 64, "attention_head_dim": 4}
DRY = Sizes(
    dry=True,
    unets={
        "sd1": _TINY,
        "sdxl": {
            "block_out_channels": [64, 64, 64],
            "cross_attention_dim": 64,
            "attention_head_dim": [4, 4, 4],
            "transformer_layers_per_block": [1, 1, 2],
        },
    },
    narrow=_TINY,
    vae={"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1},
    sides={"sd1": 16, "sdxl": 16},
    small_side=16,
    dtypes={"sd1": "fp32", "sdxl": "bf16"},
    rank=2,
    rounds=1,
    weights={"sd1": ("ALL", "OUT11=1"), "sdxl": ("OUT03-OUT05=1",)},
    steps=4,
    pixels=64,
    demo_steps=3,
    trajectory=2,
)
