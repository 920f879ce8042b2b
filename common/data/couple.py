"""Two noisy copies of one performance: the second aligned to the first, and what both have in common.

Copy B is read at the times of copy A (common.data.alignment), and both are compared in blocks of time and bands
(common.data.copy_matching). A couple from which nothing can be learned is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates, minimum_filter1d, uniform_filter1d

from common.audio.reading import AudioReader, audio_name
from common.data import alignment, copy_matching
from common.denoising.chunks import resampled
from common.errors import AudioError, UserError

# B is read at this multiple of A's rate before it is interpolated by splines of order 5 (error below -60 dB).
OVERSAMPLING, SPLINE_ORDER, SPLINE_MARGIN = 2, 5, 64
# Distance in seconds of the times at which the delay is computed; between them it is linear.
CURVE_STEP_SECONDS = 0.01
# Minimum agreement of a stretch (a mean over AGREEMENT_SECONDS): both copies hold music a quarter as loud as the noise.
LEAST_AGREEMENT, AGREEMENT_SECONDS = 0.2, 3.0
# Minimum share of the common time that agrees, and minimum number of seconds.
LEAST_AGREED_SHARE, LEAST_AGREED_SECONDS = 0.2, 16.0
# Maximum of error_follows_music of copies with noises of their own, and maximum of their agreement (an SNR of 37 dB) up
# to a frequency that codecs and sample rates keep.
MAX_FOLLOWING, MAX_AGREEMENT, KEPT_HZ = 0.38, 0.9999, 10_000.0
# A block that agrees less than this share of the median block is cut with its neighbours: silence in one copy, a cut.
LEAST_RELATIVE_AGREEMENT = 0.5
# Maximum share of the windows whose delay lies MAX_OFF_SAMPLES or more off the smooth curve: the delays are chance.
MAX_OFF_SHARE, MAX_OFF_SAMPLES = 0.3, 0.5
# Maximum deviation of the delay in half a second from its smooth curve, RMS in samples at WOW_RATE.
MAX_WOW_SAMPLES, WOW_RATE = 0.6, 44100


@dataclass
class Couple:
    """Two copies and what is known of them.

    rate, channels: of the pairs. curve: the delay of B in seconds over the time in A. delays: as measured. span: the
    samples of A that B has too. statistics: of the aligned copies in the span. agreement: of each block, smoothed, 0
    where it must be cut. report: plain values.
    """

    copy_a: Path
    copy_b: Path
    rate: int
    channels: int
    curve: alignment.Curve | None = None
    delays: alignment.Delays | None = None
    span: tuple[int, int] = (0, 0)
    statistics: copy_matching.Statistics | None = None
    agreement: np.ndarray | None = None
    report: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return audio_name(self.copy_a)


def _mono(path):
    """The mean of all channels at ANALYSIS_RATE, (samples,)."""
    samples = bytearray()  # it grows in place: two hours are half a gigabyte
    with AudioReader(path) as reader:
        for block in resampled(reader.blocks(reader.sample_rate), reader.sample_rate, alignment.ANALYSIS_RATE):
            samples += block.mean(0, dtype=np.float32).tobytes()
    if not samples:
        raise AudioError(f"expected audio, but {path} holds no samples: replace or remove it")
    return np.frombuffer(samples, np.float32)


def _in_channels(blocks, channels):
    for block in blocks:
        yield block if len(block) == channels else block.mean(0, keepdims=True)


def blocks_of_a(couple: Couple) -> Iterator[np.ndarray]:
    """Read A within the span: blocks (channels, samples) float32."""
    reached, (first, last) = 0, couple.span
    with AudioReader(couple.copy_a) as reader:
        for block in _in_channels(reader.blocks(reader.sample_rate), couple.channels):
            part = block[:, max(0, first - reached) : max(0, last - reached)]
            reached += block.shape[1]
            if part.size:
                yield part
            if reached >= last:
                return


def aligned(couple: Couple, block_samples: int = 1 << 16) -> Iterator[np.ndarray]:
    """Read B at the times of A within the span: blocks (channels, samples) float32 at A's rate.

    Yields as many samples as blocks_of_a.
    """
    rate = couple.rate * OVERSAMPLING
    with AudioReader(couple.copy_b) as reader:
        blocks = _in_channels(resampled(reader.blocks(reader.sample_rate), reader.sample_rate, rate), couple.channels)
        held, first = np.zeros((couple.channels, SPLINE_MARGIN), np.float32), -SPLINE_MARGIN
        for start in range(couple.span[0], couple.span[1], block_samples):
            there = _places(couple, start, min(start + block_samples, couple.span[1])) * rate
            while first + held.shape[1] < there.max() + SPLINE_MARGIN:
                more = next(blocks, None)
                if more is None:
                    more = np.zeros((couple.channels, int(there.max() + 2 * SPLINE_MARGIN) - first - held.shape[1]))
                held = np.concatenate([held, more], axis=1)
            drop = max(0, int(there.min()) - SPLINE_MARGIN - first)
            held, first = held[:, drop:], first + drop
            yield np.stack([map_coordinates(channel, [there - first], order=SPLINE_ORDER, mode="nearest",
                                            output=np.float32) for channel in held])


def _places(couple, start, end):
    """The times in B, in seconds, of the samples of A from `start` to `end`."""
    times = np.arange(start, end) / couple.rate
    coarse = np.arange(times[0], times[-1] + 2 * CURVE_STEP_SECONDS, CURVE_STEP_SECONDS)
    return times + np.interp(times, coarse, couple.curve(coarse))


def _overlapping(streams, length, hop):
    """Cut streams of (channels, samples) blocks into pieces of `length` samples that begin every `hop` samples."""
    held = [next(stream, None) for stream in streams]
    if any(part is None for part in held):
        return
    while True:
        for k, stream in enumerate(streams):
            while held[k].shape[1] < length:
                more = next(stream, None)
                if more is None:
                    return
                held[k] = np.concatenate([held[k], more], axis=1)
        yield tuple(part[:, :length] for part in held)
        held = [part[:, hop:] for part in held]


def align(copy_a: str | Path, copy_b: str | Path) -> Couple:
    """Align copy B to copy A and measure what they have in common.

    Raises UserError if they are not the same performance, if one is a copy of the other, or if the speed of one changes
    too fast to follow; AudioError for a file that cannot be read.
    """
    copy_a, copy_b = Path(copy_a), Path(copy_b)
    with AudioReader(copy_a) as a, AudioReader(copy_b) as b:
        channels = a.channels if a.channels == b.channels else 1
        couple = Couple(copy_a, copy_b, a.sample_rate, channels)
    mono_a, mono_b = _mono(copy_a), _mono(copy_b)
    for path, mono in ((copy_a, mono_a), (copy_b, mono_b)):
        if len(mono) < LEAST_AGREED_SECONDS * alignment.ANALYSIS_RATE or not mono.any():
            raise UserError(f"expected a recording of at least {LEAST_AGREED_SECONDS:g} s with sound, but {path} holds "
                            f"{len(mono) / alignment.ANALYSIS_RATE:.1f} s or silence: give the whole copy")
    try:
        couple.curve, couple.delays, wow_seconds = alignment.follow(mono_a, mono_b)
    except alignment.UnlikeError as error:
        raise _not_the_same(couple) from error
    seconds_a, seconds_b = (len(mono) / alignment.ANALYSIS_RATE for mono in (mono_a, mono_b))
    del mono_a, mono_b
    times = np.append(np.arange(0, seconds_a, CURVE_STEP_SECONDS), seconds_a)
    there = times + couple.curve(times)
    inside = times[(there >= 0) & (there <= seconds_b)]
    couple.span = tuple((inside[[0, -1]] * couple.rate).astype(int).tolist())
    pieces = _overlapping([blocks_of_a(couple), aligned(couple)], copy_matching.BLOCK_SAMPLES + copy_matching.OVERLAP,
                          copy_matching.BLOCK_SAMPLES)
    couple.statistics = copy_matching.measure(pieces, couple.rate)
    _judge(couple, wow_seconds * WOW_RATE)
    return couple


def _not_the_same(couple):
    return UserError(f"expected two copies of one performance, but {couple.copy_a} and {couple.copy_b} have too little "
                     "in common: choose copies of the same recording, concert or broadcast")


def _judge(couple, wow_samples):
    """Fill in the agreement and the report; raise UserError for a couple from which nothing can be learned."""
    agreement = couple.statistics.agreement()
    block_seconds = copy_matching.BLOCK_SAMPLES / couple.rate
    couple.agreement = _smoothed(couple, agreement, block_seconds)
    agrees = couple.agreement >= LEAST_AGREEMENT
    start, end = (part / couple.rate for part in couple.span)
    delays = couple.curve(np.array([start, end]))
    cleanest = np.median(couple.statistics.of(agrees).agreement(KEPT_HZ)) if agrees.any() else 0.0
    off = (couple.delays.delay - couple.curve(couple.delays.seconds)) * couple.rate
    following = couple.statistics.of(agrees).error_follows_music() if agrees.any() else 0.0
    couple.report = {
        "copy_a": str(couple.copy_a), "copy_b": str(couple.copy_b), "sample_rate": couple.rate,
        "channels": couple.channels, "start_seconds": start, "end_seconds": end, "delay_start_seconds": delays[0],
        "delay_end_seconds": delays[1], "speed_difference_ppm": 1e6 * (delays[1] - delays[0]) / max(end - start, 1e-9),
        "residual_samples": float(np.sqrt(np.average(off**2, weights=couple.delays.error**-2))),
        "wow_samples": wow_samples, "agreed_seconds": float(agrees.sum() * block_seconds),
        "agreement": float(np.median(agreement[agrees])) if agrees.any() else 0.0, "error_follows_music": following}
    if couple.report["agreed_seconds"] < max(LEAST_AGREED_SECONDS, LEAST_AGREED_SHARE * (end - start)):
        raise _not_the_same(couple)
    if wow_samples > MAX_WOW_SAMPLES:
        raise UserError("expected speeds that differ by at most 2,000 ppm and change slowly, but the delay of "
                        f"{couple.copy_b} against {couple.copy_a} moves by {wow_samples:.1f} samples within "
                        f"{alignment.WOW_SECONDS:g} s (wow of more than {MAX_WOW_SAMPLES:g}): correct the speed first, "
                        "or use another copy")
    if (np.abs(off) > MAX_OFF_SAMPLES).mean() > MAX_OFF_SHARE:
        raise _not_the_same(couple)
    if following > MAX_FOLLOWING or cleanest > MAX_AGREEMENT:
        raise UserError(f"expected copies with noises of their own, but {couple.copy_b} holds the same noise as "
                        f"{couple.copy_a}, from which nothing can be learned: use a copy that was not made from it")


def _smoothed(couple, agreement, block_seconds):
    """The agreement over AGREEMENT_SECONDS, 0 where it breaks off and around jumps of the delay."""
    if not len(agreement):
        return agreement
    smoothed = uniform_filter1d(agreement, max(1, round(AGREEMENT_SECONDS / block_seconds)), mode="nearest")
    smoothed[minimum_filter1d(agreement, 3) < LEAST_RELATIVE_AGREEMENT * np.median(agreement)] = 0
    begin = couple.span[0] / couple.rate
    for jump in alignment.jumps(couple.delays):
        first, last = ((couple.delays.seconds[k] - begin) / block_seconds for k in (jump - 1, jump))
        smoothed[max(0, int(first) - 1) : int(last) + 2] = 0
    return smoothed
