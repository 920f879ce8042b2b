"""Choose weights for a song by a classifier of the noise that the universal network, `mixed`, finds in it.

The probabilities of white noise and of the UrbanSound8K classes are a softmax of linear functions of the band features
with fluctuation (common.network.confidence), averaged over windows from the whole song. If one noise is more probable
than all others together, its weights are chosen, otherwise `mixed`. The classifier is stored in the file of `mixed`,
because its features are computed with these weights.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from common.audio.reading import AudioReader, resample
from common.errors import AudioError, UserError
from common.labels import CLASS_NAMES, MIXED, WHITE, weights_name
from common.network.checkpoints import find_weights, load_safely, load_weights, pretrained_names
from common.network.confidence import WINDOW_SAMPLES, FeatureModel, band_features
from common.network.inference import inference_form
from common.network.model import Denoiser

log = logging.getLogger(__name__)

AUTO = "auto"
LABELS = (WHITE, *CLASS_NAMES)
# Minimum probability of a noise for its weights to be chosen.
LEAST_PROBABILITY = 0.5
# Number of windows of a song that are classified, evenly spread.
PROBES = 8


class NoiseClassifier(FeatureModel):
    """A classifier of windows whose logits belong to LABELS."""

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """Map (windows, features) of one song to the probabilities of LABELS, (labels,)."""
        return self.logits(features).softmax(1).mean(0)


@torch.no_grad()
def noise_features(model: Denoiser, windows: torch.Tensor) -> torch.Tensor:
    """The classifier's features of windows (batch, samples), (batch, features), computed with the universal network."""
    windows = windows.to(model.device)
    return band_features(windows, windows - model(windows), model.stft, fluctuation=True).cpu()


def load_classifier() -> NoiseClassifier:
    """Load the classifier in the universal weights; raises UserError if there is none."""
    state = load_safely(find_weights(MIXED)).get("classifier")
    try:
        return NoiseClassifier(**state)
    except TypeError as error:
        problem = "has none" if state is None else "holds something else"
        raise UserError(f"expected weights with a classifier of noises, but {MIXED} {problem}: add it with python -m "
                        "common.training classify") from error


def choose_weights(probabilities: torch.Tensor, names: Sequence[str]) -> str:
    """The weights of the most probable noise if it is probable enough and `names` has them, otherwise MIXED."""
    best = int(probabilities.argmax())
    name = weights_name(LABELS[best])
    return name if probabilities[best] >= LEAST_PROBABILITY and name in names else MIXED


def probe_windows(path: str | Path, sample_rate: int) -> Iterator[np.ndarray]:
    """Yield windows (channels, samples) spread evenly over a file; the whole of a file shorter than one window."""
    with AudioReader(path) as reader:
        length = round(WINDOW_SAMPLES * reader.sample_rate / sample_rate)
        every = max(1, reader.count_samples() // length // PROBES)
        for number, block in enumerate(reader.blocks(length)):
            whole = block.shape[1] == length or number == 0
            if whole and number % every == every // 2:
                yield resample(block, reader.sample_rate, sample_rate)


def model_for(name: str, device: str = "auto", precision: str = "auto", confidence: bool = True,
              with_print: bool = False) -> Callable[[str | Path], Denoiser]:
    """Make a function from an audio file to its model: always the same one, or with AUTO the one that fits its noise.

    name: a .pth file, a name from pretrained_weights, or AUTO. device, precision: see inference_form. Without
    `confidence` the whole noise estimate is subtracted. with_print: a noise print will be given, which tells more than
    the classifier; AUTO then means the universal weights. With AUTO the function raises AudioError for a file that is
    empty or cannot be decoded.
    """
    if name == AUTO and with_print:
        log.info("a noise print is given: the weights are %s", MIXED)
        name = MIXED

    @functools.cache
    def load(name):
        model = load_weights(name)[0]
        model.confidence = model.confidence if confidence else None
        return inference_form(model, device, precision)

    if name != AUTO:
        model = load(name)
        return lambda path: model
    classifier, names = load_classifier(), pretrained_names()

    def fitting_model(path):
        mixed = load(MIXED)
        features = [noise_features(mixed, torch.from_numpy(window))
                    for window in probe_windows(path, mixed.stft.sample_rate)]
        if not features:
            raise AudioError(f"expected audio, but {path} holds no samples: replace or remove it")
        probabilities = classifier.probabilities(torch.cat(features))
        name = choose_weights(probabilities, names)
        likeliest = ", ".join(f"{LABELS[k]} {100 * float(probabilities[k]):.0f} %"
                              for k in probabilities.argsort(descending=True)[:3])
        log.info("%s: its noise sounds like %s; weights %s", path, likeliest, name)
        return load(name)

    return fitting_model
