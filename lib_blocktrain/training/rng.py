"""Random generators that depend on (seed, step, sample) alone.

So a resumed run equals an unbroken one, and the number of processes changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*parts: object) -> int:
    """Return a seed of 63 bits, a hash of these values."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_of(*parts: object) -> torch.Generator:
    """Return a generator with such a seed, on the CPU, whose numbers are the same on every machine."""
    return torch.Generator("cpu").manual_seed(seed_of(*parts))


@contextmanager
def global_seed(device: torch.device, *parts: object) -> Iterator[None]:
    """Seed torch's own generators, of the CPU and of this device, inside the context; restore them afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(*parts))
        yield
