"""Finding a model's confidence (common.network.confidence) from noisy pairs, and how cautious it should be.

For a band X of a window with the estimate N of its noise, the error of X - c N against a target T is quadratic in c:
|X - T|^2 - 2 c <N, X - T> + c^2 |N|^2. The error of the window is the sum over its bands. Three numbers and the
features of each band are therefore enough to find the confidence with the lowest mean error in dB. T may be another
noisy version of the song: its noise is independent of N and adds to the first term only (the argument of Lehtinen et
al. 2018). Clean songs serve only to measure.

The pairs are of songs that the network has not learned from. A network takes less music for noise in songs that it
knows, so that a confidence that is fitted on these is too bold for others.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from common.data.silence import LEFT_OUT, measurable
from common.errors import UserError
from common.network import tensor_stft
from common.network.confidence import WINDOW_SAMPLES, Confidence, band_sums, confidence_features
from common.network.model import Denoiser, autocast
from common.network.noise_print import print_power
from common.seeds import number
from common.training.mixtures import MixtureSource

log = logging.getLogger(__name__)

BATCH_SIZE = 4
# Penalty on the squared weights of the standardised features, against the mean improvement in dB; and on their squared
# distance from those of a prior, which was found from more pairs. Share of it for the offsets of the bands, in which
# their common change counts once.
REGULARISATION, PRIOR_REGULARISATION, OFFSET_SHARE = 1e-3, 1e-2, 0.3
# Changes of the confidence's log-odds to choose among, from bold to cautious, and the mean improvement in dB that the
# choice may cost.
SHIFTS = [x / 4 for x in range(8, -25, -1)]
AFFORDED_DB = 0.1
# Number of parts of the songs. Each is measured with a confidence that was fitted on the others.
PARTS = 8


@dataclass(frozen=True)
class Windows:
    """Windows as calibration sees them.

    songs: names of the songs, (windows,); features: (windows, bands, features); before, cross, power: |X - T|^2,
    <N, X - T>, |N|^2 of each band, (windows, bands).
    """

    songs: np.ndarray
    features: torch.Tensor
    before: torch.Tensor
    cross: torch.Tensor
    power: torch.Tensor

    def select(self, chosen: np.ndarray) -> "Windows":
        """Return the windows for which `chosen`, (windows,), is true."""
        return Windows(*(values[chosen] for values in vars(self).values()))

    def gains_db(self, confidence: torch.Tensor) -> torch.Tensor:
        """Return the SNR improvement against T for a confidence in each band, (windows, bands) -> (windows,)."""
        after = self.before - 2 * confidence * self.cross + confidence**2 * self.power
        return 10 * torch.log10(self.before.sum(1) / after.sum(1))


@torch.no_grad()
def measure_windows(model: Denoiser, source: MixtureSource, n: int, seed: int = 1, with_print: bool = False) -> Windows:
    """Measure what `model` does to `n` windows of a source. Other seeds draw other pairs.

    with_print: the model is given the noise prints, and windows without one are left out, as silent ones always are.
    """
    rows, n_silent = [], 0
    for first in range(0, n, BATCH_SIZE):
        where = 0, range(n)[first : first + BATCH_SIZE], WINDOW_SAMPLES
        noisy, target = (x.to(model.device) for x in source.batch(seed, *where))
        heard = (print_power(tensor_stft.frames(model.stft, source.prints(seed, *where))).to(model.device)
                 if with_print else None)
        with autocast(model.device):
            noise = noisy - model(noisy, print_power=heard)
        known = measurable(10 * torch.log10(target.square().sum(-1) / (noisy - target).square().sum(-1))).cpu().numpy()
        n_silent += int((~known).sum())
        if heard is not None:
            known &= (heard > 0).any(1).cpu().numpy()
        spectra = (model.stft.forward(x.cpu().numpy()) for x in (noisy, noise, noisy - target))
        songs = np.array(source.song_names(seed, *where))
        rows.append([x[known] for x in (songs, *_measured(*spectra, heard))])
    if n_silent:
        log.info(LEFT_OUT, "calibration", n_silent, n)
    songs, *values = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Windows(songs, *(torch.from_numpy(column).double() for column in values))


def _measured(noisy, noise, difference, heard):
    """The values of Windows for spectra (batch, bins, frames), and the power of prints (batch, bins) or None."""
    sound, before, cross, power = (band_sums((a * b.conj()).real.mean(-1)) for a, b in (
        (noisy, noisy), (difference, difference), (noise, difference), (noise, noise)))
    features = confidence_features(sound, power, None if heard is None else band_sums(heard.cpu().numpy()))
    return features, before, cross, power


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

    The search begins with the confidence `prior` of other weights, or a high one everywhere, and stays near it. Raises
    UserError for a prior of other features.
    """
    features, strength = windows.features, PRIOR_REGULARISATION
    if prior is None:
        scale = features.flatten(0, 1).std(0, correction=min(1, len(features) - 1)).clamp_min(1e-3)
        centre = features.mean((0, 1))
        prior, strength = Confidence(centre, scale, torch.zeros_like(centre),
                                     torch.full(features.shape[1:2], 2.0)), REGULARISATION
    centre, scale, near, start = (torch.as_tensor(x, dtype=torch.float64) for x in vars(prior).values())
    if near.shape != features.shape[2:] or start.shape != features.shape[1:2]:
        raise UserError(f"expected a prior of {features.shape[1]} bands with {features.shape[2]} features each, but "
                        "that of the given weights is another: choose weights that today's version published")
    weight, offset = near.clone().requires_grad_(), start.clone().requires_grad_()

    def loss():
        logits = Confidence(centre, scale, weight, offset).logits(features)
        moved = offset - start
        # Where the whole estimate is best taken away, only the last term keeps the offsets finite.
        offsets = (moved - moved.mean()).square().sum() + moved.mean().square()
        penalty = (weight - near).square().sum() + OFFSET_SHARE * offsets
        return strength * penalty - windows.gains_db(torch.sigmoid(logits)).mean()
    minimise(loss, [weight, offset])
    return Confidence(*(x.detach().float().numpy() for x in (centre, scale, weight, offset)))


