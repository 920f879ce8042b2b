"""The noise print of a recording, measured at given times, in a file, or in a moment that is found automatically."""

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, repeat
from numbers import Real
from operator import itemgetter
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader
from common.denoising.chunks import resampled
from common.denoising.print_finding import find_noise, frame_powers
from common.errors import AudioError, CallError
from common.network.noise_model import LEAST_NORMALISED_RMS, NoiseModel
from common.network.noise_print import LEAST_PRINT_SECONDS
from common.network.stft import STFT

log = logging.getLogger(__name__)

# The word, in place of times, for a moment that is found automatically.
FIND = "auto"
# Maximum level of a print above the recording's: a moment of noise can be slightly louder than noise and faint music.
LOUDER_DB = 1.0

Span = tuple[float, float]
Source = Sequence[Span] | Path | str | None
_LIKE_TIMES = re.compile(r"[\d:. ]+-[\d:. ]+")


def _seconds(text):
    """Seconds from text in the form hours:minutes:seconds, minutes:seconds or seconds."""
    *whole, seconds = text.split(":")
    parts = [*map(int, whole), float(seconds)]
    if len(parts) > 3 or any(part >= 60 for part in parts[1:]):
        raise ValueError(text)
    return float(np.polyval(parts, 60))


def _span(given):
    """A pair of seconds from a pair of numbers or from text."""
    try:
        start, end = map(_seconds, given.split("-")) if isinstance(given, str) else map(float, given)
    except (TypeError, ValueError) as error:
        raise CallError(f"expected times of a noise print as 0:00-0:02.5, 62-65.5 or (62, 65.5), or {FIND}, got "
                        f"{given!r}: give a moment of noise without music, or a file of it with --noise-print-file"
                        ) from error
    if not 0 <= start < end < math.inf:
        raise CallError(f"expected a noise print that begins at 0 or later and ends after that, got {given!r}: give "
                        "its start and its end")
    return start, end


def _union(spans):
    """The spans in order, with overlapping ones joined."""
    merged = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)


def _clock(seconds):
    """A time as text: 0:02.50, or 1:00:02.50 with hours."""
    minutes, seconds = divmod(round(seconds, 2), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:05.2f}" if hours else f"{minutes}:{seconds:05.2f}"


def _words(spans):
    return ", ".join(f"{_clock(start)}-{_clock(end)}" for start, end in spans)


def print_source(given: Source) -> tuple[Span, ...] | Path | str | None:
    """Parse a noise print that a user gives into spans in seconds, a file's path, FIND or None.

    given: a pair of seconds (0.0, 2.5), text such as 0:00-0:02.5, a list of either, a path, FIND or None. Spans are
    returned in order, with overlapping ones joined. Raises CallError for anything else, a missing file and spans of
    less than LEAST_PRINT_SECONDS in total, AudioError for a file that cannot be decoded.
    """
    if given is None:
        return None
    if isinstance(given, str) and (given == FIND or _LIKE_TIMES.fullmatch(given)):
        given = [given]
    if isinstance(given, str | Path):
        AudioReader(given).close()
        return Path(given)
    if not isinstance(given, Iterable) or not (given := list(given)):
        raise CallError(f"expected a noise print as times, a file or {FIND}, got {given!r}: give one of them")
    if any(isinstance(part, str) and part == FIND for part in given):
        if len(given) > 1:
            raise CallError(f"expected {FIND} alone or the times of a noise print, got both: leave one out")
        return FIND
    spans = _union(map(_span, [given] if all(isinstance(part, Real) for part in given) else given))
    _check_length(sum(end - start for start, end in spans), _words(spans))
    return spans


def _check_length(seconds, words):
    if round(seconds, 3) < LEAST_PRINT_SECONDS:
        raise CallError(f"expected a noise print of at least {LEAST_PRINT_SECONDS:g} s, but {words} holds "
                        f"{seconds:.2f} s that count: choose a longer moment")


def check_print(model: NoiseModel, source: Source) -> None:
    """Raise CallError if a noise print is given to weights that take none; FIND is allowed."""
    if source not in (None, FIND) and not model.takes_print:
        raise CallError("expected weights that take a noise print, but these take none: leave the noise print out or "
                        "choose other weights")


