"""The confidence in a noise estimate, which decides how much of the estimate is subtracted.

A network that has learned too little takes music for noise in some songs. The noise estimate of each window is
therefore multiplied by a confidence c = sigmoid(w . features + b), between 0 (the window stays as it is) and 1 (all of
the estimate is subtracted). The features are the powers of sound and estimate in bands, relative to the power of the
sound, so that the level does not matter. common.training.confidence_fit finds w and b from noisy pairs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.labels import LABELS
from common.network.stft import SEGMENT_SAMPLES, STFT

# Length of a window with one confidence, in samples at the model's rate; an even number.
WINDOW_SAMPLES = SEGMENT_SAMPLES
# Number of bands. Their edges are evenly spaced over the logarithm of frequency from bin LOWEST_BIN on.
N_BANDS, LOWEST_BIN = 25, 4
# Minimum power of a band relative to the power of the window (-80 dB).
POWER_FLOOR = 1e-8
# Maximum distance of a feature from its mean in standard deviations: nothing further away was calibrated.
MAX_DEVIATIONS = 4.0


def band_edges(n_bins: int) -> np.ndarray:
    """The first bin of every band, and n_bins; fewer than N_BANDS bands if there are few bins."""
    return np.unique(np.rint([0, *np.geomspace(min(LOWEST_BIN, n_bins), n_bins, N_BANDS)]).astype(int))


def band_powers(waveform: np.ndarray, stft: STFT) -> np.ndarray:
    """Power of (batch, samples) in each band and frame, (batch, bands, frames)."""
    return np.add.reduceat(np.abs(stft.forward(waveform)) ** 2, band_edges(stft.n_bins)[:-1], axis=1)


def band_features(noisy: np.ndarray, noise: np.ndarray, stft: STFT, fluctuation: bool = False) -> np.ndarray:
    """Features of windows and of the noise estimated in them, both (batch, samples) -> (batch, 2 * bands).

    The features are the logarithms of the mean powers in bands, relative to the whole power of `noisy`. `fluctuation`
    adds the standard deviations over time of the logarithms of the bands' powers, (batch, 4 * bands).
    """
    powers = np.concatenate([band_powers(x, stft) for x in (noisy, noise)], 1)
    total = powers[:, : powers.shape[1] // 2].mean(-1).sum(1)[:, None, None]
    powers = powers / np.where(total > 0, total, 1)
    features = np.log(powers.mean(-1) + POWER_FLOOR)
    if not fluctuation:
        return features
    return np.concatenate([features, np.log(powers + POWER_FLOOR).std(-1)], 1)


@dataclass(frozen=True)
class FeatureModel:
    """A linear function of standardised features, all float32.

    centre, scale: mean and standard deviation of each feature in the training data, (features,). weight, offset: of
    the linear function, (features,) and () for one output, (features, outputs) and (outputs,) for several. Training
    fits it with tensors in place of the arrays.
    """

    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    offset: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Map (windows, features) to (windows,) or (windows, outputs)."""
        standardised = ((features - self.centre) / self.scale).clip(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        return standardised @ self.weight + self.offset


class Confidence(FeatureModel):
    """The confidence of windows as a function of their band_features."""

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Map (windows, features) to the confidence of each window, (windows,)."""
        return 0.5 + 0.5 * np.tanh(self.logits(features) / 2)  # a sigmoid that never overflows


def feature_models(content: dict, stft: STFT) -> tuple[Confidence | None, FeatureModel | None]:
    """The confidence and the classifier of noises in a weights file's content, of arrays, tensors or lists.

    Raises UserError for something else.
    """
    n_bands = len(band_edges(stft.n_bins)) - 1
    return (_rebuilt(Confidence, "confidence", content, (2 * n_bands,)),
            _rebuilt(FeatureModel, "classifier", content, (4 * n_bands, len(LABELS))))


def _rebuilt(kind, name, content, shape):
    if (state := content.get(name)) is None:
        return None
    try:
        values = {key: np.asarray(value, np.float32) for key, value in state.items()}
        found = {key: value.shape for key, value in values.items()}
    except (AttributeError, TypeError, ValueError):
        found = type(state).__name__
    if found != {"centre": shape[:1], "scale": shape[:1], "weight": shape, "offset": shape[1:]}:
        raise UserError(f"expected a {name} of {shape[0]} features, got {found}: choose another weights file")
    return kind(**values)


def scale_by_confidence(confidence: Confidence, stft: STFT, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Multiply a stream of noise by its confidence, which is interpolated linearly between the middles of windows.

    blocks: arrays (2, channels, samples) at the model's rate, the sound and the noise estimated in it. Yields blocks
    (channels, samples) of the same total length. At most one and a half windows are held back, and how the stream is
    cut into blocks changes nothing.
    """
    # The held samples begin in the middle of the window with confidence `last`, or with the stream while that is None.
    held, last, start = None, None, 0
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=-1)
        while held.shape[-1] >= start + WINDOW_SAMPLES:
            current = _mean_confidence(confidence, stft, held[..., start : start + WINDOW_SAMPLES])
            middle = start + WINDOW_SAMPLES // 2
            yield _ramped(held[1, :, :middle], last, current)
            held, last, start = held[..., middle:], current, WINDOW_SAMPLES // 2
    if held is not None:
        too_short = last is not None and held.shape[-1] <= WINDOW_SAMPLES // 2
        yield _ramped(held[1], last, last if too_short else _mean_confidence(confidence, stft, held))


def _mean_confidence(confidence, stft, window):
    """One confidence for all channels of a window (2, channels, samples): different ones would move a stereo image."""
    return float(confidence(band_features(*window, stft)).mean())


def _ramped(noise, first, last):
    """Scale noise (channels, samples) linearly from the confidence `first` (`last` if None) to `last`."""
    return noise * np.linspace(last if first is None else first, last, noise.shape[-1], dtype=np.float32)
