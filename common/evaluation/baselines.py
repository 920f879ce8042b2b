"""Methods to compare a trained network with: some that need no training, and oracles, which know the clean song.

Every method takes a Segment and returns its estimate of the song in the shape of the noisy signal, (channels, samples).
Methods "with a print" return None for a segment without a noise print. Masks apply to the network's own transform.
References: Boll 1979 (spectral subtraction); Lim and Oppenheim 1979 (Wiener filter); Sainburg 2019 (noisereduce);
Wang and Chen 2018, section III (ideal masks).
"""

import math
from functools import partial

import numpy as np

from common.data.pairs import Segment
from common.network.noise_print import print_power, wiener_gain
from common.network.stft import STFT

# Quantile over time of a bin's power that gives its noise, whose power has an exponential distribution.
NOISE_QUANTILE = 0.2
# Lowest gain. Lower gains turn residual noise into tones.
GAIN_FLOOR_DB = -15.0
EPSILON = 1e-12


def _masked(segment, mask_of):
    """Multiply the noisy spectrum by mask_of(noisy spectrum, clean spectrum) and transform back."""
    stft = STFT()
    noisy, clean = (stft.forward(np.asarray(x, np.float32)) for x in (segment.noisy, segment.clean))
    return stft.inverse(mask_of(noisy, clean) * noisy, segment.noisy.shape[-1])


def wiener_blind(segment: Segment) -> np.ndarray:
    """Wiener gain 1 - N/P per bin and frame, at least -15 dB; N from a low quantile over time of the powers P."""
    def gain(noisy, _):
        power = abs(noisy) ** 2
        noise = np.quantile(power, NOISE_QUANTILE, axis=-1, keepdims=True) / -math.log(1 - NOISE_QUANTILE)
        return (1 - noise / (power + EPSILON)).clip(min=10 ** (GAIN_FLOOR_DB / 20))
    return _masked(segment, gain)


def wiener_print(segment: Segment) -> np.ndarray | None:
    """Wiener gain of common.network.noise_print, which is an input of a network with a print."""
    if segment.noise_print is None:
        return None
    power = print_power(STFT().frames(segment.noise_print))
    return _masked(segment, lambda noisy, _: wiener_gain(noisy, power))


def noisereduce(segment: Segment, stationary: bool, with_print: bool = False) -> np.ndarray | None:
    """The package noisereduce with its defaults, channel by channel if with a print."""
    from noisereduce import reduce_noise  # takes seconds to load

    reduce = partial(reduce_noise, sr=segment.sample_rate, stationary=stationary)
    if not with_print:
        return reduce(y=segment.noisy).astype(np.float32)
    if segment.noise_print is None:
        return None
    # The package would average the channels of a print.
    return np.stack([reduce(y=channel, y_noise=own).astype(np.float32)
                     for channel, own in zip(segment.noisy, segment.noise_print, strict=True)])


def oracle_wiener(segment: Segment) -> np.ndarray:
    """Real mask |S|^2 / (|S|^2 + |N|^2) of the true powers: the ceiling of masks without phase."""
    return _masked(segment, lambda x, s: abs(s) ** 2 / (abs(s) ** 2 + abs(x - s) ** 2 + EPSILON))


def oracle_complex(segment: Segment) -> np.ndarray:
    """Complex mask S/X with its magnitude limited to 1: the ceiling of this project's network."""
    def mask(noisy, clean):
        ratio = clean / np.where(abs(noisy) > EPSILON, noisy, EPSILON)
        return ratio / abs(ratio).clip(min=1)
    return _masked(segment, mask)


BASELINES = {
    "blind Wiener": wiener_blind,
    "Wiener with a print": wiener_print,
    "noisereduce stationary": partial(noisereduce, stationary=True),
    "noisereduce non-stationary": partial(noisereduce, stationary=False),
    "noisereduce with a print": partial(noisereduce, stationary=True, with_print=True),
    "oracle Wiener mask": oracle_wiener,
    "oracle bounded complex mask": oracle_complex,
}
