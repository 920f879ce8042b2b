"""Random streams that have nothing in common: each is named by a seed, a purpose and numbers.

NumPy's own lists of numbers will not do: to it a list is the same list with a zero behind it, so that [seed, step] and
[seed, step, 0] are one stream.
"""

import hashlib
import json

import numpy as np


def number(seed: int, purpose: str, *numbers: int) -> int:
    """A whole number below 2**62, which any generator takes as its seed; another for other arguments."""
    return _digest(seed, purpose, numbers) >> 194


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The generator of one purpose, a fixed word; no other purpose, seed or numbers give the same draws."""
    return np.random.default_rng(_digest(seed, purpose, numbers))


def _digest(seed, purpose, numbers):
    text = json.dumps([purpose, *map(int, (seed, *numbers))])
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
