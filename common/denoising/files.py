"""Denoise an array or a file of any length in bounded memory.

The output is input - strength * noise at the input's own rate. The noise is estimated at the model's rate and resampled
back. Strength 0 therefore returns the input, sound above the network's band stays, and length, channels and rate are
the input's. Blocks are read, resampled, denoised and written one after the other.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader
from common.audio.tags import read_tags
from common.audio.writing import CLIP_POLICIES, AudioWriter
from common.cli import setting
from common.denoising.chunks import noise_stream, resampled
from common.denoising.print_sources import Source, check_print, measure_print, print_source
from common.errors import AudioError, CallError
from common.network.confidence import scale_by_confidence
from common.network.noise_model import NoiseModel
from common.path_checks import check_outputs

log = logging.getLogger(__name__)

BLOCK_SAMPLES = 1 << 18
# Maximum number of samples that a stream of up to 400 kHz loses when it is resampled to the model's rate and back.
ROUNDING_SAMPLES = 16
# Maximum number of rows of an array of (channels, samples). One with more is probably transposed.
MAX_CHANNELS = 64


def effective_strength(strength: float, attenuation_limit_db: float | None) -> float:
    """The share of the noise estimate that is subtracted.

    An attenuation limit of L dB mixes a = 10**(-L/20) of the input with 1 - a of the denoised sound: noise that would
    be removed completely becomes L dB quieter. It is not a bound for every tone and moment: if the network turns the
    phase of a sound that it keeps, this sound and the input's share can cancel.
    """
    if not 0 <= strength <= 1:
        raise CallError(f"expected a strength between 0 (input unchanged) and 1 (all noise removed), got {strength}: "
                        "choose a share, such as 0.7")
    if attenuation_limit_db is None:
        return strength
    if not attenuation_limit_db >= 0:
        raise CallError(f"expected an attenuation limit of at least 0 dB, got {attenuation_limit_db}: choose "
                        "for example 12")
    return min(strength, 1 - 10 ** (-attenuation_limit_db / 20))


@dataclass(frozen=True)
class DenoiseSettings:
    """How a file is denoised and written; raises CallError for a strength or limit out of range.

    subtype: sample format of the output (see AudioWriter), the input's if None. noise_print: see print_source.
    """

    strength: float = setting(1.0, "share of the noise estimate that is subtracted, from 0 (input unchanged) to 1")
    attenuation_limit_db: float | None = setting(
        None, "mix the input back in, so that noise that would be removed completely becomes only this many dB "
        "quieter; 12 keeps a quarter of the input")
    clip: str = setting("rescale", "for a result above full scale: lower the whole file, limit the samples, or leave "
                        "them to a format that can hold them", choices=CLIP_POLICIES)
    subtype: str | None = None
    noise_print: Source = None

    def __post_init__(self):
        effective_strength(self.strength, self.attenuation_limit_db)


DEFAULT_SETTINGS = DenoiseSettings()


def measure_level(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """RMS of each channel over all (channels, samples) blocks, (channels,)."""
    total, n = 0.0, 0
    for block in blocks:
        total = total + np.square(block, dtype=np.float64).sum(axis=-1)
        n += block.shape[-1]
    return np.sqrt(total / max(n, 1))


def denoise_stream(model: NoiseModel, blocks: Iterable[np.ndarray], sample_rate: int, level: np.ndarray,
                   share: float, print_power: np.ndarray | None = None
                   ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Denoise a stream of (channels, samples) blocks of any rate and number of channels.

    level: RMS of each channel of the stream (measure_level). share: see effective_strength. print_power: power of the
    noise print, (channels, bins), see common.network.noise_print. Yields blocks (denoised, removed) of the input's
    total length; denoised + removed is the input.
    """
    to_model, originals = itertools.tee(blocks)
    noise = noise_stream(model, resampled(to_model, sample_rate, model.stft.sample_rate), level, print_power)
    confidence = model.confidence if print_power is None else model.print_confidence
    if confidence is None:
        noise = (estimate for _, estimate in noise)
    else:
        noise = scale_by_confidence(confidence, model.stft, noise, print_power)
    noise = resampled(noise, model.stft.sample_rate, sample_rate)
    held = np.zeros((len(level), 0), np.float32)
    for estimate in itertools.chain(noise, [np.zeros((len(level), ROUNDING_SAMPLES), np.float32)]):
        while held.shape[-1] < estimate.shape[-1] and (block := next(originals, None)) is not None:
            held = np.concatenate([held, block], axis=-1)
        original, held = np.split(held, [estimate.shape[-1]], axis=-1)
        if original.size:
            removed = share * estimate[:, : original.shape[-1]].astype(original.dtype)
            yield original - removed, removed


