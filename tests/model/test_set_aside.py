"""Models that a run does not need wait on the CPU; a GPU is pretended."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib_blocktrain.model.set_aside import SetAside


class Part(nn.Module):
    """A model that says where it is, and refuses to come to a full GPU."""

    def __init__(self, device="cuda"):
        super().__init__()
        self.place, self.lacks = torch.device(device), 0

    def parameters(self, recurse=True):
        yield SimpleNamespace(device=self.place, numel=lambda: 2**20, element_size=lambda: 2)

    def to(self, device):
        device = torch.device(device)
        if device.type == "cuda" and self.lacks:
            self.lacks -= 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.place = device


def places(*parts: Part) -> list[str]:
    return [part.place.type for part in parts]


def test_away_and_back():
    first, second, other = Part(), Part("cpu"), Part()
    with SetAside() as aside:
        aside.put([first, second, nn.Identity()])
        assert places(first, second, other) == ["cpu", "cpu", "cuda"]
        with aside.needed():
            assert places(first, second) == ["cuda", "cpu"]
        assert places(first, second) == ["cpu", "cpu"]
    assert places(first, second) == ["cuda", "cpu"]


def test_back_after_an_error():
    part = Part()

    def run():
        with SetAside() as aside:
            aside.put([part])
            with aside.needed():
                raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        run()
    assert places(part) == ["cuda"]


def test_back_when_the_error_s_frames_held_the_memory():
    """The tensors of a step that lacked memory are freed before a second try."""
    part, held = Part(), []

    def step():
        tensor = torch.zeros(4)
        held.append(torch.utils.weak.WeakTensorKeyDictionary({tensor: 1}))
        raise RuntimeError("CUDA out of memory")

    def run():
        with SetAside() as aside:
            aside.put([part])
            part.lacks = 1
            try:
                step()
            except RuntimeError as error:
                raise ValueError("needs") from error

    with pytest.raises(ValueError, match="needs"):
        run()
    assert places(part) == ["cuda"]
    assert not list(held[0])


def test_none_at_all():
    with SetAside() as aside, aside.needed():
        pass
