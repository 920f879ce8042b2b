"""Follow the delay of a second copy of a performance against the first, as the speeds of the two drift apart.

Two copies of one performance, such as two tapes of a concert, hold the same music and independent noises. What happens
at t seconds in copy A happens at t + delay(t) in copy B. Three steps find the delay, each more exact than the last:

1. Changes of level in bands, which survive noise, equalisation and polarity, are compared over both whole copies.
   Excerpts of A give candidates, and the straight line that most of them lie on is chosen.
2. Around this line, cross-correlations of one second, whitened with a power of 0.8, are joined to the path through time
   that gathers most correlation and turns no faster than two speeds can differ (dynamic programming).
3. B is read along the path, and what is left of the delay in each window follows from the phase of the cross-spectrum.
   Each frequency counts with the weight of the maximum-likelihood estimator, which depends on its coherence. A
   smoothing spline goes through the windows. This step is made three times.

All of it works on mono at ANALYSIS_RATE. References: Knapp and Carter 1976 (generalised cross-correlation and its
maximum-likelihood weights), Sakoe and Chiba 1978 (dynamic programming in time).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.interpolate import make_smoothing_spline
from scipy.ndimage import map_coordinates, maximum_filter1d, median_filter
from scipy.signal import find_peaks

# Sample rate in Hz of the signals that are compared. Music is coherent mostly below half of it.
ANALYSIS_RATE = 16000
# Maximum difference of the two speeds, as a ratio.
MAX_SPEED_DIFFERENCE = 2e-3

# Step 1: length and step of the frames in samples, number of bands, their lowest frequency in Hz.
FRAME_SAMPLES, FRAME_STEP, N_BANDS, LOWEST_HZ = 512, 160, 12, 100.0
FEATURE_RATE = ANALYSIS_RATE / FRAME_STEP
# Number and length of the excerpts, number of candidates of each, and the tolerance for a candidate on a line.
N_EXCERPTS, EXCERPT_SECONDS, N_CANDIDATES, LINE_SECONDS = 24, 20.0, 4, 0.03
# Frames over which a change of level is taken, and its limit in standard deviations.
CHANGE_FRAMES, MAX_CHANGE = 3, 3.0

# Step 2: distance of the windows and reach of the search around the line in seconds, exponent of the whitening.
PATH_STEP_SECONDS, PATH_REACH_SECONDS, WHITENING = 1.0, 0.08, 0.8
# Windows of full correlation that a jump to any other delay costs, as at a splice.
JUMP_COST = 3.0

# Step 3: (length of the windows, reach of the search) in seconds for each pass; frames of a cross-spectrum.
PASSES = ((2.0, 4e-3), (2.0, 1e-3), (2.0, 5e-4))
CROSS_FRAME, CROSS_STEP = 1024, 256
# Number of Hann frames, a quarter of their length apart, that are worth an independent one.
DEPENDENCE = 2.0
# Least jump of the delay between two windows where the recording was cut: in seconds, beyond so many standard errors.
JUMP_SECONDS, JUMP_ERRORS = 2e-4, 6.0
# Passes of the spline's fit. Each leaves out windows further from the spline than so many deviations.
ROBUST_PASSES, MAX_DEVIATIONS = 4, 4.0
# Standard errors are at least this, for interpolation costs as much.
LEAST_ERROR_SECONDS = 0.005 / 44100
# A fast change of speed shows in windows of this length in seconds, where they are at least so coherent.
WOW_SECONDS, WOW_COHERENCE = 0.5, 0.5


# The delay in seconds at times in A, both (times,).
Curve = Callable[[np.ndarray], np.ndarray]


class UnlikeError(Exception):
    """Two recordings have nothing in common that could be aligned."""


@dataclass(frozen=True)
class Delays:
    """Delays measured in windows: arrays (windows,) of the middle in A, the delay and its standard error in seconds.

    coherence: of the two copies in the window, weighted by frequency as the delay is, from 0 to 1.
    """

    seconds: np.ndarray
    delay: np.ndarray
    error: np.ndarray
    coherence: np.ndarray


def jumps(delays: Delays) -> np.ndarray:
    """Numbers of the windows before which the delay jumps, against its slope around there."""
    steps = np.diff(delays.seconds)
    slopes = np.diff(delays.delay) / steps
    off = np.abs(slopes - median_filter(slopes, 5, mode="nearest")) * steps if len(slopes) else slopes
    return np.flatnonzero(off > JUMP_SECONDS + JUMP_ERRORS * np.hypot(delays.error[1:], delays.error[:-1])) + 1


def level_changes(mono: np.ndarray) -> np.ndarray:
    """Changes of level in bands of (samples,) at ANALYSIS_RATE, (N_BANDS, frames) float32 with a variance of 1."""
    n_frames = max(0, (len(mono) - FRAME_SAMPLES) // FRAME_STEP + 1)
    frames = np.lib.stride_tricks.sliding_window_view(mono, FRAME_SAMPLES)[::FRAME_STEP]
    edges = np.geomspace(LOWEST_HZ, ANALYSIS_RATE / 2, N_BANDS + 1) * FRAME_SAMPLES / ANALYSIS_RATE
    bins = np.unique(np.rint(edges).astype(int))
    window = np.hanning(FRAME_SAMPLES).astype(np.float32)
    levels = np.empty((len(bins) - 1, n_frames), np.float32)
    for start in range(0, n_frames, 4096):
        power = np.abs(rfft(frames[start : start + 4096] * window)) ** 2
        levels[:, start : start + len(power)] = np.log(np.add.reduceat(power, bins[:-1], axis=1) + 1e-9).T
    changes = levels[:, CHANGE_FRAMES:] - levels[:, :-CHANGE_FRAMES]
    spread = changes.std(1, keepdims=True)
    return np.clip(changes / np.where(spread > 0, spread, 1), -MAX_CHANGE, MAX_CHANGE)


def candidates(changes_a: np.ndarray, changes_b: np.ndarray) -> np.ndarray:
    """Where excerpts of A may lie in B: rows (seconds in A of the excerpt's middle, delay in seconds, similarity)."""
    frames_a, frames_b = changes_a.shape[1], changes_b.shape[1]
    length = int(min(EXCERPT_SECONDS * FEATURE_RATE, max(1, min(frames_a, frames_b) // 3)))
    size = next_fast_len(frames_b + length, real=True)
    spectrum_b = rfft(changes_b, size)
    energy_b = np.concatenate([[0], np.cumsum(np.square(changes_b).sum(0, dtype=np.float64))])
    found = []
    for start in np.unique(np.linspace(0, frames_a - length, N_EXCERPTS).astype(int)):
        excerpt = changes_a[:, start : start + length]
        products = irfft((spectrum_b * rfft(excerpt, size).conj()).sum(0), size)
        products = np.concatenate([products[size - length + 1 :], products[: frames_b]])  # from -length + 1 on
        first = np.arange(-length + 1, frames_b)
        heard = energy_b[np.clip(first + length, 0, frames_b)] - energy_b[np.clip(first, 0, frames_b)]
        norm = np.sqrt(np.square(excerpt).sum() * np.maximum(heard, 0.25 * energy_b[-1] * length / frames_b)) + 1e-9
        similarity = products / norm
        peaks, _ = find_peaks(similarity, distance=int(0.2 * FEATURE_RATE))
        for peak in peaks[np.argsort(similarity[peaks])[-N_CANDIDATES:]]:
            found.append(((start + length / 2) / FEATURE_RATE, (first[peak] - start) / FEATURE_RATE, similarity[peak]))
    return np.array(found).reshape(-1, 3)


def best_line(found: np.ndarray) -> tuple[float, float]:
    """The line through candidates that gathers most similarity: delay in seconds at 0 s, and slope."""
    seconds, delay, similarity = found.T
    first, second = np.triu_indices(len(found), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (delay[second] - delay[first]) / (seconds[second] - seconds[first])
    possible = np.abs(slope) <= MAX_SPEED_DIFFERENCE
    slopes = np.concatenate([slope[possible], np.zeros(len(found))])
    starts = np.concatenate([(delay[first] - slope * seconds[first])[possible], delay])
    on_line = np.abs(delay - starts[:, None] - slopes[:, None] * seconds) < LINE_SECONDS
    best = int((on_line * np.maximum(similarity, 0) ** 2).sum(1).argmax())
    members = on_line[best]
    if np.ptp(seconds[members]) > 0:
        weights = np.maximum(similarity[members], 0)
        slopes[best], starts[best] = np.polyfit(seconds[members], delay[members], 1, w=weights)
    return float(starts[best]), float(slopes[best])


def read_along(mono: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """A signal (samples,) at ANALYSIS_RATE at any times in seconds, zero outside, by cubic splines."""
    at = seconds * ANALYSIS_RATE
    low, high = int(max(0, np.floor(at.min()) - 16)), int(max(0, np.ceil(at.max()) + 17))
    part = mono[low:high]
    if not len(part):
        return np.zeros(len(at), np.float32)
    return map_coordinates(part, [at - low], order=3, mode="constant", output=np.float32)


def follow_path(a: np.ndarray, b: np.ndarray, line: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step 2: middles of windows of A in seconds, the delay in each and the correlation there, all (windows,)."""
    n, reach = int(PATH_STEP_SECONDS * ANALYSIS_RATE), int(PATH_REACH_SECONDS * ANALYSIS_RATE)
    size = next_fast_len(2 * n + 2 * reach, real=True)
    frequency = rfftfreq(size, 1 / ANALYSIS_RATE)
    band = (frequency > LOWEST_HZ) & (frequency < 0.45 * ANALYSIS_RATE)
    turn = int(np.ceil(MAX_SPEED_DIFFERENCE * n))
    middles = np.arange(n // 2, max(n // 2 + 1, len(a) - n // 2), n)
    scores, froms, correlations = np.zeros(2 * reach + 1), [], []
    taper = np.hanning(2 * n)
    for middle in middles:
        span = np.arange(middle - n, middle + n)
        own = np.where((span >= 0) & (span < len(a)), a[np.clip(span, 0, len(a) - 1)], 0) * taper
        times = span / ANALYSIS_RATE
        other = read_along(b, times + line(times))
        cross = rfft(other, size) * rfft(own, size).conj() * band
        correlation = irfft(cross / (np.abs(cross) + 1e-12) ** WHITENING, size)
        correlation = np.concatenate([correlation[-reach:], correlation[: reach + 1]])
        correlation /= np.abs(correlation).max() + 1e-12
        correlations.append(correlation.astype(np.float32))
        best = np.maximum(maximum_filter1d(scores, 2 * turn + 1), scores.max() - JUMP_COST)
        froms.append(scores.astype(np.float32))
        scores = best + np.abs(correlation) ** 2
    at = int(scores.argmax())
    path = [at]
    for before in reversed(froms[1:]):
        low = max(0, at - turn)
        near = low + int(before[low : at + turn + 1].argmax())
        at = near if before[near] >= before.max() - JUMP_COST else int(before.argmax())
        path.append(at)
    path, seconds = np.array(path[::-1]), middles / ANALYSIS_RATE
    return seconds, line(seconds) + (path - reach) / ANALYSIS_RATE, np.array(correlations)[np.arange(len(path)), path]


def measure(a: np.ndarray, b: np.ndarray, curve: Curve, window_seconds: float, reach_seconds: float,
            polarity: int = 1) -> Delays:
    """Step 3: measure what is left of the delay in windows, one after the other, where B has sound.

    polarity: -1 if B is inverted.
    """
    length = int(window_seconds * ANALYSIS_RATE)
    found = []
    for start in range(0, max(1, len(a) - length + 1), length):
        times = np.arange(start, min(start + length, len(a))) / ANALYSIS_RATE
        there = times + curve(times)
        if there[0] < 0 or there[-1] > len(b) / ANALYSIS_RATE or len(times) < CROSS_FRAME:
            continue
        own = a[start : start + length]
        left, error, coherence = _left_delay(own, polarity * read_along(b, there), reach_seconds)
        # The cross-spectrum tells the mean over the window, in which loud moments count more.
        energy = np.square(own) + 1e-12
        middle, base = (np.average(values, weights=energy) for values in (times, there - times))
        found.append((middle, base + left, error, coherence))
    return Delays(*np.array(found).reshape(-1, 4).T)


def _left_delay(own, other, reach_seconds):
    """The delay of `other` in seconds, its standard error, and the coherence; the error is infinite without any."""
    window = np.hanning(CROSS_FRAME).astype(np.float32)
    x, y = (rfft(np.lib.stride_tricks.sliding_window_view(z, CROSS_FRAME)[::CROSS_STEP] * window) for z in (own, other))
    n_frames = max(1.01, len(x) / DEPENDENCE)
    cross, power_x, power_y = (y * x.conj()).mean(0), np.square(np.abs(x)).mean(0), np.square(np.abs(y)).mean(0)
    frequency = rfftfreq(CROSS_FRAME, 1 / ANALYSIS_RATE)
    squared = np.square(np.abs(cross)) / (power_x * power_y + 1e-20)
    squared = np.clip((squared - 1 / n_frames) / (1 - 1 / n_frames), 0, 0.999)  # what chance adds is taken off
    squared[(frequency < LOWEST_HZ) | (frequency > 0.45 * ANALYSIS_RATE)] = 0
    weight = squared / (1 - squared)
    if not weight.any():
        return 0.0, np.inf, 0.0
    unit = weight * cross / (np.abs(cross) + 1e-20)
    fine = 8  # the maximum is looked for between samples
    likelihood = irfft(unit, fine * CROSS_FRAME)
    n = max(1, int(reach_seconds * fine * ANALYSIS_RATE))
    likelihood = np.concatenate([likelihood[-n:], likelihood[: n + 1]])
    delay = (int(likelihood.argmax()) - n) / (fine * ANALYSIS_RATE)
    angular = 2 * np.pi * frequency
    for _ in range(3):  # Newton steps on the likelihood, whose maximum lies between two samples
        turned = unit * np.exp(1j * angular * delay)
        curvature = (angular**2 * turned.real).sum()
        if curvature > 0:
            delay -= (angular * turned.imag).sum() / curvature
    error = np.sqrt(1 / max((angular**2 * weight).sum() * 2 * n_frames, 1e-30))
    return delay, error, float((weight * squared).sum() / weight.sum())


def fit(delays: Delays) -> Curve:
    """A smooth curve through measured delays, in pieces where the delay jumps; a straight line through few windows.

    The smoothness of each piece is chosen by generalised cross-validation. Before its first and after its last window
    a piece goes on straight.
    """
    known = np.isfinite(delays.error)
    x, y, error = (values[known] for values in (delays.seconds, delays.delay, delays.error))
    error, cuts = np.hypot(error, LEAST_ERROR_SECONDS), jumps(Delays(x, y, error, x))
    pieces = [_fit_piece(*part) for part in zip(*(np.split(values, cuts) for values in (x, y, error)), strict=True)]
    bounds = [(x[cut - 1] + x[cut]) / 2 for cut in cuts]

    def curve(seconds):
        which, delay = np.searchsorted(bounds, seconds), np.empty(np.shape(seconds))
        for number in np.unique(which):
            delay[which == number] = pieces[number](seconds[which == number])
        return delay
    return curve


def _fit_piece(x, y, error):
    line, kept = np.polyfit(x, y, 1, w=1 / error) if len(x) > 1 else np.array([0.0, y[0]]), np.ones(len(x), bool)
    unit = np.median(error)
    left, relative = (y - np.polyval(line, x)) / unit, error / unit  # the search for the smoothness needs such scales
    for _ in range(ROBUST_PASSES):
        if kept.sum() < 6:
            return lambda seconds: np.polyval(line, seconds)
        spline = make_smoothing_spline(x[kept], left[kept], 1 / relative[kept] ** 2)
        off = np.abs(left - spline(x)) / relative
        kept = off <= MAX_DEVIATIONS * max(1.4826 * np.median(off[kept]), 1.0)
    low, high = x[kept][[0, -1]]
    slopes = spline.derivative()([low, high])

    def piece(seconds):
        inside = np.clip(seconds, low, high)
        beyond = np.minimum(seconds - low, 0) * slopes[0] + np.maximum(seconds - high, 0) * slopes[1]
        return np.polyval(line, seconds) + unit * (spline(inside) + beyond)
    return piece


def _wow(a, b, curve, polarity):
    """RMS deviation in seconds of the delay from its curve in windows of half a second, beyond their standard error."""
    found = measure(a, b, curve, WOW_SECONDS, PASSES[0][1], polarity)
    chosen = found.coherence > WOW_COHERENCE
    if not chosen.any():
        return 0.0
    off = found.delay[chosen] - curve(found.seconds[chosen])
    return float(np.sqrt(max(0.0, np.median(off**2) / 0.455 - np.median(found.error[chosen] ** 2))))


def follow(a: np.ndarray, b: np.ndarray) -> tuple[Curve, Delays, float]:
    """The delay of B against A, both (samples,) at ANALYSIS_RATE.

    Returns the delay as a curve over the time in A, as measured in windows, and its wow: the RMS deviation from the
    curve in windows of half a second, in seconds, beyond their standard error. Raises UnlikeError where hardly any
    window of A has a counterpart in B.
    """
    found = candidates(level_changes(a), level_changes(b))
    if not len(found):
        raise UnlikeError
    start, slope = best_line(found)

    def line(seconds):
        return start + slope * seconds

    seconds, delay, correlation = follow_path(a, b, line)
    polarity = 1 if correlation.sum() > 0 else -1
    inside = (seconds + delay > 0) & (seconds + delay < len(b) / ANALYSIS_RATE)
    n = inside.sum()
    if n < 2:
        raise UnlikeError
    curve = fit(Delays(seconds[inside], delay[inside], np.full(n, 0.5 / ANALYSIS_RATE), np.ones(n)))
    for window_seconds, reach_seconds in PASSES:
        measured = measure(a, b, curve, window_seconds, reach_seconds, polarity)
        if np.isfinite(measured.error).sum() < 2:
            raise UnlikeError
        curve = fit(measured)
    return curve, measured, _wow(a, b, curve, polarity)
