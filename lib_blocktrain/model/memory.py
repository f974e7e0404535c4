"""What a lack of memory looks like."""

from __future__ import annotations

_SIGNS = ("DefaultCPUAllocator", "out of memory", "not enough memory")  # in torch's words


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory, of an accelerator or of this machine: for the latter torch has no class."""
    if isinstance(error, RuntimeError):
        named = type(error).__name__ in ("OutOfMemoryError", "OutOfMemory")  # torch's, and those of this package
        return named or any(sign in str(error) for sign in _SIGNS)
    return isinstance(error, MemoryError)
