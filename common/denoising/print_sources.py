"""Where a recording's noise print comes from: times of the recording, a file, or a stretch that is found in it."""

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader
from common.denoising.noise_stream import resampled
from common.denoising.print_finding import find_noise
from common.errors import AudioError, CallError
from common.network.model import SILENCE_RMS, Denoiser
from common.network.noise_print import LEAST_PRINT_SECONDS, print_rms, streamed_power

log = logging.getLogger(__name__)

# Given in place of times, this finds the stretch.
FIND = "auto"
# A print may be louder than the recording by this much: it is, by chance, where the recording is noise alone.
LOUDER_DB = 1.0

Span = tuple[float, float]
Source = Sequence[Span] | Path | str | None
_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")
_LIKE_TIMES = re.compile(r"[\d:. ]+-[\d:. ]+")


def _seconds(text):
    match = _TIME.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0, 0, math.inf)
    if not match or (match[2] and seconds >= 60) or (match[1] and minutes >= 60):
        raise ValueError(text)
    return 3600 * hours + 60 * minutes + seconds


def _span(given):
    """A pair of seconds from such a pair or from text."""
    try:
        start, end = map(_seconds, given.split("-")) if isinstance(given, str) else map(float, given)
    except (TypeError, ValueError) as error:
        raise CallError(f"expected times of a noise print as 0:00-0:02.5 or 62-65.5, a pair of seconds, or {FIND} "
                        f"alone, got {given!r}: say where the noise is heard alone") from error
    if not 0 <= start < end < math.inf:
        raise CallError(f"expected a noise print that begins at 0 or later and ends after that, got {given!r}: give "
                        "its start and its end")
    return start, end


def _union(spans):
    """The same moments in order, none of them twice."""
    merged = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            start, end = merged[-1][0], max(end, merged.pop()[1])
        merged.append((start, end))
    return tuple(merged)


def clock(seconds: float) -> str:
    """A time as it is given: 0:02.50, or 1:00:02.50."""
    minutes, seconds = divmod(round(seconds, 2), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:05.2f}" if hours else f"{minutes}:{seconds:05.2f}"


def _words(spans):
    return ", ".join(f"{clock(start)}-{clock(end)}" for start, end in spans)


def print_source(given: Source) -> tuple[Span, ...] | Path | str | None:
    """A noise print as users give it in one of four forms: spans in seconds, a file's path, FIND, or None.

    given: a pair of seconds (0.0, 2.5), a list of such pairs or of texts as 0:00-0:02.5, one such text, a path, FIND or
    None. Spans come sorted, those that overlap as one. Raises CallError for anything else, a file that is not there, a
    span that is none and spans of less than LEAST_PRINT_SECONDS in all, AudioError for a file that cannot be decoded.
    """
    if isinstance(given, str) and (given == FIND or _LIKE_TIMES.fullmatch(given)):
        given = [given]
    if isinstance(given, str | Path):
        AudioReader(given).close()
        return Path(given)
    if given is None:
        return None
    if not isinstance(given, Iterable) or not (given := list(given)):
        raise CallError(f"expected a noise print as times, a file or {FIND}, got {given!r}: give one of them")
    if isinstance(given[0], str) and given == [FIND]:
        return FIND
    spans = _union(map(_span, [given] if all(isinstance(part, Real) for part in given) else given))
    _check_length(sum(end - start for start, end in spans), _words(spans))
    return spans


def _check_length(seconds, words):
    if round(seconds, 3) < LEAST_PRINT_SECONDS:
        raise CallError(f"expected a noise print of at least {LEAST_PRINT_SECONDS:g} s, but {words} holds "
                        f"{seconds:.2f} s that count: choose a longer moment")


def check_print(model: Denoiser, source: Source) -> None:
    """Raises CallError when a noise print is given to weights that take none; FIND may be."""
    if source not in (None, FIND) and not model.takes_print:
        raise CallError("expected weights that take a noise print, but these take none: leave the noise print out or "
                        "choose other weights")


