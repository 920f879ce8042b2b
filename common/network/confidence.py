"""The confidence in a noise estimate, which decides how much of the estimate is subtracted.

A network that has learned too little takes music for noise in some songs. The noise estimate of each window is
therefore multiplied, in each band of frequencies, by a confidence c = sigmoid(w . features + b), between 0 (the band
stays as it is) and 1 (all of the estimate is subtracted). The features are the powers of the sound, of the estimate and
of the noise print if there is one, relative to the power of the sound, so that the level does not matter.
common.training.confidence_fit finds w and b from noisy pairs, with prints and without.
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
# The attributes of a model that hold its FeatureModels.
FEATURE_MODELS = "confidence", "print_confidence", "classifier"
# Number of features of a band without and with a noise print.
N_FEATURES, N_FEATURES_WITH_PRINT = 3, 6


def band_edges(n_bins: int) -> np.ndarray:
    """The first bin of every band, and n_bins; fewer than N_BANDS bands if there are few bins."""
    return np.unique(np.rint([0, *np.geomspace(min(LOWEST_BIN, n_bins), n_bins, N_BANDS)]).astype(int))


def band_sums(values: np.ndarray) -> np.ndarray:
    """Sum over the bins of each band, (batch, bins, ...) -> (batch, bands, ...)."""
    return np.add.reduceat(values, band_edges(values.shape[1])[:-1], axis=1)


def band_powers(waveform: np.ndarray, stft: STFT) -> np.ndarray:
    """Power of (batch, samples) in each band and frame, (batch, bands, frames)."""
    return band_sums(np.abs(stft.forward(waveform)) ** 2)


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


def confidence_features(noisy: np.ndarray, noise: np.ndarray, print_power: np.ndarray | None = None) -> np.ndarray:
    """Features of each band of windows, (batch, bands, N_FEATURES), or N_FEATURES_WITH_PRINT with prints.

    noisy, noise, print_power: mean powers in bands of the sound, of the noise estimate and of the noise print, (batch,
    bands). The features are logarithms of powers relative to the power of the whole sound: the band of the sound, the
    band of the estimate, the whole estimate. With prints there are three more: the band of the print, the whole print,
    and the print's band relative to the estimate's, where it is lower. If the print is quieter than the estimate of a
    band, a part of that estimate is music.
    """
    total = noisy.sum(1, keepdims=True)
    found = [noisy, noise, np.broadcast_to(noise.sum(1, keepdims=True), noise.shape)]
    if print_power is not None:
        found += [print_power, np.broadcast_to(print_power.sum(1, keepdims=True), noise.shape)]
    features = [np.log(x / np.where(total > 0, total, 1) + POWER_FLOOR) for x in found]
    if print_power is not None:
        features.append(np.minimum(features[3] - features[1], 0))
    return np.stack(features, -1)


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
    """The confidence in each band of windows as a function of confidence_features; weight (features,), offset (bands,).

    Weights files that are older than confidence in bands have one for the whole window, as a function of band_features;
    their offset is ().
    """

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Map (windows, bands, features) to the confidence in each band, (windows, bands)."""
        return 0.5 + 0.5 * np.tanh(self.logits(features) / 2)  # a sigmoid that never overflows

    def of(self, noisy: np.ndarray, noise: np.ndarray, stft: STFT, print_power: np.ndarray | None = None) -> np.ndarray:
        """The confidence in the noise estimated in windows, both (batch, samples); (batch, bands).

        print_power: mean power of the noise print in each bin, (batch, bins).
        """
        if not self.offset.ndim:
            n_bands = len(band_edges(stft.n_bins)) - 1
            return np.repeat(self(band_features(noisy, noise, stft))[:, None], n_bands, axis=1)
        powers = (band_powers(x, stft).mean(-1) for x in (noisy, noise))
        return self(confidence_features(*powers, None if print_power is None else band_sums(print_power)))


