"""Which parts of a song and its noise are too quiet to be measured: they are left out and counted.

Their SNR is infinite or decided by rounding, and one such value would decide a mean.
"""

# Song or noise counts as silent beyond this SNR in dB, positive or negative: it is inaudible, and rounding is as loud.
MAX_SNR_DB = 60.0
# RMS of the quietest song that is measured (-60 dBFS).
MIN_RMS = 1e-3
LEFT_OUT = "%s: %d of %d left out, in which song or noise is silent"


def measurable(snr_db):
    """Return whether an SNR in dB (a number, an array or a tensor) can be measured; NaN cannot."""
    return abs(snr_db) < MAX_SNR_DB
