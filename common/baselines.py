"""What a trained network is compared with: blind methods that train nothing, and ceilings that know the answer.

Every method takes a noisy signal, the clean one (which only oracles look at) and the sample rate, the signals as arrays
(channels, samples), and returns the estimate in that shape. The masks work on the network's own transform.
References: Boll 1979 (spectral subtraction); Lim and Oppenheim 1979 (Wiener filter); Sainburg 2019 (noisereduce);
Wang and Chen 2018, section III (ideal masks).
"""

import math
from functools import partial

import numpy as np
import torch

from common.errors import CallError
from common.stft import STFT

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


def wiener_blind(noisy: np.ndarray, clean: np.ndarray, sample_rate: int) -> np.ndarray:
    """Wiener gain 1 - N/P per bin and frame, N from a low quantile over time of the powers P, at most 15 dB down."""
    del clean, sample_rate  # every method is called alike

    def gain(spectrum):
        power = spectrum.abs().square()
        noise = power.quantile(NOISE_QUANTILE, dim=-1, keepdim=True) / -math.log(1 - NOISE_QUANTILE)
        return (1 - noise / (power + EPSILON)).clamp(min=10 ** (GAIN_FLOOR_DB / 20))
    return _masked(noisy, gain)


def noisereduce(noisy: np.ndarray, clean: np.ndarray, sample_rate: int, stationary: bool) -> np.ndarray:
    """The package of that name with its defaults; raises CallError where it is not installed."""
    del clean
    try:
        from noisereduce import reduce_noise
    except ImportError as error:
        raise CallError("expected the package noisereduce for this baseline, but it is not installed: pip install "
                        "noisereduce, or leave the baseline out") from error
    return reduce_noise(y=noisy, sr=sample_rate, stationary=stationary).astype(np.float32)


def oracle_wiener(noisy: np.ndarray, clean: np.ndarray, sample_rate: int) -> np.ndarray:
    """The real mask |S|^2 / (|S|^2 + |N|^2) of the true powers: the ceiling of masks without phase."""
    del sample_rate
    return _masked(noisy, lambda x, s: s.abs().square() / (s.abs().square() + (x - s).abs().square() + EPSILON), clean)


def oracle_complex(noisy: np.ndarray, clean: np.ndarray, sample_rate: int) -> np.ndarray:
    """The complex mask S/X with its magnitude limited to 1: the ceiling of this project's network."""
    del sample_rate

    def mask(x, s):
        ratio = s / torch.where(x.abs() > EPSILON, x, EPSILON)
        return ratio / ratio.abs().clamp(min=1)
    return _masked(noisy, mask, clean)


BASELINES = {
    "blind Wiener": wiener_blind,
    "noisereduce stationary": partial(noisereduce, stationary=True),
    "noisereduce non-stationary": partial(noisereduce, stationary=False),
    "oracle Wiener mask": oracle_wiener,
    "oracle bounded complex mask": oracle_complex,
}