class NoisePrint:
    """The noise print of one recording, open in `reader`, for one model.

    Attributes: `power`, of the noise alone in each channel and bin at the model's rate, (channels, bins), None without
    a print; `taken`, plain values that say where it is from: pairs of seconds, a path or None.

    source: what print_source returns. level: the RMS of each channel of the recording, (channels,). A file's channels
    are the recording's where there are as many; else all get the mean power of the file's, so that a mono one is taken
    for all. Raises CallError for a print that does not fit: times beyond the recording's end, less than
    LEAST_PRINT_SECONDS, silent, or louder than the recording. What FIND finds is left out instead, and the log says so.
    """

    def __init__(self, model: Denoiser, source: tuple[Span, ...] | Path | str | None, reader: AudioReader,
                 level: np.ndarray):
        self._stft, self._reader, self.power, self.taken = model.stft, reader, None, None
        check_print(model, source)
        if source == FIND:
            log.info("%s: %s", reader.path, self._find(model.takes_print, level))
        elif source is not None:
            self._take(source, level)

    def _find(self, takes_print, level):
        """Take what is found, if anything fits; returns what came of it in words."""
        if not takes_print:
            return "the weights take no noise print, so none is looked for"
        found = find_noise(self._blocks(self._reader), self._stft)
        if not found:
            return "no stretch of noise alone is found, so there is no noise print"
        try:
            self._take((found,), level)
        except CallError as error:
            return f"what is found is no noise print ({error}), so there is none"
        return f"its noise print is {_words([found])}"

    def _take(self, source, level):
        if isinstance(source, Path):
            words, power, taken = str(source), self._of_file(source, len(level)), str(source)
        else:
            words, power, taken = _words(source), self._of_spans(source), [list(span) for span in source]
        self._check_fit(words, power, level)
        self.power, self.taken = power, taken

    def _blocks(self, reader):
        return resampled(reader.blocks(reader.sample_rate), reader.sample_rate, self._stft.sample_rate)

    def _of_file(self, path, channels):
        n_samples = 0

        def counted(blocks):
            nonlocal n_samples
            for block in blocks:
                n_samples += block.shape[-1]
                yield 0, block
        with AudioReader(path) as reader:
            power = streamed_power(counted(self._blocks(reader)), self._stft)
        if not n_samples:
            raise AudioError(f"expected audio, but {path} holds no samples: replace or remove it")
        _check_length(n_samples / self._stft.sample_rate, path)
        return power if len(power) == channels else np.repeat(power.mean(0, keepdims=True), channels, axis=0)

    def _of_spans(self, spans):
        rate = self._stft.sample_rate
        bounds = [(round(start * rate), round(end * rate)) for start, end in spans]
        filled = [end - start for start, end in bounds if end - start >= self._stft.n_fft]
        _check_length(sum(filled) / rate, _words(spans))
        return streamed_power(self._cut(self._blocks(self._reader), bounds), self._stft)

    def _cut(self, blocks, bounds) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of a span's number and its samples in a block. Reading ends with the last span."""
        reached = 0
        for block in blocks:
            for number, (start, end) in enumerate(bounds):
                part = block[:, max(0, start - reached) : max(0, end - reached)]
                if part.size:
                    yield number, part
            reached += block.shape[-1]
            if reached >= bounds[-1][1]:
                return
        if reached < bounds[-1][1] - 1:  # the resampled length is rounded
            rate = self._stft.sample_rate
            raise CallError(f"expected a noise print within {self._reader.path}, which ends at "
                            f"{clock(reached / rate)}, got one as far as {clock(bounds[-1][1] / rate)}: choose earlier "
                            "times")

    def _check_fit(self, words, power, level):
        rms = print_rms(power, self._stft)
        silent = (rms < SILENCE_RMS) & (level >= SILENCE_RMS)
        if silent.any() or not (rms >= SILENCE_RMS).any():
            raise CallError(f"expected a noise print in which the noise is heard, but {words} is silent"
                            f"{'' if silent.all() else ' in a channel'}: choose another moment")
        louder_db = 10 * np.log10(np.square(rms).mean() / max(np.square(level).mean(), SILENCE_RMS**2))
        if louder_db > LOUDER_DB:
            raise CallError(f"expected a noise print of {self._reader.path} at its own level, but {words} is "
                            f"{louder_db:.1f} dB louder than the recording: choose a moment of noise alone")
