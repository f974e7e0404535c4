"""What a lack of memory looks like, and how much memory is free."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

MIB = 2**20
_SIGNS = ("DefaultCPUAllocator", "out of memory", "not enough memory")  # in torch's words
_MEMINFO = Path("/proc/meminfo")
_VM_STAT = "/usr/bin/vm_stat"  # of macOS
_AVAILABLE_PAGES = ("free", "inactive", "speculative")  # of those that it counts: what can be used without swapping


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory, of an accelerator or of this machine: for the latter torch has no class."""
    if isinstance(error, RuntimeError):
        named = type(error).__name__ in ("OutOfMemoryError", "OutOfMemory")  # torch's, and those of this package
        return named or any(sign in str(error) for sign in _SIGNS)
    return isinstance(error, MemoryError)


def free_memory() -> float | None:
    """Return the free memory in MiB of the accelerator, or of this machine; None where it is not known.

    What the system would give back counts as free: torch's cache on an accelerator, the cache of files on a machine.
    """
    import torch  # here, since the commands look at errors without it

    if torch.cuda.is_available():
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return (torch.cuda.mem_get_info()[0] + cached) / MIB
    return free_host_memory()


def free_host_memory() -> float | None:
    """Return the free memory of this machine in MiB; None where it is not known."""
    free = {"linux": _free_on_linux, "win32": _free_on_windows, "darwin": _free_on_macos}.get(sys.platform)
    found = None if free is None else free()
    return None if found is None else found / MIB


def _free_on_linux() -> int | None:
    """Return the kernel's MemAvailable in bytes; free pages alone leave out the cache of files, which is most of it."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text("ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


class _MemoryStatus(ctypes.Structure):
    """What GlobalMemoryStatusEx fills in (Windows' MEMORYSTATUSEX), sizes in bytes."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in ("total", "available", "total_page", "available_page", "total_virtual", "available_virtual")
        ),
        ("available_extended", ctypes.c_uint64),
    )


def _free_on_windows() -> int | None:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    known = getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # noqa: B009 - Windows only
    return status.available if known else None


def _free_on_macos() -> int | None:
    try:
        listed = subprocess.run([_VM_STAT], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    size = re.search(r"page size of (\d+) bytes", listed)
    pages = [re.search(rf"^Pages {name}:\s+(\d+)\.$", listed, re.MULTILINE) for name in _AVAILABLE_PAGES]
    return None if size is None else int(size[1]) * sum(int(found[1]) for found in pages if found)
