"""The short-time Fourier transform and its inverse, with their settings as one value."""

from dataclasses import dataclass

import torch

# Sample rate in Hz at which networks are trained.
SAMPLE_RATE = 44100
# Length of a training segment: 323 frames of the default STFT, the 3.74 s of the literature.
SEGMENT_SAMPLES = 165_000


@dataclass(frozen=True)
class STFT:
    """A short-time Fourier transform; two equal values transform alike.

    n_fft: length in samples of the transform and its window, a periodic Hann window. hop_length: samples between two
    frames, which are centred on its multiples. sample_rate: rate in Hz of the signals. Signals are padded with zeros at
    both ends, so that one sample is enough. Spectra are divided by sqrt(n_fft).
    """

    n_fft: int = 2048
    hop_length: int = 512
    sample_rate: int = SAMPLE_RATE

    @property
    def n_bins(self) -> int:
        """Number of frequency bins of a spectrum."""
        return self.n_fft // 2 + 1

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Transform (batch, samples) float32 into (batch, bins, frames) complex64."""
        return self._stft(waveform, center=True, pad_mode="constant")

    def frames(self, samples: torch.Tensor) -> torch.Tensor:
        """Transform (batch, n_fft + k * hop_length samples) without padding into (batch, bins, k + 1) complex64."""
        return self._stft(samples, center=False)

    def _stft(self, samples, **options):
        return torch.stft(samples, window=self.window(samples.device), return_complex=True, **self._lengths(),
                          **options)

    def inverse(self, spectrum: torch.Tensor, n_samples: int) -> torch.Tensor:
        """Transform (batch, bins, frames) complex64 back into (batch, n_samples) float32."""
        return torch.istft(spectrum, window=self.window(spectrum.device), length=n_samples, **self._lengths())

    def window(self, device: str | torch.device = "cpu") -> torch.Tensor:
        """The analysis window, (n_fft,)."""
        return torch.hann_window(self.n_fft, device=device)

    def _lengths(self):
        return {"n_fft": self.n_fft, "hop_length": self.hop_length, "normalized": True}
