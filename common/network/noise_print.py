"""What a noise print, a moment of noise without music, tells the network.

The mean power N of the print in each bin gives a Wiener gain, max(0.1, 1 - N / |X|^2), for a spectrum X. The spectrum
times this gain is the network's second input. Without a print N is 0 and the second input is the spectrum itself.

References: Lim and Oppenheim 1979 (Wiener filter).
"""

import torch

from common.network.stft import STFT

# Minimum gain of a bin.
GAIN_FLOOR = 0.1
EPSILON = 1e-12
# Minimum length of a print: a shorter one says too little about a noise.
LEAST_PRINT_SECONDS = 0.25
# Length of the prints with which networks are validated and evaluated.
TEST_PRINT_SECONDS = 1.5


def print_power(noise_print: torch.Tensor, stft: STFT) -> torch.Tensor:
    """Mean power in each bin of prints (batch, samples) at the transform's rate, (batch, bins).

    A print needs at least n_fft samples. A silent print gives 0, as if there were no print.
    """
    return stft.frames(noise_print).abs().square().mean(-1)


def wiener_gain(spectrum: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """The gain for a spectrum (batch, bins, frames) and a print's power (batch, bins), (batch, bins, frames)."""
    return (1 - power.unsqueeze(-1) / (spectrum.abs().square() + EPSILON)).clamp(min=GAIN_FLOOR)
