"""What the mask network reads of a spectrum.

The magnitudes of music fall by 60 dB from its bass to its treble, and a network sees little of what is small beside its
bass, in bfloat16 nothing. Therefore magnitudes are compressed: a bin X becomes X |X|^(compression - 1), which keeps its
phase. The second input of a network that takes a noise print is the compressed spectrum times the print's gain.

Takes arrays or tensors.
"""

from common.network.noise_print import EPSILON, Values, wiener_gain


def network_inputs(spectrum: Values, compression: float | Values, print_power: Values | None,
                   n_inputs: int) -> list[Values]:
    """Return the inputs of the network, (batch, bins, frames) complex each.

    compression: exponent of the magnitudes, 1 leaves them. print_power: (batch, bins), or None without a print.
    n_inputs: 2 for a network that takes a noise print, otherwise 1.
    """
    compressed = spectrum * (abs(spectrum) ** 2 + EPSILON) ** ((compression - 1) / 2)
    if n_inputs == 1:
        return [compressed]
    return [compressed, compressed if print_power is None else compressed * wiener_gain(spectrum, print_power)]
