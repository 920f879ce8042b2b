"""Match the sound of an aligned second copy to the first: level, polarity and equalisation, without clean music.

With A = S + M and B = G S + N in a band, where the music S and the noises M and N are independent, an ordinary
least-squares filter from B to A is too quiet wherever N is loud: it is 1/G times the share of music in B. But when the
music gets louder, the power of A grows by that of S and the power of B by |G|^2 times as much, while the noises do not
grow with it. The music's power follows from the cross-spectrum C of B and A, and over all frames

    |G|^2 = cov(|B|^2, C) / cov(|A|^2, C),    arg G = arg mean(C).

This is the estimator of errors in variables with C as the instrument (Fuller 1987). Its error in each band is measured
with the jackknife (Efron 1982), and gains and phases of all bands are smoothed by Whittaker's method (Whittaker 1923),
in which a band counts the less the larger its error is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.signal import oaconvolve

# Frames of the cross-spectra in samples, and frames in a block of time.
N_FFT, HOP, BLOCK_FRAMES = 4096, 2048, 16
BLOCK_SAMPLES = HOP * BLOCK_FRAMES
# Samples that follow a block and belong to its last frame.
OVERLAP = N_FFT - HOP
# Upper edge in Hz of the lowest band, and width of the others.
LOWEST_HZ, BANDS_PER_OCTAVE = 40.0, 3
N_TAPS = 2047
# Least power of a band in a block, relative to its mean, where logarithms are taken.
LEAST_POWER = 0.03
# Groups of blocks of the jackknife, and deviation that is expected of the second differences from band to band, of the
# logarithm of a gain (nepers) and of its phase (radians).
N_GROUPS, BEND = 16, 0.02
# Variance of what is not known of a band.
UNKNOWN = 10.0


def band_edges(sample_rate: int) -> np.ndarray:
    """First bins of third-octave bands, and the number of bins; the first band begins at 0 Hz."""
    n = int(np.ceil(BANDS_PER_OCTAVE * np.log2(sample_rate / 2 / LOWEST_HZ)))
    edges = np.rint(LOWEST_HZ * 2 ** (np.arange(n) / BANDS_PER_OCTAVE) * N_FFT / sample_rate).astype(int)
    return np.unique(np.concatenate([[0], edges[edges < N_FFT // 2], [N_FFT // 2 + 1]]))


@dataclass(frozen=True)
class Statistics:
    """What two aligned copies have in common.

    sums: over the frames of each block, the sums of |A|^2, |B|^2, C, |A|^2 C and |B|^2 C in each channel and band, with
    the cross-spectrum C; (blocks, 5, channels, bands) complex128.
    """

    sample_rate: int
    sums: np.ndarray

    def of(self, blocks: np.ndarray) -> "Statistics":
        """The statistics of chosen blocks."""
        return Statistics(self.sample_rate, self.sums[blocks])

    def agreement(self, highest_hz: float = np.inf) -> np.ndarray:
        """The share of the amplitude that the copies have in common in each block, (blocks,), 0 to 1.

        It is that of all bands up to a frequency, without the lowest one, which holds any constant offset.
        """
        last = np.searchsorted(band_edges(self.sample_rate) * self.sample_rate / N_FFT, highest_hz)
        a, b, cross = np.abs(self.sums[:, :3, :, 1:last]).sum((2, 3)).T
        return cross / np.sqrt(a * b + 1e-30)

    def error_follows_music(self) -> float:
        """How much what the copies do not share gets louder where what they share does, a correlation from -1 to 1.

        It is that of the two logarithms of power over time, with their means in each band taken off, over the bands in
        which the copies agree somewhere. Noises of their own do not care about the music: at most 0.28 in trials. The
        errors of a codec, or of an alignment that failed, are a part of the music: at least 0.48 in trials.
        """
        response = _responses(self.sums)
        power_a, power_b, cross = np.moveaxis(self.sums[:, :3], 1, 0)
        shared = (cross * response).real
        own = (power_a.real + power_b.real * np.abs(response) ** 2 - 2 * shared).sum(1)  # the power of A - B
        shared = shared.sum(1)
        bands = (shared > 2 * own).any(0)
        shared, own = shared[:, bands], own[:, bands]
        shared, own = (np.log(np.maximum(x, LEAST_POWER * x.mean(0))) for x in (shared, own))
        shared, own = shared - shared.mean(0), own - own.mean(0)
        return float((shared * own).sum() / np.sqrt((shared**2).sum() * (own**2).sum() + 1e-30))


def measure(pairs: Iterable[tuple[np.ndarray, np.ndarray]], sample_rate: int) -> Statistics:
    """Measure two aligned copies, given as pairs of blocks (channels, BLOCK_SAMPLES + OVERLAP)."""
    edges, window, found = band_edges(sample_rate), np.hanning(N_FFT), []
    for pair in pairs:
        a, b = (np.fft.rfft(np.lib.stride_tricks.sliding_window_view(x, N_FFT, axis=-1)[:, ::HOP] * window)
                for x in pair)
        power_a, power_b, cross = (np.add.reduceat(x, edges[:-1], axis=-1)
                                   for x in (np.square(np.abs(a)), np.square(np.abs(b)), b * a.conj()))
        found.append(np.stack([x.sum(1) for x in (power_a, power_b, cross, power_a * cross, power_b * cross)]))
    return Statistics(sample_rate, np.array(found))


def matching_filter(statistics: Statistics) -> np.ndarray:
    """Taps of the filters that make B's music like A's, (channels, N_TAPS) with the middle at N_TAPS // 2."""
    edges = band_edges(statistics.sample_rate)
    middles = np.log2(np.sqrt(np.maximum(edges[:-1], 1) * (edges[1:] - 0.5)))
    bins = np.clip(np.log2(np.maximum(np.arange(edges[-1]), 0.5)), middles[0], middles[-1])
    taps = []
    for response in _responses(statistics.sums):
        polarity = np.sign(response.real.sum())
        log_gain, angle = (PchipInterpolator(middles, values)(bins)
                           for values in (np.log(np.abs(response)), np.angle(polarity * response)))
        impulse = np.roll(np.fft.irfft(polarity * np.exp(log_gain + 1j * angle), N_FFT), N_TAPS // 2)[:N_TAPS]
        taps.append(impulse * np.hanning(N_TAPS + 2)[1:-1])
    return np.array(taps)


def _responses(sums):
    """What makes B's music like A's, complex gains (channels, bands); sums as in Statistics."""
    return np.stack([_response(sums[:, :, channel]) for channel in range(sums.shape[2])])


def _response(sums):
    """The complex gain in each band of one channel, (bands,); sums: (blocks, 5, bands)."""
    groups = np.array_split(np.arange(len(sums)), min(N_GROUPS, len(sums)))
    totals = np.stack([sums[group].sum(0) for group in groups])
    counts = np.array([len(group) for group in groups]) * BLOCK_FRAMES
    left_out = np.concatenate([totals.sum(0)[None], totals.sum(0) - totals])
    means = left_out / np.concatenate([[counts.sum()], counts.sum() - counts])[:, None, None]
    power_a, power_b, cross, a_cross, b_cross = np.moveaxis(means, 1, 0)
    phase = np.exp(-1j * np.angle(cross))
    grown_a, grown_b = (((both - power * cross) * phase).real for both, power in
                        ((a_cross, power_a), (b_cross, power_b)))
    known = ((grown_a > 0) & (grown_b > 0)).all(0)
    log_gains = np.log(np.where(known, grown_a, 1) / np.where(known, grown_b, 1)) / 2
    polarity = np.sign(cross[0].real.sum())
    log_gain, angle = (_smooth(values[0], np.where(known, (len(groups) - 1) * values[1:].var(0) + 1e-6, UNKNOWN))
                       for values in (log_gains, np.angle(polarity * phase)))
    return polarity * np.exp(log_gain + 1j * angle)


def _smooth(values, variances):
    """Whittaker's smoother of values with known variances, all (bands,)."""
    bends = np.diff(np.eye(len(values)), 2, axis=0) / BEND
    return np.linalg.solve(np.diag(1 / variances) + bends.T @ bends, values / variances)


def spectra(statistics: Statistics) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Middles of the bands in Hz, and the powers of what the copies share, of A alone and of B alone at A's level."""
    edges = band_edges(statistics.sample_rate)
    hertz = np.sqrt(np.maximum(edges[:-1], 1) * edges[1:]) * statistics.sample_rate / N_FFT
    response = _responses(statistics.sums)
    power_a, power_b, cross = statistics.sums[:, :3].sum(0)
    shared = np.maximum((cross * response).real, 0)
    powers = shared, np.maximum(power_a.real - shared, 0), np.maximum(
        power_b.real * np.abs(response) ** 2 - shared, 0)
    return hertz, *(power.sum(0) / np.diff(edges) for power in powers)


def filtered(blocks: Iterable[np.ndarray], taps: np.ndarray) -> Iterator[np.ndarray]:
    """Filter a stream of (channels, samples) blocks without delay; blocks of other lengths, the same in total."""
    half, held = taps.shape[1] // 2, None
    for block in blocks:
        held = np.pad(block, ((0, 0), (half, 0))) if held is None else np.concatenate([held, block], axis=1)
        if held.shape[1] > 2 * half:
            yield oaconvolve(held, taps, mode="valid", axes=1)
            held = held[:, -2 * half :]
    if held is not None:
        yield oaconvolve(np.pad(held, ((0, 0), (0, half))), taps, mode="valid", axes=1)
