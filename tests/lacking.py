"""Errors of a lack of memory, as those who raise them word it; the processor's are real."""

from __future__ import annotations

import numpy as np
import torch


def cuda_lacks_memory() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def cpu_lacks_memory() -> None:
    torch.empty(10**15)


def numpy_lacks_memory() -> None:
    np.empty(10**15)


ERRORS = (cuda_lacks_memory, cpu_lacks_memory, numpy_lacks_memory)
