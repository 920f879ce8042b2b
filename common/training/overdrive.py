"""Overdriven songs: distortion, as of guitar amplifiers and of loud masters, makes dense songs of thin ones.

A network that knows few such songs takes distorted guitars for noise: both fill the whole spectrum, and hardly change.
"""

import numpy as np
import torch

from common.training.filters import at_power, to_device

# Share of the pairs whose song is overdriven.
SHARE = 0.5


def draw_overdrive(rng: np.random.Generator, gain_db: tuple[float, float] | None) -> float | None:
    """Draw the gain of a song from a range in dB, as a factor; None for a song that stays as it is."""
    if gain_db is None or rng.random() >= SHARE:
        return None
    return 10 ** (rng.uniform(*gain_db) / 20)


def overdriven(audio: torch.Tensor, gains: list[float | None]) -> torch.Tensor:
    """Replace the rows x of (rows, samples) that have a gain g by tanh(g x), in place, and return all rows.

    A row keeps its level. For an x with an RMS of 1, gains up to 0.5 change little, and at 10 most of it is clipped.
    Harmonics above half the sample rate are aliased, in input and target alike.
    """
    rows = [i for i, gain in enumerate(gains) if gain is not None]
    if rows:
        where = to_device(torch.tensor(rows), audio.device)
        gain = to_device(torch.tensor([gains[i] for i in rows]), audio.device)[:, None]
        before = audio[where]
        after = at_power(torch.tanh(gain * before), before.square().mean(-1, keepdim=True))
        audio.index_copy_(0, where, after)
    return audio
