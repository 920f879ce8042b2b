"""Where song or noise is silent there is no ratio of the two: such examples are left out and counted.

Else one of them, with its infinite decibels, would decide a mean.
"""

# Beyond this SNR in dB, either way, the quieter one counts as silent: nobody hears it, and rounding is as loud.
MAX_SNR_DB = 60.0
LEFT_OUT = "%s: %d of %d left out, in which song or noise is silent"


def measurable(snr_db):
    """Whether an improvement can be measured at this SNR in dB; for numbers, arrays and tensors. NaN means silence."""
    return abs(snr_db) < MAX_SNR_DB
