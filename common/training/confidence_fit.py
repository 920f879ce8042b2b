"""Finding a model's confidence (common.network.confidence) from noisy pairs, and how cautious it should be.

For a window X with the estimate N of its noise, the error of X - c N against a target T is quadratic in c:
|X - T|^2 - 2 c <N, X - T> + c^2 |N|^2. Three numbers and the features of each window are therefore enough to find the
confidence with the lowest mean error in dB. T may be another noisy version of the song: its noise is independent of N
and adds to the first term only (the argument of Lehtinen et al. 2018). Clean songs, of the validation split, serve
only to measure.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from common.data.silence import LEFT_OUT, measurable
from common.network.confidence import WINDOW_SAMPLES, Confidence, band_features
from common.network.model import Denoiser, autocast
from common.seeds import number
from common.training.mixtures import MixtureSource

log = logging.getLogger(__name__)

BATCH_SIZE = 4
# Penalty on the squared weights of the standardised features, against the mean improvement in dB; and on their squared
# distance from those of a prior, which was found from more pairs.
REGULARISATION, PRIOR_REGULARISATION = 1e-3, 1e-2
# Changes of the confidence's log-odds to choose among, from bold to cautious, and the mean improvement in dB that the
# choice may cost.
SHIFTS = [x / 4 for x in range(8, -25, -1)]
AFFORDED_DB = 0.1


@dataclass(frozen=True)
class Windows:
    """Windows as calibration sees them.

    features: (windows, features); before, cross, power: |X - T|^2, <N, X - T>, |N|^2 of each window, (windows,).
    """

    features: torch.Tensor
    before: torch.Tensor
    cross: torch.Tensor
    power: torch.Tensor

    def gains_db(self, confidence: torch.Tensor) -> torch.Tensor:
        """Return the SNR improvement against T for a confidence of each window, (windows,) -> (windows,)."""
        after = self.before - 2 * confidence * self.cross + confidence**2 * self.power
        return 10 * torch.log10(self.before / after)


@torch.no_grad()
def measure_windows(model: Denoiser, source: MixtureSource, n: int, seed: int = 1) -> Windows:
    """Measure what `model` does to `n` windows of a source; silent ones are left out. Other seeds draw other pairs."""
    rows = []
    for first in range(0, n, BATCH_SIZE):
        numbers = range(n)[first : first + BATCH_SIZE]
        noisy, target = (x.to(model.device) for x in source.batch(seed, 0, numbers, WINDOW_SAMPLES))
        with autocast(model.device):
            noise = noisy - model(noisy)
        difference = noisy - target
        products = difference.square(), noise * difference, noise.square()
        sums = [x.sum(-1, keepdim=True) for x in products]
        known = measurable(10 * torch.log10(target.square().sum(-1) / sums[0][:, 0]))
        features = torch.from_numpy(band_features(noisy.cpu().numpy(), noise.cpu().numpy(), model.stft))
        rows.append(torch.cat([x.double().cpu() for x in (features, *sums)], 1)[known.cpu()])
    rows = torch.cat(rows)
    if len(rows) < n:
        log.info(LEFT_OUT, "calibration", n - len(rows), n)
    return Windows(rows[:, :-3], *rows[:, -3:].unbind(1))


def minimise(loss: Callable[[], torch.Tensor], parameters: Sequence[torch.Tensor]) -> None:
    """Minimise loss() over the parameters, in place, by L-BFGS."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value
    optimizer.step(closure)


def fit_confidence(windows: Windows, prior: Confidence | None = None) -> Confidence:
    """Find the confidence with the lowest mean error in dB on `windows`.

    The search begins with the confidence `prior` of other weights, or a high one everywhere, and stays near it.
    """
    strength = PRIOR_REGULARISATION
    if prior is None:
        scale = windows.features.std(0, correction=min(1, len(windows.power) - 1)).clamp_min(1e-3)
        centre = windows.features.mean(0)
        prior, strength = Confidence(centre, scale, torch.zeros_like(centre), torch.full((), 2.0)), REGULARISATION
    centre, scale, near, offset = (torch.as_tensor(x, dtype=torch.float64) for x in vars(prior).values())
    weight, offset = near.clone().requires_grad_(), offset.clone().requires_grad_()

    def loss():
        logits = Confidence(centre, scale, weight, offset).logits(windows.features)
        gains = windows.gains_db(torch.sigmoid(logits))
        return strength * (weight - near).square().sum() - gains.mean()
    minimise(loss, [weight, offset])
    return Confidence(*(x.detach().float().numpy() for x in (centre, scale, weight, offset)))


def shifted(confidence: Confidence, shift: float) -> Confidence:
    """Return the confidence with its odds times exp(shift). A negative shift is more cautious."""
    return replace(confidence, offset=confidence.offset + shift)


def trade_off(confidence: Confidence, windows: Windows) -> list[dict]:
    """Return for each of SHIFTS the mean improvement in dB and the percentages of windows improved, worse by 0.1 dB."""
    rows, features = [], windows.features.numpy()
    for shift in SHIFTS:
        gains = windows.gains_db(torch.as_tensor(shifted(confidence, shift)(features)))
        rows.append({"shift": shift, "improvement_db": float(gains.mean()),
                     "improved_percent": float(100 * (gains > 0).double().mean()),
                     "worse_percent": float(100 * (gains < -0.1).double().mean())})
    return rows


def choose_shift(rows: Sequence[dict]) -> dict:
    """Choose the row of trade_off that improves most windows, at a cost of at most AFFORDED_DB against the best row."""
    best = max(row["improvement_db"] for row in rows)
    affordable = [row for row in rows if row["improvement_db"] >= best - AFFORDED_DB]
    return max(affordable, key=lambda row: (row["improved_percent"], row["improvement_db"]))


def calibrate(model: Denoiser, pairs: MixtureSource, validation: MixtureSource, n_pairs: int, n_validation: int,
              prior: Confidence | None = None) -> dict:
    """Give `model` its confidence: fitted on `n_pairs` noisy pairs, as cautious as validation mixtures suggest.

    validation: has clean targets. prior: see fit_confidence. Returns plain values for the weights file: the mean SNR
    improvement in dB and the percentage of mixtures improved without confidence (plain_db, plain_improved_percent),
    all rows of trade_off, and the chosen one (shift, improvement_db).
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
    chosen = choose_shift(rows)
    model.confidence = shifted(fitted, chosen["shift"])
    plain = windows.gains_db(torch.ones_like(windows.power))
    return {"plain_db": float(plain.mean()), "plain_improved_percent": float(100 * (plain > 0).double().mean()),
            "shift": chosen["shift"], "improvement_db": chosen["improvement_db"], "trade_off": rows}
