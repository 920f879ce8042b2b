"""The mixing law: how loud a noise is against a song, and how a pair is scaled and written.

INPUT = gain (song + scale1 noise1), TARGET = gain (song + scale2 noise2), or gain song. Everything streams in
blocks, so that a pair of a song of hours needs no more memory than one of seconds.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from common.audio.signals import MIN_SIGNAL_RMS, GaussianNoise, LoopedNoise, Song
from common.audio.writing import AudioWriter

# Target SNR in dB is drawn uniformly from one of these, by the song's dynamics.
SNR_DB_USUAL, SNR_DB_DYNAMIC, SNR_DB_FLAT = (2.0, 27.0), (4.0, 30.0), (0.0, 25.0)
DYNAMIC_ABOVE, FLAT_BELOW = 10.0, 3.0
# Mixtures are scaled to stay below this peak: clipping would bias the mean of the noise, on which
# Noise2Noise rests (Lehtinen et al. 2018, section 3.2).
PEAK = 0.99
FULL_SCALE = 32768  # 16-bit samples


def dynamics(second_rms: np.ndarray) -> float:
    """Loudest over quietest of the RMS of a song's seconds, silent ones left out; 1 when all are silent."""
    rms = second_rms[second_rms > MIN_SIGNAL_RMS]
    return float(rms.max() / rms.min()) if len(rms) else 1.0


def snr_range_db(second_rms: np.ndarray) -> tuple[float, float]:
    """The range from which a song's target SNRs are drawn, by its dynamics."""
    ratio = dynamics(second_rms)
    if ratio > DYNAMIC_ABOVE:
        return SNR_DB_DYNAMIC
    return SNR_DB_FLAT if ratio < FLAT_BELOW else SNR_DB_USUAL


@dataclass(frozen=True)
class ScaledNoise:
    """A noise and the factor that brings it to its SNR against a song."""

    noise: LoopedNoise | GaussianNoise
    scale: float


def at_snr(noise: LoopedNoise | GaussianNoise, song: Song, snr_db: float) -> ScaledNoise:
    """Scale `noise` so that 10 log10(song power / noise power) is `snr_db`; powers are over the whole length."""
    return ScaledNoise(noise, float(np.sqrt(song.power / (noise.power * 10 ** (snr_db / 10)))))


def mixture(song: Song, member: ScaledNoise | None, use_cuda: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of the song, and of the song with its noise (or of the song again); on the GPU with `use_cuda`."""
    move = _to_gpu if use_cuda else _unchanged
    noises = member.noise.blocks(member.scale) if member else repeat(None)
    for block, noise in zip(song.blocks(), noises, strict=False):
        block = move(block)
        yield block, block if noise is None else block + move(noise)


def pair_gain(song: Song, members: Sequence[ScaledNoise | None], use_cuda: bool = False) -> float:
    """The gain that keeps all members of a pair below PEAK; 1 when they are below it anyway."""
    peak = 0.0
    for member in members:
        bound = song.peak + (member.noise.peak * member.scale if member else 0.0)
        if bound > max(PEAK, peak):  # else it is below what counts, and the search is saved
            for _, mixed in mixture(song, member, use_cuda):
                peak = max(peak, float(mixed.max()), -float(mixed.min()))
    return min(1.0, PEAK / peak) if peak else 1.0


def write_pair(song: Song, members: Sequence[ScaledNoise | None], gain: float, paths: Sequence[Path],
               use_cuda: bool = False) -> list[float | None]:
    """Write gain (song + noise) for every member as 16-bit audio, all whole or none.

    The files appear in reverse order, so that where an INPUT is, its TARGET is. Returns the SNR in dB of each,
    measured on the written samples (None without noise).
    """
    realised = []
    with ExitStack() as files:
        writers = [files.enter_context(AudioWriter(p, song.sample_rate, song.channels, "PCM_16")) for p in paths]
        for writer, member in zip(writers, members, strict=True):
            residual = 0.0
            for block, mixed in mixture(song, member, use_cuda):
                mixed = _to_host(mixed * gain) * np.float32(FULL_SCALE)
                np.rint(mixed, out=mixed)  # below PEAK * FULL_SCALE by the choice of the gain: nothing to limit
                writer.write(mixed.astype(np.int16))
                if member:
                    mixed *= np.float32(1 / (gain * FULL_SCALE))
                    mixed -= _to_host(block)
                    residual += float(np.square(mixed, out=mixed).sum())
            n = song.n_samples * song.channels
            realised.append(float(10 * np.log10(song.power * n / residual)) if member else None)
    return realised


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _unchanged(array):
    return array


def _to_gpu(array):
    import torch  # here, since a merger without --use-cuda starts in a third of the time without it

    return torch.from_numpy(np.ascontiguousarray(array)).cuda()


def _to_host(block):
    return block if isinstance(block, np.ndarray) else block.cpu().numpy()
