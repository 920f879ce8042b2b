"""Objective quality of an estimate against its reference.

Conventions: `reference` and `estimate` are arrays of one shape, (samples,) or (channels, samples), at full scale 1.
SNR measures are in dB and meant for music. PESQ and STOI are speech measures, given for comparison with the
literature, and NaN where they refuse a signal. All metrics raise UserError for input that validate() refuses.

References: Hansen and Pellom 1998 (segmental SNR), Le Roux et al. 2019 (SI-SDR), Gray and Markel 1976 (log-spectral
distance), ITU-T P.862 (PESQ, by the `pesq` package), Taal et al. 2011 (STOI, by the `pystoi` package).
"""

import functools
import logging
import warnings

import numpy as np
from pystoi import stoi as pystoi
from scipy.signal import stft

from common.audio.reading import resample
from common.errors import UserError

try:
    import pesq
except ImportError:  # its installation compiles C code, which not every machine can
    pesq = None

log = logging.getLogger(__name__)

PESQ_RATE = 16000
# Segmental SNR: frames of 30 ms, each limited to this range before averaging.
FRAME_SECONDS, FRAME_RANGE_DB = 0.03, (-10.0, 35.0)
# Log-spectral distance: samples of a Hann frame, and range below the reference's highest power.
LSD_FFT, LSD_RANGE_DB = 2048, 80.0
METRICS = ("snr_db", "segmental_snr_db", "si_sdr_db", "log_spectral_distance_db", "pesq_nb", "pesq_wb", "stoi")
LOWER_IS_BETTER = {"log_spectral_distance_db"}


def validate(reference: np.ndarray, estimate: np.ndarray) -> None:
    """Raise UserError unless both are finite, of one shape and the reference is not silent."""
    if reference.shape != estimate.shape or reference.ndim not in (1, 2):
        raise UserError(f"expected reference and estimate of one shape (samples,) or (channels, samples), got "
                        f"{reference.shape} and {estimate.shape}: cut them to the same length")
    if not (np.isfinite(reference).all() and np.isfinite(estimate).all()):
        raise UserError("expected finite samples, got NaN or infinity: check how the signals were made")
    if not reference.any():
        raise UserError("expected a reference with signal, got silence, against which no ratio exists: leave it out")


def _ratio_db(signal_power, error_power):
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(signal_power / error_power)


def snr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Signal-to-noise ratio in dB: power of the reference over that of the error; inf for equal signals."""
    validate(reference, estimate)
    reference, estimate = reference.astype(np.float64), estimate.astype(np.float64)
    return float(_ratio_db(np.square(reference).sum(), np.square(reference - estimate).sum()))


def segmental_snr(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Mean over 30 ms frames of their SNR in dB, limited to -10..35 dB; frames with a silent reference are left out."""
    validate(reference, estimate)
    reference, estimate = (np.atleast_2d(x).astype(np.float64) for x in (reference, estimate))
    n = min(int(FRAME_SECONDS * sample_rate), reference.shape[-1])
    whole = reference.shape[-1] // n * n
    signal, error = (np.square(x[:, :whole].reshape(len(x), -1, n)).sum((0, 2))
                     for x in (reference, reference - estimate))
    loud = signal > 0
    if not loud.any():
        return float("nan")
    return float(np.clip(_ratio_db(signal[loud], error[loud]), *FRAME_RANGE_DB).mean())


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB: the SNR against the best-scaled reference (no mean removal)."""
    validate(reference, estimate)
    reference, estimate = reference.astype(np.float64).ravel(), estimate.astype(np.float64).ravel()
    target = reference * (estimate @ reference) / (reference @ reference)
    return float(_ratio_db(target @ target, np.square(estimate - target).sum()))


def log_spectral_distance(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Mean over frames of the RMS difference of the log power spectra in dB; 0 for equal signals, lower is better.

    Powers are floored LSD_RANGE_DB below the reference's highest. Frames whose reference is below that are left out.
    """
    validate(reference, estimate)
    padding = [(0, 0)] * (reference.ndim - 1) + [(0, max(0, LSD_FFT - reference.shape[-1]))]
    powers = [np.square(np.abs(stft(np.pad(x, padding), nperseg=LSD_FFT, boundary=None, padded=False)[2]))
              for x in (reference, estimate)]
    floor = powers[0].max() * 10 ** (-LSD_RANGE_DB / 10)
    loud = powers[0].max(axis=-2) > floor
    first, second = (10 * np.log10(np.maximum(p, floor)) for p in powers)
    return float(np.sqrt(np.square(first - second).mean(axis=-2))[loud].mean())


def _mono(audio):
    return np.atleast_2d(audio).mean(axis=0).astype(np.float32)


@functools.cache  # once, and not for every segment
def _warn_without_pesq():
    log.warning("PESQ is not scored: the package pesq is not installed")


def pesq_scores(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> tuple[float, float]:
    """Narrow-band and wide-band PESQ (MOS-LQO) of the mono mix at 16 kHz.

    NaN when PESQ finds no speech-like part, and, with a warning, when the package `pesq` is not installed.
    """
    validate(reference, estimate)
    if pesq is None:
        _warn_without_pesq()
        return float("nan"), float("nan")
    pair = [resample(_mono(x)[None], sample_rate, PESQ_RATE)[0] for x in (reference, estimate)]
    scores = []
    for mode in ("nb", "wb"):
        try:
            scores.append(float(pesq.pesq(PESQ_RATE, *pair, mode)))
        except (pesq.PesqError, ValueError):  # too short, silent, or without utterances
            scores.append(float("nan"))
    return scores[0], scores[1]


def stoi(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Short-time objective intelligibility of the mono mix, 0 to 1; NaN when it finds too few active frames."""
    validate(reference, estimate)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and returns 1e-5
        try:
            return float(pystoi(_mono(reference), _mono(estimate), sample_rate))
        except (RuntimeWarning, ValueError):
            return float("nan")


def improvement_name(metric: str) -> str:
    """Return the column of a metric's improvement: snr_improvement_db for snr_db."""
    return metric.removesuffix("_db") + "_improvement" + ("_db" if metric.endswith("_db") else "")


def score(reference: np.ndarray, estimate: np.ndarray, sample_rate: int, speech: bool = True) -> dict[str, float]:
    """Compute all METRICS of one estimate; without `speech`, PESQ and STOI (slow) are NaN."""
    scores = [snr(reference, estimate), segmental_snr(reference, estimate, sample_rate), si_sdr(reference, estimate),
              log_spectral_distance(reference, estimate)]
    if speech:
        scores += [*pesq_scores(reference, estimate, sample_rate), stoi(reference, estimate, sample_rate)]
    return dict.fromkeys(METRICS, float("nan")) | dict(zip(METRICS, scores, strict=False))
