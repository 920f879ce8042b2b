"""Times of calls, and the peak speed of a device to compare with."""

import time
from collections.abc import Callable

import torch

from common.network.model import autocast


def seconds_of(function: Callable, device: str = "cpu") -> float:
    """Return the wall time of one call in seconds, including the device's work."""
    def wait():
        if device == "cuda":
            torch.cuda.synchronize()
    wait()
    started = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - started


def interleaved(calls: dict[str, Callable], rounds: int, device: str = "cpu", warm_ups: int = 1) -> dict[str, list]:
    """Return the seconds of each call in each round, without the warm-up rounds. All calls take turns in a round."""
    times = {name: [] for name in calls}
    for number in range(-warm_ups, rounds):
        for name, call in calls.items():
            seconds = seconds_of(call, device)
            if number >= 0:
                times[name].append(seconds)
    return times


def matrix_peak(device: str = "cpu", rounds: int = 5) -> float:
    """Return the floating-point operations per second of a large matrix product, in the convolutions' precision."""
    n = 8192 if device == "cuda" else 3072
    a, b = torch.randn(2, n, n, device=device)
    with autocast(device):
        return 2 * n**3 / min(seconds_of(lambda: a @ b, device) for _ in range(rounds))
