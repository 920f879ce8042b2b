"""A noise print: a moment in which the noise is heard alone, and what it tells the network.

The mean power of the print in each bin gives a Wiener gain, max(0.1, 1 - N / |X|^2), which leaves of a spectrum X what
stands out of that noise. The spectrum with this gain is the network's second input. Without a print N is 0 and the
second input is the spectrum itself.

References: Lim and Oppenheim 1979 (Wiener filter).
"""

import torch

from common.stft import STFT

# The least gain of a bin.
GAIN_FLOOR = 0.1
EPSILON = 1e-12


def print_power(noise_print: torch.Tensor, stft: STFT) -> torch.Tensor:
    """Mean power in each bin of prints (batch, samples) at the transform's rate, (batch, bins).

    A print needs at least n_fft samples. A silent one gives 0, which stands for no print.
    """
    return stft.frames(noise_print).abs().square().mean(-1)


def wiener_gain(spectrum: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """The gain of a spectrum (batch, bins, frames) by a print's power (batch, bins), (batch, bins, frames)."""
    return (1 - power.unsqueeze(-1) / (spectrum.abs().square() + EPSILON)).clamp(min=GAIN_FLOOR)
