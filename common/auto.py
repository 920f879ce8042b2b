"""Which weights fit a song: a classifier that listens to the noise the universal network finds in it.

The probabilities of white noise and of the UrbanSound8K classes are a softmax of linear functions of the features of
common.confidence, with their fluctuation over time, averaged over windows spread through the song. What each weights
file gains on each noise was measured on validation mixtures, and the one is taken whose expected gain is highest: the
universal one, `mixed`, where a mistake would cost more than the noise's own brings. All this lies in the file of
`mixed`, since noises are heard through it.
"""

import functools
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from common.audio import AudioError, AudioReader, resample
from common.calibration import measure_windows
from common.checkpoints import find_weights, load_safely, load_weights, pretrained_names
from common.confidence import WINDOW_SAMPLES, describe, standardised
from common.errors import UserError
from common.inference import inference_form
from common.labels import CLASS_NAMES, MIXED, WHITE
from common.mixtures import MixtureSettings, MixtureSource, pool_validation
from common.model import Denoiser, autocast
from common.pool import Pool

log = logging.getLogger(__name__)

AUTO = "auto"
LABELS = (WHITE, *CLASS_NAMES)
# Windows of a song that are listened to, evenly spread.
PROBES = 8
# Of the squared weights of the standardised features, beside the mean cross-entropy.
REGULARISATION = 1e-3
BATCH_SIZE = 4
# Noises are learned at about their own speed: which they are lies in it.
NOISE_SPEED = 0.9, 1.1


@dataclass(frozen=True)
class NoiseClassifier:
    """centre, scale (features,), weight (features, labels), offset (labels,), gains_db (labels, names), float32.

    labels are LABELS; gains_db: the mean SNR improvement in dB that the weights of each of `names` bring each noise.
    """

    centre: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    offset: torch.Tensor
    gains_db: torch.Tensor
    names: tuple[str, ...]

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(windows, features) -> logits of the probabilities of LABELS, (windows, labels)."""
        return standardised(features, self.centre, self.scale) @ self.weight + self.offset

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """(windows, features) of one song -> probabilities of LABELS, (labels,)."""
        return self.logits(features).softmax(1).mean(0)

    def expected_gains_db(self, probabilities: torch.Tensor) -> dict[str, float]:
        """Of the weights by name, for a song whose noise has these probabilities (labels,)."""
        return dict(zip(self.names, (probabilities @ self.gains_db).tolist(), strict=True))

    def choose(self, probabilities: torch.Tensor, names: Collection[str]) -> str:
        """Of `names`, among which is mixed, the weights whose expected gain is highest."""
        gains = self.expected_gains_db(probabilities)
        return max((name for name in self.names if name in names), key=gains.get)


@torch.no_grad()
def listen(model: Denoiser, windows: torch.Tensor) -> torch.Tensor:
    """What the universal network tells of windows (batch, samples): the classifier's features, (batch, features)."""
    windows = windows.to(model.device)
    return describe(windows, windows - model(windows), model.stft, fluctuation=True).cpu()


def fit_classifier(model: Denoiser, pool: Pool, candidates: dict[str, Denoiser], n_per_label: int, n_validation: int,
                   snr_db: tuple[float, float] = (0.0, 25.0), seed: int = 1) -> NoiseClassifier:
    """Learn to tell noises by what the universal network `model` hears, and measure what the candidates gain on each.

    `n_per_label` windows of training songs with each noise teach it to tell them, by L-BFGS. `n_validation` windows of
    validation songs with each say how far it is to be believed about recordings that it never heard, and what every
    candidate gains there, with its confidence where it has one. candidates: weights by name, among them mixed.
    """
    settings = [MixtureSettings(label, snr_db=snr_db, noise_speed=NOISE_SPEED) for label in LABELS]
    validation = [pool_validation(pool, s, n_validation).source for s in settings]
    fitted = _fit(*_hear(model, [MixtureSource(pool, s) for s in settings], n_per_label, seed))
    fitted = _tempered(fitted, *_hear(model, validation, n_validation, seed))
    gains = [[_mean_gain_db(candidate, source, n_validation, seed) for candidate in candidates.values()]
             for source in validation]
    return replace(fitted, gains_db=torch.tensor(gains), names=tuple(candidates))


def _hear(model, sources, n, seed):
    """Features of `n` windows of the source of every label, and the labels' numbers."""
    features = []
    for source in sources:
        for first in range(0, n, BATCH_SIZE):
            noisy = source.batch(seed, 0, range(first, min(n, first + BATCH_SIZE)), WINDOW_SAMPLES)[0]
            with autocast(model.device):
                features.append(listen(model, noisy))
    return torch.cat(features).double(), torch.arange(len(sources)).repeat_interleave(n)