def feature_models(content: dict, stft: STFT) -> dict[str, FeatureModel | None]:
    """The FEATURE_MODELS in the content of a weights file, of arrays, tensors or lists, by name.

    Raises UserError for something else.
    """
    n = len(band_edges(stft.n_bins)) - 1
    in_bands = {"centre": (N_FEATURES,), "scale": (N_FEATURES,), "weight": (N_FEATURES,), "offset": (n,)}
    with_print = dict.fromkeys(in_bands, (N_FEATURES_WITH_PRINT,)) | {"offset": (n,)}
    of_window = dict.fromkeys(in_bands, (2 * n,)) | {"offset": ()}
    classifier = {"centre": (4 * n,), "scale": (4 * n,), "weight": (4 * n, len(LABELS)), "offset": (len(LABELS),)}
    return {"confidence": _rebuilt(Confidence, "confidence", content, in_bands, of_window),
            "print_confidence": _rebuilt(Confidence, "print_confidence", content, with_print),
            "classifier": _rebuilt(FeatureModel, "classifier", content, classifier)}


def _rebuilt(kind, name, content, *shapes):
    if (state := content.get(name)) is None:
        return None
    try:
        values = {key: np.asarray(value, np.float32) for key, value in state.items()}
        found = {key: value.shape for key, value in values.items()}
    except (AttributeError, TypeError, ValueError):
        found = type(state).__name__
    if found not in shapes:
        raise UserError(f"expected a {name} of the shapes {shapes[0]}, got {found}: choose another weights file")
    return kind(**values)


def scale_by_confidence(confidence: Confidence, stft: STFT, blocks: Iterable[np.ndarray],
                        print_power: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Multiply a stream of noise by its confidence, which is interpolated linearly between the middles of windows.

    blocks: arrays (2, channels, samples) at the model's rate, the sound and the noise estimated in it. print_power:
    power of the noise print, (channels, bins). Yields blocks (channels, samples) of the same total length. At most one
    and a half windows and half a filter are held back, and how the stream is cut into blocks changes nothing.
    """
    # The held samples begin `context` samples before the middle of the window with confidence `last`, or before the
    # stream while that is None.
    held, last, start, context = None, None, 0, stft.n_fft // 2 - 1
    for block in blocks:
        held = (np.pad(block, ((0, 0), (0, 0), (context, 0))) if held is None else
                np.concatenate([held, block], axis=-1))
        while held.shape[-1] >= context + start + WINDOW_SAMPLES:
            window = held[..., context + start : context + start + WINDOW_SAMPLES]
            current = confidence.of(*window, stft, print_power).mean(0)
            middle = start + WINDOW_SAMPLES // 2
            yield _ramped(held[1, :, : middle + 2 * context], last, current, stft.n_fft)
            held, last, start = held[..., middle:], current, WINDOW_SAMPLES // 2
    if held is not None and held.shape[-1] > context:
        rest = held[..., context:]
        too_short = last is not None and rest.shape[-1] <= WINDOW_SAMPLES // 2
        current = last if too_short else confidence.of(*rest, stft, print_power).mean(0)
        yield _ramped(np.pad(held[1], ((0, 0), (0, context))), last, current, stft.n_fft)


def _ramped(noise, first, last, n_fft):
    """Filter noise (channels, samples) with gains in bands that go linearly from `first` (`last` if None) to `last`.

    The gains are the same in all channels: different ones would move a stereo image. The filters are n_fft - 1 samples
    long, and the result is n_fft - 2 samples shorter than the noise.
    """
    n_samples = noise.shape[-1]
    size = 1 << (n_samples - 1).bit_length()
    spectrum = np.fft.rfft(noise, size)

    def filtered(gains):
        return np.fft.irfft(spectrum * np.fft.rfft(_taps(gains, n_fft), size))[:, n_fft - 2 : n_samples]
    out = filtered(last)
    if first is not None:
        before = filtered(first)
        out = before + (out - before) * np.linspace(0, 1, out.shape[-1])
    return out.astype(np.float32)


def _taps(gains, n_fft):
    """The zero-phase filter with these gains in bands, (n_fft - 1,)."""
    gains = np.repeat(gains, np.diff(band_edges(n_fft // 2 + 1)))
    return (np.roll(np.fft.irfft(gains, n_fft), n_fft // 2) * np.hanning(n_fft + 1)[:-1])[1:]
