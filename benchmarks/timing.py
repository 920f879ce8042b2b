"""How the benchmarks take time, and what they compare it with."""

import time
from collections.abc import Callable

import torch

from common.network.model import autocast


def seconds_of(function: Callable, device: str = "cpu") -> float:
    """Wall time of one call, the device's work included."""
    def wait():
        if device == "cuda":
            torch.cuda.synchronize()
    wait()
    started = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - started


def matrix_peak(device: str = "cpu", rounds: int = 5) -> float:
    """Floating-point operations per second of a large matrix product, in the precision of the convolutions there."""
    n = 8192 if device == "cuda" else 3072
    a, b = torch.randn(2, n, n, device=device)
    with autocast(device):
        return 2 * n**3 / min(seconds_of(lambda: a @ b, device) for _ in range(rounds))
