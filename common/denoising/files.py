"""Long audio through a network in bounded memory.

What is written is input - strength * noise, at the input's own rate, where the noise is what the
network takes away at its rate, resampled back: so strength 0 returns the input, what lies above the
network's band stays, and length, channels and rate are the input's.

Everything streams: blocks are read, resampled, denoised and written, and memory does not grow with the song.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader
from common.audio.tags import read_tags
from common.audio.writing import AudioWriter
from common.denoising.noise_stream import noise_stream, resampled
from common.denoising.print_sources import NoisePrint, Source, check_print, print_source
from common.errors import AudioError, CallError
from common.network.confidence import believed
from common.network.model import Denoiser
from common.outputs import check_outputs

log = logging.getLogger(__name__)

BLOCK_SAMPLES = 1 << 18
# Samples by which two roundings of a stream's length, at up to 400 kHz, can differ from none.
ROUNDING_SAMPLES = 16
# An array with more rows than this was meant the other way round.
MAX_CHANNELS = 64


def effective_strength(strength: float, attenuation_limit_db: float | None) -> float:
    """The share of the noise estimate that is subtracted.

    An attenuation limit of L dB mixes the input back in: the output is a of the input and 1 - a of the denoised sound,
    a = 10**(-L/20). What would be removed altogether is then L dB quieter. It is no bound for every tone and moment:
    where the network turns the phase of what it keeps, that and the input's share can cancel.
    """
    if not 0 <= strength <= 1:
        raise CallError(f"expected a strength between 0 (input unchanged) and 1 (all noise removed), got {strength}")
    if attenuation_limit_db is None:
        return strength
    if not attenuation_limit_db >= 0:
        raise CallError(f"expected an attenuation limit of at least 0 dB, got {attenuation_limit_db}")
    return min(strength, 1 - 10 ** (-attenuation_limit_db / 20))


def measure_level(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """RMS of each channel over all blocks, shape (channels,)."""
    total, n = 0.0, 0
    for block in blocks:
        total = total + np.square(block, dtype=np.float64).sum(axis=-1)
        n += block.shape[-1]
    return np.sqrt(total / max(n, 1))


class _Tee:
    """Hands blocks on and keeps them until they are asked for again."""

    def __init__(self, blocks):
        self.blocks, self.kept = blocks, []

    def __iter__(self):
        for block in self.blocks:
            self.kept.append(block)
            yield block

    def take(self, n):
        """The first n kept samples (channels, n), or all of them if fewer are left."""
        taken = []
        while n > 0 and self.kept:
            head = self.kept.pop(0)
            if head.shape[-1] > n:
                self.kept.insert(0, head[:, n:])
                head = head[:, :n]
            taken.append(head)
            n -= head.shape[-1]
        return np.concatenate(taken, axis=-1) if taken else None


def denoise_stream(model: Denoiser, blocks: Iterable[np.ndarray], sample_rate: int, level: np.ndarray,
                   strength: float = 1.0, attenuation_limit_db: float | None = None,
                   print_power: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Denoise a stream of (channels, samples) blocks of any rate and channel count.

    `level` is the stream's RMS per channel (measure_level). print_power: of the noise alone, (channels, bins), see
    common.network.noise_print; all of the estimate is believed then. Yields (denoised, removed) blocks that
    together are as long as the input; denoised + removed is the input.
    """
    share = effective_strength(strength, attenuation_limit_db)
    source = _Tee(blocks)
    pairs = noise_stream(model, resampled(source, sample_rate, model.stft.sample_rate), level, print_power)
    if model.confidence is None or print_power is not None:
        noise = (block for _, block in pairs)
    else:
        noise = believed(model.confidence, model.stft, pairs)
    for estimate in resampled(noise, model.stft.sample_rate, sample_rate):
        original = source.take(estimate.shape[-1])
        if original is not None:
            removed = share * estimate[:, : original.shape[-1]].astype(original.dtype)
            yield original - removed, removed
    if (rest := source.take(ROUNDING_SAMPLES)) is not None:
        yield rest, np.zeros_like(rest)


def denoise(model: Denoiser, audio: np.ndarray, sample_rate: int, strength: float = 1.0,
            attenuation_limit_db: float | None = None, print_power: np.ndarray | None = None) -> np.ndarray:
    """Denoise (channels, samples) in memory; shape, rate and dtype are kept. print_power: see denoise_stream."""
    if audio.ndim != 2 or audio.shape[0] > MAX_CHANNELS or audio.shape[1] < 1:
        raise CallError(f"expected audio of shape (channels, samples), got {audio.shape}: transpose or reshape it")
    blocks = denoise_stream(model, [audio], sample_rate, measure_level([audio]), strength,
                            attenuation_limit_db, print_power)
    return np.concatenate([denoised for denoised, _ in blocks], axis=-1)


