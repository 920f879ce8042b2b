"""Which weights fit a song: a classifier that listens to the noise the universal network finds in it.

The probabilities of white noise and of the UrbanSound8K classes are a softmax of linear functions of the features of
common.network.confidence, with their fluctuation over time, averaged over windows spread through the song. Where one
noise is more likely than all others together, its weights are taken, else the universal ones, `mixed`. The classifier
lies in their file, since it hears noises through them.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.audio.reading import AudioReader, resample
from common.errors import AudioError, UserError
from common.labels import CLASS_NAMES, MIXED, WHITE, weights_name
from common.network.checkpoints import find_weights, load_safely, load_weights, pretrained_names
from common.network.confidence import WINDOW_SAMPLES, describe, standardised
from common.network.inference import inference_form
from common.network.model import Denoiser

log = logging.getLogger(__name__)

AUTO = "auto"
LABELS = (WHITE, *CLASS_NAMES)
# Of a noise, for its weights to be taken.
LEAST_PROBABILITY = 0.5
# Windows of a song that are listened to, evenly spread.
PROBES = 8


@dataclass(frozen=True)
class NoiseClassifier:
    """centre, scale (features,), weight (features, labels), offset (labels,), float32; labels are LABELS."""

    centre: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    offset: torch.Tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(windows, features) -> logits of the probabilities of LABELS, (windows, labels)."""
        return standardised(features, self.centre, self.scale) @ self.weight + self.offset

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """(windows, features) of one song -> probabilities of LABELS, (labels,)."""
        return self.logits(features).softmax(1).mean(0)


@torch.no_grad()
def listen(model: Denoiser, windows: torch.Tensor) -> torch.Tensor:
    """What the universal network tells of windows (batch, samples): the classifier's features, (batch, features)."""
    windows = windows.to(model.device)
    return describe(windows, windows - model(windows), model.stft, fluctuation=True).cpu()


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


def choose(probabilities: torch.Tensor, names: Sequence[str]) -> str:
    """The weights for a song: those of the likeliest noise where it is sure enough and `names` has them, else mixed."""
    best = int(probabilities.argmax())
    name = weights_name(LABELS[best])
    return name if probabilities[best] >= LEAST_PROBABILITY and name in names else MIXED


def _probes(path, sample_rate) -> Iterator[np.ndarray]:
    """Windows (channels, samples) spread evenly over a file, or all of a shorter one."""
    with AudioReader(path) as reader:
        length = round(WINDOW_SAMPLES * reader.sample_rate / sample_rate)
        every = max(1, reader.count_samples() // length // PROBES)
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
        name = choose(probabilities, self.names)
        likeliest = ", ".join(f"{LABELS[k]} {100 * float(probabilities[k]):.0f} %"
                              for k in probabilities.argsort(descending=True)[:3])
        log.info("%s: its noise sounds like %s; weights %s", path, likeliest, name)
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
