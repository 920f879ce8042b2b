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
import soxr

from common.audio import AudioError, AudioReader, AudioWriter
from common.confidence import believed
from common.errors import CallError
from common.model import Denoiser
from common.noise_stream import noise_stream
from common.tags import read_tags

log = logging.getLogger(__name__)

BLOCK_SAMPLES = 1 << 18
# Samples by which two roundings of a stream's length, at up to 400 kHz, can differ from none.
ROUNDING_SAMPLES = 16
# An array with more rows than this was meant the other way round.
MAX_CHANNELS = 64


def effective_strength(strength: float, attenuation_limit_db: float | None) -> float:
    """The share of the noise estimate that is subtracted.

    With an attenuation limit of L dB a component that the mask removes altogether is still kept at
    -L dB: the share is at most 1 - 10**(-L/20).
    """
    if not 0 <= strength <= 1:
        raise CallError(f"expected a strength between 0 (input unchanged) and 1 (all noise removed), got {strength}")
    if attenuation_limit_db is None:
        return strength
    if attenuation_limit_db < 0:
        raise CallError(f"expected an attenuation limit of at least 0 dB, got {attenuation_limit_db}")
    return min(strength, 1 - 10 ** (-attenuation_limit_db / 20))


def measure_level(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """RMS of each channel over all blocks, shape (channels,)."""
    total, n = 0.0, 0
    for block in blocks:
        total = total + np.square(block, dtype=np.float64).sum(axis=-1)
        n += block.shape[-1]
    return np.sqrt(total / max(n, 1))


def _resampled(blocks, rate_in, rate_out):
    """A stream at another rate, in step with the first (soxr leaves no delay)."""
    if rate_in == rate_out:
        yield from blocks
        return
    resampler = None
    for block in blocks:
        resampler = resampler or soxr.ResampleStream(rate_in, rate_out, block.shape[0], dtype="float32")
        yield resampler.resample_chunk(np.ascontiguousarray(block.T, np.float32)).T
    if resampler:
        empty = np.zeros((0, block.shape[0]), np.float32)
        yield resampler.resample_chunk(empty, last=True).T


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
    common.noise_print; all of the estimate is believed then. Yields (denoised, removed) blocks that
    together are as long as the input; denoised + removed is the input.
    """
    share = effective_strength(strength, attenuation_limit_db)
    source = _Tee(blocks)
    pairs = noise_stream(model, _resampled(source, sample_rate, model.stft.sample_rate), level, print_power)
    if model.confidence is None or print_power is not None:
        noise = (block for _, block in pairs)
    else:
        noise = believed(model.confidence, model.stft, pairs)
    for estimate in _resampled(noise, model.stft.sample_rate, sample_rate):
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
                 progress: Callable[[float], None] | None = None) -> dict:
    """Denoise one file into another, block by block; tags go with it.

    The output's format follows its suffix; codec, sample format, bit rate and channel layout are the input's where the
    suffix allows it, but `subtype` chooses another sample format and `clip` what happens to a peak above full scale
    (see AudioWriter). `residual_path` receives what was removed. `progress` is called with the seconds of audio done.

    Returns sample_rate, channels, seconds, peak (of the result before `clip`, 1 is full scale), gain (below 1 where
    "rescale" lowered the file), limited_samples and removed_db (level of what was removed against the input).
    Raises AudioError for a file that cannot be read or written; no half file stays under the output's name.
    """
    if Path(input_path).resolve() == Path(output_path).resolve():
        raise CallError(f"expected an output other than the input, got {output_path} twice: choose another name")
    effective_strength(strength, attenuation_limit_db)
    tags = read_tags(input_path)
    with AudioReader(input_path) as reader:
        level = measure_level(reader.blocks(BLOCK_SAMPLES))
        if not level.shape:
            raise AudioError(f"expected audio, but {input_path} holds no samples: replace or remove it")
        rate, channels = reader.sample_rate, reader.channels
        powers, n_done = np.zeros(2), 0
        with ExitStack() as files:
            output = files.enter_context(AudioWriter(output_path, rate, channels, subtype, clip, tags, reader))
            residual = residual_path and files.enter_context(
                AudioWriter(residual_path, rate, channels, subtype, like=reader))
            for denoised, removed in denoise_stream(model, reader.blocks(BLOCK_SAMPLES, "float64"), rate, level,
                                                    strength, attenuation_limit_db):
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
            "gain": output.gain, "limited_samples": output.limited, "removed_db": removed_db}


def log_progress(input_path: str | Path, every_seconds: float = 10.0) -> Callable[[float], None]:
    """A `progress` function that logs now and then how much is done and how long it takes still."""
    with AudioReader(input_path) as reader:
        total = reader.seconds
    started = last = time.monotonic()

    def report(done):
        """Log, if it is time to."""
        nonlocal last
        now = time.monotonic()
        if now - last > every_seconds and done:
            last = now
            left = (now - started) * (total / done - 1) if total else float("nan")
            log.info("%.0f of %.0f s of audio done, about %.0f s left", done, total, max(0.0, left))

    return report


if __name__ == "__main__":
    from common.batch import main  # this module is the command's name, that one its inside
    from common.cli import run

    run(main)
