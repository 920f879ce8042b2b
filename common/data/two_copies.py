"""Make pairs from two noisy copies of one performance, such as two transfers of a disc or two tapes of a concert.

The noises of the copies are independent and the music is the same, which is all that Noise2Noise needs. Copy B is
aligned to copy A (common.data.alignment), and its sound is matched to A's (common.data.copy_matching). Stretches that
do not agree are cut, and both directions are written, A to B and B to A, as the mergers write pairs. Every couple has a
report: one line, a JSON file and a picture. Example:

    python -m common.data.two_copies tape_a.flac tape_b.flac -o data/concert
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import map_coordinates, minimum_filter1d, uniform_filter1d

from common.audio.reading import AudioReader, audio_name, list_audio
from common.audio.writing import write_audio
from common.cli import Parser, run
from common.data import alignment, copy_matching
from common.data.manifest import MANIFEST, SIDES, file_sha256, write_dataset
from common.data.silence import MIN_RMS
from common.denoising.chunks import resampled
from common.errors import AudioError, CallError, UserError
from common.locks import locked
from common.path_checks import check_folders
from common.small_files import write_csv, write_text

log = logging.getLogger(__name__)

# Folder of a set that is not finished.
PARTIAL = ".partial"
# B is read at this multiple of A's rate before it is interpolated by splines of order 5 (error below -60 dB).
OVERSAMPLING, SPLINE_ORDER, SPLINE_MARGIN = 2, 5, 64
# Distance in seconds of the times at which the delay is computed; between them it is linear.
CURVE_STEP_SECONDS = 0.01
# Lengths in seconds: of the longest pair, of the shortest, and between train and validation.
PAIR_SECONDS, LEAST_PAIR_SECONDS, GAP_SECONDS = 60.0, 3.0, 5.0
# Part of the time that is kept for validation, at the end.
VALIDATION_SHARE = 0.2
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

    rate, channels: of the pairs. curve: the delay of B in seconds over the time in A. delays: as measured. statistics:
    of the aligned copies in blocks from `start` on, a sample in A. agreement: of each block, smoothed. taps: the
    matching filter. report: plain values.
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
    taps: np.ndarray | None = None
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


def _blocks_of_a(couple):
    """Blocks (channels, samples) of A within the span."""
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
    """Read B at the times of A within the span: blocks (channels, samples) float32 at A's rate."""
    rate = couple.rate * OVERSAMPLING
    with AudioReader(couple.copy_b) as reader:
        blocks = _in_channels(resampled(reader.blocks(reader.sample_rate), reader.sample_rate, rate), couple.channels)
        held, first = np.zeros((couple.channels, SPLINE_MARGIN), np.float32), -SPLINE_MARGIN
        for start in range(couple.span[0], couple.span[1], block_samples):
            there = _places(couple, start, min(start + block_samples, couple.span[1])) * rate
            while first + held.shape[1] < there[-1] + SPLINE_MARGIN:
                more = next(blocks, None)
                if more is None:
                    more = np.zeros((couple.channels, int(there[-1] + 2 * SPLINE_MARGIN) - first - held.shape[1]))
                held = np.concatenate([held, more], axis=1)
            drop = max(0, int(there[0]) - SPLINE_MARGIN - first)
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
    pieces = _overlapping([_blocks_of_a(couple), aligned(couple)], copy_matching.BLOCK_SAMPLES + copy_matching.OVERLAP,
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
        raise UserError(f"expected speeds that change slowly, but the delay of {couple.copy_b} against {couple.copy_a} "
                        f"moves by {wow_samples:.1f} samples within a second or less (wow): correct the wow first, or "
                        "use another copy")
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


def stretches(couple: Couple) -> list[tuple[str, int, int]]:
    """The pairs to write: (split, first sample, last sample), counted from the start of the span.

    A pair is at most PAIR_SECONDS long. The end of the agreed time is kept for validation, after a gap.
    """
    agrees = couple.agreement >= LEAST_AGREEMENT
    per_second = couple.rate / copy_matching.BLOCK_SAMPLES
    border = int(np.searchsorted(np.cumsum(agrees), (1 - VALIDATION_SHARE) * agrees.sum()))
    gap, longest = (round(seconds * per_second) for seconds in (GAP_SECONDS, PAIR_SECONDS))
    place, found = np.arange(len(agrees)), []
    for split, chosen in (("train", agrees & (place < border - gap)), ("validation", agrees & (place >= border))):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen, [0]]).astype(int)))
        for first, last in edges.reshape(-1, 2):
            bounds = np.linspace(first, last, -(-(last - first) // longest) + 1).astype(int)
            bounds *= copy_matching.BLOCK_SAMPLES
            found += [(split, low, high) for low, high in pairwise(bounds.tolist())
                      if high - low >= LEAST_PAIR_SECONDS * couple.rate]
    return found


def write_pairs(couple: Couple, number: int, folder: Path) -> dict[str, list[dict]]:
    """Write both directions of every stretch as 16-bit WAV files; returns manifest rows by split.

    number: of the couple. The gain of both members keeps their peaks below full scale.
    """
    couple.taps = copy_matching.matching_filter(couple.statistics.of(couple.agreement >= LEAST_AGREEMENT))
    streams = [_blocks_of_a(couple), copy_matching.filtered(aligned(couple), couple.taps)]
    rows, n_written = {}, {}
    for (split, first, last), members in _cut_out(streams, stretches(couple)):
        if np.sqrt(np.square(members).mean((1, 2))).min() < MIN_RMS:
            continue  # silence
        gain = min(1.0, 0.999 / np.abs(members).max())
        for order in ((0, 1), (1, 0)):
            n = n_written[split] = n_written.get(split, 0) + 1
            row = {"pair_id": f"S{number}N{n}", "split": split, "song": f"{couple.name}-{split}",
                   "sample_rate": couple.rate, "channels": couple.channels, "samples": last - first, "gain": gain,
                   "start_seconds": (couple.span[0] + first) / couple.rate}
            for side, which in zip(SIDES, order, strict=True):
                copy = (couple.copy_a, couple.copy_b)[which]
                path = folder / split / side / f"{side.upper()}-{row['pair_id']}-({couple.name}).wav"
                write_audio(path, gain * members[which], couple.rate, "PCM_16")
                row |= {f"{side}_noise": copy.name, f"{side}_noise_recording": f"{couple.name}-{split}-{'AB'[which]}",
                        f"{side}_file": path.name, f"{side}_sha256": file_sha256(path)}
            rows.setdefault(split, []).append(row)
    return rows


def _cut_out(streams, wanted):
    """Yield each wanted stretch and its members (2, channels, samples) of two streams of blocks of any lengths."""
    held, reached = [np.zeros((1, 0))] * 2, 0
    for stretch in wanted:
        _, first, last = stretch
        for k, stream in enumerate(streams):
            while reached + held[k].shape[1] < last:
                more = next(stream)
                held[k] = np.concatenate([held[k], more], axis=1) if held[k].size else more
        yield stretch, np.stack([part[:, first - reached : last - reached] for part in held])
        held, reached = [part[:, last - reached :] for part in held], last


def picture(couple: Couple) -> Figure:
    """Draw the delay, how far its measurements lie off the curve, the agreement over time, and the spectra."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 7.5), layout="constrained")
    delays, rate = couple.delays, couple.rate
    times = np.linspace(*(part / rate for part in couple.span), 400)
    ends = couple.curve(times[[0, -1]])
    straight = ends[0] + (ends[1] - ends[0]) * (times - times[0]) / (times[-1] - times[0])
    axes[0, 0].plot(times, 1e3 * (couple.curve(times) - straight))
    axes[0, 0].set(xlabel="time in A (s)", ylabel="delay (ms)", title="delay of B against A, without the straight "
                   f"line from {ends[0]:.3f} s to {ends[1]:.3f} s")
    off = (delays.delay - couple.curve(delays.seconds)) * rate
    axes[0, 1].errorbar(delays.seconds, off, delays.error * rate, fmt=".", ms=3, lw=0.6)
    axes[0, 1].set(xlabel="time in A (s)", ylabel="samples", title="measured delays, off the curve")
    block_seconds = copy_matching.BLOCK_SAMPLES / rate
    axes[1, 0].plot(couple.span[0] / rate + block_seconds * np.arange(len(couple.agreement)), couple.agreement)
    axes[1, 0].axhline(LEAST_AGREEMENT, color="black", lw=0.7, ls=":")
    axes[1, 0].set(xlabel="time in A (s)", ylim=(0, 1.02), title="agreement of the copies; below the line they are cut")
    hertz, music, own_a, own_b = copy_matching.spectra(couple.statistics.of(couple.agreement >= LEAST_AGREEMENT))
    for power, label in ((music, "what the copies share"), (own_a, "A alone"), (own_b, "B alone, at A's level")):
        axes[1, 1].semilogx(hertz, 10 * np.log10(power + 1e-20), label=label)
    top = 10 * np.log10(music.max() + 1e-20)
    axes[1, 1].set(xlabel="frequency (Hz)", ylabel="dB", ylim=(top - 90, top + 5), title="spectra in third octaves")
    axes[1, 1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    return figure


def _words(couple, rows):
    report = couple.report
    seconds = {split: sum(row["samples"] for row in found[::2]) / couple.rate for split, found in rows.items()}
    return (f"{couple.copy_a.name} and {couple.copy_b.name}: B is {report['delay_start_seconds']:+.3f} s behind A at "
            f"first, {report['speed_difference_ppm']:+.0f} ppm of speed, followed to {report['residual_samples']:.3f} "
            f"samples; agreement {report['agreement']:.2f}; pairs of "
            + " and ".join(f"{value:.0f} s for {split}" for split, value in seconds.items()))


def couples_in(copy_a: Path, copy_b: Path) -> list[tuple[Path, Path]]:
    """Two files, or the files of equal names in two folders. Raises CallError for anything else."""
    if copy_a.is_dir() != copy_b.is_dir():
        raise CallError(f"expected two files or two folders, got {copy_a} and {copy_b}: give two of one kind")
    if not copy_a.is_dir():
        return [(copy_a, copy_b)]
    named = [{str(path.relative_to(folder).with_name(audio_name(path))): path for path in list_audio(folder)}
             for folder in (copy_a, copy_b)]
    names = sorted(named[0].keys() & named[1].keys())
    if not names:
        raise CallError(f"expected files of equal names in {copy_a} and {copy_b}, but there are none: name both copies "
                        "of a performance alike")
    for name in sorted(named[0].keys() ^ named[1].keys()):
        log.warning("%s has no second copy and is left out", name)
    return [(named[0][name], named[1][name]) for name in names]


def build(couples: Sequence[tuple[Path, Path]], output_dir: str | Path) -> list[Couple]:
    """Align couples and write their pairs to `output_dir`/train and /validation, with a report for each.

    A couple that cannot be used is named in one sentence and left out. Returns the others. Raises UserError if none can
    be used, with the reason of the last one, and CallError if the folder holds files.
    """
    output_dir = Path(output_dir)
    if output_dir.is_dir() and any(path.name != PARTIAL for path in output_dir.iterdir()):
        raise CallError(f"expected an empty folder, but {output_dir} holds files: choose another one")
    with locked(output_dir):
        partial = output_dir / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        used, rows = [], {}
        for number, (copy_a, copy_b) in enumerate(couples, 1):
            try:
                couple = align(copy_a, copy_b)
            except UserError as error:
                if number == len(couples) and not used:
                    raise
                log.warning("%s", error)
                continue
            found = write_pairs(couple, number, partial)
            for split, more in found.items():
                rows.setdefault(split, []).extend(more)
            used.append(couple)
            _write_report(couple, partial / "reports" / f"{number}-{couple.name}")
            log.info("%s", _words(couple, found))
        if missing := {"train", "validation"} - rows.keys():
            raise UserError("expected copies with music above -60 dBFS for training and validation, but there is none "
                            f"for {' and '.join(sorted(missing))}: give louder or longer copies")
        for split, found in rows.items():
            write_csv(partial / split / "input" / MANIFEST, found)
            write_dataset(partial / split / "input", {"made_by": "common.data.two_copies", "settings": {"split": split},
                                                      "couples": [couple.report for couple in used]})
        for path in list(partial.iterdir()):
            path.rename(output_dir / path.name)
        partial.rmdir()
    return used


def _write_report(couple, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.with_suffix(".json"), json.dumps(couple.report, indent=1) + "\n")
    figure = picture(couple)
    figure.savefig(path.with_suffix(".png"), dpi=100)
    plt.close(figure)


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("copy_a", type=Path, help="the first copy, whose times and sound the pairs have; or a folder "
                        "of first copies")
    parser.add_argument("copy_b", type=Path, help="the second copy; or a folder with files of the same names")
    parser.add_argument("-o", "--output", required=True, help="folder to write, with train/ and validation/")
    args = parser.parse_args()
    check_folders({"--output": args.output}, [path for path in (args.copy_a, args.copy_b) if path.is_dir()])
    build(couples_in(args.copy_a, args.copy_b), args.output)
    log.info("written: %s", args.output)


if __name__ == "__main__":
    run(main)
