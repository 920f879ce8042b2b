"""Long audio through a network in bounded memory.

What is written is input - strength * noise, at the input's own rate, where the noise is what the
network takes away at its rate, resampled back: so strength 0 returns the input, what lies above the
network's band stays, and length, channels and rate are the input's.

The signal passes in chunks that lie on the grid of the network's strides, each with more real context
on both sides than the network can see, which is thrown away: chunked output equals that of one pass.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soxr
import torch

from common.audio import AudioError, AudioReader, AudioWriter
from common.dcunet import TIME_STRIDE, context_frames
from common.errors import CallError
from common.model import Denoiser

log = logging.getLogger(__name__)

CHUNK_SECONDS = 30.0
BLOCK_SAMPLES = 1 << 18
# Frames that a zero-continued chunk edge reaches into the STFT, beside the network's own context.
STFT_CONTEXT_FRAMES = TIME_STRIDE
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


def chunk_noise(model: Denoiser, audio: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The noise in one chunk (channels, samples) at the model's rate; channels pass as a batch."""
    parameter = next(model.parameters())
    with torch.inference_mode():
        waveform = torch.from_numpy(np.ascontiguousarray(audio, np.float32)).to(parameter.device)
        levels = torch.from_numpy(level.astype(np.float32)[:, None]).to(parameter.device)
        return (waveform - model(waveform, levels)).cpu().numpy()


def noise_stream(model: Denoiser, blocks: Iterable[np.ndarray], level: np.ndarray,
                 chunk_seconds: float = CHUNK_SECONDS) -> Iterator[np.ndarray]:
    """The noise in a stream of (channels, samples) blocks at the model's rate, equally long in all.

    `chunk_seconds` is the net length of a chunk; memory grows with it and not with the stream.
    """
    grid = TIME_STRIDE * model.stft.hop_length
    context = (context_frames() + STFT_CONTEXT_FRAMES) * model.stft.hop_length
    core = max(1, round(chunk_seconds * model.stft.sample_rate / grid)) * grid
    held, n_left = [], 0  # samples waiting; the first n_left of them are context that is already done
    for block in blocks:
        held.append(block)
        while sum(b.shape[-1] for b in held) >= n_left + core + context:
            window = np.concatenate(held, axis=-1)
            noise = chunk_noise(model, window[:, : n_left + core + context], level)
            yield noise[:, n_left : n_left + core]
            keep = max(0, n_left + core - context)  # a multiple of the grid
            held, n_left = [window[:, keep:]], n_left + core - keep
    if held and (window := np.concatenate(held, axis=-1)).shape[-1] > n_left:
        yield chunk_noise(model, window, level)[:, n_left:]


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
                   chunk_seconds: float = CHUNK_SECONDS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Denoise a stream of (channels, samples) blocks of any rate and channel count.

    `level` is the stream's RMS per channel (measure_level). Yields (denoised, removed) blocks that
    together are as long as the input; denoised + removed is the input.
    """
    share = effective_strength(strength, attenuation_limit_db)
    source = _Tee(blocks)
    to_model = _resampled(source, sample_rate, model.stft.sample_rate)
    noise = noise_stream(model, to_model, level, chunk_seconds)
    for estimate in _resampled(noise, model.stft.sample_rate, sample_rate):
        original = source.take(estimate.shape[-1])
        if original is not None:
            removed = share * estimate[:, : original.shape[-1]].astype(original.dtype)
            yield original - removed, removed
    if (rest := source.take(ROUNDING_SAMPLES)) is not None:
        yield rest, np.zeros_like(rest)


def denoise(model: Denoiser, audio: np.ndarray, sample_rate: int, strength: float = 1.0,
            attenuation_limit_db: float | None = None, chunk_seconds: float = CHUNK_SECONDS) -> np.ndarray:
    """Denoise (channels, samples) in memory; shape, rate and dtype are kept."""
    if audio.ndim != 2 or audio.shape[0] > MAX_CHANNELS or audio.shape[1] < 1:
        raise CallError(f"expected audio of shape (channels, samples), got {audio.shape}: transpose or reshape it")
    blocks = denoise_stream(model, [audio], sample_rate, measure_level([audio]), strength,
                            attenuation_limit_db, chunk_seconds)
    return np.concatenate([denoised for denoised, _ in blocks], axis=-1)


def denoise_file(model: Denoiser, input_path: str | Path, output_path: str | Path, strength: float = 1.0,
                 attenuation_limit_db: float | None = None, residual_path: str | Path | None = None,
                 chunk_seconds: float = CHUNK_SECONDS, progress: Callable[[float], None] | None = None) -> dict:
    """Denoise one file into another, block by block.

    The output's format follows its suffix; the sample format is the input's where the suffix allows it.
    `residual_path` receives what was removed. `progress` is called with the seconds of audio done.
    Returns sample_rate, channels, seconds, limited_samples (above full scale) and removed_db (level of
    what was removed against the input).
    """
    if Path(input_path).resolve() == Path(output_path).resolve():
        raise CallError(f"expected an output other than the input, got {output_path} twice: choose another name")
    effective_strength(strength, attenuation_limit_db)
    with AudioReader(input_path) as reader:
        level = measure_level(reader.blocks(BLOCK_SAMPLES))
        if not level.shape:
            raise AudioError(f"expected audio, but {input_path} holds no samples: replace or remove it")
        rate, channels, subtype = reader.sample_rate, reader.channels, reader.subtype
        powers, n_done = np.zeros(2), 0
        writers = [AudioWriter(p, rate, channels, subtype) for p in (output_path, residual_path) if p]
        stream = denoise_stream(model, reader.blocks(BLOCK_SAMPLES, "float64"), rate, level, strength,
                                attenuation_limit_db, chunk_seconds)
        for parts in _through(writers, stream):
            powers += [np.square(parts[1]).sum(), np.square(parts[0] + parts[1]).sum()]
            n_done += parts[0].shape[-1]
            if progress:
                progress(n_done / rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        removed_db = float(10 * np.log10(powers[0] / powers[1]))
    return {"sample_rate": rate, "channels": channels, "seconds": n_done / rate,
            "limited_samples": writers[0].limited, "removed_db": removed_db}


def _through(writers, stream):
    """Pass a stream on while each writer takes its part; all files appear whole or none does."""
    with ExitStack() as files:
        for writer in writers:
            files.enter_context(writer)
        for parts in stream:
            for writer, part in zip(writers, parts, strict=False):
                writer.write(part)
            yield parts


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