def denoise_file(model: Denoiser, input_path: str | Path, output_path: str | Path, strength: float = 1.0,
                 attenuation_limit_db: float | None = None, residual_path: str | Path | None = None,
                 clip: str = "rescale", subtype: str | None = None,
                 progress: Callable[[float], None] | None = None, noise_print: Source = None) -> dict:
    """Denoise one file into another, block by block; tags go with it.

    The output's format follows its suffix; codec, sample format, bit rate and channel layout are the input's where the
    suffix allows it, but `subtype` chooses another sample format and `clip` what happens to a peak above full scale
    (see AudioWriter). `residual_path` receives what was removed. `progress` is called with the seconds of audio done.

    noise_print: where the noise is heard alone, as a pair of seconds of the recording (0.0, 2.5), a list of such pairs,
    the path of a file at the recording's own level, or "auto" for what is found (see common.denoising.print_sources).

    Returns sample_rate, channels, seconds, peak (of the result before `clip`, 1 is full scale), gain (below 1 where
    "rescale" lowered the file), limited_samples, removed_db (level of what was removed against the input) and
    noise_print (what was taken: pairs of seconds, a path or None). Raises CallError for a noise print that does not fit
    or that the weights do not take, and AudioError for a file that cannot be read or written; no half file stays under
    the output's name.
    """
    noise_print = print_source(noise_print)
    check_print(model, noise_print)
    check_outputs([(path, what) for path, what in ((output_path, "the result"), (residual_path, "what is removed"))
                   if path], [input_path, *([noise_print] if isinstance(noise_print, Path) else [])])
    effective_strength(strength, attenuation_limit_db)
    tags = read_tags(input_path)
    with AudioReader(input_path) as reader:
        level = measure_level(reader.blocks(BLOCK_SAMPLES))
        if not level.shape:
            raise AudioError(f"expected audio, but {input_path} holds no samples: replace or remove it")
        rate, channels = reader.sample_rate, reader.channels
        noise_print = NoisePrint(model, noise_print, reader, level)
        powers, n_done = np.zeros(2), 0
        with ExitStack() as files:
            output = files.enter_context(AudioWriter(output_path, rate, channels, subtype, clip, tags, reader))
            residual = residual_path and files.enter_context(
                AudioWriter(residual_path, rate, channels, subtype, like=reader))
            for denoised, removed in denoise_stream(model, reader.blocks(BLOCK_SAMPLES, "float64"), rate, level,
                                                    strength, attenuation_limit_db, noise_print.power):
                output.write(denoised)
                if residual:
                    residual.write(removed)
                powers += [np.square(removed).sum(), np.square(denoised + removed).sum()]
                n_done += denoised.shape[-1]
                if progress:
                    progress(n_done / rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        removed_db = float(10 * np.log10(powers[0] / powers[1]))
    return {"sample_rate": rate, "channels": channels, "seconds": n_done / rate, "peak": output.peak,
            "gain": output.gain, "limited_samples": output.limited, "removed_db": removed_db,
            "noise_print": noise_print.taken}


def removed_words(removed_db: float) -> str:
    """The removed_db of denoise_file in words."""
    if np.isnan(removed_db):
        return "the file is silent"
    if np.isneginf(removed_db):
        return "nothing was removed"
    return f"what was removed is {abs(removed_db):.1f} dB {'below' if removed_db < 0 else 'above'} the input's level"


def log_progress(input_path: str | Path, every_seconds: float = 10.0) -> Callable[[float], None]:
    """A `progress` function that logs now and then how much is done and how long it takes still.

    The time left is told from what was done since the first call: what was before, as measuring levels, comes once.
    """
    with AudioReader(input_path) as reader:
        total = reader.seconds
    last, first = time.monotonic(), None

    def report(done):
        """Log, if it is time to."""
        nonlocal last, first
        now = time.monotonic()
        first = first or (now, done)
        if now - last <= every_seconds:
            return
        last, took, more = now, now - first[0], done - first[1]
        of_all, left = "", ""
        if total >= done:  # what a header says may be missing or wrong
            of_all = f" of {total:.0f}"
            if more > 0 and took >= every_seconds:  # in less time a burst of blocks would pass for the speed
                left = f", about {took * (total - done) / more:.0f} s left"
        log.info("%.0f%s s of audio done%s", done, of_all, left)

    return report
