"""Random numbers that belong to a sample: drawn from (seed, step, sample), whatever else happens in between.

So a resumed run goes on as if it had not been broken, and the number of processes changes nothing.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: object) -> int:
    """Return a seed, 63 bits, that these parts and no others have."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_of(*parts: object) -> torch.Generator:
    """Return a generator on the CPU, where the numbers are the same on every machine."""
    return torch.Generator("cpu").manual_seed(seed_of(*parts))
