"""How much memory is free, on each system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lib_blocktrain.model import memory

MEMINFO = """MemTotal:       16303432 kB
MemFree:          576512 kB
MemAvailable:    7340032 kB
Cached:          6500000 kB
"""
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               65536.
Pages active:                            200000.
Pages inactive:                          131072.
Pages speculative:                         1024.
Pages wired down:                        100000.
"""


@pytest.fixture(autouse=True)
def without_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_linux_counts_the_cache_of_files(tmp_path, monkeypatch):
    """MemFree is 563 MiB here, MemAvailable 7168."""
    file = tmp_path / "meminfo"
    file.write_text(MEMINFO, "ascii")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory, "_MEMINFO", file)
    assert memory.free_memory() == 7168
    file.write_text("MemFree: 576512 kB\n", "ascii")  # a kernel before 3.14
    assert memory.free_memory() is None
    file.unlink()
    assert memory.free_memory() is None


@pytest.mark.skipif(sys.platform != "linux", reason="psutil is compared on Linux")
def test_this_machine():
    psutil = pytest.importorskip("psutil")
    assert memory.free_memory() == pytest.approx(psutil.virtual_memory().available / 2**20, rel=0.2)


def test_windows(monkeypatch):
    def status_of(pointer):
        status = ctypes.cast(pointer, ctypes.POINTER(memory._MemoryStatus)).contents
        assert status.length == 64  # what Windows demands
        status.available, status.available_page = 7 << 30, 20 << 30
        return 1

    kernel = SimpleNamespace(GlobalMemoryStatusEx=status_of)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert memory.free_memory() == 7168
    kernel.GlobalMemoryStatusEx = lambda pointer: 0
    assert memory.free_memory() is None


def test_macos(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=VM_STAT))
    assert memory.free_memory() == (65536 + 131072 + 1024) * 16384 / 2**20

    def absent(*a, **k):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", absent)
    assert memory.free_memory() is None


def test_an_unknown_system(monkeypatch):
    monkeypatch.setattr(sys, "platform", "plan9")
    assert memory.free_memory() is None


def test_an_accelerator_counts_what_torch_holds_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 5 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2 << 30)
    assert memory.free_memory() == 4096
