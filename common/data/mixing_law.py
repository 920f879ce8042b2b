"""The law by which pairs are mixed: SNR, gain and rounding.

INPUT = gain (song + scale1 noise1). TARGET = gain (song + scale2 noise2), or gain song for a clean target. All signals
are streams of blocks, so that the memory does not grow with the length of a song.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from common.audio.signals import MIN_SIGNAL_RMS, GaussianNoise, LoopedNoise, Song
from common.audio.writing import AudioWriter

# Ranges in dB from which the SNR is drawn uniformly. The dynamics of a song choose its range, see snr_range_db.
SNR_DB_USUAL, SNR_DB_DYNAMIC, SNR_DB_FLAT = (2.0, 27.0), (4.0, 30.0), (0.0, 25.0)
DYNAMIC_ABOVE, FLAT_BELOW = 10.0, 3.0
# Mixtures stay below this peak. Clipping would bias the mean of the noise, on which Noise2Noise rests
# (Lehtinen et al. 2018, section 3.2).
PEAK = 0.99
FULL_SCALE = 32768  # 16-bit samples


def snr_range_db(second_rms: np.ndarray) -> tuple[float, float]:
    """Return the SNR range of a song from the RMS of each of its seconds.

    The song's dynamics decide: the RMS of its loudest second over that of its quietest one, without silent seconds.
    """
    rms = second_rms[second_rms > MIN_SIGNAL_RMS]
    dynamics = rms.max() / rms.min() if len(rms) else 1.0
    if dynamics > DYNAMIC_ABOVE:
        return SNR_DB_DYNAMIC
    return SNR_DB_FLAT if dynamics < FLAT_BELOW else SNR_DB_USUAL


@dataclass(frozen=True)
class ScaledNoise:
    """A noise and the factor that brings it to its SNR."""

    noise: LoopedNoise | GaussianNoise
    scale: float


def at_snr(noise: LoopedNoise | GaussianNoise, song: Song, snr_db: float) -> ScaledNoise:
    """Scale `noise` so that 10 log10(song power / noise power) is `snr_db`, with powers over the whole length."""
    return ScaledNoise(noise, float(np.sqrt(song.power / (noise.power * 10 ** (snr_db / 10)))))


def mixture(song: Song, member: ScaledNoise | None, use_cuda: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks (channels, samples) of the song and of the song with its noise, on the GPU with `use_cuda`.

    Without a noise the second block is the song's.
    """
    move = _to_gpu if use_cuda else np.asarray
    noises = member.noise.blocks(member.scale) if member else repeat(None)
    for block, noise in zip(song.blocks(), noises, strict=False):
        block = move(block)
        yield block, block if noise is None else block + move(noise)


def pair_gain(song: Song, members: Sequence[ScaledNoise | None], use_cuda: bool = False) -> float:
    """Return the largest gain up to 1 that keeps all members of a pair below PEAK."""
    peak = 0.0
    for member in members:
        bound = song.peak + (member.noise.peak * member.scale if member else 0.0)
        if bound > max(PEAK, peak):  # otherwise the peak of the mixture cannot matter
            for _, mixed in mixture(song, member, use_cuda):
                peak = max(peak, float(mixed.max()), -float(mixed.min()))
    return min(1.0, PEAK / peak) if peak else 1.0


def write_pair(song: Song, members: Sequence[ScaledNoise | None], gain: float, paths: Sequence[Path],
               use_cuda: bool = False) -> list[float | None]:
    """Write gain (song + noise) for every member as 16-bit audio, all files or none.

    The files appear in reverse order: a pair with an INPUT has its TARGET. Returns the SNR of each member in dB, as
    measured on the written samples; None for a clean one.
    """
    realised = []
    with ExitStack() as files:
        writers = [files.enter_context(AudioWriter(p, song.sample_rate, song.channels, "PCM_16")) for p in paths]
        for writer, member in zip(writers, members, strict=True):
            residual = 0.0
            for block, mixed in mixture(song, member, use_cuda):
                mixed = _to_host(mixed * gain) * np.float32(FULL_SCALE)
                np.rint(mixed, out=mixed)  # the gain keeps it below PEAK * FULL_SCALE: nothing to limit
                writer.write(mixed.astype(np.int16))
                if member:
                    mixed *= np.float32(1 / (gain * FULL_SCALE))
                    mixed -= _to_host(block)
                    residual += float(np.square(mixed, out=mixed).sum())
            n = song.n_samples * song.channels
            realised.append(float(10 * np.log10(song.power * n / residual)) if member else None)
    return realised


def _to_gpu(array):
    import torch  # here, since a merger starts in a third of the time without it

    return torch.from_numpy(np.ascontiguousarray(array)).cuda()


def _to_host(block):
    return block if isinstance(block, np.ndarray) else block.cpu().numpy()