def denoise(model: NoiseModel, audio: np.ndarray, sample_rate: int, strength: float = 1.0,
            attenuation_limit_db: float | None = None, print_power: np.ndarray | None = None) -> np.ndarray:
    """Denoise (channels, samples) in memory; shape, rate and dtype are kept. print_power: see denoise_stream."""
    if audio.ndim != 2 or audio.shape[0] > MAX_CHANNELS or audio.shape[1] < 1:
        raise CallError(f"expected audio of shape (channels, samples), got {audio.shape}: transpose or reshape it")
    blocks = denoise_stream(model, [audio], sample_rate, measure_level([audio]),
                            effective_strength(strength, attenuation_limit_db), print_power)
    return np.concatenate([denoised for denoised, _ in blocks], axis=-1)


def denoise_file(model: NoiseModel, input_path: str | Path, output_path: str | Path,
                 settings: DenoiseSettings = DEFAULT_SETTINGS, residual_path: str | Path | None = None,
                 progress: Callable[[float], None] | None = None) -> dict:
    """Denoise one file into another, block by block, and copy its tags.

    The output's format follows its suffix. Codec, sample format, bit rate and channel layout are the input's if the
    suffix allows it. The removed sound is written to `residual_path`. `progress` is called with the seconds of audio
    that are done.

    Returns sample_rate, channels, seconds, peak (of the result before `clip`, 1 is full scale), gain (below 1 if
    "rescale" lowered the file), limited_samples, removed_db (level of the removed sound relative to the input) and
    noise_print (pairs of seconds, a path or None). Raises CallError for a noise print that does not fit or that the
    weights do not take, and AudioError for a file that cannot be read or written. A failed run leaves no output.
    """
    source = print_source(settings.noise_print)
    check_print(model, source)
    outputs = [(output_path, "the result"), (residual_path, "the removed sound")]
    check_outputs([output for output in outputs if output[0]],
                  [input_path, source] if isinstance(source, Path) else [input_path])
    share = effective_strength(settings.strength, settings.attenuation_limit_db)
    tags = read_tags(input_path)
    with AudioReader(input_path) as reader, ExitStack() as files:
        rate, channels = reader.sample_rate, reader.channels
        # Opened before any work: what cannot be written is refused at once.
        output = files.enter_context(AudioWriter(output_path, rate, channels, settings.subtype, settings.clip, tags,
                                                 reader))
        residual = residual_path and files.enter_context(
            AudioWriter(residual_path, rate, channels, settings.subtype, like=reader))
        level = measure_level(reader.blocks(BLOCK_SAMPLES))
        if not level.shape:
            raise AudioError(f"expected audio, but {input_path} holds no samples: replace or remove it")
        power, origin = measure_print(model, source, reader, level)
        removed_power, n_done = 0.0, 0
        for denoised, removed in denoise_stream(model, reader.blocks(BLOCK_SAMPLES, "float64"), rate, level, share,
                                                power):
            output.write(denoised)
            if residual:
                residual.write(removed)
            removed_power += np.square(removed).sum()
            n_done += denoised.shape[-1]
            if progress:
                progress(n_done / rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        removed_db = float(10 * np.log10(removed_power / (n_done * np.square(level).sum())))
    return {"sample_rate": rate, "channels": channels, "seconds": n_done / rate, "peak": output.peak,
            "gain": output.gain, "limited_samples": output.limited, "removed_db": removed_db, "noise_print": origin}


def removed_words(removed_db: float) -> str:
    """The removed_db of denoise_file in words."""
    if np.isnan(removed_db):
        return "the file is silent"
    if np.isneginf(removed_db):
        return "nothing was removed"
    return f"what was removed is {abs(removed_db):.1f} dB {'below' if removed_db < 0 else 'above'} the input's level"


def peak_words(report: dict) -> str:
    """What denoise_file did with a result above full scale, in words."""
    if report["gain"] < 1:
        outcome = f"the whole file is lowered by {-20 * math.log10(report['gain']):.2f} dB"
    elif report["limited_samples"]:
        outcome = f"{report['limited_samples']} samples are limited to full scale"
    else:
        outcome = "the format holds it"
    return f"the result peaks {20 * math.log10(report['peak']):.2f} dB above full scale: {outcome}"


def log_progress(input_path: str | Path, every_seconds: float = 10.0) -> Callable[[float], None]:
    """Make a `progress` function that logs every few seconds how much audio is done and how much time is left.

    The time left follows from the speed since the first call. Work before it, such as measuring levels, does not count.
    """
    with AudioReader(input_path) as reader:
        total = reader.seconds
    last, first = time.monotonic(), None

    def report(done):
        """Log `done` seconds of audio if it is time to."""
        nonlocal last, first
        now = time.monotonic()
        first = first or (now, done)
        if now - last <= every_seconds:
            return
        last, elapsed, done_since = now, now - first[0], done - first[1]
        message = f"{done:.0f} s of audio done"
        if total >= done:  # a header's length may be missing or wrong
            message = f"{done:.0f} of {total:.0f} s of audio done"
            if done_since > 0 and elapsed >= every_seconds:  # in less time a burst of blocks looks like the speed
                message += f", about {elapsed * (total - done) / done_since:.0f} s left"
        log.info(message)

    return report
