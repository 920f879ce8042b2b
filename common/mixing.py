"""The mixing law: how loud a noise is, how it is fitted to a song, and how a pair is scaled.

Pure functions on arrays of shape (channels, samples). With `use_cuda` the arithmetic runs on the GPU.
"""

from dataclasses import dataclass

import numpy as np

from common.errors import UserError

# Target SNR in dB is drawn uniformly from one of these, by the song's dynamics.
SNR_DB_USUAL, SNR_DB_DYNAMIC, SNR_DB_FLAT = (2.0, 27.0), (4.0, 30.0), (0.0, 25.0)
DYNAMIC_ABOVE, FLAT_BELOW = 10.0, 3.0
# A second quieter than this (-80 dBFS RMS) is silent: it says nothing about dynamics.
SILENT_RMS = 1e-4
# Mixtures are scaled to stay below this peak: clipping would bias the mean of the noise, on which
# Noise2Noise rests (Lehtinen et al. 2018, section 3.2).
PEAK = 0.99


class SilentError(UserError):
    """A song or noise without signal, for which no SNR exists."""


def dynamics(song: np.ndarray, sample_rate: int) -> float:
    """Loudest over quietest one-second RMS, silent seconds left out; 1 for a song under two seconds."""
    n_seconds = max(1, song.shape[-1] // sample_rate)
    seconds = song[:, : n_seconds * sample_rate].reshape(song.shape[0], n_seconds, -1)
    rms = np.sqrt(np.square(seconds, dtype=np.float64).mean(axis=(0, 2)))
    rms = rms[rms > SILENT_RMS]
    return float(rms.max() / rms.min()) if len(rms) else 1.0


def snr_range_db(song: np.ndarray, sample_rate: int) -> tuple[float, float]:
    """The range from which the song's target SNRs are drawn, by its dynamics."""
    ratio = dynamics(song, sample_rate)
    if ratio > DYNAMIC_ABOVE:
        return SNR_DB_DYNAMIC
    return SNR_DB_FLAT if ratio < FLAT_BELOW else SNR_DB_USUAL


def power(audio: np.ndarray) -> float:
    """Mean square over all channels and samples, summed in float64."""
    return float(np.square(audio, dtype=np.float64).mean())


def snr_db(song: np.ndarray, noise: np.ndarray) -> float:
    """10 log10 of the power of `song` over that of `noise`."""
    return float(10 * np.log10(power(song) / power(noise)))


def fit_noise(noise: np.ndarray, channels: int, n_samples: int, offset: int) -> np.ndarray:
    """Bring a noise, already at the song's rate, to the song's channels and length, with zero mean.

    Starts `offset` samples into the noise and loops it. A mono noise goes to all channels; a noise with
    more channels than the song is averaged. Raises SilentError for a noise without signal.
    """
    if noise.shape[0] != channels:
        noise = np.repeat(noise.mean(axis=0, keepdims=True), channels, axis=0)
    loops = -(-(n_samples + offset) // noise.shape[-1])
    fitted = np.tile(noise, (1, loops))[:, offset : offset + n_samples]
    fitted = fitted - fitted.mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
    if power(fitted) < SILENT_RMS**2:
        raise SilentError("expected a noise with signal, but it is silent: remove it")
    return fitted


def white_noise(seed: int, channels: int, n_samples: int) -> np.ndarray:
    """Gaussian noise of unit variance and zero mean, independent between channels, from `seed` alone."""
    noise = np.random.default_rng(seed).standard_normal((channels, n_samples), dtype=np.float32)
    return noise - noise.mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True)
class Pair:
    """Two mixtures at one gain. `input` and `target` are ready to be written."""

    input: np.ndarray
    target: np.ndarray
    gain: float


def mix_pair(song: np.ndarray, noise: np.ndarray, noise_snr_db: float, target_noise: np.ndarray | None = None,
             target_snr_db: float | None = None, use_cuda: bool = False) -> Pair:
    """INPUT = gain (song + noise), TARGET = gain (song + target_noise), or gain song without a second noise.

    Noises are scaled to their SNR in dB against the song; the gain is 1 unless a peak would pass PEAK,
    then both members are scaled down together. Raises SilentError when the song is silent.
    """
    if power(song) < SILENT_RMS**2:
        raise SilentError("expected a song with signal, but it is silent: remove it")
    to_device, to_host = (_to_gpu, _from_gpu) if use_cuda else (_unchanged, _unchanged)
    base = to_device(song)

    def noisy(unscaled, level_db):
        scale = np.sqrt(power(song) / (power(unscaled) * 10 ** (level_db / 10)))
        return base + to_device(unscaled) * float(scale)

    mixed = noisy(noise, noise_snr_db)
    target = base if target_noise is None else noisy(target_noise, target_snr_db)
    peak = max(float(x) for m in (mixed, target) for x in (m.max(), -m.min()))
    gain = min(1.0, PEAK / peak)
    return Pair(to_host(mixed * gain), to_host(target * gain), gain)


def _unchanged(array):
    return array


def _to_gpu(array):
    import torch  # here, since a merger without --use-cuda starts in a third of the time without it

    return torch.from_numpy(array).cuda()


def _from_gpu(tensor):
    return tensor.cpu().numpy()
