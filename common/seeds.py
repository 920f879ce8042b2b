"""Random streams that never coincide: every draw names its purpose and its numbers."""

import hashlib

import numpy as np


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The generator of one purpose, the same on every machine.

    NumPy takes [seed, step] and [seed, step, 0] for the same seed, so that draws of different kinds would repeat each
    other. The purpose and the count of the numbers keep them apart.
    """
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, word, len(numbers), *numbers])


def number(seed: int, purpose: str, *numbers: int) -> int:
    """A seed below 2**62 for what takes a single number."""
    return int(stream(seed, purpose, *numbers).integers(2**62))
