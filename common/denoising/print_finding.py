"""Find a moment of a recording in which its noise can be heard without music: before it, after it, or in a pause.

All windows of half a second are judged. A window may be noise alone if

- it is steady: music changes its level and moves from band to band;
- the rest is louder: music over the noise raises most bands;
- it continues under the music: hardly any band ever falls below it. A quiet bar of music holds notes that are missing
  elsewhere.

The result is the quietest such window, extended by all such windows around it. Digital silence, and what a codec makes
of it, does not count as noise. Powers are means over the channels. benchmarks/noise_prints.py measures how often the
result is right.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.network.confidence import band_edges
from common.network.stft import STFT

# Minimum length of the result.
LEAST_SECONDS = 0.5
# Number of frames in a block, of which powers are averaged. A frame begins every quarter of the transform's length.
BLOCK_FRAMES = 7
# Maximum standard deviation of a steady window's level over its blocks, mean over the bands.
STEADY_DB = 1.75
# Minimum difference of the recording's level and the window's, mean over blocks and bands.
RISE_DB = 3.0
# A band's floor is this quantile of the levels of all windows (a few may be faded).
FLOOR_SHARE = 0.05
# Maximum level of a window above the floors, mean over the bands.
ABOVE_FLOOR_DB = 1.0
# Maximum power of a silent block or band relative to the mean power of the recording.
SILENT_POWER_RATIO = 1e-6


def frame_powers(blocks: Iterable[np.ndarray], stft: STFT, group: int = 1) -> Iterator[np.ndarray]:
    """Power in each bin of the frames of a stream of (channels, samples) blocks, without padding.

    Yields (channels, bins, frames); the number of frames is a multiple of `group`, and a rest is dropped.
    """
    held = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=-1)
        frames = (held.shape[-1] - stft.n_fft) // stft.hop_length + 1
        frames -= frames % group
        if frames > 0:
            whole = held[:, : stft.n_fft + (frames - 1) * stft.hop_length]
            yield np.abs(stft.frames(whole.astype(np.float32, copy=False))) ** 2
            held = held[:, frames * stft.hop_length :]


def find_noise(blocks: Iterable[np.ndarray], stft: STFT) -> tuple[float, float] | None:
    """Find noise without music in a stream of (channels, samples) blocks at the transform's rate.

    Returns its start and end in seconds, or None. Memory grows by 55 MB for an hour of audio.
    """
    stft = replace(stft, hop_length=stft.n_fft // 4)
    step, overlap = BLOCK_FRAMES * stft.hop_length, stft.n_fft - stft.hop_length
    n = math.ceil((LEAST_SECONDS * stft.sample_rate - overlap) / step)
    powers = _block_powers(blocks, stft)
    if len(powers) < n:
        return None
    candidate, level_db = _judge(powers, n)
    if not candidate.any():
        return None
    quietest = np.where(candidate, level_db, np.inf).argmin()
    others = np.flatnonzero(~candidate)
    first = others[others < quietest].max(initial=-1) + 1
    last = others[others > quietest].min(initial=len(candidate)) - 1
    return float(first * step / stft.sample_rate), float(((last + n) * step + overlap) / stft.sample_rate)


def _block_powers(blocks, stft):
    """Mean power of each block in each band, (blocks, bands)."""
    edges = band_edges(stft.n_bins)
    found = [np.zeros((0, len(edges) - 1), np.float32)]
    for powers in frame_powers(blocks, stft, BLOCK_FRAMES):
        of_blocks = powers.mean(0).reshape(stft.n_bins, -1, BLOCK_FRAMES).mean(-1)
        found.append(np.add.reduceat(of_blocks, edges[:-1], axis=0).T)
    return np.concatenate(found)


def _judge(powers, n):
    """Judge every window of `n` blocks by the powers (blocks, bands).

    Returns whether each window may be noise alone and its level in dB (mean over blocks and bands), both (windows,).
    """
    total = powers.sum(1)
    least = SILENT_POWER_RATIO * total.mean()
    audible = total > least
    all_audible = sliding_window_view(audible, n).all(-1)
    if not all_audible.any():
        return all_audible, total
    powers = powers[:, powers.mean(0) > least]
    levels = _db(powers)
    windows = sliding_window_view(levels, n, axis=0)  # (windows, bands, n)
    window_levels = _db(sliding_window_view(powers, n, axis=0).mean(-1))
    floor = np.quantile(window_levels[all_audible], FLOOR_SHARE, axis=0)
    steady = windows.std(-1).mean(1) < STEADY_DB
    rises = levels[audible].mean() - window_levels.mean(1) > RISE_DB
    continues = np.maximum(0, window_levels - floor).mean(1) < ABOVE_FLOOR_DB
    return all_audible & steady & rises & continues, windows.mean((1, 2))


def _db(powers):
    return 10 * np.log10(powers + np.finfo(np.float32).tiny)