def shifted(confidence: Confidence, shift: float) -> Confidence:
    """Return the confidence with its odds times exp(shift). A negative shift is more cautious."""
    return replace(confidence, offset=confidence.offset + shift)


def fit_on_other_songs(learned: Windows, measured: Windows, prior: Confidence | None = None
                       ) -> list[tuple[Confidence, Windows]]:
    """Return the windows `measured` in PARTS, each with a confidence that was fitted on `learned` without its songs.

    Where `learned` has no other songs, the confidence is fitted on all of it.
    """
    songs, found = np.unique(np.concatenate([learned.songs, measured.songs])), []
    for theirs in (songs[first::PARTS] for first in range(min(PARTS, len(songs)))):
        part, others = np.isin(measured.songs, theirs), ~np.isin(learned.songs, theirs)
        if not others.any():
            log.warning("expected pairs of several songs, got one, on which the confidence is fitted and measured: "
                        "pack more validation songs for a figure to trust")
            others[:] = True
        if part.any():
            found.append((fit_confidence(learned.select(others), prior), measured.select(part)))
    return found


def trade_off(parts: Sequence[tuple[Confidence, Windows]]) -> list[dict]:
    """Return for each of SHIFTS the mean improvement in dB and the percentages of windows improved, worse by 0.1 dB."""
    rows = []
    for shift in SHIFTS:
        gains = torch.cat([windows.gains_db(torch.as_tensor(shifted(confidence, shift)(windows.features.numpy())))
                           for confidence, windows in parts])
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
              prior: Denoiser | None = None) -> dict[str, dict]:
    """Give `model` its confidence, and another one for noise prints if it takes prints.

    Each is fitted on `n_pairs` noisy pairs, and is as cautious as `n_validation` mixtures with clean targets suggest;
    these are measured with confidences that were fitted on other songs. pairs, validation: of songs that the model has
    not learned from. prior: a model whose confidences are the starting point, see fit_confidence; it may know all of
    these songs. The model gets the confidence of all pairs. Returns plain values
    for the weights file by the name of the model's attribute, confidence and print_confidence: the mean SNR improvement
    in dB and the percentage of mixtures improved without confidence (plain_db, plain_improved_percent), all rows of
    trade_off, and the chosen one (shift, improvement_db).
    """
    found = {}
    for with_print in (False, True)[: 1 + model.takes_print]:
        name = "print_confidence" if with_print else "confidence"
        learned = measure_windows(model, pairs, n_pairs, number(0, "calibration"), with_print)
        windows = measure_windows(model, validation, n_validation, 0, with_print)
        confidence, found[name] = _calibrated(learned, windows, getattr(prior, name, None))
        setattr(model, name, confidence)
    return found


def _calibrated(learned, windows, prior):
    """The confidence fitted on the windows `learned`, as cautious as `windows` suggest, and calibrate()'s values."""
    if not len(learned.power) or not len(windows.power):
        log.warning("no pair, or no validation mixture, holds a song and a noise: nothing could be calibrated")
        return prior, {"plain_db": math.nan, "plain_improved_percent": math.nan, "shift": 0.0,
                       "improvement_db": math.nan, "trade_off": []}
    fitted = fit_confidence(learned, prior)
    rows = trade_off(fit_on_other_songs(learned, windows, prior))
    chosen = choose_shift(rows)
    plain = windows.gains_db(torch.ones_like(windows.power))
    return shifted(fitted, chosen["shift"]), {
        "plain_db": float(plain.mean()), "plain_improved_percent": float(100 * (plain > 0).double().mean()),
        "shift": chosen["shift"], "improvement_db": chosen["improvement_db"], "trade_off": rows}
