"""How far a noise estimate is to be believed, told window by window from its spectrum and the song's.

A network that has learned too little takes music for noise in some songs and not in others. What it takes away is
therefore scaled: c = sigmoid(w . features + b), between 0 (the window stays as it is) and 1 (all of the estimate goes).
The features are the powers of song and estimate in bands, which tell how much is taken, where, and out of what; their
levels do not count. common.training.calibration finds w and b from noisy pairs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import torch

from common.errors import UserError
from common.network.stft import SEGMENT_SAMPLES, STFT

# One confidence for so many samples at the model's rate; between the middles of windows it moves linearly.
WINDOW_SAMPLES = SEGMENT_SAMPLES
# Bands whose edges are evenly spaced over the logarithm of frequency from bin LOWEST on.
N_BANDS, LOWEST = 25, 4
# Powers are floored so far below the window's whole power (80 dB).
FLOOR = 1e-8
# Features further from their mean, in standard deviations, count as these: nothing like that was calibrated.
FURTHEST = 4.0


def band_edges(n_bins: int) -> np.ndarray:
    """The first bin of every band, and n_bins; fewer than N_BANDS bands where bins are few."""
    return np.unique(np.rint([0, *np.geomspace(min(LOWEST, n_bins), n_bins, N_BANDS)]).astype(int))


def band_powers(waveform: torch.Tensor, stft: STFT) -> torch.Tensor:
    """Power of (batch, samples) in each band and frame, (batch, bands, frames)."""
    power = stft.forward(waveform).abs().square()
    edges = band_edges(stft.n_bins)
    return torch.stack([power[:, low:high].sum(1) for low, high in pairwise(edges)], 1)


def describe(noisy: torch.Tensor, noise: torch.Tensor, stft: STFT, fluctuation: bool = False) -> torch.Tensor:
    """Features of windows and of the noise found in them, both (batch, samples) -> (batch, 2 * bands).

    The logarithms of their mean powers in bands, relative to the whole power of `noisy`; with `fluctuation` also the
    standard deviations over time of the logarithms of the bands' powers, (batch, 4 * bands).
    """
    powers = torch.cat([band_powers(x, stft) for x in (noisy, noise)], 1)
    total = powers[:, : powers.shape[1] // 2].mean(-1).sum(1)[:, None, None]
    powers = powers / torch.where(total > 0, total, torch.ones_like(total))
    features = torch.log(powers.mean(-1) + FLOOR)
    if not fluctuation:
        return features
    return torch.cat([features, torch.log(powers + FLOOR).std(-1, correction=0)], 1)


def standardised(features: torch.Tensor, centre: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Features (windows, features) with mean 0 and deviation 1 over what was calibrated on, and none far beyond."""
    return ((features - centre) / scale).clamp(-FURTHEST, FURTHEST)


@dataclass(frozen=True)
class Confidence:
    """centre, scale, weight: of each feature, (features,) float32; offset: ()."""

    centre: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    offset: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(windows, features) -> confidence of each window, (windows,)."""
        return torch.sigmoid(standardised(features, self.centre, self.scale) @ self.weight + self.offset)

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors, for a weights file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: dict, n_bins: int) -> "Confidence":
        """From what state() gave; raises UserError for anything else, or for a transform with other bins."""
        n, names = 2 * (len(band_edges(n_bins)) - 1), [field.name for field in fields(cls)]
        shapes = {name: tuple(x.shape) for name, x in state.items() if isinstance(x, torch.Tensor)} if isinstance(
            state, dict) else {}
        if shapes != dict(zip(names, [(n,)] * 3 + [()], strict=True)):
            raise UserError(f"expected a confidence of {n} features, got {shapes or type(state).__name__}: choose "
                            "another weights file")
        return cls(*(state[name].float() for name in names))


class _Believer:
    """Noise in, believed noise out, with what is still to be decided held back."""

    def __init__(self, confidence, stft, channels):
        self.confidence, self.stft = confidence, stft
        self.noisy, self.noise = (np.zeros((channels, 0), np.float32) for _ in range(2))
        # What is held begins in the middle of the last window, whose confidence this is, or with the first window.
        self.known = None

    def push(self, noisy, noise):
        self.noisy, self.noise = (np.concatenate([a, b], 1) for a, b in ((self.noisy, noisy), (self.noise, noise)))
        while self.noise.shape[1] >= (begin := 0 if self.known is None else WINDOW_SAMPLES // 2) + WINDOW_SAMPLES:
            window = slice(begin, begin + WINDOW_SAMPLES)
            yield self._give(begin + WINDOW_SAMPLES - WINDOW_SAMPLES // 2, self._measure(window))

    def finish(self):
        """All that is held: with the confidence of the last window where little is left, else as a window itself."""
        n = self.noise.shape[1]
        only_half = self.known is not None and n <= WINDOW_SAMPLES // 2
        return self._give(n, self.known if only_half else self._measure(slice(0, n)))

    @torch.inference_mode()
    def _measure(self, window):
        noisy, noise = (torch.from_numpy(np.ascontiguousarray(x[:, window])) for x in (self.noisy, self.noise))
        # One for all channels, or a source would wander between them.
        return float(self.confidence(describe(noisy, noise, self.stft)).mean())

    def _give(self, n, reached):
        first = reached if self.known is None else self.known
        ramp = np.linspace(first, reached, n, dtype=np.float32)
        given, self.known = self.noise[:, :n] * ramp, reached
        self.noisy, self.noise = self.noisy[:, n:], self.noise[:, n:]
        return given


def believed(confidence: Confidence, stft: STFT,
             blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """Scale a stream of noise by its confidence.

    Takes blocks of (noisy, noise), each (channels, samples) at the model's rate, and yields blocks of noise that are as
    long in all. A window and a half is held at most, so that memory does not grow with the
    stream, and how it is cut into blocks changes nothing.
    """
    believer = None
    for noisy, noise in blocks:
        believer = believer or _Believer(confidence, stft, len(noise))
        yield from believer.push(noisy, noise)
    if believer is not None:
        yield believer.finish()
