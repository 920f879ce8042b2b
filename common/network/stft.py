"""The short-time Fourier transform of arrays and its inverse, with their settings as one value."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Sample rate in Hz at which networks are trained.
SAMPLE_RATE = 44100
# Length of a training segment: 323 frames of the default STFT, the 3.74 s of the literature.
SEGMENT_SAMPLES = 165_000


@dataclass(frozen=True)
class STFT:
    """A short-time Fourier transform; two equal values transform alike.

    n_fft: length in samples of the transform and its window, a periodic Hann window. hop_length: samples between two
    frames, which are centred on its multiples. sample_rate: rate in Hz of the signals. Signals are padded with zeros at
    both ends, so that one sample is enough. Spectra are divided by sqrt(n_fft). common.network.tensor_stft does the
    same to tensors.
    """

    n_fft: int = 2048
    hop_length: int = 512
    sample_rate: int = SAMPLE_RATE

    @property
    def n_bins(self) -> int:
        """Number of frequency bins of a spectrum."""
        return self.n_fft // 2 + 1

    def forward(self, waveform: np.ndarray) -> np.ndarray:
        """Transform (batch, samples) float32 into (batch, bins, frames) complex64."""
        return self.frames(np.pad(waveform, ((0, 0), (self.n_fft // 2, self.n_fft // 2))))

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Transform (batch, n_fft + k * hop_length samples) without padding into (batch, bins, k + 1) complex64."""
        frames = sliding_window_view(samples, self.n_fft, axis=-1)[:, :: self.hop_length] * self.window()
        # NumPy before 2.0 computes in float64.
        return np.fft.rfft(frames, norm="ortho").astype(np.complex64, copy=False).swapaxes(-2, -1)

    def inverse(self, spectrum: np.ndarray, n_samples: int) -> np.ndarray:
        """Transform (batch, bins, frames) complex64 back into (batch, n_samples) float32."""
        window, start = self.window(), self.n_fft // 2
        frames = np.fft.irfft(spectrum.swapaxes(-2, -1), self.n_fft, norm="ortho").astype(np.float32, copy=False)
        weights = np.broadcast_to(window**2, (1, *frames.shape[1:]))
        total, weight = (self._overlapped(x)[:, start : start + n_samples] for x in (frames * window, weights))
        return total / weight

    def window(self) -> np.ndarray:
        """The analysis window, (n_fft,) float32."""
        return (0.5 - 0.5 * np.cos(2 * np.pi / self.n_fft * np.arange(self.n_fft))).astype(np.float32)

    def _overlapped(self, frames):
        """The sum of frames (batch, frames, n_fft) at their places, (batch, samples)."""
        batch, n_frames, _ = frames.shape
        total = np.zeros((batch, (n_frames - 1) * self.hop_length + self.n_fft), np.float32)
        for k in range(n_frames):
            total[:, k * self.hop_length : k * self.hop_length + self.n_fft] += frames[:, k]
        return total
