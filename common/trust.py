"""How far a network is to be believed at every frequency, measured without clean data.

A network that has learned too little takes music for noise, at some frequencies more than at others. Its estimate N of
the noise is therefore scaled: of all factors, s = sum Re(N* (X - C)) / sum |N|^2 leaves the least squared error of
X - s N against the clean spectrum C. A second noisy version T of the song will do in place of C, since its noise has
nothing in common with N: the same argument that lets the network be trained (Lehtinen et al. 2018).
"""

import numpy as np
import torch

from common.errors import CallError
from common.mixtures import MixtureValidation
from common.model import Denoiser, autocast
from common.pool import SEGMENT_SAMPLES
from common.training import Source, validate

# Bands in which s is measured: their edges are evenly spaced over the logarithm of frequency from bin LOWEST on.
N_BANDS, LOWEST = 25, 4
BATCH_SIZE = 8
KEEP = ("auto", "always", "never")


def band_edges(n_bins: int) -> np.ndarray:
    """The first bin of every band, and n_bins; fewer than N_BANDS bands where bins are few."""
    return np.unique(np.rint([0, *np.geomspace(min(LOWEST, n_bins), n_bins, N_BANDS)]).astype(int))


@torch.inference_mode()
def measure_trust(model: Denoiser, source: Source, n: int, n_samples: int = SEGMENT_SAMPLES,
                  seed: int = 1) -> torch.Tensor:
    """The factors for `model`, (bins,) from 0 to 1, measured on `n` pairs of a source that it has never heard.

    n_samples: of each pair. seed: another one draws other pairs. Every pair counts alike, however much noise it holds.
    What the model trusts so far does not matter. A frequency at which it finds no noise is trusted.
    """
    full = Denoiser(model.network, model.stft).to(model.trust.device).eval()
    true, found = (torch.zeros(model.stft.n_bins, dtype=torch.float64, device=model.trust.device) for _ in range(2))
    for first in range(0, n, BATCH_SIZE):
        rows = range(first, min(n, first + BATCH_SIZE))
        noisy, target = (x.to(model.trust.device) for x in source.batch(seed, 0, rows, n_samples))
        with autocast(model.trust.device):
            noise = noisy - full(noisy)
        scale = noise.square().sum(-1, keepdim=True).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        noise, difference = (model.stft.forward(x / scale) for x in (noise, noisy - target))
        true += (noise.conj() * difference).real.sum((0, 2))
        found += noise.abs().square().sum((0, 2))
    return _by_bands(true.cpu().numpy(), found.cpu().numpy())


def settle_trust(model: Denoiser, pairs: Source, validation: MixtureValidation, plain_db: float,
                 keep: str = "auto") -> tuple[float, float]:
    """Measure the trust of `model` on `pairs` and leave it there if it is to be kept; else all is trusted.

    plain_db: what the model gains on `validation` with all trust; keep: always, never, or auto: where trust gains more,
    which it need not, having the least squared error, not the highest mean of decibels. Returns the SNR improvements in
    dB, with trust and as it was left. Raises CallError for another `keep`.
    """
    if keep not in KEEP:
        raise CallError(f"expected trust to be kept {', '.join(KEEP)}, got {keep!r}")
    model.trust.copy_(measure_trust(model, pairs, validation.n))
    with_trust_db = validate(model, validation)
    if keep == "always" or (keep == "auto" and with_trust_db > plain_db):
        return with_trust_db, with_trust_db
    model.trust.fill_(1)
    return with_trust_db, plain_db


def _by_bands(true, found):
    """Ratios of the sums over bands, from 0 to 1, and between the centres of the bands interpolated."""
    edges = band_edges(len(found))
    true, found = (np.add.reduceat(x, edges[:-1]) for x in (true, found))
    ratio = np.divide(true, found, out=np.ones_like(found), where=found > 0).clip(0, 1)
    return torch.from_numpy(np.interp(np.arange(edges[-1]), (edges[:-1] + edges[1:] - 1) / 2, ratio)).float()
