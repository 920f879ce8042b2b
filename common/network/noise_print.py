"""What a noise print, a moment of noise without music, tells the network.

The mean power N of the print in each bin gives a Wiener gain, max(0.1, 1 - N / |X|^2), for a spectrum X. The network
reads the spectrum without and with this gain (common.network.network_inputs). Without a print the gain is 1.

Both functions take arrays or tensors. References: Lim and Oppenheim 1979 (Wiener filter).
"""

from typing import TypeVar

# Minimum gain of a bin.
GAIN_FLOOR = 0.1
EPSILON = 1e-12
# Minimum length of a print: a shorter one says too little about a noise.
LEAST_PRINT_SECONDS = 0.25
# Length of the prints with which networks are validated and evaluated.
TEST_PRINT_SECONDS = 1.5


# An array or a tensor.
Values = TypeVar("Values")


def print_power(frames: Values) -> Values:
    """Mean power in each bin of the frames of prints (see STFT.frames), (batch, bins, frames) -> (batch, bins).

    A silent print gives 0, as if there were no print.
    """
    return (abs(frames) ** 2).mean(-1)


def wiener_gain(spectrum: Values, power: Values) -> Values:
    """The gain for a spectrum (batch, bins, frames) and a print's power (batch, bins), (batch, bins, frames)."""
    return (1 - power[..., None] / (abs(spectrum) ** 2 + EPSILON)).clip(min=GAIN_FLOOR)
