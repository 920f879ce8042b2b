"""What a trained network is compared with: methods that train nothing, and ceilings that know the answer.

Every method takes a noisy signal, the clean one (which only oracles look at), the sample rate and a noise print or
None, the signals as arrays (channels, samples) with as many channels, and returns the estimate in the noisy signal's
shape; a method "with a print" returns None where there is none. The masks work on the network's own transform.
References: Boll 1979 (spectral subtraction); Lim and Oppenheim 1979 (Wiener filter); Sainburg 2019 (noisereduce);
Wang and Chen 2018, section III (ideal masks).
"""

import math
from functools import partial

import numpy as np
import torch

from common.errors import CallError
from common.network.noise_print import print_power, wiener_gain
from common.network.stft import STFT

# Blind: the noise's power in a bin is read off this quantile of the powers over time, exponentially distributed.
NOISE_QUANTILE = 0.2
# Nothing is attenuated further: less, and residual noise turns into tones.
GAIN_FLOOR_DB = -15.0
EPSILON = 1e-12


def _masked(noisy, mask_of, *others):
    """Apply mask_of(spectrum of noisy, spectra of others) and transform back."""
    stft = STFT()
    spectra = [stft.forward(torch.tensor(x, dtype=torch.float32)) for x in (noisy, *others)]
    return stft.inverse(mask_of(*spectra) * spectra[0], noisy.shape[-1]).numpy()


def wiener_blind(noisy: np.ndarray, clean: np.ndarray, sample_rate: int,
                 noise_print: np.ndarray | None = None) -> np.ndarray:
    """Wiener gain 1 - N/P per bin and frame, N from a low quantile over time of the powers P, at most 15 dB down."""
    del clean, sample_rate, noise_print  # every method is called alike

    def gain(spectrum):
        power = spectrum.abs().square()
        noise = power.quantile(NOISE_QUANTILE, dim=-1, keepdim=True) / -math.log(1 - NOISE_QUANTILE)
        return (1 - noise / (power + EPSILON)).clamp(min=10 ** (GAIN_FLOOR_DB / 20))
    return _masked(noisy, gain)


def wiener_print(noisy: np.ndarray, clean: np.ndarray, sample_rate: int,
                 noise_print: np.ndarray | None = None) -> np.ndarray | None:
    """The Wiener gain of common.network.noise_print: what a network with a print is given."""
    del clean, sample_rate
    if noise_print is None:
        return None
    power = print_power(torch.from_numpy(noise_print), STFT())
    return _masked(noisy, lambda spectrum: wiener_gain(spectrum, power))


def _reduce_noise(noisy, sample_rate, **settings):
    try:
        from noisereduce import reduce_noise
    except ImportError as error:
        raise CallError("expected the package noisereduce for this baseline, but it is not installed: pip install "
                        "noisereduce, or leave the baseline out") from error
    return reduce_noise(y=noisy, sr=sample_rate, **settings).astype(np.float32)


def noisereduce(noisy: np.ndarray, clean: np.ndarray, sample_rate: int, noise_print: np.ndarray | None = None, *,
                stationary: bool) -> np.ndarray:
    """The package of that name with its defaults; raises CallError where it is not installed."""
    del clean, noise_print
    return _reduce_noise(noisy, sample_rate, stationary=stationary)


def noisereduce_print(noisy: np.ndarray, clean: np.ndarray, sample_rate: int,
                      noise_print: np.ndarray | None = None) -> np.ndarray | None:
    """The stationary mode with the print, channel by channel: the package would average the print's channels."""
    del clean
    if noise_print is None:
        return None
    return np.stack([_reduce_noise(channel, sample_rate, stationary=True, y_noise=own)
                     for channel, own in zip(noisy, noise_print, strict=True)])


def oracle_wiener(noisy: np.ndarray, clean: np.ndarray, sample_rate: int,
                  noise_print: np.ndarray | None = None) -> np.ndarray:
    """The real mask |S|^2 / (|S|^2 + |N|^2) of the true powers: the ceiling of masks without phase."""
    del sample_rate, noise_print
    return _masked(noisy, lambda x, s: s.abs().square() / (s.abs().square() + (x - s).abs().square() + EPSILON), clean)


def oracle_complex(noisy: np.ndarray, clean: np.ndarray, sample_rate: int,
                   noise_print: np.ndarray | None = None) -> np.ndarray:
    """The complex mask S/X with its magnitude limited to 1: the ceiling of this project's network."""
    del sample_rate, noise_print

    def mask(x, s):
        ratio = s / torch.where(x.abs() > EPSILON, x, EPSILON)
        return ratio / ratio.abs().clamp(min=1)
    return _masked(noisy, mask, clean)


BASELINES = {
    "blind Wiener": wiener_blind,
    "Wiener with a print": wiener_print,
    "noisereduce stationary": partial(noisereduce, stationary=True),
    "noisereduce non-stationary": partial(noisereduce, stationary=False),
    "noisereduce with a print": noisereduce_print,
    "oracle Wiener mask": oracle_wiener,
    "oracle bounded complex mask": oracle_complex,
}
