"""Finding a model's confidence (common.network.confidence) from noisy pairs, and how cautious it is to be.

For a window X with the estimate N of its noise, the error of X - c N against a target T is quadratic in c:
|X - T|^2 - 2 c <N, X - T> + c^2 |N|^2. Three numbers and the features of each window are all that is needed to find the
confidence that leaves the lowest error in dB on average, and T may be another noisy version of the song: its noise has
nothing in common with N, so that it only adds to the first term (the argument of Lehtinen et al. 2018). Clean songs, of
the validation split, are heard for nothing but to measure.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from common.data.silence import LEFT_OUT, measurable
from common.network.confidence import WINDOW_SAMPLES, Confidence, band_features
from common.network.model import Denoiser, autocast
from common.seeds import number
from common.training.mixtures import MixtureSource

log = logging.getLogger(__name__)

BATCH_SIZE = 4
# Of the squared weights of the standardised features, or of their squared distance from those of a prior, which is
# found from more pairs and for all noises; beside the mean improvement in dB.
REGULARISATION, PRIOR_REGULARISATION = 1e-3, 1e-2
# Confidence in odds: shifts to choose among, from bold to cautious, and what the choice may cost in mean improvement.
SHIFTS = [x / 4 for x in range(8, -25, -1)]
AFFORDED_DB = 0.1


@dataclass(frozen=True)
class Windows:
    """features (windows, features); before, cross, power: |X - T|^2, <N, X - T>, |N|^2 of each window, (windows,)."""

    features: torch.Tensor
    before: torch.Tensor
    cross: torch.Tensor
    power: torch.Tensor

    def gains_db(self, confidence: torch.Tensor) -> torch.Tensor:
        """Improvement of the ratio to T's power for a confidence of each window, (windows,) -> (windows,)."""
        after = self.before - 2 * confidence * self.cross + confidence**2 * self.power
        return 10 * torch.log10(self.before / after)


@torch.no_grad()
def measure_windows(model: Denoiser, source: MixtureSource, n: int, seed: int = 1) -> Windows:
    """What `model` does to `n` windows of a source, without those that are silent. Another seed draws other pairs."""
    rows = []
    for first in range(0, n, BATCH_SIZE):
        numbers = range(first, min(n, first + BATCH_SIZE))
        noisy, target = (x.to(model.device) for x in source.batch(seed, 0, numbers, WINDOW_SAMPLES))
        with autocast(model.device):
            noise = noisy - model(noisy)
        difference = noisy - target
        products = difference.square(), noise * difference, noise.square()
        sums = [x.sum(-1, keepdim=True) for x in products]
        heard = measurable(10 * torch.log10(target.square().sum(-1) / sums[0][:, 0]))
        rows.append(torch.cat([band_features(noisy, noise, model.stft), *sums], 1)[heard].double().cpu())
    rows = torch.cat(rows)
    if len(rows) < n:
        log.info(LEFT_OUT, "calibration", n - len(rows), n)
    return Windows(rows[:, :-3], *rows[:, -3:].unbind(1))


def fit_confidence(windows: Windows, prior: Confidence | None = None) -> Confidence:
    """The confidence that leaves the lowest mean error in dB on `windows`, by L-BFGS.

    It begins with, and stays near, the confidence `prior` of other weights, or much of it everywhere.
    """
    if prior is None:
        scale = windows.features.std(0, correction=min(1, len(windows.power) - 1)).clamp_min(1e-3)
        centre = windows.features.mean(0)
        prior = Confidence(centre, scale, torch.zeros_like(centre), torch.full((), 2.0))
        strength = REGULARISATION
    else:
        strength = PRIOR_REGULARISATION
    centre, scale, near, offset = (x.double() for x in vars(prior).values())
    weight, offset = near.clone().requires_grad_(), offset.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        gains = windows.gains_db(Confidence(centre, scale, weight, offset)(windows.features))
        value = strength * (weight - near).square().sum() - gains.mean()
        value.backward()
        return value
    optimizer.step(loss)
    return Confidence(*(x.detach().float() for x in (centre, scale, weight, offset)))


def shifted(confidence: Confidence, shift: float) -> Confidence:
    """The same with its odds times exp(shift): below 0 more cautious."""
    return replace(confidence, offset=confidence.offset + shift)


def trade_off(confidence: Confidence, windows: Windows, shifts: Sequence[float] = SHIFTS) -> list[dict]:
    """For every shift the mean improvement in dB and the percentages of windows made better, and worse by 0.1 dB."""
    rows = []
    for shift in shifts:
        gains = windows.gains_db(shifted(confidence, shift)(windows.features.float()).double())
        rows.append({"shift": shift, "improvement_db": float(gains.mean()),
                     "improved_percent": float(100 * (gains > 0).double().mean()),
                     "worse_percent": float(100 * (gains < -0.1).double().mean())})
    return rows


def choose_shift(rows: Sequence[dict]) -> float:
    """Of trade_off's rows that cost at most AFFORDED_DB against the best one, the shift that improves most windows."""
    best = max(row["improvement_db"] for row in rows)
    affordable = [row for row in rows if row["improvement_db"] >= best - AFFORDED_DB]
    return max(affordable, key=lambda row: (row["improved_percent"], row["improvement_db"]))["shift"]


def calibrate(model: Denoiser, pairs: MixtureSource, validation: MixtureSource, n_pairs: int, n_validation: int,
              prior: Confidence | None = None) -> dict:
    """Give `model` its confidence: fitted on `n_pairs` noisy pairs, as cautious as pays on validation mixtures.

    validation: with clean targets. prior: see fit_confidence. Returns plain values for the weights' file: the mean SNR
    improvement in dB and the percentage of mixtures improved there without confidence (plain_db,
    plain_improved_percent), all rows of trade_off, and which one was chosen (shift, improvement_db).
    """
    learned = measure_windows(model, pairs, n_pairs, number(0, "calibration"))
    windows = measure_windows(model, validation, n_validation, seed=0)
    if not len(learned.power) or not len(windows.power):
        log.warning("no pair, or no validation mixture, holds a song and a noise: nothing could be calibrated")
        model.confidence = prior
        return {"plain_db": math.nan, "plain_improved_percent": math.nan, "shift": 0.0, "improvement_db": math.nan,
                "trade_off": []}
    fitted = fit_confidence(learned, prior)
    rows = trade_off(fitted, windows)
    shift = choose_shift(rows)
    model.confidence = shifted(fitted, shift)
    plain = windows.gains_db(torch.ones_like(windows.power))
    return {"plain_db": float(plain.mean()), "plain_improved_percent": float(100 * (plain > 0).double().mean()),
            "shift": shift, "improvement_db": next(row["improvement_db"] for row in rows if row["shift"] == shift),
            "trade_off": rows}
