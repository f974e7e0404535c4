"""Tensors that travel together arrive as what they were."""

from dataclasses import replace

import torch

from lib_blocktrain.networks.adapters import DoRA, LoRA
from lib_blocktrain.networks.transfer import sent_together


def test_each_dtype_travels_once_and_all_numbers_arrive():
    torch.manual_seed(0)
    loras = [LoRA(f"lora_unet_{n}", torch.randn(n, 5), torch.randn(7, n), alpha=0.5) for n in (1, 2, 3)]
    half = replace(loras[0], key="half", down=loras[0].down.half(), up=loras[0].up.half())
    modules = [*loras, half, DoRA("dora", loras[2], torch.rand(7, 1))]  # which shares its factors with a LoRA
    sent = []
    moved = sent_together(modules, lambda flat: (sent.append(flat.dtype), flat.clone())[1])
    assert sorted(map(str, sent)) == ["torch.float16", "torch.float32"]
    for before, after in zip(modules, moved, strict=True):
        assert (after.key, type(after)) == (before.key, type(before))
        there = after.to_tensors()
        for name, tensor in before.to_tensors().items():
            assert there[name].dtype == tensor.dtype
            assert there[name].equal(tensor), name
            assert name == "alpha" or there[name].data_ptr() != tensor.data_ptr()