def measure_print(model: NoiseModel, source: tuple[Span, ...] | Path | str | None, reader: AudioReader,
                  level: np.ndarray) -> tuple[np.ndarray | None, list | str | None]:
    """Measure the noise print of the recording in `reader`.

    source: a result of print_source. level: RMS of each channel of the recording, (channels,). Returns the print's mean
    power at the model's rate, (channels, bins), and its origin as plain values (pairs of seconds or a path), both None
    without a print. If a file has another number of channels than the recording, all channels get its mean power.

    A recording that is silent has no noise, and needs no print. Raises CallError for a print that does not fit: times
    after the recording's end, less than LEAST_PRINT_SECONDS, silent, or louder than the recording. A print that FIND
    finds and that does not fit is not used, and the log says so.
    """
    check_print(model, source)
    if source is None or not (level >= LEAST_NORMALISED_RMS).any():
        return None, None
    if source != FIND:
        return _measure(model.stft, source, reader, level)
    result = None, None
    if not model.takes_print:
        outcome = "the weights take no noise print, so none is looked for"
    elif not (found := find_noise(_at_model_rate(reader, model.stft), model.stft)):
        outcome = "no stretch of noise alone is found, so there is no noise print"
    else:
        try:
            result = _measure(model.stft, (found,), reader, level)
            outcome = f"its noise print is {_words([found])}"
        except CallError as error:
            outcome = f"what is found is no noise print ({error}), so there is none"
    log.info("%s: %s", reader.path, outcome)
    return result


def _measure(stft, source, reader, level):
    """Power and origin of the print at given times or in a file."""
    if isinstance(source, Path):
        words, origin = str(source), str(source)
        with AudioReader(source) as print_reader:
            power = _mean_power(zip(repeat(0), _at_model_rate(print_reader, stft)), stft)
        if not print_reader.seconds:
            raise AudioError(f"expected audio, but {source} holds no samples: replace or remove it")
        _check_length(print_reader.seconds, words)
        if len(power) != len(level):
            power = np.repeat(power.mean(0, keepdims=True), len(level), axis=0)
    else:
        words, origin = _words(source), [list(span) for span in source]
        bounds = [(round(start * stft.sample_rate), round(end * stft.sample_rate)) for start, end in source]
        lengths = [end - start for start, end in bounds]
        _check_length(sum(n for n in lengths if n >= stft.n_fft) / stft.sample_rate, words)
        power = _mean_power(_cut(reader, stft, bounds), stft)
    _check_level(words, power, stft, level, reader.path)
    return power, origin


def _at_model_rate(reader, stft):
    return resampled(reader.blocks(reader.sample_rate), reader.sample_rate, stft.sample_rate)


def _cut(reader, stft, bounds) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of a span, its samples in a block). Reading ends with the last span."""
    reached, rate = 0, stft.sample_rate
    for block in _at_model_rate(reader, stft):
        for number, (start, end) in enumerate(bounds):
            part = block[:, max(0, start - reached) : max(0, end - reached)]
            if part.size:
                yield number, part
        reached += block.shape[-1]
        if reached >= bounds[-1][1]:
            return
    if reached < bounds[-1][1] - 1:  # resampling rounds the length
        raise CallError(f"expected a noise print within {reader.path}, which ends at {_clock(reached / rate)}, got one "
                        f"as far as {_clock(bounds[-1][1] / rate)}: choose earlier times")


def _mean_power(pieces: Iterable[tuple[int, np.ndarray]], stft: STFT) -> np.ndarray | None:
    """Mean power in each bin, (channels, bins) float64, over the frames of a print; None without a whole frame.

    pieces: (number of a span, samples (channels, samples)). No frame holds samples of two spans.
    """
    total, n_frames = 0.0, 0
    for _, span in groupby(pieces, key=itemgetter(0)):
        for powers in frame_powers((samples for _, samples in span), stft):
            total, n_frames = total + powers.sum(-1, dtype=np.float64), n_frames + powers.shape[-1]
    return total / n_frames if n_frames else None


def _check_level(words, power, stft, level, path):
    """Raise CallError if a print is silent in a channel in which the recording is not, or louder than the recording."""
    two_sided = 2 * power.sum(-1) - power[..., 0] - power[..., -1]
    rms = np.sqrt(two_sided / np.square(stft.window()).sum())
    silent = rms < LEAST_NORMALISED_RMS
    if (silent & (level >= LEAST_NORMALISED_RMS)).any():
        raise CallError(f"expected a noise print that holds noise, but {words} is silent"
                        f"{'' if silent.all() else ' in a channel'}: choose another moment")
    louder_db = 10 * np.log10(np.square(rms).mean() / max(np.square(level).mean(), LEAST_NORMALISED_RMS**2))
    if louder_db > LOUDER_DB:
        raise CallError(f"expected a noise print of {path} at its own level, but {words} is {louder_db:.1f} dB louder "
                        "than the recording: choose a moment of noise alone")
