"""Choose between the weights `white` and `mixed` by a classifier of the noise that `mixed` finds in a song.

The probabilities of white noise and of the UrbanSound8K classes are a softmax of linear functions of the band features
with fluctuation (common.network.confidence), averaged over windows from the whole song. If white noise is more probable
than all others together, `white` is chosen, otherwise `mixed`. The classifier tells the classes apart too rarely to
choose their weights by it. It is stored in the file of `mixed`, because its features are computed with these weights.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader, resample
from common.errors import AudioError, UserError
from common.labels import LABELS, MIXED, WHITE
from common.network.confidence import WINDOW_SAMPLES, band_features
from common.network.loading import load_noise_model
from common.network.noise_model import NoiseModel

log = logging.getLogger(__name__)

AUTO = "auto"
# Minimum probability of white noise for its weights to be chosen.
LEAST_PROBABILITY = 0.5
# Number of windows of a song that are classified, evenly spread.
PROBES = 8


def noise_features(model: NoiseModel, windows: np.ndarray) -> np.ndarray:
    """The classifier's features of windows (batch, samples), (batch, features), computed with the universal network."""
    return band_features(windows, model.noise(windows), model.stft, fluctuation=True)


def noise_probabilities(mixed: NoiseModel, windows: Iterable[np.ndarray]) -> np.ndarray:
    """The probabilities of LABELS, (labels,), for the windows (channels, samples) of one song.

    mixed: the universal model, with its classifier.
    """
    logits = mixed.classifier.logits(np.concatenate([noise_features(mixed, window) for window in windows]))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return (odds / odds.sum(1, keepdims=True)).mean(0)


def choose_weights(probabilities: np.ndarray) -> str:
    """WHITE if white noise is probable enough, otherwise MIXED; probabilities: of LABELS, (labels,)."""
    return WHITE if probabilities[LABELS.index(WHITE)] >= LEAST_PROBABILITY else MIXED


def probe_windows(path: str | Path, sample_rate: int) -> Iterator[np.ndarray]:
    """Yield windows (channels, samples) spread evenly over a file; the whole of a file shorter than one window."""
    with AudioReader(path) as reader:
        length = round(WINDOW_SAMPLES * reader.sample_rate / sample_rate)
        every = max(1, reader.count_samples() // length // PROBES)
        for number, block in enumerate(reader.blocks(length)):
            whole = block.shape[1] == length or number == 0
            if whole and number % every == every // 2:
                yield resample(block, reader.sample_rate, sample_rate)


def model_for(name: str, device: str = "auto", precision: str = "auto", confidence: bool = True
              ) -> Callable[[str | Path], NoiseModel]:
    """Make a function from an audio file to its model: always the same one, or with AUTO WHITE or MIXED.

    name: a .pth or .onnx file, a name from pretrained_weights, or AUTO. device, precision: see load_noise_model.
    Without `confidence` the whole noise estimate is subtracted. With AUTO the function raises AudioError for a file
    that is empty or cannot be decoded.
    """

    @functools.cache
    def load(name):
        model = load_noise_model(name, device, precision)
        if not confidence:
            model.confidence = model.print_confidence = None
        return model

    if name != AUTO:
        model = load(name)
        return lambda path: model
    mixed = load(MIXED)
    if mixed.classifier is None:
        raise UserError(f"expected weights with a classifier of noises, but {MIXED} has none: add it with python -m "
                        "common.training classify")

    def fitting_model(path):
        """The model whose weights fit the noise in a file."""
        windows = list(probe_windows(path, mixed.stft.sample_rate))
        if not windows:
            raise AudioError(f"expected audio, but {path} holds no samples: replace or remove it")
        probabilities = noise_probabilities(mixed, windows)
        name = choose_weights(probabilities)
        likeliest = ", ".join(f"{LABELS[k]} {100 * probabilities[k]:.0f} %" for k in probabilities.argsort()[:-4:-1])
        log.info("%s: its noise sounds like %s; weights %s", path, likeliest, name)
        return load(name)

    return fitting_model
