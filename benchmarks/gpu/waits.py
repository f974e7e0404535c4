"""The waits of the CPU for the GPU, counted by torch itself, and the peak of memory."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_MESSAGE = "synchronizing CUDA operation"


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """Count by source line the operations in this context that make the CPU wait; none of them on a CPU.

    torch counts a copy from ordinary memory as one, and does not see `torch.cuda.synchronize`.
    """
    waits: Counter[str] = Counter()
    if not torch.cuda.is_available():
        yield waits
        return
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        if _MESSAGE in str(warning.message):
            waits[f"{Path(warning.filename).name}:{warning.lineno}"] += 1


def free() -> None:
    """Let go of what earlier parts left, so that each begins with the same memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