def _fit(features, labels):
    centre, scale = features.mean(0), features.std(0).clamp_min(1e-3)
    weight = torch.zeros(len(centre), len(LABELS), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(len(LABELS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, offset], max_iter=200, line_search_fn="strong_wolfe")

    def classifier(*tensors):
        return NoiseClassifier(*tensors, torch.zeros(len(LABELS), 0), ())

    def loss():
        optimizer.zero_grad()
        logits = classifier(centre, scale, weight, offset).logits(features)
        value = F.cross_entropy(logits, labels) + REGULARISATION * weight.square().sum()
        value.backward()
        return value
    optimizer.step(loss)
    return classifier(*(x.detach().float() for x in (centre, scale, weight, offset)))


def _tempered(classifier, features, labels):
    """The same with the one factor of its logits that makes these labels likeliest (Guo et al. 2017)."""
    logits = classifier.logits(features.float())
    factor = float(minimize_scalar(lambda x: float(F.cross_entropy(x * logits, labels)), bounds=(0, 2)).x)
    log.info("of %d windows with recordings that it never heard, it names %.0f %% rightly; its logits times %.2f",
             len(labels), 100 * float((logits.argmax(1) == labels).float().mean()), factor)
    return replace(classifier, weight=factor * classifier.weight, offset=factor * classifier.offset)


def _mean_gain_db(candidate, source, n, seed):
    windows = measure_windows(candidate, source, n, seed)
    believed = candidate.confidence(windows.features.float()) if candidate.confidence else torch.ones(n)
    return float(windows.gains_db(believed).mean())


def load_classifier(path: str | Path = MIXED) -> NoiseClassifier:
    """The classifier in a weights file; raises UserError where there is none."""
    state = load_safely(find_weights(path)).get("classifier")
    if state is None:
        raise UserError(f"expected weights with a classifier of noises, but {path} has none: add it with python -m "
                        "common.training classify")
    try:
        return NoiseClassifier(**state)
    except TypeError as error:
        raise UserError(f"expected a classifier of noises of this project in {path}, but it holds something else: add "
                        "it anew with python -m common.training classify") from error


def _probes(path, sample_rate) -> Iterator[np.ndarray]:
    """Windows (channels, samples) spread evenly over a file, or all of a shorter one."""
    with AudioReader(path) as reader:
        length = round(WINDOW_SAMPLES * reader.sample_rate / sample_rate)
        every = max(1, int(reader.seconds * reader.sample_rate / length) // PROBES)
        for number, block in enumerate(reader.blocks(length)):
            whole = block.shape[1] == length or number == 0
            if whole and number % every == every // 2:
                yield resample(block, reader.sample_rate, sample_rate)


class AutoModel:
    """The pretrained weights as one: for each file those that fit its noise. `form` gives the model of a name."""

    def __init__(self, form: Callable[[str], Denoiser]):
        self.form, self.classifier, self.names = form, load_classifier(), pretrained_names()

    def for_file(self, path: str | Path) -> tuple[str, Denoiser]:
        """The name of the weights for an audio file, and the model, ready to denoise.

        Raises AudioError for a file that cannot be decoded or is empty.
        """
        mixed = self.form(MIXED)
        heard = [listen(mixed, torch.from_numpy(window)) for window in _probes(path, mixed.stft.sample_rate)]
        if not heard:
            raise AudioError(f"expected audio, but {path} holds no samples: replace or remove it")
        probabilities = self.classifier.probabilities(torch.cat(heard))
        name = self.classifier.choose(probabilities, self.names)
        likeliest = ", ".join(f"{LABELS[k]} {100 * float(probabilities[k]):.0f} %"
                              for k in probabilities.argsort(descending=True)[:3])
        gains = self.classifier.expected_gains_db(probabilities)
        log.info("%s: its noise sounds like %s; weights %s (%+.1f dB expected, %+.1f dB of %s)", path, likeliest, name,
                 gains[name], gains[MIXED], MIXED)
        return name, self.form(name)


def model_for(name: str, device: str = "auto", precision: str = "auto",
              confidence: bool = True) -> Callable[[str | Path], Denoiser]:
    """A function that gives the model for an audio file: always the same one, or with AUTO that which fits its noise.

    name: a .pth file, a name from pretrained_weights, or AUTO. device, precision: see inference_form. Without
    `confidence` all that the network takes for noise goes.
    """
    @functools.cache
    def form(name):
        model = load_weights(name)[0]
        model.confidence = model.confidence if confidence else None
        return inference_form(model, device, precision)
    if name == AUTO:
        auto = AutoModel(form)
        return lambda path: auto.for_file(path)[1]
    form(name)  # a wrong name or device is told at once
    return lambda path: form(name)
