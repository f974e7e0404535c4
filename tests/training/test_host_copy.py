"""The last good weights: in this machine's memory, copied from a GPU by one transfer and not at every step."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lib_blocktrain.training import train_state
from lib_blocktrain.training.host_copy import HostCopy


class Copies(TorchDispatchMode):
    """The copies from one device to another: source, destination, bytes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "copy_" and args[0].device != args[1].device:
            self.seen.append((args[1].device.type, args[0].device.type, args[0].numel()))
        return func(*args, **(kwargs or {}))


def test_what_is_restored_is_what_was_stored():
    tensors = [torch.randn(3, 4), torch.randn(()), torch.randn(5)]
    copy = HostCopy(tensors)
    first = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.fill_(7)
    copy.restore(tensors)
    assert all(torch.equal(one, other) for one, other in zip(tensors, first))
    tensors[1].fill_(2)
    copy.store(tensors)
    tensors[1].fill_(3)
    copy.restore(tensors)
    assert tensors[1] == 2


def test_none_at_all():
    copy = HostCopy([])
    copy.store([])
    copy.restore([])


@pytest.fixture
def pretended(monkeypatch):
    """Tensors that say that they are on a GPU, and hold nothing."""
    monkeypatch.setattr(FakeTensorMode, "avoid_device_init", property(lambda _: True))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    empty = torch.empty  # page-locked memory needs a real GPU
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: empty(*a, **k))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def test_a_gpu_s_weights_are_copied_off_it_in_one_transfer(pretended):
    tensors = [torch.zeros(3, 4, device="cuda"), torch.zeros(8, device="cuda")]
    copy = HostCopy(tensors)
    with Copies() as copies:
        copy.store(tensors)
    assert copies.seen == [("cuda", "cpu", 20)]
    assert {part.device.type for part in copy.parts} == {"cpu"}


def test_from_a_gpu_not_at_every_step(train, config, monkeypatch):
    """Between two copies GOOD_EVERY seconds pass, unless a state was just loaded; on the processor it is each step."""
    state = train(config).train_state
    assert state.remember_good()
    now = [100.0]
    monkeypatch.setattr(train_state.time, "monotonic", lambda: now[0])
    state._good_at = 100.0
    monkeypatch.setattr(state, "parameters", [torch.zeros(2, device="meta")])
    stored = []
    monkeypatch.setattr(state._good, "store", lambda tensors: stored.append(now[0]))
    for now[0] in (101.0, 104.9, 105.1, 109.0, 110.2):
        assert state.remember_good() == (stored[-1:] == [now[0]])
    assert stored == [105.1, 110.2]
    assert state.remember_good(at_once=True)
