"""The improvement of a denoiser without any clean music, measured against an independent second copy.

X = S + M is a noisy recording, Y what a denoiser makes of it, and T = S + N a second copy, aligned to X and at its
level, whose noise N is independent of S, M and therefore of Y. Then the music and both products with N drop out of

    E|X - T|^2 - E|Y - T|^2 = E|X - S|^2 - E|Y - S|^2,    E|X - S|^2 = E|X|^2 - E[X T],

and the right-hand sides give the improvement of the SNR, 10 log10 (E|X - S|^2 / E|Y - S|^2). It is an estimate: the
products with N vanish only on average, so give it many seconds. If T is a share e quieter than X, then e times the
power of the music counts as noise of X.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

from common.data.pairs import PairFile, segments
from common.denoising.files import denoise
from common.network.model import Denoiser

N_BOOTSTRAP = 2000


def products(noisy: np.ndarray, denoised: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The sums over samples of |X|^2 - X T and of |X - T|^2 - |Y - T|^2 for arrays of one shape, (2,) float64."""
    x, y, t = (audio.astype(np.float64) for audio in (noisy, denoised, second))
    return np.array([(x * (x - t)).sum(), (np.square(x - t) - np.square(y - t)).sum()])


def improvement_db(sums: np.ndarray) -> float:
    """The SNR improvement in dB from products (..., segments, 2); NaN if the power of noise comes out as negative."""
    before, taken = np.moveaxis(np.asarray(sums).sum(-2), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(np.where(before > 0, before, np.nan) / np.where(before > taken, before - taken, np.nan))


def interval_db(sums: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of improvement_db when segments are drawn with replacement; NaN for a single segment."""
    if len(sums) < 2:
        return float("nan"), float("nan")
    found = bootstrap(tuple(np.transpose(sums)), lambda before, taken, axis: improvement_db(
        np.stack([np.moveaxis(before, axis, -1), np.moveaxis(taken, axis, -1)], -1)), paired=True,
        n_resamples=N_BOOTSTRAP, method="percentile", random_state=np.random.default_rng(0), vectorized=True)
    return tuple(map(float, found.confidence_interval))


def measure(model: Denoiser, pairs: Sequence[PairFile], per_pair: int | None = None) -> np.ndarray:
    """The products of segments of pairs whose targets are second copies, (segments, 2).

    per_pair: largest number of segments of a pair, None for all. Segments below -60 dBFS are left out.
    """
    found = [products(segment.noisy, denoise(model, segment.noisy, segment.sample_rate), segment.clean)
             for segment in segments(pairs, model.stft.sample_rate, per_pair)]
    return np.array(found).reshape(-1, 2)
