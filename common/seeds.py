"""Random streams that never coincide: every draw names its purpose and its numbers."""

import hashlib

import numpy as np


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Make the random generator of one purpose. It is the same on every machine.

    For NumPy the seeds [seed, step] and [seed, step, 0] are equal, so that draws of two kinds would repeat each other.
    The purpose and the count of the numbers keep them different.
    """
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, word, len(numbers), *numbers])


def number(seed: int, purpose: str, *numbers: int) -> int:
    """Draw a seed below 2**62, for functions that need a single number."""
    return int(stream(seed, purpose, *numbers).integers(2**62))
