"""Where a recording lets its noise be heard alone: before the music, behind it, or in a pause.

Of all windows of half a second that could be noise alone, the quietest is taken, with all such windows that follow each
other around it. A window could be noise alone if

- it is steady: music moves, in level and from band to band;
- what comes elsewhere is louder: where music plays over the noise, most bands rise;
- it goes on under the music: hardly any band ever falls below it. A quiet bar of music holds notes that others do not.

Digital silence, and what a codec makes of it, is no noise. Powers are those of bands and of blocks of frames, the mean
over the channels. benchmarks/noise_prints.py measures how often this is right.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from common.network.confidence import band_edges
from common.network.noise_print import frame_powers
from common.network.stft import STFT

# The least length of a stretch.
LEAST_SECONDS = 0.5
# Frames of a block; there are 4 in the length of a transform.
BLOCK_FRAMES = 7
# A window is steady up to this standard deviation over its blocks, of a band's level, mean over the bands.
STEADY_DB = 1.75
# The recording's level has to be this much above the window's, mean over blocks and bands.
RISE_DB = 3.0
# A band's floor is the level that this share of the windows does not reach (the rest may be faded), and the window may
# lie above it by so much, mean over the bands.
FLOOR_SHARE, ABOVE_FLOOR_DB = 0.05, 1.0
# A block or a band so far below the recording's power is silent: digital silence, or no noise that anybody hears.
SILENT_POWER = 1e-6


def find_noise(blocks: Iterable[np.ndarray], stft: STFT) -> tuple[float, float] | None:
    """First and last second of the noise alone in a stream of (channels, samples) blocks at the transform's rate.

    None if there is no such stretch. Memory grows by 35 MB an hour.
    """
    stft = replace(stft, hop_length=stft.n_fft // 4)
    step, overlap = BLOCK_FRAMES * stft.hop_length, stft.n_fft - stft.hop_length
    n = -int(-(LEAST_SECONDS * stft.sample_rate - overlap) // step)
    powers = _block_powers(blocks, stft)
    if len(powers) < n:
        return None
    alone, quietness = _judge(powers, n)
    if not alone.any():
        return None
    first = last = int(np.where(alone, quietness, np.inf).argmin())
    while first and alone[first - 1]:
        first -= 1
    while last + 1 < len(alone) and alone[last + 1]:
        last += 1
    return first * step / stft.sample_rate, ((last + n) * step + overlap) / stft.sample_rate


def _block_powers(blocks, stft):
    """Power of each block in each band, (blocks, bands)."""
    edges, found = band_edges(stft.n_bins), []
    for powers in frame_powers(blocks, stft, BLOCK_FRAMES):
        of_blocks = powers.mean(0).unflatten(-1, (-1, BLOCK_FRAMES)).mean(-1).numpy()
        found.append(np.add.reduceat(of_blocks, edges[:-1], axis=0).T)
    return np.concatenate(found) if found else np.zeros((0, len(edges) - 1), np.float32)


def _shifted(x, n):
    """What the windows of `n` hold first, second and so on, as views."""
    return [x[k : len(x) - n + 1 + k] for k in range(n)]


def _judge(powers, n):
    """For every window of `n` blocks: whether it could be noise alone, and its level in dB (mean over the bands)."""
    total = powers.sum(1)
    least = SILENT_POWER * total.mean()
    silent = total <= least
    heard = ~np.any(_shifted(silent, n), axis=0)
    if not heard.any():
        return heard, total
    powers = powers[:, powers.mean(0) > least]
    levels, means = (10 * np.log10(x + np.finfo(np.float32).tiny) for x in (powers, sum(_shifted(powers, n)) / n))
    blocks = _shifted(levels, n)
    middle = sum(blocks) / n
    spread = np.sqrt(sum((block - middle) ** 2 for block in blocks) / n)
    floor = np.quantile(means[heard], FLOOR_SHARE, axis=0)
    steady = spread.mean(1) < STEADY_DB
    rises = levels[~silent].mean() - means.mean(1) > RISE_DB
    goes_on = np.maximum(0, means - floor).mean(1) < ABOVE_FLOOR_DB
    return heard & steady & rises & goes_on, middle.mean(1)
